// What stands around every view: state of the server and of the connection, theme, key.
import { number, shorter } from "../shared/format.js";
import { h } from "../shared/dom.js";
import { repaint } from "../shared/draw.js";
import { hasKey, setKey } from "./api.js";
import { morph } from "./morph.js";

const STATES = {
  ready: ["good", "ready"], loading: ["warn", "loading the reference"], restarting: ["warn", "restarting the reference"], draining: ["bad", "shutting down"], reference_failed: ["bad", "the reference failed"],
};
const CONNECTIONS = { live: ["good", "live"], lost: ["bad", "reconnecting"], polling: ["warn", "every 10 s"], key: ["none", "key needed"], starting: ["none", "connecting"] };

const shown = { server: null, connection: "starting", reason: "" };

const chip = (tone, text, title) => h("span", { class: `chip ${tone}`, title }, text);

function paint() {
  const { server, connection, reason } = shown, chips = [];
  const [tone, word] = CONNECTIONS[connection];
  chips.push(h("span", { class: `chip ${tone}`, id: "connection", title: reason || null }, word));
  if (server) {
    const [tone, word] = STATES[server.status] ?? ["warn", server.status];
    chips.push(chip(tone, word, server.detail));
    if (server.model) chips.push(h("span", { class: "reference", title: `reference ${server.model}, version ${server.policy_version}` }, h("b", {}, shorter(server.model, 28)), ` · ${shorter(server.policy_version, 18)}`));
    chips.push(h("span", { class: "queue", title: `${number(server.queue_sequences)} sequences wait; ${number(server.max_queue_tokens)} tokens may` }, "queue ", h("b", {}, number(server.queue_tokens))));
    if (server.noise_floor_state === "measuring" || server.noise_floor_state === "waiting") chips.push(h("span", { class: "wide" }, `noise floor: ${server.noise_floor_state}`));
    if (server.store !== "ok" && server.store !== "none") chips.push(chip("bad", `store: ${server.store.replace("_", " ")}`, server.store_reason));
  }
  morph(document.getElementById("state"), h("div", {}, chips));
  const lost = document.getElementById("lost");
  const trouble = server && server.store !== "ok" && server.store !== "none" ? `The store is in trouble (${server.store.replace("_", " ")}${server.store_reason ? `: ${server.store_reason}` : ""}). What is counted now is not kept.` : "";
  const text = connection === "lost" ? `${reason} Reconnecting… what you see may be out of date.` : server?.status === "draining" ? "The server is shutting down." : trouble;
  if (lost.textContent !== text) lost.textContent = text;
  lost.hidden = !text;
  document.getElementById("version").textContent = server ? `Plumbline ${server.version}${server.store === "none" ? " · no data dir: nothing outlives the process" : ""}` : "";
}

export function showServer(server) {
  shown.server = server;
  paint();
}

export function showConnection(connection, reason) {
  Object.assign(shown, { connection, reason });
  paint();
}

/** `forgotten` is called when the key is to be asked for again. */
export function startChrome(forgotten) {
  const theme = document.getElementById("theme"), key = document.getElementById("key");
  const words = { auto: ["◐", "as the system"], light: ["○", "light"], dark: ["●", "dark"] };
  const say = () => {
    const [sign, word] = words[document.documentElement.dataset.theme];
    theme.textContent = sign;
    theme.setAttribute("aria-label", `theme: ${word}; change`);
    theme.title = `theme: ${word}`;
  };
  theme.addEventListener("click", () => {
    document.dispatchEvent(new Event("next-theme"));
    say();
    repaint();
  });
  say();
  key.addEventListener("click", () => {
    setKey(null);
    forgotten();
  });
  paint();
}

export function showKey() {
  document.getElementById("key").hidden = !hasKey();
}
