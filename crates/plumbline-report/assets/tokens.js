// A sequence token by token: its heat map, and what is known of the token that one points at.
import { number, shorter, signed } from "./format.js";
import { h } from "./dom.js";

/** Tokens of a heat map that are shown before somebody asks for all. */
const SHOWN = 4096;
/** |d| in nats from which a token is underlined: colour is not the only sign. */
const MARKED = 1;

const tip = h("div", { id: "tip", role: "tooltip", hidden: true });

/** Strength of a token's colour: 0 at 0.01 nats and below, 1 at 1 nat and above. */
const strength = (gap) => Math.max(0, Math.min(1, (Math.log10(Math.max(gap, 1e-9)) + 2) / 2));
const quoted = (tokens, at) => (tokens.text ? JSON.stringify(tokens.text[at]) : `id ${tokens.id[at]}`);
const ratio = (gap) => (gap === null ? null : Math.exp(Math.max(-20, Math.min(20, gap))));

/** What is known of a token, as pairs of name and value. */
function tokenFacts(shown, at) {
  const tokens = shown.tokens;
  return [
    ["token", `${number(at + 1)} of ${number(shown.length)}`], ["id", String(tokens.id[at])],
    ["engine e", number(tokens.engine_logprob[at], 5)], ["reference r", number(tokens.reference_logprob[at], 5)], ["d = r − e", `${signed(tokens.log_ratio[at], 4)}`],
    ["ρ = exp(d)", number(ratio(tokens.log_ratio[at]), 4)], ["entropy", number(tokens.entropy[at], 4)], ["rank", number(tokens.rank[at])],
    ["mask", tokens.skipped[at] ? `in no sum: ${tokens.skipped[at]}` : "counted"],
  ];
}

function showTip(target, shown, at) {
  if (!tip.isConnected) document.body.append(tip);
  tip.replaceChildren(shown.tokens.text ? h("b", {}, shorter(quoted(shown.tokens, at), 120)) : "", ...tokenFacts(shown, at).map(([name, value]) => h("span", {}, h("em", {}, name), h("span", {}, value))));
  tip.hidden = false;
  const box = target.getBoundingClientRect(), size = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(12, Math.min(box.left, document.documentElement.clientWidth - size.width - 12))}px`;
  tip.style.top = `${box.bottom + size.height + 8 > innerHeight ? Math.max(8, box.top - size.height - 6) : box.bottom + 6}px`;
}

export function hideTip() {
  tip.hidden = true;
}

function tokenOf(shown, at) {
  const tokens = shown.tokens, gap = tokens.log_ratio[at], text = tokens.text ? tokens.text[at] : String(tokens.id[at]);
  const token = document.createElement("span");
  const marks = ["t"];
  if (tokens.skipped[at]) marks.push("skipped");
  if (!tokens.text) marks.push("id");
  if (text === "") marks.push("empty");
  if (/^[\n\r]+$/.test(text)) marks.push("break");
  if (gap !== null && !tokens.skipped[at]) {
    if (Math.abs(gap) >= MARKED) marks.push(gap > 0 ? "above" : "below");
    token.style.backgroundColor = `rgba(var(${gap > 0 ? "--up" : "--down"}), calc(var(--most) * ${strength(Math.abs(gap)).toFixed(3)}))`;
  }
  token.className = marks.join(" ");
  token.setAttribute("role", "option");
  token.setAttribute("aria-selected", "false");
  token.dataset.at = at;
  token.textContent = text;
  if (!text.trim()) token.setAttribute("aria-label", quoted(shown.tokens, at));
  return token;
}

let maps = 0;
/** The completion with its tokens coloured by d: point at one, or move with the arrow keys, for its numbers. `shown` has `tokens`
 * (a list for each column), `length`, and `prompt_text` and `cut_prompt` where they are known. */
export function heatMap(shown) {
  const count = shown.tokens.id.length, prefix = `token-${++maps}-`;
  const box = h("div", { class: "tokens", role: "listbox", tabindex: "0", "aria-label": `tokens of the completion, coloured by d = reference − engine; arrow keys move, Escape closes`, "aria-orientation": "horizontal" });
  const map = h("div", { class: "text" });
  if (shown.prompt_text) map.append(h("span", { class: "prompt" }, shown.cut_prompt ? "… " : "", shown.prompt_text));
  map.append(box);
  const append = (from, to) => {
    const part = document.createDocumentFragment();
    for (let at = from; at < to; at++) {
      const token = tokenOf(shown, at);
      token.id = prefix + at;
      part.append(token);
    }
    box.append(part);
  };
  append(0, Math.min(count, SHOWN));

  let active = null;
  const select = (at, focus) => {
    if (at >= box.childElementCount) append(box.childElementCount, count);
    const token = box.children[at];
    if (!token) return;
    if (active) {
      active.classList.remove("active");
      active.setAttribute("aria-selected", "false");
    }
    active = token;
    token.classList.add("active");
    token.setAttribute("aria-selected", "true");
    token.setAttribute("aria-label", `${quoted(shown.tokens, at)}: ${tokenFacts(shown, at).map((pair) => pair.join(" ")).join(", ")}`);
    box.setAttribute("aria-activedescendant", token.id);
    if (focus) {
      box.focus({ preventScroll: true });
      token.scrollIntoView({ block: "nearest" });
    }
    showTip(token, shown, at);
  };
  const point = (event) => {
    const token = event.target.closest?.(".t");
    if (token) showTip(token, shown, Number(token.dataset.at));
    else hideTip();
  };
  box.addEventListener("mouseover", point);
  box.addEventListener("click", (event) => {
    const token = event.target.closest?.(".t");
    if (token) select(Number(token.dataset.at));
  });
  box.addEventListener("mouseleave", hideTip);
  map.addEventListener("scroll", hideTip);
  box.addEventListener("focus", () => {
    if (box.matches(":focus-visible")) select(active ? Number(active.dataset.at) : 0, true);
  });
  box.addEventListener("blur", hideTip);
  box.addEventListener("keydown", (event) => {
    const at = active ? Number(active.dataset.at) : -1;
    const next = { ArrowRight: at + 1, ArrowDown: at + 10, ArrowLeft: at - 1, ArrowUp: at - 10, Home: 0, End: count - 1 }[event.key];
    if (event.key === "Escape") hideTip();
    if (next === undefined) return;
    event.preventDefault();
    select(Math.max(0, Math.min(count - 1, next)), true);
  });
  addEventListener("scroll", hideTip, { passive: true });
  const more = count > SHOWN ? h("button", { type: "button", class: "more", onclick: () => { append(box.childElementCount, count); more.remove(); } }, `Show all ${number(count)} tokens`) : null;
  const whole = h("div", {}, map, more);
  whole.select = (at) => select(at, true);
  return whole;
}

/** What the colours mean. */
export const heatLegend = () => h("div", { class: "legend" },
  h("span", {}, h("i", { class: "ramp-down" }), "d < 0: the engine says likelier"),
  h("span", {}, h("i", { class: "ramp-up" }), "d > 0: the reference says likelier"),
  h("span", {}, "colour from |d| = 0.01 to 1 nat, logarithmic; from 1 nat on underlined (dotted where d < 0)"));
