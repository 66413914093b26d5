// Chromium, and what must hold of everything that it shows.
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import puppeteer from "puppeteer-core";

import { PATIENCE, until } from "./server.mjs";

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

export const DEVICES = { desktop: { width: 1440, height: 900 }, phone: { width: 390, height: 844, isMobile: true, hasTouch: true, deviceScaleFactor: 1 } };

export async function launch() {
  return puppeteer.launch({ executablePath: execFileSync("which", ["chromium"], { encoding: "utf8" }).trim(), headless: true, args: ["--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--font-render-hinting=none"] });
}

/** A window: what its console says is a failure, unless it is expected. */
export class Window {
  static async open(browser, device, scheme, expected = []) {
    const own = new Window();
    const context = await browser.createBrowserContext();
    own.context = context;
    own.page = await context.newPage();
    own.name = `${device}, ${scheme}`;
    own.device = device;
    own.scheme = scheme;
    own.said = [];
    const note = (text) => {
      if (!expected.some((pattern) => pattern.test(text))) own.said.push(text);
    };
    own.page.setDefaultTimeout(PATIENCE);
    own.page.on("console", (message) => { if (message.type() !== "log" && message.type() !== "info") note(`${message.type()}: ${message.text()} ${message.location().url ?? ""}`); });
    own.page.on("pageerror", (error) => note(`error: ${error.message}\n${error.stack}`));
    own.page.on("dialog", (dialog) => { own.said.push(`dialog: ${dialog.message()}`); dialog.dismiss(); });
    own.page.on("request", (request) => { if (!/^(http:\/\/127\.0\.0\.1:|data:|blob:)/.test(request.url())) note(`loads ${request.url()}`); });
    await own.page.setViewport(DEVICES[device]);
    await own.page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
    return own;
  }

  async go(url) {
    await this.page.goto(url, { waitUntil: "domcontentloaded" });
    await this.ready();
  }

  /** Waits until the view is there and its figures near the screen are drawn. */
  async ready() {
    await this.page.waitForFunction(() => document.documentElement.dataset.ready === "true");
  }

  async settled() {
    await this.ready();
    const refused = () => this.page.evaluate(() => document.querySelector("main").innerText.match(/Not (there|drawn): .*/)?.[0]);
    await until("what figures are made of", async () => (await refused()) || !(await this.page.$(".pending")));
    // Everything is scrolled past once, so that every figure has been near the screen.
    await this.page.evaluate(async () => {
      for (let at = 0; at < document.documentElement.scrollHeight; at += innerHeight) {
        scrollTo(0, at);
        await new Promise((soon) => setTimeout(soon, 60));
      }
      scrollTo(0, 0);
    });
    await until("figures are drawn", async () => (await refused()) || this.page.evaluate(() => [...document.querySelectorAll("main .figure")].every((one) => one.querySelector("svg.main-svg"))));
    if (await refused()) throw new Error(`${this.name}: ${await refused()}`);
    await sleep(300);
  }

  /** Nothing is wider than its place, nothing is wider than the screen, axe finds nothing serious, the console is empty. */
  async check(what) {
    const where = `${what}, ${this.name}`;
    const wide = await this.page.evaluate(() => {
      const found = [];
      const seen = document.documentElement;
      if (seen.scrollWidth > innerWidth) found.push(`the page: ${seen.scrollWidth} of ${innerWidth}`);
      for (const element of document.querySelectorAll("body *")) {
        if (element.closest("svg, .js-plotly-plot, .hidden")) continue;
        const style = getComputedStyle(element);
        // What scrolls or says with an ellipsis that it goes on is meant to; inline boxes have no width of their own.
        if (style.display === "inline" || style.textOverflow === "ellipsis" || ["auto", "scroll"].includes(style.overflowX)) continue;
        if (element.clientWidth && element.scrollWidth > element.clientWidth + 1) found.push(`${element.tagName.toLowerCase()}.${element.className}: ${element.scrollWidth} of ${element.clientWidth} ${element.textContent.slice(0, 60)}`);
      }
      return found;
    });
    if (wide.length) throw new Error(`${where}: too wide:\n${wide.join("\n")}`);
    const words = await this.page.evaluate(() => document.body.innerText);
    for (const word of ["undefined", "NaN", "[object"]) {
      if (words.includes(word)) throw new Error(`${where}: the page says ${word}`);
    }
    await this.page.evaluate(AXE);
    const violations = await this.page.evaluate(async () => {
      const result = await window.axe.run(document, { resultTypes: ["violations"] });
      return result.violations.filter((one) => ["serious", "critical"].includes(one.impact)).map((one) => `${one.id} (${one.impact}): ${one.help}\n  ${one.nodes.slice(0, 4).map((node) => `${node.target.join(" ")}: ${node.failureSummary.split("\n").slice(1, 3).join("; ")}`).join("\n  ")}`);
    });
    if (violations.length) throw new Error(`${where}: axe-core:\n${violations.join("\n")}`);
    this.quiet(where);
    console.log(`${where}: nothing too wide, nothing serious for axe-core, console empty`);
  }

  quiet(where) {
    if (this.said.length) throw new Error(`${where}: the console has\n${this.said.join("\n")}`);
  }

  async picture(folder, view) {
    const file = path.join(folder, `${view}-${this.device}-${this.scheme}.png`);
    await this.page.screenshot({ path: file, fullPage: true });
  }

  /** Clicks what people see: it is scrolled to, and the pointer goes there. */
  async click(selector) {
    const element = await this.page.waitForSelector(selector, { visible: true });
    await element.scrollIntoView();
    await element.click();
  }

  async close() {
    await this.context.close();
  }
}
