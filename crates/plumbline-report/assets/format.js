// Numbers and names for people. All names are the senders': they go into the page as text nodes, and through `plain` where plotly reads tags.

/** Formats by their significant digits: making one takes longer than using it a thousand times. */
const formats = new Map();
function grouped(value, digits) {
  if (!formats.has(digits)) formats.set(digits, new Intl.NumberFormat("en-US", digits ? { maximumSignificantDigits: digits } : {}));
  return formats.get(digits).format(value);
}

/** A number for people: four significant digits; "–" for an undefined one. */
export function number(value, digits = 4) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (Number.isInteger(value) && size < 1e15) return grouped(value, 0).replace("-", "−");
  if (size >= 1e6 || size < 1e-3) return value.toExponential(Math.max(digits - 2, 1)).replace("e+", "e").replace("-", "−").replace("e-", "e−");
  // A correlation of 0.99998 is not 1: what is missing is what counts.
  const missing = 1 - size;
  const needed = missing > 0 && missing < 0.5 * 10 ** -digits ? Math.min(Math.ceil(-Math.log10(missing)) + 1, 9) : digits;
  return grouped(value, needed).replace("-", "−");
}
/** A multiple of the noise floor; far below it the digits mean nothing. */
export const multipleOf = (value) => (value !== null && value < 0.01 ? "< 0.01 ×" : `${number(value, 3)} ×`);
export const signed = (value, digits) => (value > 0 ? "+" : "") + number(value, digits);
export const percent = (value) => (value === null || value === undefined ? "–" : `${number(100 * value, 3)} %`);

/** Text for plotly, which reads some tags and entities. */
export const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
export const shorter = (text, most) => (String(text).length > most ? `${String(text).slice(0, most - 1)}…` : String(text));
