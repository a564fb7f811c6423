// The workflow after a turn, drawn where the server says that its parts stand.

import { el, svg } from "./dom.js";

const short = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

function box(part, fresh) {
  const frame = part.kind !== "operator";
  return svg("g", {},
    svg("title", {}, part.note ? `${part.id}: ${part.note}` : part.id),
    svg("rect", { class: frame ? "frame" : fresh.includes(part.id) ? "operator new" : "operator",
      x: part.x, y: part.y, width: part.width, height: part.height, rx: 8 }),
    svg("text", { x: part.x + 10, y: part.y + 19 }, short(part.label, frame ? 60 : 18)),
    !frame && svg("text", { class: "small", x: part.x + 10, y: part.y + 36 },
      short(part.note ? `${part.id}: ${part.note}` : part.id, 20)));
}

function line({ x1, y1, x2, y2 }) {
  const bend = Math.max(12, Math.abs(y2 - y1) / 2);
  return svg("path", { "marker-end": "url(#arrow)",
    d: `M${x1},${y1} C${x1},${y1 + bend} ${x2},${y2 - bend} ${x2},${y2}` });
}

function picture(state) {
  const { width, height, boxes, lines } = state.drawing;
  if (!boxes.length) return el("p", {}, "The canvas is empty.");
  return svg("svg", { role: "img", "aria-label": `Workflow: ${state.notation}`,
    viewBox: `-4 -4 ${width + 8} ${height + 8}`, width: width + 8, height: height + 8 },
    svg("defs", {}, svg("marker", { id: "arrow", viewBox: "0 0 8 8", refX: 8, refY: 4,
      markerWidth: 7, markerHeight: 7, orient: "auto" }, svg("path", { d: "M0,0 L8,4 L0,8" }))),
    boxes.filter((part) => part.kind !== "operator").map((part) => box(part, state.new)),
    lines.map(line),
    boxes.filter((part) => part.kind === "operator").map((part) => box(part, state.new)));
}

// `turned` is told which turn the slider was moved to.
export function canvas(states, first, turned) {
  const drawn = el("div", { class: "picture", tabindex: "0", "aria-label": "Picture of the workflow" });
  const said = el("div", { class: "said", "aria-live": "polite" });
  const show = (at) => {
    const state = states[at];
    drawn.replaceChildren(picture(state));
    said.replaceChildren(
      el("p", {}, el("b", {}, `Turn ${at}: ${state.outcome}. `), state.message),
      el("pre", {}, state.notation || "(empty)"));
    slider.setAttribute("aria-valuetext", `turn ${at}: ${state.outcome}`);
  };
  const slider = el("input", { type: "range", id: "turn", min: 0, max: states.length - 1, step: 1,
    value: first, input: () => { show(Number(slider.value)); turned(Number(slider.value)); } });
  show(first);
  return el("section", {}, el("h2", {}, "Canvas"),
    el("label", { for: "turn" }, `After turn (0 to ${states.length - 1})`), slider,
    el("div", { class: "canvas" }, drawn, said));
}
