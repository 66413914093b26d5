// Safe DOM building: children are elements or text, never markup.

const handlers = new WeakMap();

/** Sets what an element does on an event; a later one takes the place of an earlier one. */
export function on(element, type, handler) {
  if (!handlers.has(element)) handlers.set(element, new Map());
  const own = handlers.get(element);
  if (!own.has(type)) element.addEventListener(type, (event) => own.get(type)?.(event));
  own.set(type, handler);
}

/** Gives an element what another does on events. */
export function takeHandlers(element, other) {
  for (const type of handlers.get(element)?.keys() ?? []) handlers.get(element).set(type, null);
  for (const [type, handler] of handlers.get(other) ?? []) on(element, type, handler);
}

/** An element; attributes that begin with `on` are event handlers. */
export function h(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) on(element, name.slice(2), value);
    // Through the object model: a policy that forbids inline styles allows it.
    else if (name === "style") element.style.cssText = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat(3)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return element;
}
