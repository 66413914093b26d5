// A server with a past: two versions of the weights, engines that are well and engines that are not, and names that mean harm.
import { cpSync, mkdirSync, writeFileSync } from "node:fs";
import path from "node:path";

import { REPOSITORY, Server, recorded, until } from "./server.mjs";

/** Names that would act if they were ever taken for markup, a path or a number. */
export const HOSTILE = {
  run: "../<script>alert(1)</script>/\"'&amp;%2F ünïcødé 跑 🚀?#<img src=x onerror=alert(2)>",
  engine: "<b>vllm</b>\u202Eevil & co; javascript:alert(3)",
  sequence: "<svg/onload=alert(4)> =HYPERLINK(\"http://evil\")",
  worker: "${7*7} {{7*7}} <!--",
};
export const RUN = "grpo-math-7b";
/** The same as another engine would report it: a little off, and the same each time. */
export const nearly = (sequences) => sequences.map((one, row) => ({ ...one, logprobs: one.logprobs.map((value, at) => Math.min(0, value + 0.012 * Math.sin(12.9898 * (at + 1) + 78.233 * row))) }));
export const LONG_RUN = `a-run-with-a-very-long-name-${"that-goes-on-".repeat(8)}end`;

/** Folder of checkpoints below `folder`: policy 1 and 2. */
function checkpoints(folder) {
  const root = path.join(folder, "checkpoints");
  mkdirSync(root, { recursive: true });
  cpSync(`${REPOSITORY}tests/fixtures/tiny/policy-1`, path.join(root, "policy-1"), { recursive: true });
  for (const file of ["config.json", "generation_config.json", "model.safetensors"]) {
    mkdirSync(path.join(root, "policy-2"), { recursive: true });
    cpSync(`${REPOSITORY}crates/plumbline/assets/tiny/policy-2/${file}`, path.join(root, "policy-2", file));
  }
  return root;
}

export async function world(folder) {
  const root = checkpoints(folder);
  const server = await Server.start("--model", path.join(root, "policy-1"), "--policy-version", "step-100", "--weights-root", root, "--data-dir", path.join(folder, "data"));
  const post = (run, engine, sequences, more) => server.post("/v1/verifications", { run, engine, sequences, ...more });
  // The engine of this recording served policy 1: it is well now, and stale once the weights have moved on.
  const stale = recorded("tiny-bf16-stale");
  await post(RUN, "vllm-0.32", stale.slice(0, 24), { worker: "w0" });
  await until("the noise floor is known", async () => ["sampled", "traffic"].includes((await (await fetch(`${server.url}/v1/reference`)).json()).noise_floor_state));
  await post(RUN, "vllm-0.32", stale.slice(24), { worker: "w1" });
  await server.post("/update_weights_from_disk", { model_path: path.join(root, "policy-2"), weight_version: "step-101" });
  await until("the noise floor of the new weights is known", async () => ["sampled", "traffic"].includes((await (await fetch(`${server.url}/v1/reference`)).json()).noise_floor_state));
  for (let round = 0; round < 3; round++) {
    const [raw, other, late] = [recorded("tiny-bf16-raw"), nearly(recorded("tiny-bf16-raw")), recorded("tiny-bf16-stale")];
    for (let at = 0; at < raw.length; at += 12) {
      await post(RUN, "vllm-0.32", raw.slice(at, at + 12), { worker: `w${round}` });
      await post(RUN, "sglang-0.5.6", other.slice(at, at + 12), { worker: `w${round}` });
      if (round < 2) await post(RUN, "vllm-0.32-stale", late.slice(at, at + 12), { worker: `w${round}` });
    }
  }
  await post("healthy-run", "vllm-0.32", recorded("tiny-bf16-raw"));
  await post(LONG_RUN, "vllm", recorded("tiny-f32-raw").slice(0, 8));
  await post("too-few-tokens", "llama_cpp", [{ ...recorded("tiny-f32-raw")[0], id: "short", completion_token_ids: [380, 654], logprobs: [-2.55, -4.78] }]);
  const hostile = recorded("tiny-bf16-stale").slice(0, 12).map((one, at) => ({ ...one, id: `${HOSTILE.sequence} ${at}`, loss_mask: one.completion_token_ids.map((_, index) => Number(index % 5 !== 2)) }));
  hostile[0].logprobs = hostile[0].logprobs.map((value, at) => (at === 1 ? -9999 : at === 3 ? null : value));
  await post(HOSTILE.run, HOSTILE.engine, hostile, { worker: HOSTILE.worker, logprobs_mode: "raw" });
  await until("sequences are diagnosed", async () => (await (await fetch(`${server.url}/v1/runs/${RUN}/sequences`)).json()).sequences.some((one) => one.cause));
  return server;
}

/** A file of keys, for a server that wants one. */
export function keys(folder) {
  const file = path.join(folder, "keys");
  writeFileSync(file, "ingest ingest-key workers\nread read-key readers\n");
  return file;
}
