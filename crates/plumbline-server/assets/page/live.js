// Live updates. Server-sent events over fetch: EventSource cannot send a key.
import { Refused, ask } from "./api.js";

/** Silence after which the connection is taken for lost: the server says something every 15 s. */
const SILENCE = 40_000;
const FIRST_PAUSE = 1000, LONGEST_PAUSE = 15_000;
/** Between two looks where the server has no room for a stream. */
const POLL = 10_000;

/** Follows the server: `told({ server, runs, more })` of each update, `state("live" | "lost" | "polling" | "key", reason)` when that changes. */
export class Live {
  constructor(told, state) {
    this.told = told;
    this.state = state;
    this.pause = FIRST_PAUSE;
    this.generation = 0;
    this.before = false;
    // A tab that nobody sees needs no connection: browsers have six for one server, over all tabs.
    document.addEventListener("visibilitychange", () => {
      clearTimeout(this.hiding);
      if (document.hidden) this.hiding = setTimeout(() => this.stop(), 60_000);
      else if (!this.running) this.start();
    });
  }

  start() {
    this.stop();
    this.running = true;
    this.follow(++this.generation);
  }

  stop() {
    this.running = false;
    this.generation++;
    this.abort?.abort();
    clearTimeout(this.again);
  }

  async follow(generation) {
    const abort = new AbortController();
    this.abort = abort;
    let silence, reason = "The connection was lost.", pause = null, first = true;
    const heard = () => {
      clearTimeout(silence);
      silence = setTimeout(() => abort.abort(), SILENCE);
    };
    try {
      heard();
      const response = await ask("/v1/events", { signal: abort.signal, headers: { accept: "text/event-stream" } });
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const { done, value } = await reader.read();
        if (done || generation !== this.generation) break;
        heard();
        const events = (rest + value).split("\n\n");
        rest = events.pop();
        for (const event of events) {
          const ended = this.take(event, first);
          first &&= ended === undefined;
          if (ended === "expired") pause = 0;
          if (ended === "draining") reason = "The server is shutting down.";
        }
      }
    } catch (error) {
      if (error instanceof Refused && error.status !== 0) {
        if (error.status === 401 || error.status === 403) {
          this.running = false;
          if (generation === this.generation) this.state("key", error.message);
          return;
        }
        reason = error.message;
        if (error.code === "too_many_event_streams") pause = POLL;
      }
    } finally {
      clearTimeout(silence);
    }
    if (generation !== this.generation) return;
    if (pause === null) {
      this.state("lost", reason);
      pause = this.pause;
      this.pause = Math.min(LONGEST_PAUSE, this.pause * 2);
    } else if (pause === POLL) {
      this.state("polling", reason);
      this.told({ server: null, runs: [], more: true });
    }
    this.again = setTimeout(() => this.follow(generation), pause);
  }

  /** Takes an event: `undefined` for a sign of life, why the stream ends if it does, else null. */
  take(event, first) {
    const fields = Object.fromEntries(event.split("\n").filter((line) => !line.startsWith(":")).map((line) => line.split(/: (.*)/s, 2)));
    if (fields.event === "update") {
      const update = JSON.parse(fields.data);
      // Nobody said what happened between two streams.
      update.more ||= first && this.before;
      this.before = true;
      this.pause = FIRST_PAUSE;
      this.state("live", "");
      this.told(update);
      return null;
    }
    return fields.event === "end" ? JSON.parse(fields.data).reason : undefined;
  }
}
