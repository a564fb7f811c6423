// One trajectory, turn by turn.

import { address, api, apiAddress, el, facts, link, number, signed, versions } from "./dom.js";
import { canvas } from "./canvas.js";
import { MODES, legend, tokens } from "./tokens.js";
import { waterfall } from "./waterfall.js";

const part = (kind, text) =>
  el("div", { class: `part ${kind}` }, el("b", {}, kind), el("pre", {}, text));

export const message = ({ role, content }) =>
  el("div", { class: "part info" }, el("b", {}, role === "tool" ? "info" : role), el("pre", {}, content));

export function turnText(turn, edits) {
  if (turn.parts === null) return el("p", { class: "told" }, "The turn was cut short; its tokens are its record.");
  const names = { text: edits ? "edit" : "text" };
  return turn.parts.map(({ kind, text }) => part(names[kind] ?? kind, text));
}

function turnArticle(found, turn, mode) {
  const body = el("div");
  if (mode === "text")
    body.append(...[turnText(turn, found.canvas !== null), turn.observed.map(message)].flat());
  else
    tokens(mode, found, turn).then(
      (content) => body.replaceChildren(content),
      (error) => body.replaceChildren(el("p", { class: "error" }, error.message)));
  return el("article", { id: `turn-${turn.number}`, tabindex: "-1" },
    el("h3", {}, `Turn ${turn.number}: ${turn.kind}`, turn.operator && ` (${turn.operator})`),
    facts([
      ["finish", turn.finish_reason],
      ["tokens", number(turn.end - turn.start)],
      ["mean log p", number(turn.logprob_mean)],
      ["version", versions(turn)],
      ["lag", turn.lag === null ? null : number(turn.lag)],
      ["", turn.masked ? "masked: older than objective.max_turn_lag" : ""],
      ["", turn.fresh_context ? "sees only the prompt before it" : ""],
    ]),
    body);
}

function head(found, key) {
  const at = found.siblings.indexOf(found.sibling);
  const other = (name, step) => {
    const sibling = found.siblings[at + step];
    return sibling !== undefined && el("a", { class: "button", id: name,
      href: address("trajectory", { ...key, sibling }) }, `${name === "previous" ? "‹" : ""} sibling ${sibling} ${name === "next" ? "›" : ""}`);
  };
  const copy = el("button", { type: "button", click: async () => {
    await navigator.clipboard.writeText(location.href);
    copy.textContent = "Link copied";
  } }, "Copy link");
  return [
    el("h1", {}, `Trajectory ${found.group_id}/${found.sibling}`),
    facts([
      ["task", link("task", { task: found.task_id }, found.task_id)],
      ["group", link("group", { group: found.group_id }, found.group_id)],
      ["reward", signed(found.reward)],
      ["advantage", signed(found.advantage)],
      ["ended", found.stop_reason],
      ["version", versions(found)],
      ["lag", number(found.lag)],
      ["used by the step that trained version", found.consumed ?? "none yet"],
      ["tokens", `${number(found.policy_tokens)} of ${number(found.tokens)}`],
      ["seconds", number(found.seconds)],
      ["answer", found.answer],
      ["parts", Object.entries(found.reward_parts).map(([k, v]) => `${k} ${number(v)}`).join(", ")],
    ]),
    el("div", { class: "bar" }, other("previous", -1), other("next", 1), copy,
      el("a", { class: "button", download: "trajectory.json", href: apiAddress("export", key) }, "Export JSON")),
    found.error && el("div", { class: "error" }, el("b", {}, "The episode failed"), el("pre", {}, found.error)),
  ];
}

export async function trajectory(values) {
  const key = { group: values.group, sibling: values.sibling };
  const found = await api("trajectory", key);
  const mode = values.show in MODES ? values.show : "text";
  const chosen = Math.min(Number(values.turn ?? found.turns.length - 1), found.turns.length - 1);
  const replace = (more) => history.replaceState(null, "", address("trajectory", { ...values, ...more }));
  const mark = (at) => {
    for (const article of document.querySelectorAll("article[id]"))
      article.classList.toggle("current", article.id === `turn-${at}`);
    replace({ turn: at });
  };
  const turns = el("div");
  const draw = (how) => turns.replaceChildren(
    how === "text" ? "" : legend(how, found),
    ...found.turns.map((turn) => turnArticle(found, turn, how)));
  const select = el("select", { id: "show", change: () => {
    replace({ show: select.value });
    draw(select.value);
  } }, Object.entries(MODES).map(([value, name]) =>
    el("option", { value, selected: value === mode }, name)));
  draw(mode);
  return [
    head(found, key),
    found.canvas?.length > 0 && canvas(found.canvas, chosen, mark),
    waterfall(found.calls, found.seconds),
    el("h2", {}, "Turns"),
    el("label", { for: "show" }, "Show"), select,
    el("details", {}, el("summary", {}, "Prompt"), found.prompt.map(message)),
    found.turns.length ? turns : el("p", {}, "The episode ended before its first turn."),
  ];
}
