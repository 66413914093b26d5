// Files of a run. Asked for with the key, so that they work where one is needed, and so that a refusal is said in the page.
import { h } from "../shared/dom.js";
import { Refused, ask, runPath } from "./api.js";

const FORMS = [
  ["JSON", "report.json", "the whole report, for programs"], ["XLSX", "report.xlsx", "a workbook with charts"], ["HTML", "report.html", "the report as one page that needs no server"],
  ["PNG", "report.png", "the plots on one sheet"], ["Parquet", "tokens.parquet", "every token that is kept, one row each"],
];

/** A name that every file system takes. */
const fileName = (run, file) => `${run.replace(/[^\p{L}\p{N}._-]+/gu, "_").slice(0, 80) || "run"}-${file}`;

async function download(path, name) {
  const blob = await (await ask(path)).blob();
  const url = URL.createObjectURL(blob);
  const link = h("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

/** Links that save; `busy` holds what is being made and what went wrong, `changed` shows it. */
export function exportLinks(run, busy, changed) {
  const save = (file) => async (event) => {
    if (event.button || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    if (busy.file) return;
    Object.assign(busy, { file, said: "" });
    changed();
    try {
      await download(`${runPath(run)}/${file}`, fileName(run, file));
    } catch (error) {
      busy.said = error instanceof Refused ? error.message : "The file did not arrive whole.";
    } finally {
      busy.file = null;
      changed();
    }
  };
  return h("div", { class: "exports", role: "group", "aria-label": "export this run" },
    h("span", { class: "soft small" }, "Export"),
    FORMS.map(([name, file, what]) => h("a", { href: `${runPath(run)}/${file}`, download: fileName(run, file), title: what, class: busy.file === file ? "busy" : null, "aria-busy": busy.file === file ? "true" : null, onclick: save(file) }, name)),
    h("span", { class: "small", role: "status" }, busy.file ? "being made…" : busy.said));
}
