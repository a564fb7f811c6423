// The page of a served director. Whatever a model or a client wrote goes into text nodes only.
"use strict";

const $ = (id) => document.getElementById(id);
const element = (name, kind, ...children) => {
  const made = document.createElement(name);
  if (kind) made.className = kind;
  made.append(...children.map((child) => child ?? ""));
  return made;
};

let asking = null;
let turns = [];

function begin() {
  turns = [];
  for (const id of ["result", "drawn", "told", "found"]) $(id).hidden = true;
  for (const id of ["answer", "facts", "graph", "turns-list", "sources"]) $(id).replaceChildren();
}

function say(text, bad = false) {
  $("status").textContent = text;
  $("status").className = bad ? "bad" : "";
}

function number(id) {
  const value = $(id).value.trim();
  return value === "" ? undefined : Number(value);
}

function body() {
  return JSON.stringify({
    question: $("question").value,
    temperature: number("temperature"),
    seed: number("seed"),
    budgets: { turns: number("turns"), seconds: number("seconds") },
    stream: true,
  });
}

function headers() {
  const key = $("key").value.trim();
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

function turn(index) {
  while (turns.length <= index) {
    const kind = element("b", "", "");
    const seconds = element("span", "", "");
    const written = element("pre");
    const seen = element("pre", "seen");
    seen.hidden = true;
    const head = element("div", "head", `Turn ${turns.length + 1}`, kind, seconds);
    $("turns-list").append(element("li", "", head, written, seen));
    turns.push({ kind, seconds, written, seen });
  }
  $("told").hidden = false;
  return turns[index];
}

// Nested structures of operators as boxes: a sequence from left to right, branches one below another.
function block(nodes) {
  const row = element("div", "block");
  nodes.forEach((node, index) => {
    if (index) row.append(element("span", "arrow", "→"));
    row.append(drawn(node));
  });
  return row;
}

function drawn(node) {
  if (node.parallel) return group("parallel", node.parallel);
  if (node.if) return group("if", [[node.if], node.true, node.false]);
  if (node.loop) return group(`at most ${node.count} ×`, [node.loop, ...(node.until ? [[node.until]] : [])]);
  return element("div", "node", node.operator, element("small", "", node.id));
}

function group(title, lanes) {
  return element("div", "group", element("small", "", title), element("div", "lanes", ...lanes.map(block)));
}

const HANDLERS = {
  workflow(data) {
    say(`Working · version ${data.policy_version}`);
    $("version").textContent = `version ${data.policy_version}`;
  },
  token(data) {
    turn(data.turn).written.textContent += data.text;
  },
  turn(data) {
    turn(data.turn).written.textContent = data.text;
  },
  observation(data) {
    const at = turn(data.turn);
    at.kind.textContent = data.operator || data.kind;
    at.kind.className = data.kind;
    at.seconds.textContent = `${data.seconds.toFixed(2)} s`;
    if (!data.observation) return;
    at.seen.hidden = false;
    at.seen.textContent = data.observation;
    if (data.operator !== "Search") return;
    $("found").hidden = false;
    const text = data.observation.replace(/^<info>|<\/info>$/g, "");
    $("sources").append(element("li", "", element("pre", "", text)));
  },
  graph(data) {
    $("drawn").hidden = data.workflow.length === 0;
    $("graph").replaceChildren(block(data.workflow));
  },
  result(data) {
    say(`Done: ${data.stop_reason.replaceAll("_", " ")}`);
    $("result").hidden = false;
    $("answer").textContent = data.answer || "(no answer)";
    const facts = {
      Turns: data.turns.length,
      "Operator calls": data.operator_calls,
      Tokens: data.tokens.total,
      Cost: `$${data.cost_usd.toFixed(4)}`,
      Time: `${data.seconds.toFixed(2)} s`,
      Version: data.policy_version,
    };
    for (const [name, value] of Object.entries(facts)) {
      $("facts").append(element("div", "", element("dt", "", name), element("dd", "", String(value))));
    }
  },
  error(data) {
    say(data.message, true);
  },
};

function handle(text) {
  let name = "message";
  let data = "";
  for (const line of text.split("\n")) {
    if (line.startsWith("event: ")) name = line.slice(7);
    if (line.startsWith("data: ")) data += line.slice(6);
  }
  if (data && Object.hasOwn(HANDLERS, name)) HANDLERS[name](JSON.parse(data));
}

async function ask() {
  asking?.abort();
  const mine = (asking = new AbortController());
  begin();
  say("Asking …");
  $("stop").disabled = false;
  try {
    const answer = await fetch("v1/workflows", {
      method: "POST", headers: headers(), body: body(), signal: mine.signal,
    });
    if (!answer.ok) {
      const refusal = await answer.json();
      const again = answer.headers.get("Retry-After");
      say(refusal.error.message + (again ? ` (again in ${again} s)` : ""), true);
      return;
    }
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let left = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      const parts = (left + value).split("\n\n");
      left = parts.pop();
      parts.forEach(handle);
    }
  } catch (error) {
    say(mine.signal.aborted ? "Cancelled" : `No answer: ${error.message}`, !mine.signal.aborted);
  } finally {
    if (asking === mine) {
      asking = null;
      $("stop").disabled = true;
    }
  }
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
$("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("ask").requestSubmit();
});
$("stop").addEventListener("click", () => asking?.abort());
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") asking?.abort();
});
