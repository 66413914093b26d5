// The report page: from the JSON in #report-data.
import { number, percent, shorter, signed } from "./format.js";
import { h } from "./dom.js";
import { curves, density, logRatios, profile } from "./figures.js";
import { drawAll, figure } from "./draw.js";
import { badge, causeCounts, counts, dot, engineCard, finding, interval, list, sideBySide, table, tabs } from "./parts.js";
import { heatLegend, heatMap } from "./tokens.js";

const data = JSON.parse(document.getElementById("report-data").textContent);
const main = document.getElementById("report");
const engines = data.engines;
const several = engines.length > 1;
const colour = (engine) => (several ? engines.indexOf(engine) : undefined);
const section = (title, lead, ...content) => main.append(h("section", {}, h("h2", {}, title), lead ? h("p", { class: "lead" }, lead) : null, ...content));

// ---- head ------------------------------------------------------------------------------------------------------------------------------
const reference = data.reference;
main.append(
  h("div", { class: "brand" }, "Plumbline"),
  h("h1", {}, data.title),
  h("p", { class: "soft" }, `${data.created_at} · reference ${reference.model}, version ${reference.policy_version}, ${reference.dtype} on ${reference.device} · ${number(data.tokens)} tokens in ${number(data.sequences)} sequences`),
  h("div", { class: "verdict-line" }, badge(data.verdict), h("span", {}, data.verdict_reason)),
);
if (data.notes.length) main.append(h("div", { class: "card small" }, h("h2", { class: "plain" }, "To be known"), h("ul", {}, data.notes.map((note) => h("li", {}, note)))));
main.append(h("div", { class: "cards", style: "margin-top:14px" }, engines.map((engine) => engineCard({
  name: engine.engine, verdict: engine.verdict, metrics: engine.metrics, mae: engine.intervals.mae_logprob, multiple: engine.intervals.noise_floor_multiple, colour: colour(engine),
  cause: engine.diagnosis[0]?.cause ?? Object.entries(engine.causes).sort((a, b) => b[1] - a[1])[0]?.[0],
}))));

// ---- diagnosis -------------------------------------------------------------------------------------------------------------------------
const diagnosed = [
  ...(data.diagnosis.length ? [{ name: "whole run", findings: data.diagnosis, causes: {} }] : []),
  ...engines.map((engine) => ({ name: engine.engine, colour: colour(engine), findings: engine.diagnosis, causes: engine.causes })),
].filter((one) => one.findings.length || Object.keys(one.causes).length);
if (diagnosed.length) {
  section("Diagnosis", "Causes that explain the gap, the likeliest first, each with what speaks for it.",
    h("div", { class: "grid" }, diagnosed.map((one) => h("div", { class: "card" },
      h("h3", {}, one.colour === undefined ? null : dot(one.colour), one.name), one.findings.map(finding), causeCounts(one.causes)))));
}

// ---- engines side by side, and where the gap is ----------------------------------------------------------------------------------------
if (engines.length) {
  section(several ? "Engines side by side" : "Metrics", "Pooled over compared tokens. d = reference − engine logprob, ρ = exp(d). Ranges are 95 % intervals, clustered by sequence; “floor” is what a faithful bf16 engine would show on these very tokens.",
    sideBySide(data.glossary, engines.map((engine) => ({ ...engine, name: engine.engine, colour: colour(engine) }))));
  const all = (title, note, build) => h("div", { class: "card" }, h("h3", {}, title), h("p", { class: "small soft" }, note), figure(title, build));
  const beyond = engines.map((engine) => engine.views.log_ratios.beyond).reduce((sum, count) => sum + count, 0);
  section("Where the gap is", "Lines are means, bands reach from the median to the 99 % quantile.",
    h("div", { class: "grid" },
      all("Density of the log ratio", `d = reference − engine, in nats; ${number(beyond)} tokens lie beyond the axis.`, () => logRatios(engines)),
      all("|d| by position", "A rise along the completion points at context, position or cache.", () => profile(engines, "by_position")),
      all("|d| by engine probability", "Noise falls towards certain tokens; truncation and temperature do not.", () => profile(engines, "by_engine_probability")),
      all("|d| by entropy", "Of the reference's next-token distribution.", () => profile(engines, "by_entropy"))));
  section("Engine against reference", "Every compared token, in probability and in log space. On the dotted line both agree.",
    tabs("engines", engines.map((engine) => ({
      name: shorter(engine.engine, 40), dot: dot(engines.indexOf(engine)),
      build: () => h("div", { class: "grid" },
        h("div", { class: "card" }, h("h3", {}, "Probability"), figure("probability of each token: engine against reference", () => density(engine.views.probabilities, "probability"), "square")),
        h("div", { class: "card" }, h("h3", {}, "Logprob"), engine.views.logprobs.outside ? h("p", { class: "small soft" }, `${number(engine.views.logprobs.outside)} tokens lie below the axes.`) : null,
          figure("logprob of each token: engine against reference", () => density(engine.views.logprobs, "logprob"), "square"))),
    })), drawAll));
}

// ---- sequences -------------------------------------------------------------------------------------------------------------------------
function shownSequence(shown) {
  const row = shown.sequence;
  const fact = (name, value) => (value === null || value === undefined ? null : h("span", {}, `${name} `, h("b", {}, value)));
  return h("div", { class: "card" },
    h("div", { class: "verdict-line", style: "margin:0" }, badge(row.verdict), h("span", { class: "small" }, row.verdict_reason)),
    h("div", { class: "facts-line" },
      fact("id", row.id), fact("group", row.group), fact("worker", row.worker), fact("policy version", row.policy_version), fact("tokens", number(row.completion_tokens)), fact("compared", number(row.tokens)),
      fact("mean |d|", `${number(row.mae_logprob, 3)} nats`), fact("max |d|", `${number(row.max_abs_logprob, 3)} nats`), fact("k3", number(row.kl_k3, 3)),
      row.noise_floor_multiple === null ? null : fact("noise floors", number(row.noise_floor_multiple, 3)), fact("mode", row.logprobs_mode), fact("temperature", row.temperature === null ? null : number(row.temperature)), fact("ended by", row.finish_reason)),
    h("p", { class: "small soft" }, `Chosen as ${shown.choice}.`, shown.tokens_left_out ? ` Shown are the first ${number(shown.tokens.id.length)} of ${number(row.completion_tokens)} tokens.` : ""),
    figure("logprob of engine and reference along the completion, and |d|", () => curves(shown), 360),
    heatLegend(),
    heatMap({ tokens: shown.tokens, length: row.completion_tokens, prompt_text: shown.prompt_text, cut_prompt: row.prompt_tokens > shown.prompt_ids.length }),
    shown.findings.length ? h("div", { style: "margin-top:10px" }, shown.findings.map(finding)) : null);
}
const withTokens = engines.filter((engine) => engine.longest || engine.typical || engine.worst);
if (withTokens.length) {
  section("Sequences, token by token", null, tabs("engines", withTokens.map((engine) => ({
    name: shorter(engine.engine, 40), dot: dot(engines.indexOf(engine)),
    build: () => tabs("sequences", ["worst", "typical", "longest"].filter((kind) => engine[kind]).map((kind) => ({ name: kind, build: () => shownSequence(engine[kind]) })), drawAll),
  })), drawAll));
}
const listed = engines.filter((engine) => engine.sequences.rows.length);
if (listed.length) {
  const columns = [
    { name: "sequence", text: true, value: (row) => h("code", {}, shorter(row.id, 48)) }, { name: "verdict", text: true, value: (row) => badge(row.verdict) },
    { name: "tokens", value: (row) => number(row.tokens) }, { name: "mean |d|", value: (row) => number(row.mae_logprob, 3) }, { name: "max |d|", value: (row) => number(row.max_abs_logprob, 3) },
    { name: "k3", value: (row) => number(row.kl_k3, 3) }, { name: "floors", value: (row) => number(row.noise_floor_multiple, 3) }, { name: "mean d", value: (row) => signed(row.log_ratio_mean, 3) },
    { name: "cause", text: true, value: (row) => (row.cause ? h("code", {}, row.cause) : "") },
  ];
  const most = 25;
  section("Sequences by k3", "The largest first. report.xlsx and report.json have more of them.", tabs("engines", listed.map((engine) => ({
    name: shorter(engine.engine, 40), dot: dot(engines.indexOf(engine)),
    build: () => h("div", { class: "card" }, h("p", { class: "small soft" }, `${number(Math.min(most, engine.sequences.rows.length))} of ${number(engine.sequences.total)} sequences.`), table("sequences by k3", columns, engine.sequences.rows.slice(0, most))),
  })), drawAll));
}

// ---- parts and cross -----------------------------------------------------------------------------------------------------------------
const parts = engines.flatMap((engine) => [["worker", engine.workers], ["policy version", engine.policy_versions]].filter(([, rows]) => rows.length > 1 || (rows.length && engines.length > 1)).map(([kind, rows]) => ({ engine, kind, rows })));
if (parts.length) {
  const columns = (kind) => [
    { name: kind, text: true, value: (row) => row.name ?? "(further ones)" }, { name: "sequences", value: (row) => number(row.sequences) }, { name: "tokens", value: (row) => number(row.tokens) },
    { name: "mean |d|", value: (row) => [number(row.mae_logprob, 3), row.mae_logprob_ci95 ? h("div", { class: "range" }, interval(row.mae_logprob_ci95)) : null] },
    { name: "k3", value: (row) => number(row.kl_k3, 3) }, { name: "floors", value: (row) => number(row.noise_floor_multiple, 3) }, { name: "mean d", value: (row) => signed(row.log_ratio_mean, 3) },
  ];
  section("Workers and policy versions", null, h("div", { class: "grid" }, parts.map((part) => h("div", { class: "card" }, h("h3", {}, `${part.engine.engine}, by ${part.kind}`), table(`by ${part.kind}`, columns(part.kind), part.rows)))));
}
if (data.cross.length) {
  const range = (row, key) => (row.intervals[key] ? h("div", { class: "range" }, interval(row.intervals[key])) : null);
  section("Engines against each other", "One engine's samples scored by another, teacher-forced: d = the scorer's logprob − the sampler's.", h("div", { class: "card" }, table("engines against each other", [
    { name: "sampled by", text: true, value: (row) => row.sampled_by }, { name: "scored by", text: true, value: (row) => row.scored_by }, { name: "tokens", value: (row) => number(row.metrics.tokens) },
    { name: "MAE, nats", value: (row) => [number(row.metrics.mae_logprob, 3), range(row, "mae_logprob")] }, { name: "k3, nats", value: (row) => [number(row.metrics.kl_k3, 3), range(row, "kl_k3")] },
    { name: "mean d, nats", value: (row) => [signed(row.metrics.log_ratio_mean, 3), range(row, "log_ratio_mean")] }, { name: "Pearson r", value: (row) => number(row.metrics.pearson_logprob, 5) }, { name: "", text: true, value: (row) => row.note ?? "" },
  ], data.cross)));
}

// ---- facts ---------------------------------------------------------------------------------------------------------------------------
const free = (value) => (value !== null && typeof value === "object" ? h("code", {}, JSON.stringify(value)) : String(value));
const floor = data.noise_floor;
const cardsOfFacts = [
  h("div", { class: "card" }, h("h3", {}, "Reference"), list([
    ["model", reference.model], ["family", reference.family], ["policy version", reference.policy_version], ["body, head", `${reference.dtype}, ${reference.head_dtype}`], ["device", reference.device], ["parameters", number(reference.parameters)],
  ])),
  h("div", { class: "card" }, h("h3", {}, "Noise floor"), floor ? list([
    ["mean |d|", `${number(floor.mae, 3)} nats`], ["RMSE", `${number(floor.rmse, 3)} nats`], ["p50, p99", `${number(floor.p50, 3)}, ${number(floor.p99, 3)} nats`], ["simulated engine", `bf16 body, ${floor.used_head} head`],
    ["measured on", `${number(floor.tokens)} tokens in ${number(floor.sequences)} sequences`], ["error of its level", percent(floor.relative_error)],
  ]) : h("p", { class: "soft small" }, "Not measured.")),
  ...engines.map((engine, index) => h("div", { class: "card" }, h("h3", {}, several ? dot(index) : null, engine.engine), list([
    ["sequences by verdict", counts(engine.verdicts)], ["tokens in no sum", counts(engine.skipped) || "none"], ["not scored", counts(engine.not_scored)], ["quantiles", engine.quantiles],
    ...Object.entries(engine.facts).map(([name, value]) => [name, free(value)]),
  ]))),
  ...(data.inputs.length ? [h("div", { class: "card" }, h("h3", {}, "Inputs"), list(data.inputs.map((input) => [input.name, `${number(input.sequences)} sequences, ${number(input.tokens)} tokens${counts(input.rejected) ? `; not usable: ${counts(input.rejected)}` : ""}`])))] : []),
  h("div", { class: "card" }, h("h3", {}, "Verdict levels"), list(Object.entries(data.verdict_levels).map(([name, value]) => [name, number(value)]))),
];
section("What this rests on", null,
  data.sampling.length ? h("div", { class: "card small", style: "margin-bottom:14px" }, h("h3", {}, "What was sampled"), h("ul", {}, data.sampling.map((sentence) => h("li", {}, sentence)))) : h("p", { class: "lead" }, "Nothing was sampled: every number is over all compared tokens."),
  h("div", { class: "grid" }, cardsOfFacts));
main.append(h("footer", {},
  h("p", {}, `Sign convention: d = ${data.log_ratio_sign}; positive d = the reference finds the token likelier than the engine says.`),
  data.command ? h("p", {}, h("code", {}, data.command)) : null,
  h("p", {}, `Plumbline ${data.plumbline_version} · report schema ${data.schema_version}`)));
await drawAll(document);
document.documentElement.dataset.ready = "true";
