// Elements. Text is always a text node: what a model wrote is never read as markup, an address or
// a script. Addresses are made by `address` and `api` alone.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined)
      element.setAttribute(name, String(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return element;
}

export const el = (tag, attributes = {}, ...children) =>
  fill(document.createElement(tag), attributes, children);

export const svg = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS(SVG, tag), attributes, children);

const query = (values) =>
  new URLSearchParams(
    Object.entries(values).filter(([, v]) => v !== "" && v !== null && v !== undefined),
  ).toString();

export const address = (page, values = {}) => `#/${page}?${query(values)}`;

export const link = (page, values, ...children) =>
  el("a", { href: address(page, values) }, ...children);

export const apiAddress = (name, values = {}) => `/api/${name}?${query(values)}`;

export async function api(name, values = {}) {
  const reply = await fetch(apiAddress(name, values));
  const text = await reply.text();
  if (reply.ok) return JSON.parse(text);
  let message = text;
  try {
    message = JSON.parse(text).error;
  } catch {
    // not ours: say it as it is
  }
  throw new Error(message || `the server answered ${reply.status}`);
}

export function number(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  if (Number.isInteger(value)) return (value || 0).toLocaleString("en"); // −0 is 0
  return Number(value.toPrecision(digits)).toString();
}

export function signed(value) {
  if (value === null || value === undefined) return "–";
  return el("span", { class: value > 0 ? "good" : value < 0 ? "bad" : "" },
    (value > 0 ? "+" : "") + number(value));
}

export const versions = (row) =>
  row.oldest === null ? "–" : row.oldest === row.newest ? row.oldest : `${row.oldest}–${row.newest}`;

export const facts = (pairs) =>
  el("dl", { class: "facts" },
    pairs.filter(([, v]) => v !== null && v !== undefined && v !== "").map(([name, value]) =>
      el("div", {}, el("dt", {}, name), el("dd", {}, value))));
