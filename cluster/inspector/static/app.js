// Which page the address names, and the keys: / search, j and k rows, [ and ] siblings.

import { api, el, number } from "./dom.js";
import { compare } from "./compare.js";
import { group, task } from "./group.js";
import { list } from "./list.js";
import { trajectory } from "./trajectory.js";

const EVERY_MS = 5000;
const PAGES = { "": list, group, task, trajectory, compare };
const main = document.getElementById("main");
let drawing = 0;

const say = (text) => {
  const state = document.getElementById("state");
  if (state.textContent !== text) state.textContent = text; // else it would be read aloud again
};

async function about() {
  const found = await api("run");
  document.getElementById("run").textContent = found.name;
  say(`${found.status}; ${number(found.trajectories)} trajectories in ${number(found.groups)} groups`
    + (found.indexing ? "; the journal is being read …" : "")
    + (found.damaged ? `; ${number(found.damaged)} damaged groups left out` : ""));
  return found;
}

const problem = (text) => el("div", { class: "error", role: "alert" }, text);

async function draw() {
  drawing += 1;
  const mine = drawing;
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?", 2);
  const values = Object.fromEntries(new URLSearchParams(query ?? ""));
  let content;
  let known = { problems: [] };
  try {
    known = await about();
    const page = Object.hasOwn(PAGES, path) ? PAGES[path] : null;
    content = page ? await page(values, known) : [problem(`There is no page “${path}”.`)];
  } catch (error) {
    content = [problem(error.message)];
  }
  if (mine !== drawing) return; // another page was asked for meanwhile
  const nodes = content.flat(Infinity).filter((node) => node instanceof Node);
  main.replaceChildren(...known.problems.map(problem), ...nodes);
  document.title = `${main.querySelector("h1")?.textContent ?? "Inspector"} · ${known.name ?? ""}`;
  main.dataset.drawn = location.hash || "#/";
  if (!document.activeElement || document.activeElement === document.body) main.focus({ preventScroll: true });
  window.scrollTo(0, 0);
}

function key(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("input, select, textarea")) return;
  const rows = [...main.querySelectorAll("tbody tr a[href^='#/trajectory']")];
  const at = rows.indexOf(document.activeElement);
  if (event.key === "/") {
    event.preventDefault();
    document.getElementById("search")?.focus();
  } else if (event.key === "j") rows[Math.min(at + 1, rows.length - 1)]?.focus();
  else if (event.key === "k") rows[Math.max(at - 1, 0)]?.focus();
  else if (event.key === "[") document.getElementById("previous")?.click();
  else if (event.key === "]") document.getElementById("next")?.click();
}

window.addEventListener("hashchange", draw);
window.addEventListener("keydown", key);
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
setInterval(() => about().catch(() => say("The inspector does not answer.")), EVERY_MS);
draw();
