// What people do with the page.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync, readdirSync, statSync } from "node:fs";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

import { Window } from "./browser.mjs";
import { recorded, until } from "./server.mjs";
import { HOSTILE, RUN } from "./world.mjs";

const address = (server, view) => `${server.url}/#${view}`;
const runAddress = (run, part = "") => `/runs/${encodeURIComponent(run)}${part}`;
const text = (page, selector) => page.$eval(selector, (element) => element.innerText);
const focused = (page) => page.evaluate(() => document.activeElement.outerHTML.slice(0, 200));

/** A server that has seen nothing shows what to send, and the run as soon as it is there. */
export async function emptyServer(browser, server, out) {
  for (const device of ["desktop", "phone"]) {
    const window = await Window.open(browser, device, "light");
    await window.go(address(server, "/"));
    const command = await text(window.page, ".first pre code");
    assert.match(command, /^curl -s http:\/\/127\.0\.0\.1:\d+\/v1\/verifications/);
    await window.page.waitForFunction(() => document.getElementById("connection")?.innerText === "live");
    await window.check("empty");
    await window.picture(out, "empty");
    if (device === "phone") {
      // What the page says is what works.
      const answer = JSON.parse(execFileSync("bash", ["-c", command], { encoding: "utf8" }));
      assert.equal(answer.sequences.length, 1, JSON.stringify(answer));
      await window.page.waitForSelector(".run-name");
      assert.equal(await text(window.page, ".run-name"), "my-run");
    }
    window.quiet("empty");
    await window.close();
  }
}

/** Every view, as pictures to be looked at, and what must hold of all of them. */
export async function pictures(browser, server, out, device, scheme) {
  const window = await Window.open(browser, device, scheme), { page } = window;
  const worst = (await (await fetch(`${server.url}/v1/runs/${RUN}/sequences?sort=kl_k3&limit=256`)).json()).sequences.find((one) => one.cause);
  const foreign = (await (await fetch(`${server.url}/v1/runs/${encodeURIComponent(HOSTILE.run)}/sequences?sort=time&order=asc`)).json()).sequences[0];
  for (const [view, hash, word] of [
    ["runs", "/", RUN], ["run", runAddress(RUN), RUN], ["compare", runAddress(RUN, "/compare"), RUN], ["sequence", `/sequences/${worst.id}`, worst.sequence_id],
    ["hostile-run", runAddress(HOSTILE.run), HOSTILE.run], ["hostile-sequence", `/sequences/${foreign.id}`, foreign.sequence_id],
  ]) {
    // Foreign names: once on each screen, in one of the themes each.
    const foreigners = view.startsWith("hostile");
    if (foreigners && (device === "phone") !== (scheme === "dark")) continue;
    await page.goto("about:blank");
    await window.go(address(server, hash));
    // A permalink survives a reload.
    if (foreigners) await page.reload({ waitUntil: "domcontentloaded" });
    await window.settled();
    assert.ok((await text(page, "main")).includes(word), `${view}: ${word}`);
    assert.match(await page.title(), /· Plumbline$/);
    assert.match(await text(page, "footer"), /d = reference − engine/);
    await window.check(view);
    await window.picture(out, view);
  }
  await window.close();
}

/** Open the page, the worst sequence, point at a token, its diagnosis, export a workbook: while traffic flows. */
export async function theMainWalk(browser, server, scratch, device) {
  const window = await Window.open(browser, device, "light"), { page } = window;
  await window.go(`${server.url}/`);
  const link = await page.waitForSelector(`::-p-aria(${RUN})`);
  await link.click();
  await page.waitForSelector("table.sequences .id");
  const rows = await page.$$eval("table.sequences tbody tr", (all) => all.map((row) => row.querySelector(".badge").textContent));
  assert.ok(rows.length >= 10 && rows[0] === "divergent", JSON.stringify(rows));
  await window.settled();
  await window.click("table.sequences tbody tr:first-child .id");
  await page.waitForSelector(".tokens .t");
  const token = await page.waitForSelector(".tokens .t:nth-child(3)");
  await token.scrollIntoView();
  if (device === "phone") await token.tap();
  else await token.hover();
  const tip = await text(page, "#tip");
  for (const word of ["token", "id", "engine e", "reference r", "d = r − e", "ρ = exp(d)", "entropy", "rank", "mask"]) assert.ok(tip.includes(word), `${word}: ${tip}`);
  const id = decodeURIComponent(page.url().split("/sequences/")[1]);
  const truth = await (await fetch(`${server.url}/v1/sequences/${id}`)).json();
  assert.ok(tip.includes(String(truth.tokens[2].id)) && tip.includes(JSON.stringify(truth.tokens[2].text)), tip);
  assert.equal(await page.$eval(".tokens", (map) => map.childElementCount), truth.tokens.length);
  if (truth.diagnosis?.length) assert.equal(await text(page, ".finding .cause"), truth.diagnosis[0].cause);
  await window.click(".crumbs a:nth-of-type(2)");
  await page.waitForSelector(".finding .evidence");
  assert.ok((await text(page, "main")).includes("stale_weights"));
  // The workbook arrives, and opens.
  const folder = path.join(scratch, `downloads-${device}`);
  await downloads(window, folder);
  await window.click(".exports a[href$='report.xlsx']");
  const file = await arrived(folder, ".xlsx");
  execFileSync("python3", ["-c", "import sys, zipfile; z = zipfile.ZipFile(sys.argv[1]); assert z.testzip() is None; assert b'Summary' in z.read('xl/workbook.xml'), z.read('xl/workbook.xml')", file]);
  window.quiet("the main walk");
  await window.close();
}

async function downloads(window, folder) {
  const session = await window.page.createCDPSession();
  await session.send("Browser.setDownloadBehavior", { behavior: "allow", downloadPath: folder, eventsEnabled: true, browserContextId: window.context.id });
}

const arrived = (folder, end) => until(`a file ${end} in ${folder}`, () => {
  const name = existsSync(folder) && readdirSync(folder).find((file) => file.endsWith(end));
  return name && statSync(path.join(folder, name)).size > 0 ? path.join(folder, name) : null;
});

/** Every form of export arrives whole under a name that every file system takes, of the run with the worst name. */
export async function exportsArrive(browser, server, scratch) {
  const window = await Window.open(browser, "desktop", "dark"), folder = path.join(scratch, "exports");
  await window.go(address(server, runAddress(HOSTILE.run)));
  await window.settled();
  await downloads(window, folder);
  for (const [file, good] of [
    ["report.json", (bytes) => JSON.parse(bytes).schema === "plumbline-report"], ["report.xlsx", (bytes) => bytes.subarray(0, 2).toString() === "PK"], ["report.html", (bytes) => bytes.includes("<!doctype html>") && !bytes.includes("<script>alert")],
    ["report.png", (bytes) => bytes.subarray(1, 4).toString() === "PNG"], ["tokens.parquet", (bytes) => bytes.subarray(0, 4).toString() === "PAR1" && bytes.subarray(-4).toString() === "PAR1"],
  ]) {
    await window.click(`.exports a[href$='${file}']`);
    const name = await arrived(folder, `-${file}`);
    assert.match(path.basename(name), /^[\p{L}\p{N}._-]+$/u);
    assert.ok(good(readFileSync(name)), file);
    await window.page.waitForFunction(() => !document.querySelector(".exports .busy"));
  }
  window.quiet("exports");
  await window.close();
}

/** Without a mouse: from the list to a run, to its worst sequence, through its tokens, and back. */
export async function keyboardAlone(browser, server) {
  const window = await Window.open(browser, "desktop", "light"), { page } = window;
  const tabTo = async (selector, most = 120) => {
    for (let count = 0; count < most; count++) {
      await page.keyboard.press("Tab");
      if (await page.evaluate((wanted) => document.activeElement.matches(wanted), selector)) return;
    }
    throw new Error(`no way to ${selector} with the keyboard; the focus is on ${await focused(page)}`);
  };
  await window.go(`${server.url}/`);
  await tabTo(".skip", 1);
  await page.keyboard.press("Enter");
  assert.equal(await page.evaluate(() => location.hash), "", "the skip link leads into the view, not away from it");
  await tabTo(".search input");
  await page.keyboard.type("grpo");
  await page.waitForFunction(() => document.querySelectorAll(".run-name").length === 1);
  await tabTo(".run-name");
  await page.keyboard.press("Enter");
  await page.waitForSelector("table.sequences .id");
  await tabTo("th[aria-sort] .sort");
  await page.keyboard.press("Enter");
  await page.waitForFunction(() => document.querySelector("th[aria-sort='ascending']"));
  assert.ok(await page.evaluate(() => document.activeElement.matches("th[aria-sort='ascending'] .sort")), `the focus went to ${await focused(page)}`);
  await page.keyboard.press("Enter");
  await page.waitForFunction(() => document.querySelector("th[aria-sort='descending']"));
  await tabTo("table.sequences .id");
  await page.keyboard.press("Enter");
  await page.waitForSelector(".tokens");
  await tabTo(".tokens");
  for (const key of ["ArrowRight", "ArrowRight", "ArrowDown", "ArrowLeft"]) await page.keyboard.press(key);
  assert.equal(await page.$eval(".tokens", (map) => map.querySelector("[aria-selected='true']").id === map.getAttribute("aria-activedescendant") && map.querySelector(".active").dataset.at), "11");
  assert.match(await text(page, "#tip"), /token\s*12 of/);
  await page.keyboard.press("Escape");
  assert.ok(await page.$eval("#tip", (tip) => tip.hidden));
  await page.goBack();
  await page.waitForSelector("table.sequences .id");
  // The theme is changed and stays after a reload.
  const back = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const light = await back();
  await tabTo("#theme");
  await page.keyboard.press("Enter");
  await page.keyboard.press("Enter");
  assert.notEqual(await back(), light);
  await page.reload({ waitUntil: "domcontentloaded" });
  await window.ready();
  assert.notEqual(await back(), light);
  window.quiet("keyboard");
  await window.close();
}

/** While numbers change, what one holds on to stays: elements, focus, scroll position, an open part, and the layout. */
export async function updatesLeaveThingsAlone(browser, server) {
  const window = await Window.open(browser, "desktop", "light"), { page } = window;
  await window.go(address(server, `${runAddress(RUN)}?sort=mae&order=asc`));
  await window.settled();
  await page.evaluate(() => {
    document.querySelector("details.levels").open = true;
    document.querySelector(".exports a").focus();
    window.held = [document.querySelector("h1"), document.activeElement, document.querySelector(".engine-card"), document.querySelector(".figure svg.main-svg")];
    window.shifts = [];
    new PerformanceObserver((list) => { for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifts.push(entry.value); }).observe({ type: "layout-shift", buffered: false });
  });
  const tokens = () => page.$eval(".engine-card", (card) => card.innerText.match(/([\d,]+) tokens/)[1]);
  const before = await tokens();
  await page.waitForFunction((known) => document.querySelector(".engine-card").innerText.match(/([\d,]+) tokens/)[1] !== known, {}, before);
  await sleep(3000);
  const after = await page.evaluate(() => ({ connected: window.held.map((one) => one.isConnected), focus: document.activeElement === window.held[1], open: document.querySelector("details.levels").open, shift: window.shifts.reduce((sum, value) => sum + value, 0), sort: document.querySelector("th[aria-sort='ascending']")?.innerText ?? "" }));
  assert.deepEqual(after.connected.slice(0, 3), [true, true, true]);
  assert.ok(after.focus && after.open, JSON.stringify(after));
  assert.match(after.sort, /mean \|d\|/);
  assert.ok(after.shift < 0.02, `the layout moved: ${after.shift}`);
  window.quiet("updates");
  await window.close();
}

/** A server that goes away and comes back: the page says so, keeps what it has, and goes on by itself. */
export async function lostAndFoundAgain(browser, server) {
  const window = await Window.open(browser, "desktop", "light", [/ERR_CONNECTION_REFUSED/, /ERR_INCOMPLETE_CHUNKED_ENCODING/, /ERR_CONNECTION_RESET/, /ERR_EMPTY_RESPONSE/, /status of 503/]), { page } = window;
  await window.go(`${server.url}/`);
  await page.waitForFunction(() => document.getElementById("connection").innerText === "live");
  assert.equal(await server.stop(), 0, "a page that looks on does not keep the server from ending");
  await page.waitForFunction(() => document.getElementById("connection").innerText === "reconnecting");
  assert.match(await text(page, "#lost"), /Reconnecting/);
  assert.ok((await text(page, "main")).includes(RUN), "what was there is still there");
  await window.check("lost");
  await server.run();
  await page.waitForFunction(() => document.getElementById("connection").innerText === "live");
  await page.waitForFunction(() => document.getElementById("lost").hidden);
  await server.post("/v1/verifications", { run: "after-the-restart", engine: "vllm", sequences: recorded("tiny-f32-raw").slice(0, 4) });
  await page.waitForFunction(() => document.querySelector("main").innerText.includes("after-the-restart"));
  window.quiet("lost and found again");
  await window.close();
}

/** The first paint with ten thousand sequences in the store: measured, and said. */
export async function manySequences(browser, server) {
  const all = recorded("tiny-f32-raw").map((one) => ({ ...one, completion_token_ids: one.completion_token_ids.slice(0, 9), logprobs: one.logprobs.slice(0, 9) }));
  for (let at = 0; at < 10_000; at += 500) {
    await server.post("/v1/verifications", { run: "many", engine: "vllm", sequences: Array.from({ length: 500 }, (_, more) => ({ ...all[more % all.length], id: `many-${at + more}` })) });
  }
  const window = await Window.open(browser, "desktop", "light");
  for (const hash of ["/", runAddress("many")]) {
    await window.page.goto("about:blank");
    await window.go(address(server, hash));
    const shown = await window.page.evaluate(() => Math.round(performance.now()));
    // The browser tells of a paint only some time after it.
    await window.page.waitForFunction(() => performance.getEntriesByName("first-contentful-paint").length > 0);
    const measured = await window.page.evaluate(() => ({ paint: Math.round(performance.getEntriesByName("first-contentful-paint")[0].startTime), files: performance.getEntriesByType("resource").length, bytes: performance.getEntriesByType("resource").reduce((sum, one) => sum + one.encodedBodySize, 0) }));
    console.log(`${hash} with 10,000 sequences: first paint after ${measured.paint} ms, content after at most ${shown} ms; ${measured.files} files, ${measured.bytes} bytes`);
    await window.settled();
  }
  window.quiet("many sequences");
  await window.close();
}

/** A server with keys: the page asks, refuses what does not do, keeps the key for this tab, and forgets it. */
export async function keyIsAskedFor(browser, server, out, scratch) {
  await server.post("/v1/verifications", { run: RUN, engine: "vllm", sequences: recorded("tiny-bf16-raw") }, "ingest-key");
  const window = await Window.open(browser, "phone", "light", [/status of 40[13]/]), { page } = window;
  await window.go(`${server.url}/`);
  await page.waitForSelector("#api-key");
  await window.check("key");
  await window.picture(out, "key");
  const enter = async (key) => {
    await page.type("#api-key", key);
    await page.keyboard.press("Enter");
  };
  for (const [key, answer] of [["nobody's key", "This key is not accepted."], ["ingest-key", "the key workers has the role ingest"]]) {
    await enter(key);
    await page.waitForFunction((said) => document.querySelector(".key-form").innerText.includes(said), {}, answer);
    await page.$eval("#api-key", (input) => { input.value = ""; });
  }
  await enter("read-key");
  await page.waitForSelector(".run-name");
  await page.waitForFunction(() => document.getElementById("connection").innerText === "live");
  assert.ok(!(await page.content()).includes("read-key") && !page.url().includes("read-key"));
  await page.reload({ waitUntil: "domcontentloaded" });
  await page.waitForSelector(".run-name");
  await window.click(".run-name");
  await page.waitForSelector("table.sequences .id");
  const folder = path.join(scratch, "key-downloads");
  await downloads(window, folder);
  await window.click(".exports a[href$='report.json']");
  JSON.parse(readFileSync(await arrived(folder, ".json")));
  await window.click("#key");
  await page.waitForSelector("#api-key");
  await page.reload({ waitUntil: "domcontentloaded" });
  await page.waitForSelector("#api-key");
  assert.equal((await fetch(`${server.url}/readyz`)).status, 200, "probes need no key");
  window.quiet("key");
  await window.close();
}
