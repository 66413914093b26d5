// One sequence, token by token.
import { number, shorter, signed } from "../shared/format.js";
import { h } from "../shared/dom.js";
import { curves } from "../shared/figures.js";
import { figure } from "../shared/draw.js";
import { badge, finding } from "../shared/parts.js";
import { heatLegend, heatMap } from "../shared/tokens.js";
import { json, runLink } from "./api.js";
import { local } from "./words.js";

const columns = (tokens) => {
  const column = (key) => tokens.map((token) => token[key]);
  return { id: column("id"), text: tokens[0]?.text === undefined ? null : column("text"), engine_logprob: column("engine_logprob"), reference_logprob: column("reference_logprob"), log_ratio: column("log_ratio"), entropy: column("entropy"), rank: column("rank"), skipped: column("skipped") };
};

export function sequenceView(context, id) {
  let data = null, shown = null, map = null;
  const self = { title: "Sequence", touches: (run) => run === data?.run && data.diagnosis === null, load, render };

  async function load() {
    data = await json(`/v1/sequences/${encodeURIComponent(id)}`);
    self.title = `Sequence ${shorter(data.sequence_id, 60)}`;
    document.title = `${self.title} · Plumbline`;
    shown ??= { tokens: columns(data.tokens), length: data.length };
  }

  const fact = (name, value) => (value === null || value === undefined ? null : h("span", {}, `${name} `, h("b", {}, value)));

  /** The heat map, where it is not in the page yet: what is there stays as it is. */
  function place() {
    if (map?.isConnected) return null;
    return (map ??= heatMap(shown));
  }

  function worst() {
    const text = (at) => (shown.tokens.text ? JSON.stringify(shorter(shown.tokens.text[at], 16)) : `id ${shown.tokens.id[at]}`);
    return h("div", { class: "worst" }, h("span", { class: "small soft" }, "Largest |d|: "), data.worst_tokens.map((at) => h("button", { type: "button", class: "pill", onclick: () => map.select(at) }, h("code", {}, text(at)), ` ${signed(shown.tokens.log_ratio[at], 3)}`)));
  }

  function diagnosis() {
    const none = data.diagnosis === null ? (data.verdict === "consistent" ? "A consistent sequence is not searched for causes." : "Not diagnosed since the server started. Suspicious sequences are searched for causes on a budget of tokens a minute, or at once with \"include\": [\"diagnosis\"].") : "Nothing beyond noise was found.";
    return data.diagnosis?.length ? data.diagnosis.map(finding) : h("p", { class: "soft" }, none);
  }

  function render() {
    const m = data.metrics;
    return h("div", {},
      h("nav", { class: "crumbs", "aria-label": "where this is" }, h("a", { href: "#/" }, "Runs"), h("span", { "aria-hidden": "true" }, "/"), h("a", { href: runLink(data.run) }, shorter(data.run, 60)), h("span", { "aria-hidden": "true" }, "/"), h("span", { "aria-current": "page" }, "sequence")),
      h("h1", {}, data.sequence_id),
      h("div", { class: "verdict-line" }, badge(data.verdict), h("span", {}, data.verdict_reason)),
      h("div", { class: "facts-line" }, fact("engine", data.engine), fact("worker", data.worker), fact("policy version", data.policy_version ?? "several"), fact("when", local(data.at)), fact("tokens", number(data.length)), fact("compared", number(m.tokens)),
        fact("mean |d|", `${number(m.mae_logprob, 3)} nats`), fact("max |d|", `${number(m.max_abs_logprob, 3)} nats`), fact("mean d", `${signed(m.log_ratio_mean, 3)} nats`), fact("k3", `${number(m.kl_k3, 3)} nats`), m.noise_floor_multiple === null ? null : fact("noise floors", `${number(m.noise_floor_multiple, 3)} ×`)),
      data.tokens.length ? [
        h("section", { "data-key": "tokens", "aria-labelledby": "tokens-title" }, h("h2", { id: "tokens-title" }, "Token by token"), h("div", { class: "card" }, heatLegend(),
          h("div", { "data-key": "map", "data-keep": data.id }, place()), worst())),
        h("section", { "data-key": "curves", "aria-labelledby": "curves-title" }, h("h2", { id: "curves-title" }, "Both logprobs"), h("div", { class: "card" }, figure("logprob of engine and reference along the completion, and |d|", () => curves(shown), 380, [shown]))),
      ] : h("p", { class: "soft" }, "Its tokens are no longer kept."),
      h("section", { "data-key": "diagnosis", "aria-labelledby": "diagnosis-title" }, h("h2", { id: "diagnosis-title" }, "Diagnosis"), h("div", { class: "card" }, diagnosis())),
      h("p", { class: "small soft after" }, "This sequence as ", h("a", { href: `/v1/sequences/${encodeURIComponent(data.id)}` }, "JSON"), ". The address of this page is a link to it, as long as the server keeps it."));
  }
  return self;
}
