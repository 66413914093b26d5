// Asks the server, with a key where it wants one. The key stays in this tab: it goes when the tab is closed.

const KEPT = "plumbline-api-key";
let key = null;
try {
  key = sessionStorage.getItem(KEPT);
} catch {
  // A browser that keeps nothing: the key holds until the page is left.
}

export const hasKey = () => key !== null;

export function setKey(value) {
  key = value || null;
  try {
    if (key) sessionStorage.setItem(KEPT, key);
    else sessionStorage.removeItem(KEPT);
  } catch {
    // As above.
  }
}

/** An answer that is a problem (RFC 9457), or none at all: then `status` is 0. */
export class Refused extends Error {
  constructor(status, code, detail, retryAfter) {
    super(detail);
    this.status = status;
    this.code = code;
    this.retryAfter = retryAfter;
  }
}

async function refused(response) {
  const text = await response.text();
  let problem = {};
  try {
    problem = JSON.parse(text);
  } catch {
    // Whatever stands between here and the server answered in its own words.
  }
  return new Refused(response.status, problem.code ?? "", problem.detail ?? `the server answered ${response.status}`, Number(response.headers.get("retry-after")) || null);
}

/** A good answer, or a `Refused` that is thrown. */
export async function ask(path, options = {}) {
  const headers = { ...options.headers, ...(key ? { authorization: `Bearer ${key}` } : {}) };
  let response;
  try {
    response = await fetch(path, { cache: "no-store", credentials: "same-origin", ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "unreachable", "The server cannot be reached.", null);
  }
  if (!response.ok) throw await refused(response);
  return response;
}

export const json = async (path, signal) => (await ask(path, { signal })).json();

export const runPath = (run) => `/v1/runs/${encodeURIComponent(run)}`;
export const runLink = (run, part = "") => `#/runs/${encodeURIComponent(run)}${part}`;
export const sequenceLink = (id) => `#/sequences/${encodeURIComponent(id)}`;
