// The list: search, filters, order, pages. All of it is in the address.

import { address, api, el, link, number, signed, versions } from "./dom.js";

const COUNT = 50;
const COLUMNS = [
  ["task", ""], ["question", ""], ["trajectory", ""], ["reward", "n"], ["ended", ""],
  ["turns", "n"], ["tokens", "n"], ["version", "n"], ["lag", "n"], ["seconds", "n"],
  ["US dollars", "n"], ["operators", ""], ["answer", ""],
];

function choice(name, label, values, chosen, any = "any") {
  const options = values.map(({ value, n }) =>
    el("option", { value, selected: value === chosen }, n === undefined ? value : `${value} (${number(n)})`));
  return el("label", {}, label,
    el("select", { name }, any && el("option", { value: "" }, any), options));
}

const input = (name, label, value, attributes = {}) =>
  el("label", {}, label, el("input", { name, value: value ?? "", ...attributes }));

const whole = { type: "number", step: "1" };

function form(about, chosen) {
  const submit = (event) => {
    event?.preventDefault();
    const values = Object.fromEntries(new FormData(filters));
    location.hash = address("", values);
  };
  const filters = el("form", { submit, change: submit, role: "search", "aria-label": "Filters" },
    input("text", "Search task, question, answer ( / )", chosen.text, { type: "search", id: "search" }),
    input("task", "Task", chosen.task),
    choice("stop_reason", "Ended", about.stop_reasons, chosen.stop_reason),
    choice("operator", "Operator", about.operators, chosen.operator),
    about.sources.length > 1 && choice("source", "Source", about.sources, chosen.source),
    input("reward_min", "Reward from", chosen.reward_min, { type: "number", step: "any" }),
    input("reward_max", "to", chosen.reward_max, { type: "number", step: "any" }),
    input("lag_min", "Lag from", chosen.lag_min, whole),
    input("lag_max", "to", chosen.lag_max, whole),
    input("version", "Version", chosen.version, whole),
    choice("order", "Order", about.orders.map((value) => ({ value })), chosen.order ?? "newest", ""),
    el("button", { type: "submit" }, "Show"),
    el("a", { class: "button", href: "#/" }, "All"));
  return filters;
}

export function row(item, more = []) {
  const key = { group: item.group_id, sibling: item.sibling };
  return el("tr", {},
    el("td", {}, link("task", { task: item.task_id }, item.task_id)),
    el("td", { class: "question" }, item.question),
    el("td", {}, link("trajectory", key, `${item.group_id}/${item.sibling}`), " ",
      link("group", { group: item.group_id }, "group")),
    el("td", { class: "n" }, signed(item.reward)),
    el("td", {}, item.stop_reason),
    el("td", { class: "n" }, number(item.turns)),
    el("td", { class: "n" }, number(item.policy_tokens)),
    el("td", { class: "n" }, versions(item)),
    el("td", { class: "n" }, number(item.lag)),
    el("td", { class: "n" }, number(item.seconds)),
    el("td", { class: "n" }, number(item.cost_usd)),
    el("td", {}, item.operators.join(", ")),
    el("td", {}, item.answer),
    more);
}

export const table = (caption, rows, more = []) =>
  el("div", { class: "scroll" },
    el("table", {},
      el("caption", { class: "told" }, caption),
      el("thead", {}, el("tr", {},
        [...COLUMNS, ...more].map(([name, kind]) => el("th", { scope: "col", class: kind }, name)))),
      el("tbody", {}, rows)));

// The table of a page, or a sentence where there is none.
function shown(about, found) {
  if (found.rows.length)
    return table(`${number(found.start + 1)} to ${number(found.start + found.rows.length)} of `
      + number(found.total), found.rows.map((item) => row(item)));
  if (about.trajectories) return el("p", {}, "No trajectory passes this filter.");
  return el("p", {}, about.indexing ? "The journal is being read …"
    : "This run has finished no trajectory yet.");
}

export async function list(values, about) {
  const start = Number(values.start ?? 0);
  const found = await api("trajectories", { ...values, start, count: COUNT });
  const to = (first) => { location.hash = address("", { ...values, start: first || "" }); };
  const last = Math.max(0, Math.floor((found.total - 1) / COUNT) * COUNT);
  const button = (name, first, off) =>
    el("button", { type: "button", disabled: off, click: () => to(first) }, name);
  return [
    el("h1", {}, "Trajectories"),
    form(about, values),
    shown(about, found),
    el("nav", { class: "bar", "aria-label": "Pages of the list" },
      button("First", 0, start === 0),
      button("Previous", Math.max(0, start - COUNT), start === 0),
      button("Next", start + COUNT, start + COUNT >= found.total),
      button("Last", last, start + COUNT >= found.total)),
  ];
}
