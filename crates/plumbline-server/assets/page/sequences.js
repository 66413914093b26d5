// Sequences of a run as a table: the worst, the longest, the latest.
import { number, shorter, signed } from "../shared/format.js";
import { h } from "../shared/dom.js";
import { badge, scroll } from "../shared/parts.js";
import { json, runPath, sequenceLink } from "./api.js";
import { since } from "./words.js";

const FIRST = 15, MOST = 256;
const PRESETS = [["worst by k3", "kl_k3", "desc"], ["worst by mean |d|", "mae", "desc"], ["longest", "length", "desc"], ["latest", "time", "desc"]];

/** The sequences of a run; `options` is the address's, kept by `changed`. `several` = the run has several engines. */
export class Sequences {
  constructor(run, options, changed) {
    this.run = run;
    this.options = options;
    this.changed = changed;
    this.rows = [];
    this.limit = FIRST;
  }

  get sort() {
    return PRESETS.find(([, sort]) => sort === this.options.get("sort"))?.[1] ?? "kl_k3";
  }

  get order() {
    return this.options.get("order") === "asc" ? "asc" : "desc";
  }

  async load() {
    ({ sequences: this.rows } = await json(`${runPath(this.run)}/sequences?sort=${this.sort}&order=${this.order}&limit=${this.limit}`));
  }

  by(sort, order) {
    this.options.set("sort", sort);
    this.options.set("order", order);
    this.limit = FIRST;
    this.changed();
  }

  head(name, sort, classes, title) {
    const own = this.sort === sort, next = own && this.order === "desc" ? "asc" : "desc";
    return h("th", { scope: "col", class: classes, title, "aria-sort": own ? (this.order === "desc" ? "descending" : "ascending") : null },
      h("button", { type: "button", class: "sort", onclick: () => this.by(sort, next) }, name, h("span", { "aria-hidden": "true" }, own ? (this.order === "desc" ? " ↓" : " ↑") : " ↕")));
  }

  render(several, typical) {
    const plain = (name, classes, title) => h("th", { scope: "col", class: classes, title }, name);
    return h("div", { class: "card list", "data-key": "sequences" },
      h("div", { class: "tabs", role: "group", "aria-label": "which sequences" },
        PRESETS.map(([name, sort, order]) => h("button", { type: "button", "data-key": name, "aria-pressed": String(this.sort === sort && this.order === order), onclick: () => this.by(sort, order) }, name)),
        typical.map(({ engine, id }) => h("a", { class: "pill", "data-key": `typical ${engine}`, href: sequenceLink(id), title: "the medoid by length and mean |d|" }, several ? `typical of ${shorter(engine, 24)}` : "typical"))),
      this.rows.length ? scroll("sequences", h("table", { class: "sequences" },
        h("caption", { class: "hidden" }, "sequences of this run"),
        h("thead", {}, h("tr", {}, plain("sequence"), plain("verdict", "wide"), several ? plain("engine", "wide") : null, this.head("tokens", "length", "number"), this.head("mean |d|", "mae", "number", "nats"), plain("max |d|", "number wide", "nats"),
          this.head("k3", "kl_k3", "number", "nats"), plain("× floor", "number wide"), plain("mean d", "number wide", "reference − engine, nats"), plain("likeliest cause", "wide"), plain("version", "wide"), this.head("when", "time", "wide"))),
        h("tbody", {}, this.rows.map((row) => h("tr", { "data-key": row.id },
          h("th", { scope: "row" }, h("a", { href: sequenceLink(row.id), class: "id" }, shorter(row.sequence_id, 44)), h("div", { class: "narrow" }, badge(row.verdict))), h("td", { class: "wide" }, badge(row.verdict)), several ? h("td", { class: "wide name" }, shorter(row.engine, 24)) : null,
          h("td", { class: "number" }, number(row.length)), h("td", { class: "number" }, number(row.metrics.mae_logprob, 3)), h("td", { class: "number wide" }, number(row.metrics.max_abs_logprob, 3)), h("td", { class: "number" }, number(row.metrics.kl_k3, 3)),
          h("td", { class: "number wide" }, number(row.metrics.noise_floor_multiple, 3)), h("td", { class: "number wide" }, signed(row.metrics.log_ratio_mean, 3)), h("td", { class: "wide" }, row.cause ? h("code", {}, row.cause) : ""),
          h("td", { class: "wide name" }, row.policy_version === null ? "several" : shorter(row.policy_version, 18)), h("td", { class: "wide seen" }, since(row.at))))))) : h("p", { class: "soft" }, "None are kept."),
      this.rows.length >= this.limit && this.limit < MOST ? h("button", { type: "button", class: "more", "data-key": "more", onclick: () => { this.limit = Math.min(MOST, this.limit * 4); this.changed(); } }, "Show more") : null);
  }
}
