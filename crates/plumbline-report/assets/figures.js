// Every figure as plotly data and layout. Colours are read from the theme at the moment of drawing.
import { number, plain, shorter } from "./format.js";

export const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const SERIES = 6;
export const seriesColor = (index) => css(`--series-${index % SERIES}`);

export function axis(title, more) {
  return {
    title: { text: title, font: { size: 12.5, color: css("--soft") }, standoff: 8 }, color: css("--soft"), gridcolor: css("--line"),
    linecolor: css("--line-strong"), zerolinecolor: css("--line-strong"), tickfont: { size: 11.5, color: css("--soft") }, automargin: true, ...more,
  };
}
export function layout(more) {
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { family: css("--sans"), size: 12.5, color: css("--ink") },
    margin: { l: 56, r: 14, t: 10, b: 46 }, hovermode: "closest", showlegend: false,
    hoverlabel: { bgcolor: css("--ink"), bordercolor: css("--ink"), font: { color: css("--card"), family: css("--sans"), size: 12.5 } },
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { size: 12.5 }, bgcolor: "rgba(0,0,0,0)" }, ...more,
  };
}
export const faded = (color, alpha) => {
  const [r, g, b] = [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));
  return `rgba(${r},${g},${b},${alpha})`;
};
/** Ticks of a logarithmic axis at whole decades, written as people write them. */
export function decades(values) {
  const positive = values.filter((value) => value > 0);
  if (!positive.length) return {};
  const first = Math.floor(Math.log10(Math.min(...positive))), last = Math.ceil(Math.log10(Math.max(...positive)));
  const step = Math.max(1, Math.ceil((last - first) / 7));
  const ticks = [];
  for (let power = first; power <= last; power += step) ticks.push(power);
  if (last - first <= 2) {
    const between = ticks.flatMap((power) => [1, 2, 5].map((digit) => digit * 10 ** power));
    return { tickvals: between, ticktext: between.map((value) => number(value)) };
  }
  return {
    tickvals: ticks.map((power) => 10 ** power),
    ticktext: ticks.map((power) => (power >= -3 && power <= 4 ? String(Number((10 ** power).toPrecision(1)).toLocaleString("en-US", { maximumFractionDigits: 3 })) : `10<sup>${String(power).replace("-", "−")}</sup>`)),
  };
}

/** Few to many, light on white and dark on black: the few must be seen too. */
const heat = () => ["--heat-0", "--heat-1", "--heat-2", "--heat-3"].map((name, at) => [at / 3, css(name)]);

/** Engine against reference: tokens per cell, log colours, y = x, marginals. */
export function density(grid, kind) {
  const step = (grid.to - grid.from) / grid.side;
  const middles = Array.from({ length: grid.side }, (_, cell) => grid.from + (cell + 0.5) * step);
  const z = middles.map(() => new Array(grid.side).fill(null)), counts = middles.map(() => new Array(grid.side).fill(0));
  const engine = new Array(grid.side).fill(0), reference = new Array(grid.side).fill(0);
  let most = 1;
  for (const [x, y, count] of grid.cells) {
    z[y][x] = Math.log10(count);
    counts[y][x] = count;
    engine[x] += count;
    reference[y] += count;
    most = Math.max(most, count);
  }
  const unit = kind === "logprob" ? "logprob (nats)" : "probability";
  const range = [grid.from, grid.to];
  const top = Math.max(1, Math.ceil(Math.log10(most))), ticks = Array.from({ length: top + 1 }, (_, power) => power);
  const bar = (values, along) => ({
    type: "bar", marker: { color: css("--floor") }, opacity: 0.75, width: step, hovertemplate: `%{${along === "x" ? "y" : "x"}:,} tokens<extra></extra>`,
    ...(along === "x" ? { x: middles, y: values, yaxis: "y2" } : { y: middles, x: values, xaxis: "x2", orientation: "h" }),
  });
  const data = [
    {
      type: "heatmap", x: middles, y: middles, z, customdata: counts, zmin: 0, zmax: top, colorscale: heat(), hoverongaps: false,
      colorbar: {
        thickness: 10, len: 0.8, y: 0.4, x: 1.01, outlinewidth: 0, tickvals: ticks, ticktext: ticks.map((power) => number(10 ** power)),
        title: { text: "tokens", font: { size: 11.5, color: css("--soft") } }, tickfont: { size: 11, color: css("--soft") },
      },
      hovertemplate: "engine %{x:.3f}<br>reference %{y:.3f}<br>%{customdata:,} tokens<extra></extra>",
    },
    { type: "scatter", mode: "lines", x: range, y: range, line: { color: faded(css("--series-1"), 0.6), width: 1, dash: "dot" }, hoverinfo: "skip" },
    bar(engine, "x"), bar(reference, "y"),
  ];
  return {
    data,
    layout: layout({
      bargap: 0, margin: { l: 56, r: 10, t: 8, b: 46 },
      xaxis: axis(`engine ${unit}`, { range, domain: [0, 0.82], zeroline: false }), yaxis: axis(`reference ${unit}`, { range, domain: [0, 0.82], zeroline: false }),
      xaxis2: axis("", { domain: [0.845, 1], type: "log", showticklabels: false, showgrid: false }), yaxis2: axis("", { domain: [0.845, 1], type: "log", showticklabels: false, showgrid: false }),
    }),
  };
}

/** Density of d of all engines on one axis. */
export function logRatios(engines) {
  const data = engines.map((engine, index) => {
    const view = engine.views.log_ratios, width = (2 * view.limit) / view.density.length;
    const x = view.density.map((_, bin) => (bin + 0.5) * width - view.limit);
    return {
      type: "scatter", mode: "lines", name: plain(shorter(engine.engine, 40)), x, y: view.density.map((value) => (value > 0 ? value : null)),
      line: { color: seriesColor(index), width: 1.8, shape: "hvh" }, fill: engines.length === 1 ? "tozeroy" : "none", fillcolor: faded(seriesColor(index), 0.14),
      hovertemplate: "d %{x:.4g} nats<br>%{y:.3g} per nat<extra></extra>",
    };
  });
  const values = data.flatMap((trace) => trace.y.filter((value) => value !== null));
  return {
    data,
    layout: layout({
      showlegend: engines.length > 1, shapes: [{ type: "line", x0: 0, x1: 0, yref: "paper", y0: 0, y1: 1, line: { color: css("--line-strong"), width: 1 } }],
      xaxis: axis("log ratio d = reference − engine (nats)", { zeroline: false }), yaxis: axis("tokens per nat (share, log)", { type: "log", ...decades(values) }),
    }),
  };
}

/** |d| by position, engine probability or entropy: mean, band up to the 99 % quantile, and the floor where it is known. */
export function profile(engines, key) {
  const titles = { by_position: "position in the completion (tokens, log)", by_engine_probability: "engine probability of the token", by_entropy: "entropy of the reference (nats)" };
  const categories = key === "by_position" ? null : [...new Set(engines.flatMap((engine) => engine.views[key].from))].sort((a, b) => a - b);
  const end = new Map(engines.flatMap((engine) => engine.views[key].from.map((from, bin) => [from, engine.views[key].to[bin]])));
  const name = (value) => (value >= 0.0001 || value === 0 ? String(value) : value.toExponential(0).replace("e-", "e−"));
  const label = (from) => (end.get(from) === null ? `≥ ${name(from)}` : `${name(from)}–${name(end.get(from))}`);
  const place = (view, bin) => (categories ? categories.indexOf(view.from[bin]) : Math.sqrt((view.from[bin] + 1) * Math.max(view.to[bin] ?? view.from[bin] * 1.5, view.from[bin] + 1)));
  const data = [];
  engines.forEach((engine, index) => {
    const view = engine.views[key], color = seriesColor(index), x = view.from.map((_, bin) => place(view, bin));
    const shared = { type: "scatter", x, legendgroup: String(index), name: plain(shorter(engine.engine, 40)) };
    const text = view.from.map((from, bin) => `${categories ? label(from) : `${from + 1} to ${view.to[bin] ?? "…"}`}<br>mean ${number(view.mean[bin])} nats<br>p50 ${number(view.p50[bin])}, p99 ${number(view.p99[bin])}<br>${number(view.tokens[bin])} tokens`);
    const visible = (values) => values.map((value) => (value > 0 ? value : null));
    data.push({ ...shared, y: visible(view.p50), mode: "lines", line: { width: 0 }, hoverinfo: "skip", showlegend: false });
    data.push({ ...shared, y: visible(view.p99), mode: "lines", line: { color: faded(color, 0.45), width: 1 }, fill: "tonexty", fillcolor: faded(color, engines.length > 2 ? 0.07 : 0.13), hoverinfo: "skip", showlegend: false });
    data.push({ ...shared, y: visible(view.mean), mode: "lines+markers", line: { color, width: 2 }, marker: { color, size: 4.5 }, text, hovertemplate: "%{text}<extra></extra>" });
  });
  const floor = engines.find((engine) => engine.views[key].floor);
  if (floor) {
    const view = floor.views[key];
    data.push({ type: "scatter", mode: "lines", name: "noise floor (mean)", x: view.from.map((_, bin) => place(view, bin)), y: view.floor, line: { color: css("--floor"), width: 1.6, dash: "dash" }, hovertemplate: "faithful bf16 engine: %{y:.3g} nats<extra></extra>" });
  }
  const values = data.flatMap((trace) => trace.y.filter((value) => value > 0));
  const every = categories && innerWidth < 640 ? Math.ceil(categories.length / 7) : 1;
  const marked = categories && categories.map((_, at) => at).filter((at) => at % every === 0);
  return {
    data,
    layout: layout({
      showlegend: engines.length > 1 || Boolean(floor),
      xaxis: axis(titles[key], categories ? { tickvals: marked, ticktext: marked.map((at) => label(categories[at])), tickangle: categories.length > 8 ? -45 : 0, zeroline: false } : { type: "log", zeroline: false, ...decades(data.flatMap((trace) => trace.x)) }),
      yaxis: axis("|d| (nats, log)", { type: "log", ...decades(values) }),
    }),
  };
}

/** Both logprobs along a sequence, and |d| below. Long ones in stretches: the means, and the largest |d|. */
export function curves(shown) {
  const tokens = shown.tokens, count = tokens.id.length, most = 1500, width = Math.ceil(count / most);
  const stretches = Array.from({ length: Math.ceil(count / width) }, (_, index) => [index * width, Math.min(count, (index + 1) * width)]);
  const over = (values, reduce) => stretches.map(([from, to]) => {
    const known = values.slice(from, to).filter((value) => value !== null);
    return known.length ? reduce(known) : null;
  });
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const x = stretches.map(([from]) => from + 1);
  const text = stretches.map(([from]) => plain(tokens.text ? JSON.stringify(shorter(tokens.text[from], 30)) : `id ${tokens.id[from]}`));
  const line = (name, values, color, more) => ({ type: "scatter", mode: "lines", name, x, y: values, text, line: { color, width: 1.4 }, hovertemplate: `%{x} %{text}<br>${name} %{y:.4g} nats<extra></extra>`, ...more });
  // What stands for no number (a sentinel such as -9999) would press everything else into a line.
  const engine = tokens.engine_logprob.map((value, at) => (tokens.skipped[at] && tokens.skipped[at] !== "masked" ? null : value));
  const gaps = over(tokens.log_ratio.map((value) => (value === null ? null : Math.abs(value))), (values) => Math.max(...values));
  return {
    data: [
      line("engine", over(engine, mean), css("--series-0")),
      line("reference", over(tokens.reference_logprob, mean), css("--series-1"), { line: { color: css("--series-1"), width: 1.4, dash: "dot" } }),
      { type: "bar", name: "|d|", x, y: gaps, text, textposition: "none", width, offset: -0.5, yaxis: "y2", marker: { color: css("--series-2"), opacity: 0.75 }, hovertemplate: "%{x} %{text}<br>|d| %{y:.4g} nats<extra></extra>", showlegend: false },
    ],
    layout: layout({
      showlegend: true, hovermode: "closest", bargap: 0,
      xaxis: axis(width > 1 ? `token of the completion (stretches of ${width}: means, and the largest |d|)` : "token of the completion", { anchor: "y2", zeroline: false, range: [0.5, count + 0.5] }),
      yaxis: axis("logprob (nats)", { domain: [0.38, 1], zeroline: false }), yaxis2: axis("|d| (nats)", { domain: [0, 0.3], rangemode: "tozero", zeroline: false, nticks: 4 }),
    }),
  };
}
