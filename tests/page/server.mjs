// The real binary, and what is sent to it.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";

export const REPOSITORY = new URL("../../", import.meta.url).pathname;
/** Longer than anything takes on a busy machine: only a hang reaches it. */
export const PATIENCE = 120_000;

export class Server {
  constructor(options) {
    this.options = options;
    this.port = 0;
    this.log = "";
  }

  static async start(...options) {
    const server = new Server(options);
    await server.run();
    return server;
  }

  async run() {
    const environment = Object.fromEntries(Object.entries(process.env).filter(([name]) => name !== "RUST_LOG" && !(name.startsWith("PLUMBLINE"))));
    this.child = spawn(process.env.PLUMBLINE, ["serve", "--listen", `127.0.0.1:${this.port}`, "--log-format", "json", ...this.options], { stdio: ["ignore", "ignore", "pipe"], env: environment, cwd: "/" });
    this.ended = once(this.child, "exit");
    const address = new Promise((found, failed) => {
      createInterface({ input: this.child.stderr }).on("line", (line) => {
        this.log += `${line}\n`;
        if (line.includes('"listening"')) found(JSON.parse(line).address);
      });
      this.child.on("exit", () => failed(new Error(`the server ended:\n${this.log}`)));
    });
    this.port = Number((await address).split(":").at(-1));
    this.url = `http://127.0.0.1:${this.port}`;
    await until("the server is ready", async () => (await fetch(`${this.url}/readyz`)).ok);
  }

  /** Ends as an operator ends it; the exit status. */
  async stop() {
    this.child.kill("SIGTERM");
    return (await this.ended)[0];
  }

  async post(path, body, key) {
    const response = await fetch(this.url + path, { method: "POST", headers: { "content-type": "application/json", ...(key ? { authorization: `Bearer ${key}` } : {}) }, body: JSON.stringify(body) });
    const answer = await response.json();
    if (!response.ok) throw new Error(`${path}: ${response.status} ${JSON.stringify(answer)}`);
    return answer;
  }
}

export async function until(what, condition) {
  const patience = Date.now() + PATIENCE;
  let last;
  for (;;) {
    try {
      const value = await condition();
      if (value) return value;
    } catch (error) {
      last = error;
    }
    if (Date.now() > patience) throw new Error(`never: ${what}${last ? ` (${last.message})` : ""}`);
    await sleep(100);
  }
}

const FIELDS = ["prompt_token_ids", "completion_token_ids", "logprobs", "sampling", "logprobs_mode", "finish_reason"];
let posted = 0;

/** What a real vLLM sampled, as sequences of the API with ids that nobody had before. */
export function recorded(name) {
  const places = [`crates/plumbline/assets/recordings/${name}.jsonl`, `tests/fixtures/recordings/${name}.jsonl`];
  const text = places.map((place) => { try { return readFileSync(REPOSITORY + place, "utf8"); } catch { return null; } }).find(Boolean);
  return text.trim().split("\n").map((line) => {
    const all = JSON.parse(line);
    return Object.fromEntries([["id", `${all.id}#${++posted}`], ...FIELDS.filter((field) => field in all).map((field) => [field, all[field]])]);
  });
}

/** Sends a few sequences again and again, each time under new ids, until it is told to stop. */
export class Traffic {
  constructor(server, streams) {
    this.server = server;
    this.streams = streams.map(([run, engine, recording, changed = (all) => all]) => ({ run, engine, all: changed(recorded(recording)), at: 0 }));
    this.going = true;
    this.sent = 0;
    this.done = this.flow();
  }

  async flow() {
    while (this.going) {
      for (const stream of this.streams) {
        const sequences = [0, 1].map((more) => ({ ...stream.all[(stream.at + more) % stream.all.length], id: `flow-${++posted}` }));
        stream.at += 2;
        try {
          await this.server.post("/v1/verifications", { run: stream.run, engine: stream.engine, worker: `w${stream.at % 3}`, sequences });
          this.sent += 2;
        } catch (error) {
          // The server is being restarted; what it refuses for another reason is a failure.
          if (!(error instanceof TypeError) && !error.message.includes("503")) throw error;
        }
        await sleep(60);
      }
    }
  }

  async stop() {
    this.going = false;
    await this.done;
  }
}
