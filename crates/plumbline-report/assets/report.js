// The report page: from the JSON in #report-data.
"use strict";
(() => {
  const P = Plumbline, h = P.h, number = P.number;
  const data = JSON.parse(document.getElementById("report-data").textContent);
  const main = document.getElementById("report");
  const engines = data.engines;
  const figures = [];
  const later = (element, build, height) => figures.push([element, build, height]);
  const figure = (build, height = 330) => {
    const element = h("div", { class: "figure" });
    later(element, build, height);
    return element;
  };
  /** Draws what is in the page by now: a figure takes the width of its place. */
  const flush = () => {
    for (const waiting of figures.splice(0)) waiting[0].isConnected ? P.draw(...waiting) : figures.push(waiting);
  };
  const badge = (verdict) => h("span", { class: `badge ${verdict}` }, verdict);
  const dot = (index) => h("i", { class: "dot", style: `background:var(--series-${index % 6})` });
  const section = (title, lead, ...content) => main.append(h("section", {}, h("h2", {}, title), lead ? h("p", { class: "lead" }, lead) : null, ...content));
  const interval = (range) => (range ? `${number(range.low, 3)} … ${number(range.high, 3)}` : null);
  const unitOf = (unit) => (unit && unit !== "count" ? ` ${unit}` : "");

  /** Tabs that build what they show when it is first asked for. */
  function tabs(items) {
    if (items.length === 1) return h("div", {}, items[0].build());
    const panel = h("div", {}), bar = h("div", { class: "tabs", role: "tablist" }), built = new Map();
    const show = (index) => {
      [...bar.children].forEach((button, at) => button.setAttribute("aria-selected", String(at === index)));
      if (!built.has(index)) built.set(index, items[index].build());
      panel.replaceChildren(built.get(index));
      if (panel.isConnected) flush();
    };
    items.forEach((item, index) => bar.append(h("button", { role: "tab", onclick: () => show(index) }, item.dot ?? null, item.name)));
    show(0);
    return h("div", {}, bar, panel);
  }

  function table(columns, rows) {
    const cell = (column, row) => {
      const value = column.value(row);
      return h("td", { class: column.text ? null : "number" }, value);
    };
    return h("div", { class: "scroll" }, h("table", {},
      h("thead", {}, h("tr", {}, columns.map((column) => h("th", { class: column.text ? null : "number", title: column.title }, column.name)))),
      h("tbody", {}, rows.map((row) => h("tr", {}, columns.map((column) => cell(column, row)))))));
  }

  // ---- head ----------------------------------------------------------------------------------------------------------------------------
  const reference = data.reference;
  main.append(
    h("div", { class: "brand" }, "Plumbline"),
    h("h1", {}, data.title),
    h("p", { class: "soft" }, `${data.created_at} · reference ${reference.model}, version ${reference.policy_version}, ${reference.dtype} on ${reference.device} · ${number(data.tokens)} tokens in ${number(data.sequences)} sequences`),
    h("div", { class: "verdict-line" }, badge(data.verdict), h("span", {}, data.verdict_reason)),
  );
  if (data.notes.length) main.append(h("div", { class: "card small" }, h("h3", {}, "To be known"), h("ul", {}, data.notes.map((note) => h("li", {}, note)))));
  const cards = engines.map((engine, index) => {
    const m = engine.metrics, multiple = m.noise_floor_multiple, first = engine.diagnosis[0];
    const cause = first ? first.cause : Object.entries(engine.causes).sort((a, b) => b[1] - a[1])[0]?.[0];
    const range = multiple === null ? interval(engine.intervals.mae_logprob) : interval(engine.intervals.noise_floor_multiple);
    return h("div", { class: "card engine-card" },
      h("div", { class: "top" }, h("span", { class: "name" }, engines.length > 1 ? dot(index) : null, engine.engine), badge(engine.verdict)),
      h("div", { class: "big" }, multiple === null ? `${number(m.mae_logprob, 3)} nats` : `${number(multiple, 3)} ×`),
      h("div", { class: "soft small" }, multiple === null ? "mean |d|; no noise floor is known" : "the noise floor: mean |d| over a faithful bf16 engine's", range ? ` · 95 % ${range}` : ""),
      h("div", { class: "figures" },
        h("div", {}, h("b", {}, number(m.mae_logprob, 3)), h("span", {}, "MAE, nats")),
        h("div", {}, h("b", {}, number(m.kl_k3, 3)), h("span", {}, "KL k3, nats")),
        h("div", {}, h("b", {}, number(m.pearson_logprob, 5)), h("span", {}, "Pearson r"))),
      h("div", { class: "small soft" }, `${number(m.tokens)} tokens, ${number(m.sequences)} sequences`, cause ? [" · ", h("code", {}, cause)] : null));
  });
  main.append(h("div", { class: "cards", style: "margin-top:14px" }, cards));

  // ---- diagnosis -----------------------------------------------------------------------------------------------------------------------
  const finding = (one) => h("div", { class: "finding" },
    h("span", { class: "cause" }, one.cause),
    one.explained === null ? null : h("div", { class: "bar", title: "part of the mean |d| that is gone under this hypothesis" }, h("i", { style: `width:${Math.max(0, Math.min(1, one.explained)) * 100}%` })),
    h("div", { class: "small soft" },
      one.explained === null ? null : `explains ${P.percent(one.explained)} of the mean |d|`,
      one.residual_floor_multiple === null ? null : `${one.explained === null ? "leaves" : ", leaves"} ${number(one.residual_floor_multiple, 3)} noise floors`),
    h("div", {}, one.evidence));
  const diagnosed = [
    ...(data.diagnosis.length ? [{ name: "whole run", findings: data.diagnosis, causes: {} }] : []),
    ...engines.map((engine, index) => ({ name: engine.engine, index, findings: engine.diagnosis, causes: engine.causes })),
  ].filter((one) => one.findings.length || Object.keys(one.causes).length);
  if (diagnosed.length) {
    section("Diagnosis", "Causes that explain the gap, the likeliest first, each with what speaks for it.",
      h("div", { class: "grid" }, diagnosed.map((one) => h("div", { class: "card" },
        h("h3", {}, one.index === undefined || engines.length < 2 ? null : dot(one.index), one.name),
        one.findings.map(finding),
        Object.keys(one.causes).length ? h("p", { class: "small soft", style: "margin:8px 0 0" }, "Sequences by likeliest cause: ",
          Object.entries(one.causes).sort((a, b) => b[1] - a[1]).map(([cause, count], at) => [at ? ", " : "", h("code", {}, cause), ` ${number(count)}`])) : null))));
  }

  // ---- engines side by side ------------------------------------------------------------------------------------------------------------
  function metricsTable(all) {
    const body = h("tbody", {});
    const columns = all.length;
    let group = null;
    const row = (metric) => {
      const cells = all.map((engine) => {
        const range = interval(engine.intervals[metric.key]), multiple = engine.floor_multiples[metric.key];
        return h("td", { class: "number" }, number(engine.metrics[metric.key]), range ? h("div", { class: "range" }, range) : null,
          multiple === undefined ? null : h("div", { class: "range" }, `${number(multiple, 3)} × floor ${number(engine.floor[metric.key], 3)}`));
      });
      return h("tr", {}, h("td", {}, metric.label, h("div", { class: "range" }, metric.meaning, metric.unit && metric.unit !== "×" ? ` · ${metric.unit}` : "")), cells);
    };
    for (const metric of data.glossary) {
      if (metric.group !== group) body.append(h("tr", { class: "head" }, h("th", { colspan: columns + 1 }, metric.group)));
      group = metric.group;
      body.append(row(metric));
    }
    return h("div", { class: "scroll" }, h("table", {},
      h("thead", {}, h("tr", {}, h("th", {}, ""), all.map((engine, index) => h("th", { class: "number" }, engines.length > 1 ? dot(index) : null, P.shorter(engine.engine, 32))))),
      body));
  }
  const figuresOnly = { ...data, glossary: data.glossary.filter((metric) => metric.key_figure) };
  function sideBySide() {
    const all = data.glossary;
    data.glossary = figuresOnly.glossary;
    const brief = metricsTable(engines);
    data.glossary = all;
    return h("div", { class: "card" }, brief, h("details", {}, h("summary", {}, `All ${all.length} metrics`), metricsTable(engines)));
  }
  if (engines.length) {
    section(engines.length > 1 ? "Engines side by side" : "Metrics", "Pooled over compared tokens. d = reference − engine logprob, ρ = exp(d). Ranges are 95 % intervals, clustered by sequence; “floor” is what a faithful bf16 engine would show on these very tokens.", sideBySide());

    // ---- where ---------------------------------------------------------------------------------------------------------------------------
    const all = (title, note, build) => h("div", { class: "card" }, h("h3", {}, title), h("p", { class: "small soft" }, note), figure(build));
    const beyond = engines.map((engine) => engine.views.log_ratios.beyond).reduce((sum, count) => sum + count, 0);
    section("Where the gap is", "Lines are means, bands reach from the median to the 99 % quantile.",
      h("div", { class: "grid" },
        all("Density of the log ratio", `d = reference − engine, in nats; ${number(beyond)} tokens lie beyond the axis.`, () => P.logRatios(engines)),
        all("|d| by position", "A rise along the completion points at context, position or cache.", () => P.profile(engines, "by_position")),
        all("|d| by engine probability", "Noise falls towards certain tokens; truncation and temperature do not.", () => P.profile(engines, "by_engine_probability")),
        all("|d| by entropy", "Of the reference's next-token distribution.", () => P.profile(engines, "by_entropy"))));
    section("Engine against reference", "Every compared token, in probability and in log space. On the dotted line both agree.",
      tabs(engines.map((engine, index) => ({
        name: P.shorter(engine.engine, 40), dot: dot(index),
        build: () => h("div", { class: "grid" },
          h("div", { class: "card" }, h("h3", {}, "Probability"), figure(() => P.density(engine.views.probabilities, "probability"))),
          h("div", { class: "card" }, h("h3", {}, "Logprob"), engine.views.logprobs.outside ? h("p", { class: "small soft" }, `${number(engine.views.logprobs.outside)} tokens lie below the axes.`) : null,
            figure(() => P.density(engine.views.logprobs, "logprob")))),
      }))));
  }

  // ---- sequences -----------------------------------------------------------------------------------------------------------------------
  const tip = h("div", { id: "tip", hidden: true });
  document.body.append(tip);
  function showTip(target, shown) {
    const at = Number(target.dataset.at), tokens = shown.tokens;
    const rows = [
      ["token", `${number(at + 1)} of ${number(shown.sequence.completion_tokens)}`], ["id", String(tokens.id[at])],
      ["engine e", number(tokens.engine_logprob[at], 5)], ["reference r", number(tokens.reference_logprob[at], 5)], ["d = r − e", P.signed(tokens.log_ratio[at], 4)],
      ["rank", number(tokens.rank[at])], ["entropy", number(tokens.entropy[at], 4)],
    ];
    if (tokens.skipped[at]) rows.push(["in no sum", tokens.skipped[at]]);
    tip.replaceChildren(tokens.text ? h("b", {}, JSON.stringify(tokens.text[at])) : "", ...rows.map(([name, value]) => h("span", {}, h("em", {}, name), value)));
    tip.hidden = false;
    const box = target.getBoundingClientRect(), size = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(12, Math.min(box.left, innerWidth - size.width - 12))}px`;
    tip.style.top = `${box.bottom + size.height + 8 > innerHeight ? box.top - size.height - 6 : box.bottom + 6}px`;
  }
  /** Strength of a token's colour: 0 at 0.01 nats and below, 1 at 1 nat and above. */
  const strength = (gap) => Math.max(0, Math.min(1, (Math.log10(Math.max(gap, 1e-9)) + 2) / 2));
  function heatMap(shown) {
    const tokens = shown.tokens;
    const box = h("div", { class: "text" });
    if (shown.prompt_text) box.append(h("span", { class: "prompt" }, shown.sequence.prompt_tokens > shown.prompt_ids.length ? "… " : "", shown.prompt_text));
    tokens.id.forEach((id, at) => {
      const gap = tokens.log_ratio[at], token = document.createElement("span");
      token.className = `t${tokens.skipped[at] ? " skipped" : ""}${tokens.text ? "" : " id"}`;
      token.dataset.at = at;
      token.textContent = tokens.text ? tokens.text[at] : String(id);
      if (gap !== null && !tokens.skipped[at]) token.style.backgroundColor = `rgba(var(${gap > 0 ? "--up" : "--down"}), ${(0.85 * strength(Math.abs(gap))).toFixed(3)})`;
      box.append(token);
    });
    const over = (event) => { const target = event.target.closest?.(".t"); target ? showTip(target, shown) : (tip.hidden = true); };
    box.addEventListener("mouseover", over);
    box.addEventListener("click", over);
    box.addEventListener("mouseleave", () => { tip.hidden = true; });
    box.addEventListener("scroll", () => { tip.hidden = true; });
    return box;
  }
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
      figure(() => P.curves(shown), 360),
      h("div", { class: "legend" },
        h("span", {}, h("i", { style: "background:linear-gradient(90deg, rgba(var(--down),.85), rgba(var(--down),0))" }), "d < 0: the engine says likelier"),
        h("span", {}, h("i", { style: "background:linear-gradient(90deg, rgba(var(--up),0), rgba(var(--up),.85))" }), "d > 0: the reference says likelier"),
        h("span", {}, "colour from |d| = 0.01 to 1 nat, logarithmic; point at a token for its numbers")),
      heatMap(shown),
      shown.findings.length ? h("div", { style: "margin-top:10px" }, shown.findings.map(finding)) : null);
  }
  const withTokens = engines.filter((engine) => engine.longest || engine.typical || engine.worst);
  if (withTokens.length) {
    section("Sequences, token by token", null, tabs(withTokens.map((engine) => ({
      name: P.shorter(engine.engine, 40), dot: dot(engines.indexOf(engine)),
      build: () => tabs(["worst", "typical", "longest"].filter((kind) => engine[kind]).map((kind) => ({ name: kind, build: () => shownSequence(engine[kind]) }))),
    }))));
  }
  const listed = engines.filter((engine) => engine.sequences.rows.length);
  if (listed.length) {
    const columns = [
      { name: "sequence", text: true, value: (row) => h("code", {}, P.shorter(row.id, 48)) }, { name: "verdict", text: true, value: (row) => badge(row.verdict) },
      { name: "tokens", value: (row) => number(row.tokens) }, { name: "mean |d|", value: (row) => number(row.mae_logprob, 3) }, { name: "max |d|", value: (row) => number(row.max_abs_logprob, 3) },
      { name: "k3", value: (row) => number(row.kl_k3, 3) }, { name: "floors", value: (row) => number(row.noise_floor_multiple, 3) }, { name: "mean d", value: (row) => P.signed(row.log_ratio_mean, 3) },
      { name: "cause", text: true, value: (row) => (row.cause ? h("code", {}, row.cause) : "") },
    ];
    const most = 25;
    section("Sequences by k3", "The largest first. report.xlsx and report.json have more of them.", tabs(listed.map((engine) => ({
      name: P.shorter(engine.engine, 40), dot: dot(engines.indexOf(engine)),
      build: () => h("div", { class: "card" }, h("p", { class: "small soft" }, `${number(Math.min(most, engine.sequences.rows.length))} of ${number(engine.sequences.total)} sequences.`), table(columns, engine.sequences.rows.slice(0, most))),
    }))));
  }

  // ---- parts and cross -----------------------------------------------------------------------------------------------------------------
  const parts = engines.flatMap((engine) => [["worker", engine.workers], ["policy version", engine.policy_versions]].filter(([, rows]) => rows.length > 1 || (rows.length && engines.length > 1)).map(([kind, rows]) => ({ engine, kind, rows })));
  if (parts.length) {
    const columns = (kind) => [
      { name: kind, text: true, value: (row) => row.name ?? "(further ones)" }, { name: "sequences", value: (row) => number(row.sequences) }, { name: "tokens", value: (row) => number(row.tokens) },
      { name: "mean |d|", value: (row) => [number(row.mae_logprob, 3), row.mae_logprob_ci95 ? h("div", { class: "range" }, interval(row.mae_logprob_ci95)) : null] },
      { name: "k3", value: (row) => number(row.kl_k3, 3) }, { name: "floors", value: (row) => number(row.noise_floor_multiple, 3) }, { name: "mean d", value: (row) => P.signed(row.log_ratio_mean, 3) },
    ];
    section("Workers and policy versions", null, h("div", { class: "grid" }, parts.map((part) => h("div", { class: "card" }, h("h3", {}, `${part.engine.engine}, by ${part.kind}`), table(columns(part.kind), part.rows)))));
  }
  if (data.cross.length) {
    const range = (row, key) => (row.intervals[key] ? h("div", { class: "range" }, interval(row.intervals[key])) : null);
    section("Engines against each other", "One engine's samples scored by another, teacher-forced: d = the scorer's logprob − the sampler's.", h("div", { class: "card" }, table([
      { name: "sampled by", text: true, value: (row) => row.sampled_by }, { name: "scored by", text: true, value: (row) => row.scored_by }, { name: "tokens", value: (row) => number(row.metrics.tokens) },
      { name: "MAE, nats", value: (row) => [number(row.metrics.mae_logprob, 3), range(row, "mae_logprob")] }, { name: "k3, nats", value: (row) => [number(row.metrics.kl_k3, 3), range(row, "kl_k3")] },
      { name: "mean d, nats", value: (row) => [P.signed(row.metrics.log_ratio_mean, 3), range(row, "log_ratio_mean")] }, { name: "Pearson r", value: (row) => number(row.metrics.pearson_logprob, 5) }, { name: "", text: true, value: (row) => row.note ?? "" },
    ], data.cross)));
  }

  // ---- facts ---------------------------------------------------------------------------------------------------------------------------
  const list = (entries) => h("dl", {}, entries.filter(([, value]) => value !== null && value !== undefined && value !== "").map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
  const counts = (object) => Object.entries(object).filter(([, count]) => count > 0).map(([name, count]) => `${name} ${number(count)}`).join(", ");
  const free = (value) => (value !== null && typeof value === "object" ? h("code", {}, JSON.stringify(value)) : String(value));
  const floor = data.noise_floor;
  const cardsOfFacts = [
    h("div", { class: "card" }, h("h3", {}, "Reference"), list([
      ["model", reference.model], ["family", reference.family], ["policy version", reference.policy_version], ["body, head", `${reference.dtype}, ${reference.head_dtype}`], ["device", reference.device], ["parameters", number(reference.parameters)],
    ])),
    h("div", { class: "card" }, h("h3", {}, "Noise floor"), floor ? list([
      ["mean |d|", `${number(floor.mae, 3)} nats`], ["RMSE", `${number(floor.rmse, 3)} nats`], ["p50, p99", `${number(floor.p50, 3)}, ${number(floor.p99, 3)} nats`], ["simulated engine", `bf16 body, ${floor.used_head} head`],
      ["measured on", `${number(floor.tokens)} tokens in ${number(floor.sequences)} sequences`], ["error of its level", P.percent(floor.relative_error)],
    ]) : h("p", { class: "soft small" }, "Not measured.")),
    ...engines.map((engine, index) => h("div", { class: "card" }, h("h3", {}, engines.length > 1 ? dot(index) : null, engine.engine), list([
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
  flush();
  document.documentElement.dataset.ready = "true";
})();
