// Engines of a run side by side.
import { shorter } from "../shared/format.js";
import { h } from "../shared/dom.js";
import { figure } from "../shared/draw.js";
import { badge, dot, sideBySide } from "../shared/parts.js";
import { json, runLink, runPath } from "./api.js";
import { Views, densities, gapFigures, scopeChoice, scoped, viewsFigures } from "./run.js";
import { MEASURES, overTime } from "./trends.js";

/** Colours that are told apart. */
const MOST = 6;

const section = (id, title, lead, ...content) => h("section", { "data-key": id, "aria-labelledby": `${id}-title` }, h("h2", { id: `${id}-title` }, title), lead ? h("p", { class: "lead" }, lead) : null, ...content);

export function compareView(context, name, options) {
  let run = null;
  const self = { title: `Engines of ${shorter(name, 60)}`, touches: (other) => other === name, load, render, close: () => views.close() };
  const views = new Views(name, () => context.show(self));

  async function load() {
    run = await json(runPath(name));
    views.ask();
  }

  /** The engines that are looked at, by name: those of the address, else the first ones. */
  function chosen() {
    const asked = options.getAll("engine").filter((engine) => run.engines.some((other) => other.engine === engine));
    return asked.length ? asked.slice(0, MOST) : run.engines.slice(0, MOST).map((engine) => engine.engine);
  }

  function choose(engine, wanted) {
    const next = chosen().filter((other) => other !== engine).concat(wanted ? [engine] : []);
    options.delete("engine");
    next.forEach((one) => options.append("engine", one));
    context.remember(options);
    context.show(self);
  }

  function measured(engines, scope) {
    return engines.map((engine, index) => {
      const shown = scoped(engine, scope, index, true), metrics = shown.metrics;
      const keys = Object.keys(metrics).filter((key) => key.endsWith("_ci95"));
      const multiple = metrics.noise_floor_multiple, floor = multiple ? metrics.mae_logprob / multiple : null;
      return { name: engine.engine, colour: index, metrics, intervals: Object.fromEntries(keys.map((key) => [key.slice(0, -5), metrics[key]])), floor: { mae_logprob: floor }, floor_multiples: multiple === null ? {} : { mae_logprob: multiple } };
    });
  }

  function render() {
    const names = chosen(), engines = names.map((engine) => run.engines.find((other) => other.engine === engine)), scope = options.get("of") === "all" ? "all" : "window";
    const known = engines.some((engine) => engine.trend.some((point) => point.noise_floor_multiple !== null)), measure = known ? "noise_floor_multiple" : "mae_logprob";
    const ofViews = (all) => names.map((engine) => all.find((other) => other.engine === engine)).filter(Boolean);
    return h("div", {},
      h("nav", { class: "crumbs", "aria-label": "where this is" }, h("a", { href: "#/" }, "Runs"), h("span", { "aria-hidden": "true" }, "/"), h("a", { href: runLink(name) }, shorter(name, 60)), h("span", { "aria-hidden": "true" }, "/"), h("span", { "aria-current": "page" }, "engines")),
      h("h1", {}, `Engines of ${name}`),
      run.engines.length < 2 ? h("p", { class: "lead" }, "This run has one engine. Send rollouts of another with the same run and another name in ", h("code", {}, "engine"), ", and both stand here side by side.") : null,
      run.engines.length > 2 ? h("fieldset", { class: "engines" }, h("legend", { class: "small soft" }, run.engines.length > MOST ? `engines, at most ${MOST}` : "engines"), run.engines.map((engine) => h("label", { "data-key": engine.engine },
        h("input", { type: "checkbox", checked: names.includes(engine.engine), disabled: names.length >= MOST && !names.includes(engine.engine), onchange: (event) => choose(engine.engine, event.currentTarget.checked) }), " ", engine.engine))) : null,
      scopeChoice(run, scope, (value) => { options.set("of", value); context.remember(options); context.show(self); }),
      section("verdicts", "Verdicts", null, h("div", { class: "card" }, engines.map((engine, index) => {
        const shown = scoped(engine, scope, index, true);
        return h("div", { class: "verdict-row", "data-key": engine.engine }, h("span", { class: "name" }, dot(index), engine.engine), badge(shown.verdict), h("span", { class: "small" }, shown.reason, shown.idle ? " (since the start: no traffic lately)" : ""));
      }))),
      section("metrics", "Metrics side by side", "Pooled over compared tokens. d = reference − engine logprob, ρ = exp(d). Ranges are 95 % intervals, clustered by sequence.",
        views.data ? sideBySide(views.data.glossary, measured(engines, scope)) : h("p", { class: "soft" }, views.error ? `Not there: ${views.error.message}` : "Being worked out…")),
      section("trend", "Over time", null, h("div", { class: "card" }, figure(`${MEASURES[measure].title} over time`, () => overTime(engines, measure, run.verdict_levels), 370, [run, ...names]))),
      section("gap", "Where the gap is", "Of the sequences that are kept.", viewsFigures(views, (all) => gapFigures(ofViews(all)))),
      views.data ? section("density", "Engine against reference", "On the dotted line both agree.", ofViews(views.data.engines).map((engine, index) => h("div", { "data-key": engine.engine, class: "densities" }, h("h3", {}, dot(index), engine.engine), densities(() => engine)))) : null);
  }
  return self;
}
