// The workflow after a turn, drawn where the server says that its parts stand.

import { el, svg } from "./dom.js";

const short = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

const place = ({ x, y, width, height }) => ({ x, y, width, height, rx: 8 });

const told = (part) => svg("title", {}, part.note ? `${part.id}: ${part.note}` : part.id);

const frame = (part) => svg("g", {}, told(part), svg("rect", { class: "frame", ...place(part) }));

// Above the lines, so that these do not cross it.
const heading = (part) =>
  svg("text", { class: "heading", x: part.x + 10, y: part.y + 19 }, short(part.label, 60));

const operator = (part, fresh) =>
  svg("g", {}, told(part),
    svg("rect", { class: fresh.includes(part.id) ? "operator new" : "operator", ...place(part) }),
    svg("text", { x: part.x + 10, y: part.y + 19 }, short(part.label, 18)),
    svg("text", { class: "small", x: part.x + 10, y: part.y + 36 },
      short(part.note ? `${part.id}: ${part.note}` : part.id, 20)));

function line({ x1, y1, x2, y2 }) {
  const bend = Math.max(12, Math.abs(y2 - y1) / 2);
  return svg("path", { "marker-end": "url(#arrow)",
    d: `M${x1},${y1} C${x1},${y1 + bend} ${x2},${y2 - bend} ${x2},${y2}` });
}

function picture(state) {
  const { width, height, boxes, lines } = state.drawing;
  if (!boxes.length) return el("p", {}, "The canvas is empty.");
  const frames = boxes.filter((part) => part.kind !== "operator");
  return svg("svg", { role: "img", "aria-label": `Workflow: ${state.notation}`,
    viewBox: `-4 -4 ${width + 8} ${height + 8}`, width: width + 8, height: height + 8 },
    svg("defs", {}, svg("marker", { id: "arrow", viewBox: "0 0 8 8", refX: 8, refY: 4,
      markerWidth: 7, markerHeight: 7, orient: "auto" }, svg("path", { d: "M0,0 L8,4 L0,8" }))),
    frames.map(frame), lines.map(line), frames.map(heading),
    boxes.filter((part) => part.kind === "operator").map((part) => operator(part, state.new)));
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
