// Figures of a run over time and by policy version, and the small lines of lists.
import { number, plain, shorter, signed } from "../shared/format.js";
import { axis, css, decades, faded, layout, seriesColor } from "../shared/figures.js";
import { local } from "./words.js";

/** What can be looked at over time. */
export const MEASURES = {
  noise_floor_multiple: { name: "× noise floor", title: "mean |d| over the noise floor (×)", interval: "noise_floor_multiple_ci95", log: true },
  mae_logprob: { name: "mean |d|", title: "mean |d| (nats)", interval: "mae_logprob_ci95", log: true },
  kl_k3: { name: "KL k3", title: "k3 (nats)", interval: null, log: true },
  log_ratio_mean: { name: "mean d", title: "mean d = reference − engine (nats)", interval: null, log: false },
};

const MOST_LABELS = 8;
const range = (values) => (values ? `<br>95 % ${number(values.low, 3)} … ${number(values.high, 3)}` : "");

/** Levels of the verdicts, where the measure has them. */
function levelLines(measure, levels, engines) {
  const known = measure === "noise_floor_multiple" ? [["suspect", levels.floor_suspect], ["divergent", levels.floor_divergent]]
    : measure === "mae_logprob" && engines.every((engine) => engine.noise_floor === null) ? [["suspect", levels.mae_suspect], ["divergent", levels.mae_divergent]] : [];
  const colour = { suspect: css("--warn"), divergent: css("--bad") };
  return {
    values: known.map(([, level]) => level),
    shapes: known.map(([name, level]) => ({ type: "line", xref: "paper", x0: 0, x1: 1, y0: level, y1: level, line: { color: colour[name], width: 1, dash: "dot" } })),
    annotations: known.map(([name, level]) => ({ xref: "paper", x: 1, xanchor: "right", yanchor: name === "divergent" ? "bottom" : "top", y: MEASURES[measure].log ? Math.log10(level) : level, text: `${name} above ${number(level)}`, showarrow: false, font: { size: 11, color: colour[name] } })),
  };
}

/** Where the weights changed, as lines with their versions. */
function swaps(engines) {
  const first = new Map();
  for (const engine of engines) {
    for (const version of engine.policy_versions.slice(1)) {
      const name = version.name ?? "several versions", at = first.get(name);
      if (!at || version.first_seen_at < at) first.set(name, version.first_seen_at);
    }
  }
  const all = [...first].sort((a, b) => (a[1] < b[1] ? -1 : 1)), every = Math.ceil(all.length / MOST_LABELS);
  return {
    shapes: all.map(([, at]) => ({ type: "line", x0: local(at), x1: local(at), yref: "paper", y0: 0, y1: 1, line: { color: css("--line-strong"), width: 1.2, dash: "dash" } })),
    annotations: all.filter((_, index) => index % every === 0).map(([name, at]) => ({ x: local(at), xanchor: "left", yref: "paper", y: 1, yanchor: "bottom", text: `⇄ ${plain(shorter(name, 14))}`, showarrow: false, font: { size: 11, color: css("--soft") } })),
  };
}

/** Changes of level that the drift detector saw: a band for as long as each lasted. */
function drifts(engines, end) {
  const all = engines.flatMap((engine, index) => engine.drift_events.map((event) => ({ ...event, index })));
  const shown = all.slice(-MOST_LABELS);
  return {
    shapes: shown.map((event) => ({ type: "rect", x0: local(event.began_at), x1: local(event.ended_at ?? end), yref: "paper", y0: 0, y1: 1, fillcolor: faded(css(event.direction === "up" ? "--series-1" : "--series-2"), 0.1), line: { width: 0 }, layer: "below" })),
    annotations: shown.map((event) => ({ x: local(event.began_at), xanchor: "left", yref: "paper", y: 0, yanchor: "bottom", text: `${event.direction === "up" ? "▲" : "▼"} drift ${number(event.size, 3)} ×`, showarrow: false, font: { size: 11, color: css(event.direction === "up" ? "--bad" : "--good") } })),
  };
}

function yAxis(measure, values) {
  const { title, log } = MEASURES[measure];
  return axis(title, log ? { type: "log", zeroline: false, ...decades(values) } : { zeroline: true });
}

/** One engine's line with its interval. */
function line(engine, index, points, x, measure, more) {
  const colour = seriesColor(index), { interval, log } = MEASURES[measure], name = plain(shorter(engine.engine, 40));
  const shown = (value) => (value === null || value === undefined || (log && value <= 0) ? null : value);
  const y = points.map((point) => shown(point[measure]));
  const text = points.map((point) => `${number(point[measure])}${range(interval && point[interval])}<br>mean d ${signed(point.log_ratio_mean, 3)} nats<br>${number(point.tokens)} tokens, ${number(point.sequences)} sequences`);
  const ends = interval ? points.map((point) => point[interval]) : [];
  const traces = [{ type: "scatter", mode: "lines+markers", name, x, y, text, legendgroup: name, line: { color: colour, width: 2 }, marker: { color: colour, size: 5 }, connectgaps: false, hovertemplate: "%{x}<br>%{text}<extra></extra>", ...more(ends, y) }];
  return { traces, values: [...y, ...ends.flatMap((end) => (end && end.low > 0 ? [end.low, end.high] : []))] };
}

function frame(engines, measure, lines, marks, x) {
  const values = lines.flatMap((one) => one.values).filter((value) => value !== null);
  return {
    data: lines.flatMap((one) => one.traces),
    layout: layout({
      showlegend: engines.length > 1, legend: { orientation: "h", x: 0, y: -0.22, yanchor: "top", font: { size: 12.5 }, bgcolor: "rgba(0,0,0,0)" }, margin: { l: 56, r: 14, t: 24, b: 46 },
      xaxis: x, yaxis: yAxis(measure, [...values, ...marks.values]),
      shapes: marks.shapes, annotations: marks.annotations,
    }),
  };
}

const barsOf = (ends, y, colour) => ({ type: "data", symmetric: false, color: colour, thickness: 1.2, width: 3, array: ends.map((end, at) => (end && y[at] !== null ? end.high - y[at] : 0)), arrayminus: ends.map((end, at) => (end && y[at] !== null ? Math.min(y[at] - end.low, y[at] * 0.999) : 0)) });

/** A measure over time, with weight swaps, drift and the verdicts' levels. */
export function overTime(engines, measure, levels) {
  const end = engines.map((engine) => engine.last_seen_at).sort().at(-1);
  const lines = engines.map((engine, index) => {
    const x = engine.trend.map((point) => local(point.from));
    return line(engine, index, engine.trend, x, measure, (ends, y) => (ends.length ? { error_y: barsOf(ends, y, faded(seriesColor(index), 0.5)) } : {}));
  });
  const marks = [levelLines(measure, levels, engines), swaps(engines), drifts(engines, end)];
  const together = { values: marks[0].values, shapes: marks.flatMap((one) => one.shapes), annotations: marks.flatMap((one) => one.annotations) };
  return frame(engines, measure, lines, together, axis("time", { type: "date", zeroline: false, tickformatstops: [{ dtickrange: [null, 60000], value: "%H:%M:%S" }, { dtickrange: [60000, 86400000], value: "%H:%M" }, { dtickrange: [86400000, null], value: "%b %-d" }] }));
}

/** A measure by policy version, in the order in which they came. */
export function byVersion(engines, measure, levels) {
  const names = new Map();
  for (const engine of engines) {
    for (const version of engine.policy_versions) {
      const name = version.name ?? "several", at = names.get(name);
      if (!at || version.first_seen_at < at) names.set(name, version.first_seen_at);
    }
  }
  const order = [...names].sort((a, b) => (a[1] < b[1] ? -1 : 1)).map(([name]) => name);
  const lines = engines.map((engine, index) => {
    const x = engine.policy_versions.map((version) => order.indexOf(version.name ?? "several"));
    return line(engine, index, engine.policy_versions, x, measure, (ends, y) => ({
      text: engine.policy_versions.map((version) => `version ${plain(shorter(version.name ?? "several", 40))}<br>${number(version[measure])}${range(MEASURES[measure].interval && version[MEASURES[measure].interval])}<br>${number(version.tokens)} tokens`),
      hovertemplate: "%{text}<extra></extra>", ...(ends.length ? { error_y: barsOf(ends, y, faded(seriesColor(index), 0.5)) } : {}),
    }));
  });
  const every = Math.ceil(order.length / (innerWidth < 640 ? 5 : 12)), marked = order.map((_, at) => at).filter((at) => at % every === 0);
  return frame(engines, measure, lines, levelLines(measure, levels, engines), axis("policy version", { tickvals: marked, ticktext: marked.map((at) => plain(shorter(order[at], 14))), range: [-0.5, order.length - 0.5], zeroline: false }));
}

function svg(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** A small line for a list: the trend in words for those who cannot see it. */
export function sparkline(values, verdict, name) {
  const width = 112, height = 26, known = values.filter((value) => value !== null);
  if (!known.length) return null;
  const most = Math.max(...known) * 1.08 || 1, x = (at) => (values.length < 2 ? width - 4 : 3 + (at / (values.length - 1)) * (width - 7)), y = (value) => height - 3 - (value / most) * (height - 7);
  let path = "", pen = "M";
  values.forEach((value, at) => {
    if (value === null) pen = "M";
    else {
      path += `${pen}${x(at).toFixed(1)} ${y(value).toFixed(1)}`;
      pen = "L";
    }
  });
  const last = values.findLastIndex((value) => value !== null);
  return svg("svg", { class: `spark ${verdict}`, viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": `${name}: from ${number(known[0], 3)} to ${number(known.at(-1), 3)}, at most ${number(Math.max(...known), 3)}` },
    svg("line", { x1: 0, x2: width, y1: height - 2.5, y2: height - 2.5, class: "base" }), svg("path", { d: path }), svg("circle", { cx: x(last).toFixed(1), cy: y(values[last]).toFixed(1), r: 2.6 }));
}
