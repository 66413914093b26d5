// One run: verdicts, trends, where the gap is, why, and its sequences.
import { number, shorter, signed } from "../shared/format.js";
import { h } from "../shared/dom.js";
import { density, logRatios, profile } from "../shared/figures.js";
import { drawAll, figure } from "../shared/draw.js";
import { badge, causeCounts, counts, dot, engineCard, finding, interval, list, table, tabs } from "../shared/parts.js";
import { json, runLink, runPath } from "./api.js";
import { exportLinks } from "./exports.js";
import { Sequences } from "./sequences.js";
import { MEASURES, byVersion, overTime } from "./trends.js";
import { length, levelsInWords, local, since } from "./words.js";

/** Between two requests for the views: the server makes them of thousands of sequences. */
const VIEWS_PACE = 15_000;

/** What a run's views are of, asked for beside everything else. */
export class Views {
  constructor(run, changed) {
    this.path = `${runPath(run)}/views`;
    this.changed = changed;
    this.data = null;
    this.asked = -Infinity;
    this.error = null;
    this.later = null;
    this.closed = false;
  }

  /** Asks for them, later if they were asked for just now; tells when they are there. */
  ask() {
    const wait = this.asked + VIEWS_PACE - performance.now();
    if (wait > 0) {
      this.later ??= setTimeout(() => {
        this.later = null;
        this.ask();
      }, wait);
      return;
    }
    this.asked = performance.now();
    json(this.path).then((data) => {
      [this.data, this.error] = [data, null];
      this.changed();
    }, (error) => {
      this.error = error;
      this.changed();
      // Others are being made, or the server is busy: once more, though nothing new comes.
      if (!this.closed) this.ask();
    });
  }

  close() {
    this.closed = true;
    clearTimeout(this.later);
  }
}

/** What is shown of an engine: the window, or everything where the window is empty or everything was asked for. */
export function scoped(engine, scope, index, several) {
  const idle = engine.metrics.tokens === 0, all = scope === "all" || idle, from = all ? engine.totals : engine, metrics = from.metrics;
  return { name: engine.engine, colour: several ? index : undefined, idle, all, verdict: from.verdict, reason: from.verdict_reason, metrics, mae: metrics.mae_logprob_ci95, multiple: metrics.noise_floor_multiple_ci95 };
}

/** Says of what the numbers are, and lets one choose. */
export function scopeChoice(run, scope, choose) {
  const items = [["window", `latest ${length(run.window_seconds)}`], ["all", "time since the start"]];
  return h("div", { class: "tabs scope", role: "group", "aria-label": "numbers of" }, h("span", { class: "soft small" }, "Numbers of the"), items.map(([value, name]) => h("button", { type: "button", "data-key": value, "aria-pressed": String(scope === value), onclick: () => choose(value) }, name)));
}

const section = (id, title, lead, ...content) => h("section", { "data-key": id, "aria-labelledby": `${id}-title` }, h("h2", { id: `${id}-title` }, title), lead ? h("p", { class: "lead" }, lead) : null, ...content);
const card = (title, note, ...content) => h("div", { class: "card" }, h("h3", {}, title), note ? h("p", { class: "small soft" }, note) : null, ...content);

/** Figures of views, or why there are none yet; the place is theirs from the start. */
export function viewsFigures(views, build) {
  if (views.data) return build(views.data.engines);
  return h("div", { class: "grid pending" }, [0, 1, 2, 3].map(() => h("div", { class: "card" }, h("p", { class: "small soft" }, views.error ? `Not there: ${views.error.message}` : "Being worked out…"))));
}

export const gapFigures = (engines) => h("div", { class: "grid" },
  card("Density of the log ratio", "d = reference − engine, in nats.", figure("density of d of each engine", () => logRatios(engines), 330, engines)),
  card("|d| by position", "A rise along the completion points at context, position or cache.", figure("|d| by position in the completion", () => profile(engines, "by_position"), 330, engines)),
  card("|d| by engine probability", "Noise falls towards certain tokens; truncation and temperature do not.", figure("|d| by the engine's probability of the token", () => profile(engines, "by_engine_probability"), 330, engines)),
  card("|d| by entropy", "Of the reference's next-token distribution.", figure("|d| by entropy of the reference", () => profile(engines, "by_entropy"), 330, engines)));

const driftLine = (event, unit) => h("li", {}, event.direction === "up" ? "▲ up" : "▼ down", ` ${number(event.size, 3)} × (${event.kind.replace("_", " ")}) from sequence ${number(event.began_sequence)}`,
  event.policy_version === null ? "" : `, version ${shorter(event.policy_version, 24)}`, event.at_version_change ? ", with its first sequence" : "", ", ", since(event.began_at), event.ended_at === null ? h("b", {}, " · lasts") : " · over", ` · level before ${number(event.level_before, 3)} ${unit(event.unit)}`);

export function runView(context, name, options) {
  let run = null, measure = MEASURES[options.get("by")] ? options.get("by") : null;
  const busy = { file: null, said: "" };
  const self = { title: `Run ${shorter(name, 60)}`, touches: (other) => other === name, load, render, close: () => views.close() };
  const views = new Views(name, () => context.show(self));
  const sequences = new Sequences(name, options, () => {
    context.remember(options);
    context.refresh();
  });

  async function load() {
    [run] = await Promise.all([json(runPath(name)), sequences.load()]);
    views.ask();
  }

  const set = (key, value) => {
    options.set(key, value);
    context.remember(options);
    context.show(self);
  };

  function trends(several) {
    const known = run.engines.some((engine) => engine.trend.some((point) => point.noise_floor_multiple !== null));
    const own = measure ?? (known ? "noise_floor_multiple" : "mae_logprob");
    const choose = h("div", { class: "tabs", role: "group", "aria-label": "what to look at over time" }, Object.entries(MEASURES).map(([key, { name }]) => h("button", { type: "button", "data-key": key, "aria-pressed": String(own === key), onclick: () => { measure = key; set("by", key); } }, name)));
    const events = run.engines.filter((engine) => engine.drift_events.length), unit = (word) => word.replace("_", " ");
    return section("trend", "Over time and by policy version", "Bars are 95 % intervals, clustered by sequence. ⇄ and dashed lines: new weights. Shaded: drift, from the sequence with which the level changed.",
      choose,
      h("div", { class: "grid" },
        card("Over time", null, figure(`${MEASURES[own].title} over time`, () => overTime(run.engines, own, run.verdict_levels), several ? 370 : 330, [run, own])),
        card("By policy version", null, figure(`${MEASURES[own].title} by policy version`, () => byVersion(run.engines, own, run.verdict_levels), several ? 370 : 330, [run, own]))),
      events.length ? h("div", { class: "card small", "data-key": "drift" }, h("h3", {}, "Drift"), events.map((engine) => h("div", { "data-key": engine.engine }, several ? h("b", {}, engine.engine) : null, h("ul", {}, engine.drift_events.slice().reverse().slice(0, 8).map((event) => driftLine(event, unit)))))) : null);
  }

  function diagnosis(several) {
    const diagnosed = run.engines.filter((engine) => engine.causes.length || Object.keys(engine.diagnosis).length);
    return section("diagnosis", "Diagnosis", "Causes that explain the gap, the likeliest first, each with what speaks for it; from the engine's latest thousands of sequences.",
      diagnosed.length ? h("div", { class: "grid" }, diagnosed.map((engine) => h("div", { class: "card", "data-key": engine.engine },
        h("h3", {}, several ? dot(run.engines.indexOf(engine)) : null, engine.engine), engine.causes.length ? engine.causes.map(finding) : h("p", { class: "small soft" }, "Nothing beyond noise that the sequences have in common."), causeCounts(engine.diagnosis))))
        : h("p", { class: "soft" }, run.engines.every((engine) => engine.verdict === "consistent") ? "Nothing to explain: every engine is consistent." : "Nothing beyond noise was found yet. Suspicious sequences are searched for causes on a budget of tokens a minute."));
  }

  function evidence(several) {
    const columns = [
      { name: "token", text: true, value: (row) => h("code", { class: "token-text" }, row.text === undefined ? `id ${row.id}` : JSON.stringify(shorter(row.text, 24))) }, { name: "engine e", value: (row) => number(row.engine_logprob, 4) }, { name: "reference r", value: (row) => number(row.reference_logprob, 4) },
      { name: "d = r − e, nats", value: (row) => signed(row.log_ratio, 4) }, { name: "entropy", value: (row) => number(row.entropy, 3) }, { name: "rank", value: (row) => number(row.rank) }, { name: "position", value: (row) => number(row.index + 1) },
      { name: "sequence", text: true, value: (row) => h("code", {}, shorter(row.sequence_id, 32)) }, { name: "worker", text: true, value: (row) => shorter(row.worker ?? "", 20) },
    ];
    const worst = run.engines.filter((engine) => engine.token_evidence.worst_tokens.length);
    if (!worst.length) return null;
    return section("tokens", "Worst tokens", "The largest |d| of the latest thousands of sequences, at most four of one sequence.",
      worst.map((engine) => h("details", { class: "card", "data-key": engine.engine }, h("summary", {}, several ? [dot(run.engines.indexOf(engine)), engine.engine] : `${number(engine.token_evidence.worst_tokens.length)} tokens`), table(`worst tokens of ${engine.engine}`, columns, engine.token_evidence.worst_tokens))));
  }

  function workers() {
    const columns = [
      { name: "worker", text: true, value: (row) => h("span", { class: "name" }, row.name ?? "(further ones)") }, { name: "sequences", wide: true, value: (row) => number(row.sequences) }, { name: "tokens", wide: true, value: (row) => number(row.tokens) },
      { name: "mean |d|", title: "nats", value: (row) => [number(row.mae_logprob, 3), row.mae_logprob_ci95 ? h("div", { class: "range" }, interval(row.mae_logprob_ci95)) : null] },
      { name: "k3", title: "nats", value: (row) => number(row.kl_k3, 3) }, { name: "× floor", value: (row) => number(row.noise_floor_multiple, 3) }, { name: "mean d", title: "reference − engine, nats", value: (row) => signed(row.log_ratio_mean, 3) },
    ];
    const all = run.engines.filter((engine) => engine.workers.length > 1);
    if (!all.length) return null;
    return section("workers", "Workers", null, h("div", { class: "grid" }, all.map((engine) => card(engine.engine, null, table(`workers of ${engine.engine}`, columns, [...engine.workers, ...(engine.other_workers ? [{ ...engine.other_workers, name: null }] : [])])))));
  }

  function render() {
    const several = run.engines.length > 1, scope = options.get("of") === "all" ? "all" : "window";
    const shown = run.engines.map((engine, index) => scoped(engine, scope, index, several));
    const typical = (views.data?.engines ?? []).map((engine) => ({ engine: engine.engine, id: engine.typical?.sequence.stored_id })).filter(({ id }) => id);
    return h("div", {},
      h("nav", { class: "crumbs", "aria-label": "where this is" }, h("a", { href: "#/" }, "Runs"), h("span", { "aria-hidden": "true" }, "/"), h("span", { "aria-current": "page" }, shorter(name, 60))),
      h("div", { class: "title" }, h("h1", {}, name), several ? h("a", { class: "main-button", href: runLink(name, "/compare") }, `Compare ${run.engines.length} engines`) : null),
      exportLinks(name, busy, () => context.show(self)),
      scopeChoice(run, scope, (value) => set("of", value)),
      h("div", { class: "cards" }, shown.map((engine, index) => {
        const { drift, causes, diagnosis, last_seen_at } = run.engines[index];
        return h("div", { class: "engine-place", "data-key": engine.name }, engineCard({
          ...engine, cause: causes[0]?.cause ?? Object.entries(diagnosis).sort((a, b) => b[1] - a[1])[0]?.[0],
          note: [h("p", { class: "reason" }, engine.reason, "."), engine.idle && scope === "window" ? h("p", { class: "small soft" }, `No traffic in the latest ${length(run.window_seconds)}: these are of everything since the start.`) : null,
            h("p", { class: "small soft last" }, "last sequence ", since(last_seen_at), drift?.alarm ? h("b", { class: "drift" }, ` · ▲ drift: ${number(drift.alarm.size, 3)} × the level before`) : drift ? (drift.learning ? ` · drift: learning the level, ${number(drift.learning)} sequences to go` : " · no drift") : "")],
        }));
      })),
      h("details", { class: "levels" }, h("summary", {}, "What verdicts rest on"), h("ul", { class: "small" }, levelsInWords(run.verdict_levels).map((sentence) => h("li", {}, sentence)))),
      trends(several),
      section("gap", "Where the gap is", "Lines are means, bands reach from the median to the 99 % quantile; of the sequences that are kept.", viewsFigures(views, gapFigures)),
      views.data ? section("density", "Engine against reference", "Every compared token that is kept. On the dotted line both agree.",
        h("div", { "data-keep": views.data.engines.map((engine) => engine.engine).join("\n"), "data-key": "densities" }, tabs("engines", views.data.engines.map((engine, index) => ({
          name: shorter(engine.engine, 40), dot: several ? dot(index) : null, build: () => densities(() => views.data.engines[index]),
        })), drawAll))) : null,
      diagnosis(several),
      section("sequences", "Sequences", "Each with its tokens, one by one.", sequences.render(several, typical)),
      evidence(several), workers(),
      section("facts", "Counts", null, h("div", { class: "grid" }, run.engines.map((engine, index) => card([several ? dot(index) : null, engine.engine], null, list([
        ["first, last sequence", `${local(engine.first_seen_at)}, ${local(engine.last_seen_at)}`], ["sequences by verdict", counts(engine.totals.verdicts)], ["tokens in no sum", counts(engine.totals.skipped) || "none"],
        ["tokens since the start", number(engine.totals.metrics.tokens)], ["mean d since the start", `${signed(engine.totals.metrics.log_ratio_mean, 3)} nats`],
      ]))))));
  }
  return self;
}

/** Both densities of an engine; `engine` gives the latest. */
export const densities = (engine) => h("div", { class: "grid" },
  h("div", { class: "card" }, h("h3", {}, "Probability"), figure("probability of each token: engine against reference", () => density(engine().views.probabilities, "probability"), "square", () => [engine()])),
  h("div", { class: "card" }, h("h3", {}, "Logprob"), figure("logprob of each token: engine against reference", () => density(engine().views.logprobs, "logprob"), "square", () => [engine()])));
