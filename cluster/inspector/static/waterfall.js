// Operator calls on the time axis of the episode.

import { el, number } from "./dom.js";

function bar(call, whole) {
  const failed = call.status !== "ok";
  const span = el("span", { class: failed ? "failed" : call.cache_hit ? "hit" : "" });
  span.style.left = `${Math.min(100, (100 * call.begin) / whole)}%`;
  span.style.width = `${Math.min(100, (100 * call.seconds) / whole)}%`;
  return el("div", { class: "track", "aria-hidden": "true" }, span);
}

const COLUMNS = ["turn", "operator", "when", "begin, s", "seconds", "backend", "status", "cache",
  "prompt tokens", "reply tokens", "US dollars"];

export function waterfall(calls, seconds) {
  if (!calls.length) return el("section", {}, el("h2", {}, "Operator calls"), el("p", {}, "None."));
  const whole = Math.max(seconds, ...calls.map((c) => c.begin + c.seconds), 1e-9);
  return el("section", {}, el("h2", {}, "Operator calls"),
    calls.some((c) => c.placed) && el("p", { class: "told" },
      "When these calls began was not recorded; they are drawn one behind the other."),
    el("div", { class: "scroll" }, el("table", {},
      el("caption", { class: "told" }, `${calls.length} calls within ${number(whole)} s`),
      el("thead", {}, el("tr", {}, COLUMNS.map((name) => el("th", { scope: "col" }, name)))),
      el("tbody", {}, calls.map((call) => el("tr", {},
        [call.turn < 0 ? "–" : call.turn, call.operator, bar(call, whole), number(call.begin),
          number(call.seconds), call.backend, call.status, call.cache_hit ? "hit" : "",
          number(call.prompt_tokens), number(call.completion_tokens), number(call.cost_usd),
        ].map((value) => el("td", {}, value))))))));
}
