// All walks, one after the other; ends at the first that fails.
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";

import { DEVICES, launch } from "./browser.mjs";
import { Server, Traffic } from "./server.mjs";
import { emptyServer, exportsArrive, keyboardAlone, keyIsAskedFor, lostAndFoundAgain, manySequences, pictures, theMainWalk, updatesLeaveThingsAlone } from "./walks.mjs";
import { HOSTILE, RUN, keys, nearly, world } from "./world.mjs";

const out = process.argv[2], only = process.env.WALK;
const scratch = mkdtempSync(path.join(tmpdir(), "plumbline-page-"));
mkdirSync(out, { recursive: true });
const browser = await launch();
const servers = [];
const walk = async (name, walking) => {
  if (only && !new RegExp(only).test(name)) return;
  const began = performance.now();
  await walking();
  console.log(`--- ${name}: ok (${((performance.now() - began) / 1000).toFixed(1)} s)`);
};
let failed = false;
try {
  await walk("an empty server", async () => {
    const server = await Server.start();
    servers.push(server);
    await emptyServer(browser, server, out);
  });
  const server = await world(scratch);
  servers.push(server);
  console.log("the world is there");
  const traffic = new Traffic(server, [[RUN, "vllm-0.32", "tiny-bf16-raw"], [RUN, "sglang-0.5.6", "tiny-bf16-raw", nearly], [RUN, "vllm-0.32-stale", "tiny-bf16-stale"], [HOSTILE.run, HOSTILE.engine, "tiny-bf16-stale"]]);
  for (const device of Object.keys(DEVICES)) {
    for (const scheme of ["light", "dark"]) {
      await walk(`pictures, ${device}, ${scheme}`, () => pictures(browser, server, out, device, scheme));
    }
    await walk(`the main walk, ${device}`, () => theMainWalk(browser, server, scratch, device));
  }
  await walk("exports", () => exportsArrive(browser, server, scratch));
  await walk("the keyboard alone", () => keyboardAlone(browser, server));
  await walk("updates", () => updatesLeaveThingsAlone(browser, server));
  await walk("lost and found again", () => lostAndFoundAgain(browser, server));
  await traffic.stop();
  await walk("many sequences", () => manySequences(browser, server));
  await walk("a key", async () => {
    const closed = await Server.start("--api-key-file", keys(scratch));
    servers.push(closed);
    await keyIsAskedFor(browser, closed, out, scratch);
  });
} catch (error) {
  failed = true;
  console.error(error);
} finally {
  await browser.close();
  for (const server of servers) {
    const status = await server.stop();
    if (status !== 0) {
      failed = true;
      console.error(`a server ended with ${status}:\n${server.log.slice(-4000)}`);
    }
  }
  rmSync(scratch, { recursive: true, force: true });
}
process.exit(failed ? 1 : 0);
