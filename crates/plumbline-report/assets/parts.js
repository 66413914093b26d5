// What shows measurements: verdicts, cards, tables, findings.
import { multipleOf, number, percent, shorter } from "./format.js";
import { h } from "./dom.js";

export const badge = (verdict) => h("span", { class: `badge ${verdict}` }, verdict);
export const dot = (index) => h("i", { class: `dot series-${index % 6}`, "aria-hidden": "true" });
export const interval = (range) => (range ? `${number(range.low, 3)} … ${number(range.high, 3)}` : null);

/** Terms and what is said of them; what is not known is left out. */
export const list = (entries) => h("dl", {}, entries.filter(([, value]) => value !== null && value !== undefined && value !== "").map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
export const counts = (object) => Object.entries(object).filter(([, count]) => count > 0).map(([name, count]) => `${name} ${number(count)}`).join(", ");

/** A part of the page that scrolls sideways by itself, with the keyboard too. */
export const scroll = (name, ...content) => h("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": name }, ...content);

/** A table; columns are `{ name, value(row), text, title, wide }`: `wide` ones are left out where there is little room. */
export function table(name, columns, rows) {
  const kind = (column) => [column.text ? "" : "number", column.wide ? "wide" : ""].join(" ").trim() || null;
  const cell = (column, row) => h("td", { class: kind(column) }, column.value(row));
  return scroll(name, h("table", {},
    h("thead", {}, h("tr", {}, columns.map((column) => h("th", { scope: "col", class: kind(column), title: column.title }, column.name)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, columns.map((column) => cell(column, row)))))));
}

let panels = 0;
/** Tabs that build what they show when it is first asked for; `shown` is told of what was built. */
export function tabs(name, items, shown) {
  if (items.length === 1) return h("div", {}, items[0].build());
  const place = ++panels;
  const panel = h("div", { role: "tabpanel", id: `panel-${place}` }), bar = h("div", { class: "tabs", role: "tablist", "aria-label": name }), built = new Map();
  const show = (index, focus) => {
    [...bar.children].forEach((button, at) => {
      button.setAttribute("aria-selected", String(at === index));
      button.tabIndex = at === index ? 0 : -1;
      if (at === index && focus) button.focus();
    });
    if (!built.has(index)) built.set(index, items[index].build());
    panel.setAttribute("aria-labelledby", `tab-${place}-${index}`);
    panel.replaceChildren(built.get(index));
    if (panel.isConnected) shown(panel);
  };
  const keys = (event) => {
    const at = [...bar.children].indexOf(document.activeElement);
    const next = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: items.length - 1 }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    show((next + items.length) % items.length, true);
  };
  bar.addEventListener("keydown", keys);
  items.forEach((item, index) => bar.append(h("button", { role: "tab", type: "button", id: `tab-${place}-${index}`, "aria-controls": `panel-${place}`, onclick: () => show(index) }, item.dot ?? null, item.name)));
  show(0);
  return h("div", {}, bar, panel);
}

/** One cause with what speaks for it. */
export const finding = (one) => h("div", { class: "finding" },
  h("span", { class: "cause" }, one.cause),
  one.explained === null ? null : h("div", { class: "bar", "aria-hidden": "true", title: "part of the mean |d| that is gone under this hypothesis" }, h("i", { style: `width:${Math.max(0, Math.min(1, one.explained)) * 100}%` })),
  h("div", { class: "small soft" },
    one.explained === null ? null : `explains ${percent(one.explained)} of the mean |d|`,
    one.residual_floor_multiple === null || one.residual_floor_multiple === undefined ? null : `${one.explained === null ? "leaves" : ", leaves"} ${number(one.residual_floor_multiple, 3)} noise floors`),
  h("div", { class: "evidence" }, one.evidence));

/** Sequences by their likeliest cause. */
export const causeCounts = (causes) => (Object.keys(causes).length ? h("p", { class: "small soft cause-counts" }, "Sequences by likeliest cause: ",
  Object.entries(causes).sort((a, b) => b[1] - a[1]).map(([cause, count], at) => [at ? ", " : "", h("code", {}, cause), ` ${number(count)}`])) : null);

/** An engine in one look: `{ name, verdict, metrics, mae, multiple (intervals), cause, colour (series), note }`. */
export function engineCard(engine) {
  const m = engine.metrics, multiple = m.noise_floor_multiple;
  const range = interval(multiple === null ? engine.mae : engine.multiple);
  return h("div", { class: "card engine-card" },
    h("div", { class: "top" }, h("span", { class: "name" }, engine.colour === undefined ? null : dot(engine.colour), engine.name), badge(engine.verdict)),
    h("div", { class: "big" }, multiple === null ? (m.mae_logprob === null ? "–" : `${number(m.mae_logprob, 3)} nats`) : multipleOf(multiple)),
    h("div", { class: "soft small" }, multiple === null ? "mean |d|; no noise floor is known" : "the noise floor: mean |d| over a faithful bf16 engine's", range ? ` · 95 % ${range}` : ""),
    h("div", { class: "figures" },
      h("div", {}, h("b", {}, number(m.mae_logprob, 3)), h("span", {}, "MAE, nats")),
      h("div", {}, h("b", {}, number(m.kl_k3, 3)), h("span", {}, "KL k3, nats")),
      h("div", {}, h("b", {}, number(m.pearson_logprob, 5)), h("span", {}, "Pearson r"))),
    h("div", { class: "small soft" }, `${number(m.tokens)} tokens, ${number(m.sequences)} sequences`, engine.cause ? [" · ", h("code", {}, engine.cause)] : null),
    engine.note ?? null);
}

/** Metrics of engines side by side: `engines` are `{ name, colour, metrics, intervals, floor, floor_multiples }`. */
export function metricsTable(glossary, engines) {
  const body = [];
  let group = null;
  const cell = (engine, metric) => {
    const range = interval(engine.intervals[metric.key]), multiple = engine.floor_multiples[metric.key];
    return h("td", { class: "number" }, number(engine.metrics[metric.key]), range ? h("div", { class: "range" }, range) : null,
      multiple === undefined ? null : h("div", { class: "range" }, `${number(multiple, 3)} × floor ${number(engine.floor[metric.key], 3)}`));
  };
  for (const metric of glossary) {
    if (metric.group !== group) body.push(h("tr", { class: "head" }, h("th", { scope: "colgroup", colspan: engines.length + 1 }, metric.group)));
    group = metric.group;
    body.push(h("tr", {}, h("th", { scope: "row" }, metric.label, h("div", { class: "range" }, metric.meaning, metric.unit && metric.unit !== "×" ? ` · ${metric.unit}` : "")), engines.map((engine) => cell(engine, metric))));
  }
  return scroll("metrics of the engines", h("table", { class: "metrics" },
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "metric"), engines.map((engine) => h("th", { scope: "col", class: "number" }, engine.colour === undefined ? null : dot(engine.colour), shorter(engine.name, 32))))),
    h("tbody", {}, body)));
}

/** The same, the handful that everybody looks at first. */
export function sideBySide(glossary, engines) {
  return h("div", { class: "card" }, metricsTable(glossary.filter((metric) => metric.key_figure), engines),
    h("details", {}, h("summary", {}, `All ${glossary.length} metrics`), metricsTable(glossary, engines)));
}
