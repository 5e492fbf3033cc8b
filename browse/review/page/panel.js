// The lists beside the picture: boxes, categories or phrases, and details of the line.

import { byId, make, makeRow, many } from "./dom.js";
import { select, setKind } from "./edits.js";
import { kinds, kindWord, listen, state } from "./state.js";

const MARKS = { untouched: "not reviewed", edited: "edited, not accepted", accepted: "accepted", skipped: "skipped" };
const NUMBERED = 9; // categories with a number key
const MANY = 30; // with more categories than this, those in the image come first

export function startPanel() {
  listen("line", drawAll);
  listen("boxes", drawLists);
  listen("selection", drawSelection);
  listen("progress", drawState);
}

function drawAll() {
  if (!state.view?.count) drawNothing();
  drawLists();
  drawState();
}

// A filter that no image fits: nothing of the image before may seem to be here.
function drawNothing() {
  for (const id of ["boxes", "kinds"]) byId(id).replaceChildren();
  for (const id of ["name", "badge"]) byId(id).textContent = "";
  for (const id of ["withdraw", "reset", "reason", "add-category"]) byId(id).hidden = true;
  byId("boxes-title").textContent = "No image";
  byId("position").textContent = "0 / 0";
}

function drawLists() {
  if (!state.line) return;
  drawBoxes();
  drawKinds();
  drawSelection();
}

function drawBoxes() {
  const { boxes } = state;
  const known = new Map(kinds().map((kind) => [kind.label, kind]));
  byId("boxes-title").textContent = many(boxes.length, "box");
  byId("boxes").replaceChildren(...boxes.map((each, index) => {
    const kind = known.get(each.of);
    const note = each.ignore ? "ignored" : each.score === null ? "by hand" : each.score.toFixed(2);
    const row = makeRow(kind?.colour ?? "#888", kind?.name ?? "?", note);
    row.setAttribute("role", "option");
    row.classList.toggle("ignored", each.ignore);
    row.addEventListener("click", () => select(index));
    return row;
  }));
  byId("boxes-empty").hidden = boxes.length > 0;
}

function drawKinds() {
  const all = kinds().map((kind, index) => ({ ...kind, index }));
  const counts = new Map();
  for (const each of state.boxes) counts.set(each.of, (counts.get(each.of) ?? 0) + 1);
  if (all.length > MANY) all.sort((a, b) => (counts.has(b.label) - counts.has(a.label)) || a.index - b.index);
  byId("kinds-title").textContent = kindWord() === "phrase" ? "Phrases" : "Categories";
  byId("kinds").replaceChildren(...all.map((kind) => {
    const row = makeRow(kind.colour, kind.name, `${counts.get(kind.label) ?? ""}`);
    row.prepend(make("kbd", kind.index < NUMBERED ? "" : "none", `${kind.index + 1}`));
    row.dataset.label = kind.label;
    row.setAttribute("role", "option");
    row.addEventListener("click", () => setKind(kind.label));
    return row;
  }));
  byId("add-category").hidden = kindWord() === "phrase" || !state.overview.may_add_category;
}

function drawSelection() {
  mark(byId("boxes").children, (_, index) => index === state.selected);
  mark(byId("kinds").children, (row) => Number(row.dataset.label) === state.kind);
  byId("boxes").children[state.selected]?.scrollIntoView({ block: "nearest" });
}

function mark(rows, chosen) {
  [...rows].forEach((row, index) => {
    row.classList.toggle("chosen", chosen(row, index));
    row.setAttribute("aria-selected", chosen(row, index));
  });
}

function drawState() {
  const { progress, line, position, view } = state;
  if (progress) {
    const { accepted, edited, skipped, lines } = progress;
    byId("progress").textContent = `${accepted} of ${lines} accepted`;
    byId("progress").title = `${edited} edited and not accepted, ${skipped} skipped`;
    byId("bar").value = accepted / Math.max(1, lines);
  }
  if (!line) return;
  byId("position").textContent = position === null ? "not in this filter" : `${position + 1} / ${view.count}`;
  byId("name").textContent = line.filename;
  byId("name").title = line.filename;
  byId("badge").textContent = MARKS[line.state];
  byId("badge").className = line.state;
  byId("badge").title = line.at ? `by ${line.reviewer}, ${new Date(line.at).toLocaleString()}` : "";
  byId("withdraw").hidden = line.state === "untouched";
  byId("reset").hidden = JSON.stringify(line.model) === JSON.stringify(state.boxes);
  byId("reason").hidden = !line.reason;
  byId("reason").textContent = line.reason;
}
