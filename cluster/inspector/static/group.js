// Siblings side by side, and the trajectories of one task by version.

import { address, api, el, facts, link, number, signed, versions } from "./dom.js";
import { row, table } from "./list.js";
import { message, turnText } from "./trajectory.js";

// The turns of a sibling, folded; they come after the page.
function turns(key) {
  const box = el("div", {}, el("p", { class: "told" }, "Reading the turns …"));
  api("trajectory", key).then(
    (found) => box.replaceChildren(...found.turns.map((turn) =>
      el("details", {},
        el("summary", {}, `Turn ${turn.number}: ${turn.kind}`, turn.operator && ` (${turn.operator})`),
        turnText(turn, found.canvas !== null), turn.observed.map(message)))),
    (error) => box.replaceChildren(el("p", { class: "error" }, error.message)));
  return box;
}

export async function group({ group: id }) {
  const found = await api("group", { group: id });
  const first = found.rows[0];
  return [
    el("h1", {}, `Group ${id}`),
    facts([
      ["task", link("task", { task: first.task_id }, first.task_id)],
      ["advantage", found.advantage],
      ["used by the step that trained version", first.consumed ?? "none yet"],
    ]),
    el("p", {}, first.question),
    el("div", { class: "columns" }, found.rows.map((item) =>
      el("article", {},
        el("h3", {}, link("trajectory", { group: id, sibling: item.sibling }, `Sibling ${item.sibling}`)),
        facts([
          ["reward", signed(item.reward)],
          ["advantage", signed(item.advantage)],
          ["ended", item.stop_reason],
          ["turns", number(item.turns)],
          ["tokens", number(item.policy_tokens)],
          ["version", versions(item)],
          ["lag", number(item.lag)],
          ["seconds", number(item.seconds)],
          ["operators", item.operators.join(", ")],
        ]),
        el("div", { class: "part answer" }, el("b", {}, "answer"), el("pre", {}, item.answer)),
        turns({ group: id, sibling: item.sibling })))),
  ];
}

export async function task({ task: id }) {
  const found = await api("task", { task: id });
  const rows = found.rows;
  const pick = (name, item, on) =>
    el("td", {}, el("input", {
      type: "radio", name, value: rows.indexOf(item), checked: on,
      "aria-label": `${name === "a" ? "old" : "new"}: trajectory ${item.group_id}/${item.sibling}`,
    }));
  const compare = (event) => {
    event.preventDefault();
    const data = new FormData(form);
    const [a, b] = [rows[data.get("a")], rows[data.get("b")]];
    location.hash = address("compare", {
      a_group: a.group_id, a_sibling: a.sibling, b_group: b.group_id, b_sibling: b.sibling,
    });
  };
  const form = el("form", { submit: compare },
    table(`${rows.length} trajectories, oldest version first`,
      rows.map((item, n) => row(item, [pick("a", item, n === 0), pick("b", item, n === rows.length - 1)])),
      [["old", ""], ["new", ""]]),
    el("button", { type: "submit" }, "Compare the two"));
  return [el("h1", {}, `Task ${id}`), el("p", {}, rows[0].question), form];
}
