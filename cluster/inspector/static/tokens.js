// The tokens of a turn, coloured by one of their properties.

import { api, el, number } from "./dom.js";

export const MODES = { text: "text", logprob: "tokens by log-probability",
  ratio: "tokens by importance ratio", version: "tokens by version", mask: "tokens by mask" };

// Edges of the classes of −log p, in nats: p ≥ 0.9, 0.5, 0.2, 0.05, 0.01, less.
const EDGES = [0.105, 0.693, 1.609, 2.996, 4.605];
const NAMES = ["p ≥ 0.9", "≥ 0.5", "≥ 0.2", "≥ 0.05", "≥ 0.01", "< 0.01"];

// Edges of the classes of the importance ratio: away from 1 in either direction.
const RATIOS = [0.5, 0.8, 0.95, 1.05, 1.25, 2];
const RATIO_NAMES = ["ratio < 0.5", "< 0.8", "< 0.95", "about 1", "> 1.05", "> 1.25", "> 2"];

function shade(mode, rows, at, turn, oldest) {
  if (!rows.own[at]) return "context";
  if (mode === "logprob") return `lp${EDGES.filter((edge) => -rows.logprob[at] > edge).length}`;
  if (mode === "ratio") return rows.ratio ? `r${RATIOS.filter((edge) => rows.ratio[at] > edge).length}` : "";
  if (mode === "version") return `v${(rows.version[at] - oldest) % 6}`;
  return turn.masked ? "masked" : "own";
}

export function legend(mode, found) {
  const entries = { logprob: NAMES.map((name, n) => [`lp${n}`, name]),
    ratio: RATIO_NAMES.map((name, n) => [`r${n}`, name]), mask: [
    ["own", "trained on"], ["masked", "the director's, masked for its age"], ["context", "prompt or observation"]],
  version: [] }[mode] ?? [];
  if (mode === "version" && found.oldest !== null)
    for (let v = found.oldest; v <= Math.min(found.newest, found.oldest + 5); v += 1)
      entries.push([`v${(v - found.oldest) % 6}`, `version ${v}`]);
  return el("ul", { class: "legend tokens", "aria-label": "Legend" },
    entries.map(([kind, name]) => el("li", {}, el("span", { class: kind }, name))));
}

const told = (rows, at) => `token ${rows.ids[at]}` + (rows.own[at]
  ? `: log p ${number(rows.logprob[at], 4)}, p ${number(Math.exp(rows.logprob[at]))}, version ${rows.version[at]}` +
    (rows.ratio ? `, ratio ${number(rows.ratio[at], 4)}` : "")
  : ": not written by the director");

export async function tokens(mode, found, turn) {
  const rows = await api("tokens", { group: found.group_id, sibling: found.sibling, turn: turn.number });
  const spans = rows.pieces.map((piece, at) =>
    el("span", { class: shade(mode, rows, at, turn, found.oldest), title: told(rows, at) }, piece));
  const unknown = mode === "ratio" && !rows.ratio;
  const line = el("p", { class: "told", "aria-live": "polite" }, unknown
    ? "No ratios: no step used this trajectory, or not one whose log-probs are kept (learner.logprobs.every)."
    : "Arrow keys walk over the tokens.");
  let at = -1;
  const walk = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    spans[at]?.classList.remove("current");
    at = Math.max(0, Math.min(spans.length - 1, at + step));
    spans[at].classList.add("current");
    spans[at].scrollIntoView({ block: "nearest" });
    line.textContent = told(rows, at);
  };
  const box = el("div", { class: "text tokens", tabindex: "0", keydown: walk, role: "group",
    "aria-label": `Tokens of turn ${turn.number}` }, spans);
  return el("div", {}, box, line);
}
