// Figures in the page: each is drawn when it comes near the screen, and again when its data, its place or the colours change.
import { h } from "./dom.js";

const config = { displaylogo: false, responsive: false, displayModeBar: false };
const figures = new Set();
/** How plotly is loaded where it is not part of the page; then figures wait until they come near the screen. */
let loading = null;

export function plotWith(load) {
  loading = load;
}

/** A place for a figure. `build` gives plotly's data and layout; `name` says what it shows to those who cannot see it. `of` lists what it is made
 * of, or is a function that does: as long as all of that is the same, a figure that is drawn is as it should be. A `height` is in pixels, or `"square"`. */
export function figure(name, build, height = 330, of = null) {
  const element = h("div", { class: "figure", role: "img", "aria-label": name });
  element.figure = { build, height, of };
  return element;
}

/** How tall a figure is: known before it is drawn, so that nothing below it moves. */
function reserve(element) {
  const { height } = element.figure;
  const size = height === "square" ? Math.min(element.clientWidth * 0.92, 520) : height;
  element.style.height = `${size}px`;
  return size;
}

async function paint(element) {
  const plotly = loading ? await loading() : window.Plotly;
  if (!element.isConnected || !element.clientWidth) return;
  const drawing = element.figure.build();
  drawing.layout.height = reserve(element);
  drawing.layout.width = element.clientWidth;
  element.figure.width = element.clientWidth;
  element.figure.drawnOf = madeOf(element.figure);
  await plotly.react(element, drawing.data, drawing.layout, config);
  element.dataset.drawn = "true";
}

/** A figure that cannot be drawn says so in its place. */
const paintOrSay = (element) => paint(element).catch((error) => element.replaceChildren(h("p", { class: "small soft" }, `Not drawn: ${error.message}`)));
const madeOf = ({ of }) => (typeof of === "function" ? of() : of);
function asItShouldBe(figure) {
  const now = madeOf(figure), then = figure.drawnOf;
  return Boolean(now && then && now.length === then.length && now.every((part, at) => part === then[at]));
}

const shown = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    target.figure.near = isIntersecting;
    if (isIntersecting && target.figure.due) {
      target.figure.due = false;
      paintOrSay(target);
    }
  }
}, { rootMargin: "600px" });
const resized = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    if (target.isConnected && target.figure.width && target.clientWidth !== target.figure.width) due(target);
  }
});

function due(element) {
  if (element.figure.near) paintOrSay(element);
  else element.figure.due = true;
}

/** Draws what is in a part of the page by now, or draws it again: figures take the width of their place. */
export function drawAll(root) {
  const painting = [];
  for (const element of root.querySelectorAll(".figure")) {
    if (!element.figure) continue;
    if (!figures.has(element)) {
      figures.add(element);
      reserve(element);
      element.figure.due = loading !== null;
      element.figure.near = loading === null;
      if (loading) shown.observe(element);
      resized.observe(element);
    }
    if (asItShouldBe(element.figure)) continue;
    if (element.figure.near) painting.push(paintOrSay(element));
    else element.figure.due = true;
  }
  return Promise.all(painting);
}

/** Draws everything again: the colours have changed. */
export function repaint() {
  for (const element of figures) {
    if (element.isConnected) {
      due(element);
    } else {
      figures.delete(element);
      shown.unobserve(element);
      resized.unobserve(element);
      if (element.dataset.drawn) window.Plotly.purge(element);
    }
  }
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
