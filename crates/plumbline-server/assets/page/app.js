// The live page: which view the address names, and when it is brought up to date.
import { h } from "../shared/dom.js";
import { drawAll, plotWith } from "../shared/draw.js";
import { hideTip } from "../shared/tokens.js";
import { Refused, hasKey, setKey } from "./api.js";
import { showConnection, showKey, showServer, startChrome } from "./chrome.js";
import { compareView } from "./compare.js";
import { Live } from "./live.js";
import { morph } from "./morph.js";
import { runView } from "./run.js";
import { runsView } from "./runs.js";
import { sequenceView } from "./sequence.js";
import { tick } from "./words.js";

/** Between two looks at what has changed. */
const PACE = 2000;

const main = document.getElementById("main");
let view = null, busy = false, due = false, last = 0, timer = null;

let plotly = null;
plotWith(() => {
  plotly ??= new Promise((loaded, failed) => {
    const script = document.createElement("script");
    script.src = "/assets/shared/plotly.js";
    script.onload = () => loaded(window.Plotly);
    script.onerror = () => {
      plotly = null;
      failed(new Error("the plotting library did not arrive"));
    };
    document.head.append(script);
  });
  return plotly;
});

/** The view of an address such as `#/runs/NAME/compare?by=mae`. */
function viewOf(hash) {
  const [path, query] = hash.replace(/^#?\/?/, "").split("?", 2);
  let parts;
  try {
    parts = path.split("/").map(decodeURIComponent);
  } catch {
    return missingView(path);
  }
  const options = new URLSearchParams(query);
  if (parts.length === 1 && parts[0] === "") return runsView(context);
  if (parts[0] === "runs" && parts.length === 2) return runView(context, parts[1], options);
  if (parts[0] === "runs" && parts.length === 3 && parts[2] === "compare") return compareView(context, parts[1], options);
  if (parts[0] === "sequences" && parts.length === 2) return sequenceView(context, parts[1]);
  return missingView(path);
}

const missingView = (path) => ({ title: "Not here", touches: () => false, load: async () => {}, render: () => h("div", {}, h("h1", {}, "There is nothing here"), h("p", {}, `The page has no view ${JSON.stringify(path)}. `, h("a", { href: "#/" }, "All runs"))) });

/** What views may do. */
const context = {
  /** Shows the view as it is now. */
  show(own) {
    if (own === view) paint(own.render());
  },
  /** Loads it again and shows it. */
  refresh: () => refresh(),
  /** Keeps a view's options in the address, so that a link to it shows the same. */
  remember(options) {
    const path = location.hash.split("?", 1)[0], query = String(options);
    history.replaceState(null, "", query ? `${path}?${query}` : path);
  },
};

function paint(tree) {
  morph(main, h("main", {}, tree));
  drawAll(main);
}

function keyForm(reason) {
  const input = h("input", { type: "password", id: "api-key", name: "api-key", autocomplete: "off", spellcheck: "false", required: true });
  const enter = (event) => {
    event.preventDefault();
    setKey(event.currentTarget.elements["api-key"].value.trim());
    live.start();
    refresh();
  };
  return h("form", { class: "card key-form", "data-key": "key-form", onsubmit: enter },
    h("h1", {}, "This server wants an API key"),
    h("p", { class: "soft" }, reason),
    h("label", { for: "api-key" }, "API key with the role read or admin"), input,
    h("p", { class: "small soft" }, "It is kept in this tab only, and sent to this server only."),
    h("button", { type: "submit", class: "main-button" }, "Open"));
}

function failure(error) {
  const loading = error.status === 503 && error.code !== "store_unavailable";
  const title = error.status === 404 ? "There is nothing here" : loading ? (error.code === "draining" ? "The server is shutting down" : error.code === "reference_failed" ? "The reference has failed" : "The reference is loading") : error.status === 0 ? "The server cannot be reached" : "The server did not answer this";
  return h("div", { class: "card", "data-key": "failure" }, h("h1", {}, title), h("p", {}, error.message),
    h("p", {}, error.status === 404 ? h("a", { href: "#/" }, "All runs") : h("button", { type: "button", class: "main-button", onclick: () => refresh() }, "Try again")));
}

async function refresh() {
  if (busy) {
    due = true;
    return;
  }
  busy = true;
  due = false;
  clearTimeout(timer);
  const own = view;
  try {
    await own.load();
    if (own === view) {
      own.failed = null;
      paint(own.render());
    }
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    if (own === view) {
      own.failed = error;
      // What is there stays there while only the connection is lost.
      if (error.status === 401 || error.status === 403) {
        const asked = document.getElementById("api-key");
        paint(keyForm(error.status === 403 ? error.message : hasKey() ? "This key is not accepted." : "Whoever runs the server has one for you."));
        if (!asked) document.getElementById("api-key").focus();
      } else if (!own.loaded || error.status === 404) paint(failure(error));
    }
  } finally {
    busy = false;
    last = performance.now();
    own.loaded ||= !own.failed;
    if (own === view) document.documentElement.dataset.ready = "true";
    showKey();
    if (due || own !== view) refresh();
  }
}

/** Soon, but not more often than people can read. */
function refreshSoon() {
  clearTimeout(timer);
  timer = setTimeout(refresh, Math.max(0, PACE - (performance.now() - last)));
}

function open() {
  view?.close?.();
  hideTip();
  view = viewOf(location.hash);
  document.title = `${view.title} · Plumbline`;
  document.documentElement.dataset.ready = "false";
  main.replaceChildren(h("p", { class: "soft waiting" }, "Loading…"));
  scrollTo(0, 0);
  refresh();
}

let wasReady = null, connection = null;
const live = new Live(({ server, runs, more }) => {
  if (server) {
    showServer(server);
    const ready = server.status === "ready";
    if (ready && (wasReady === false || view.failed)) refreshSoon();
    wasReady = ready;
  }
  if (more || runs.some((run) => view.touches(run))) refreshSoon();
}, (state, reason) => {
  if (state === "live" && connection === "lost") refreshSoon();
  connection = state;
  showConnection(state, reason);
});

addEventListener("hashchange", () => {
  open();
  main.focus({ preventScroll: true });
});
// Its address would be taken for that of a view.
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
setInterval(tick, 5000);
startChrome(() => {
  live.stop();
  view.failed = null;
  live.start();
  main.replaceChildren();
  refresh();
});
open();
live.start();
