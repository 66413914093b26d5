// Times and levels in words.
import { number } from "../shared/format.js";
import { h } from "../shared/dom.js";

const STEPS = [["second", 60], ["minute", 60], ["hour", 24], ["day", 365], ["year", Infinity]];
const relative = new Intl.RelativeTimeFormat("en", { numeric: "always", style: "narrow" });

/** How long ago a time is. */
export function ago(time) {
  let value = Math.max(0, (Date.now() - Date.parse(time)) / 1000);
  if (value < 5) return "just now";
  for (const [unit, size] of STEPS) {
    if (value < size) return relative.format(-Math.floor(value), unit);
    value /= size;
  }
  return time;
}

/** A time that goes on being true: `tick` brings them all up to date. */
export const since = (time) => h("time", { datetime: time, title: local(time), "data-ago": "true" }, ago(time));

export function tick() {
  for (const element of document.querySelectorAll("time[data-ago]")) {
    const text = ago(element.dateTime);
    if (element.textContent !== text) element.textContent = text;
  }
}

/** A time of day where the reader is, without its zone: what plotly takes for a date. */
export function local(time) {
  const at = new Date(time), two = (value) => String(value).padStart(2, "0");
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
}

const LENGTHS = [[3600, "h"], [60, "min"], [1, "s"]];
/** A length of time in words. */
export function length(seconds) {
  const [size, unit] = LENGTHS.find(([size]) => seconds >= size) ?? [1, "s"];
  return `${number(seconds / size, 3)} ${unit}`;
}

/** What verdicts rest on, as configured. */
export function levelsInWords(levels) {
  return [
    `Where the noise floor is known, mean |d| over the floor decides: consistent up to ${number(levels.floor_suspect)} ×, suspect above ${number(levels.floor_suspect)} ×, divergent above ${number(levels.floor_divergent)} × (and more than ${number(levels.significance)} standard errors above 1 ×).`,
    `A mean |d| of at most ${number(levels.mae_negligible)} nats is consistent whatever the multiple; a k3 above ${number(levels.kl_k3_divergent)} nats is divergent.`,
    `Where it is not known: suspect above a mean |d| of ${number(levels.mae_suspect)} or a k3 of ${number(levels.kl_k3_suspect)} nats, divergent above ${number(levels.mae_divergent)} or ${number(levels.kl_k3_divergent)} nats.`,
    `Fewer than ${number(levels.min_tokens)} compared tokens: insufficient.`,
  ];
}

/** Verdicts, the worst first. */
export const SEVERITY = ["divergent", "suspect", "insufficient", "consistent"];
export const worse = (a, b) => SEVERITY.indexOf(a) - SEVERITY.indexOf(b);
