// All runs and their engines.
import { multipleOf, number, shorter } from "../shared/format.js";
import { h } from "../shared/dom.js";
import { badge } from "../shared/parts.js";
import { hasKey, json, runLink } from "./api.js";
import { sparkline } from "./trends.js";
import { SEVERITY, since, worse } from "./words.js";

/** An example that is scored by any model with a usual vocabulary; numbers that a real engine reported for the embedded model. */
const EXAMPLE = {
  prompt: [1, 2036, 201, 560, 270, 710, 311, 1679, 297, 270, 1117, 16, 2, 201, 1, 796, 506, 577, 201],
  completion: [380, 654, 374, 831, 1241, 1333, 1117, 270, 1141, 311, 270, 502],
  logprobs: [-2.55, -4.78, -7.86, -4.05, -6.23, -1.56, -8.08, -2.99, -6.05, -0.53, -0.78, -6.71],
};

function curl(vocabulary) {
  const fits = (ids) => (vocabulary ? ids.map((id) => id % vocabulary) : ids);
  const body = JSON.stringify({ run: "my-run", engine: "vllm", sequences: [{ id: "s1", prompt_token_ids: fits(EXAMPLE.prompt), completion_token_ids: fits(EXAMPLE.completion), logprobs: EXAMPLE.logprobs }] });
  return [`curl -s ${location.origin}/v1/verifications \\`, ...(hasKey() ? ["  -H 'authorization: Bearer YOUR_KEY' \\"] : []), "  -H 'content-type: application/json' \\", `  -d '${body.replace(/,"(sequences|prompt|completion|logprobs)/g, ',\n       "$1')}'`].join("\n");
}

function empty(vocabulary) {
  const text = curl(vocabulary), said = h("span", { class: "small soft", role: "status" });
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      said.textContent = "copied";
    } catch {
      // Without TLS browsers have no clipboard: the text is there to be selected.
      getSelection().selectAllChildren(document.querySelector(".first pre code"));
      said.textContent = "selected: press Ctrl+C";
    }
  };
  return h("div", { class: "card first", "data-key": "first", "data-keep": text },
    h("h2", { class: "plain" }, "No rollouts yet"),
    h("p", {}, "Send what your engine sampled, with the logprobs that it reported. This is a complete request; put your engine's ids and numbers in place of these:"),
    h("pre", { tabindex: "0", "aria-label": "a request with curl" }, h("code", {}, text)),
    h("p", { class: "first-tools" }, h("button", { type: "button", class: "main-button", onclick: copy }, "Copy"), " ", said),
    h("p", { class: "small soft" }, "Engines' own bodies are taken as they are with ", h("code", {}, '"exchanges": [{"request": …, "response": …}]'), ". Every route is in the ", h("a", { href: "/docs" }, "API documentation"), ". This page shows the run as soon as it arrives."));
}

export function runsView(context) {
  let runs = [], vocabulary = null, search = "", only = null;

  const row = (run, engine, at, of) => {
    // Nothing in the window: what was known before is shown as that.
    const idle = engine.mae_logprob === null, shown = idle ? engine.since_start : engine;
    const floors = shown.noise_floor_multiple, measure = engine.trend.noise_floor_multiple.some((value) => value !== null) ? "noise_floor_multiple" : "mae_logprob";
    const unit = measure === "mae_logprob" ? "mean |d| in nats" : "multiples of the noise floor";
    const figure = floors === null ? (shown.mae_logprob === null ? "–" : `${number(shown.mae_logprob, 3)} nats`) : multipleOf(floors);
    return h("tr", { "data-key": JSON.stringify([run, engine.engine]), class: at ? null : "first-of-run" },
      h("th", { scope: "row", class: "who" },
        h("a", { href: runLink(run), class: at ? "again" : "run-name", title: at ? null : run, "aria-label": at ? `run ${run}, engine ${engine.engine}` : null }, at ? engine.engine : run),
        at ? null : h("div", { class: "engine-name" }, engine.engine, of > 1 ? h("a", { class: "compare-link", href: runLink(run, "/compare") }, `compare ${of} engines`) : null),
        h("div", { class: "narrow small soft" }, sparkline(engine.trend[measure], shown.verdict, unit), `${number(engine.tokens)} tokens, `, since(engine.last_seen_at))),
      h("td", { class: "verdict" }, badge(shown.verdict), idle ? h("div", { class: "range" }, "since its start") : null),
      h("td", { class: "number strong" }, figure),
      h("td", { class: "trend wide" }, sparkline(engine.trend[measure], shown.verdict, unit)),
      h("td", { class: "number wide" }, number(shown.mae_logprob, 3)),
      h("td", { class: "wide" }, engine.drift_score === null ? "–" : engine.drift_score >= 1 ? h("span", { class: "drift" }, "▲ drift") : h("span", { class: "soft" }, "none")),
      h("td", { class: "number wide" }, number(engine.sequences)),
      h("td", { class: "number wide" }, number(engine.tokens)),
      h("td", { class: "wide seen" }, since(engine.last_seen_at)));
  };

  const verdictOf = (engine) => (engine.mae_logprob === null ? engine.since_start.verdict : engine.verdict);
  const worst = (one) => one.engines.map(verdictOf).sort(worse)[0];

  return {
    title: "Runs",
    touches: () => true,
    async load() {
      ({ runs } = await json("/v1/runs"));
      if (!runs.length && vocabulary === null) vocabulary = (await json("/v1/reference").catch(() => null))?.limits.vocab_size ?? null;
    },
    render() {
      if (!runs.length) return h("div", {}, h("h1", {}, "Runs"), empty(vocabulary));
      const engines = runs.flatMap((one) => one.engines), tally = (verdict) => engines.filter((engine) => verdictOf(engine) === verdict).length;
      const matching = runs.filter((one) => one.run.toLowerCase().includes(search.toLowerCase()) && (!only || one.engines.some((engine) => verdictOf(engine) === only)));
      matching.sort((a, b) => worse(worst(a), worst(b)) || (a.run < b.run ? -1 : 1));
      const again = () => context.show(this);
      return h("div", {},
        h("h1", {}, "Runs"),
        h("p", { class: "lead" }, `Verdicts are on the latest minutes of traffic, by multiples of the noise floor: how far a faithful bf16 engine of this model would be from the reference. `,
          runs.some((one) => one.engines.some((engine) => engine.mae_logprob === null)) ? "Where there was no traffic lately they are on everything since the run's start." : ""),
        h("div", { class: "filters" },
          h("label", { class: "search" }, h("span", { class: "hidden" }, "search runs by name"), h("input", { type: "search", placeholder: "search runs", value: search, oninput: (event) => { search = event.currentTarget.value; again(); } })),
          h("div", { class: "tabs", role: "group", "aria-label": "engines by verdict" }, SEVERITY.filter((verdict) => tally(verdict) || only === verdict).map((verdict) => h("button", { type: "button", "data-key": verdict, "aria-pressed": String(only === verdict), onclick: () => { only = only === verdict ? null : verdict; again(); } }, `${number(tally(verdict))} ${verdict}`)))),
        h("div", { class: "card list" }, matching.length ? h("table", { class: "runs" },
          h("caption", { class: "hidden" }, "runs and their engines, the worst verdict first"),
          h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "run, engine"), h("th", { scope: "col" }, "verdict"), h("th", { scope: "col", class: "number", title: "mean |d| over the noise floor" }, "× floor"), h("th", { scope: "col", class: "trend wide" }, "trend"),
            h("th", { scope: "col", class: "number wide" }, "mean |d|, nats"), h("th", { scope: "col", class: "wide" }, "drift"), h("th", { scope: "col", class: "number wide" }, "sequences"), h("th", { scope: "col", class: "number wide" }, "tokens"), h("th", { scope: "col", class: "wide seen" }, "last seen"))),
          h("tbody", {}, matching.flatMap((one) => one.engines.map((engine, at) => row(one.run, engine, at, one.engines.length))))) : h("p", { class: "soft" }, `No run matches ${JSON.stringify(shorter(search, 60))}.`)));
    },
  };
}
