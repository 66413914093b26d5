// Brings a part of the page up to date: what is the same stays the same element, with its focus, its selection and its scroll position.
import { takeHandlers } from "../shared/dom.js";

/** Attributes that belong to whoever uses the page. */
const OWN = new Set(["open"]);

function same(a, b) {
  if (a.nodeType !== b.nodeType) return false;
  if (a.nodeType !== Node.ELEMENT_NODE) return true;
  return a.tagName === b.tagName && a.dataset.key === b.dataset.key && (a.dataset.keep === undefined) === (b.dataset.keep === undefined);
}

function attributes(from, to) {
  for (const { name } of [...from.attributes]) {
    if (!to.hasAttribute(name) && !OWN.has(name)) from.removeAttribute(name);
  }
  for (const { name, value } of to.attributes) {
    if (OWN.has(name)) continue;
    if (name === "style") from.style.cssText = to.style.cssText;
    else if (from.getAttribute(name) !== value) from.setAttribute(name, value);
  }
}

function element(from, to) {
  if (from.figure) {
    // Plotly owns its content and its height; what it draws is new.
    from.setAttribute("aria-label", to.getAttribute("aria-label"));
    Object.assign(from.figure, { build: to.figure.build, height: to.figure.height, of: to.figure.of });
    return;
  }
  // What builds itself and goes on by itself: tabs, heat maps.
  if (from.dataset.keep !== undefined && from.dataset.keep === to.dataset.keep) return;
  attributes(from, to);
  takeHandlers(from, to);
  children(from, to);
}

function children(from, to) {
  const keyed = new Map([...from.childNodes].filter((node) => node.dataset?.key !== undefined).map((node) => [node.dataset.key, node]));
  let here = from.firstChild;
  for (const wanted of [...to.childNodes]) {
    const known = wanted.dataset?.key === undefined ? null : keyed.get(wanted.dataset.key);
    if (known && known !== here && same(known, wanted)) from.insertBefore(known, here);
    const current = known && same(known, wanted) ? known : here;
    if (current && same(current, wanted) && Boolean(current.figure) === Boolean(wanted.figure)) {
      if (current.nodeType === Node.ELEMENT_NODE) element(current, wanted);
      else if (current.nodeValue !== wanted.nodeValue) current.nodeValue = wanted.nodeValue;
      here = current.nextSibling;
    } else {
      from.insertBefore(wanted, here);
    }
  }
  while (here) {
    const next = here.nextSibling;
    here.remove();
    here = next;
  }
}

/** Makes the children of `place` those of `wanted`. */
export function morph(place, wanted) {
  children(place, wanted);
}
