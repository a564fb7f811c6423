// Two trajectories of a task, turn by turn: what was removed and what was added.

import { api, el, link, number, versions } from "./dom.js";

const TAGS = { same: "span", removed: "del", added: "ins" };

const text = (name, pieces) =>
  pieces.length > 0 && el("div", { class: "part" }, el("b", {}, name),
    el("pre", {}, pieces.map(([kind, part]) => el(TAGS[kind], {}, part))));

const about = (name, item) =>
  el("li", {}, el("b", {}, `${name}: `),
    link("trajectory", { group: item.group_id, sibling: item.sibling }, `${item.group_id}/${item.sibling}`),
    ` version ${versions(item)}, reward ${number(item.reward)}, ${item.stop_reason}, ${item.turns} turns`);

export async function compare(values) {
  const found = await api("compare", values);
  return [
    el("h1", {}, "Comparison on task ", link("task", { task: found.right.task_id }, found.right.task_id)),
    found.left.task_id !== found.right.task_id && el("p", { class: "error" }, "The tasks differ."),
    el("ul", {}, about("old", found.left), about("new", found.right)),
    el("p", { class: "told" }, el("del", {}, "only in the old one"), " ", el("ins", {}, "only in the new one")),
    found.turns.map((turn) =>
      el("article", {}, el("h3", {}, `Turn ${turn.number}`),
        text("director", turn.text), text("environment", turn.observed))),
  ];
}
