// Keyboard shortcuts.

import * as candidates from "./candidates.js";
import { toggleComparison } from "./compare.js";
import { closeCrops, isOpen as cropsAreOpen, openCrops, pressInCrops, reload as reloadCrops } from "./crops.js";
import { byId, showStatus } from "./dom.js";
import * as edits from "./edits.js";
import * as history from "./history.js";
import { go, goToLine, goToOpen, restore, step } from "./navigation.js";
import { isUnsaved } from "./saving.js";
import { openSearch } from "./search.js";
import { kinds, state } from "./state.js";

const ZOOM = 1.5;
const REGIONS = ["stage", "boxes", "strip", "filter-text", "help-button"]; // in the order in which F6 visits them

export const actions = {}; // name -> function that buttons and keys call

export function startKeys(canvas) {
  Object.assign(actions, actionsWith(canvas));
  document.addEventListener("keydown", (event) => press(event, canvas));
  for (const button of document.querySelectorAll("[data-do]")) {
    button.addEventListener("click", () => {
      actions[button.dataset.do]();
      if (button.closest("footer")) byId("stage").focus({ preventScroll: true });
    });
  }
}

function actionsWith(canvas) {
  return {
    accept: () => accept(canvas),
    skip: () => saveAndGoOn(edits.skip),
    next: () => step(1),
    previous: () => step(-1),
    open: () => goToOpen(),
    first: () => go(0),
    last: () => go(state.view.count - 1),
    delete: edits.deleteBox,
    ignore: edits.toggleIgnore,
    kind: () => { if (state.line) openSearch(edits.setKind); },
    undo: () => turn(history.undo, "undone"),
    redo: () => turn(history.redo, "redone"),
    withdraw: edits.withdraw,
    reset: edits.resetBoxes,
    hide: () => canvas.toggleBoxes(),
    tags: () => showStatus(`tags: ${canvas.nextTagMode()}`),
    larger: () => canvas.setZoom(canvas.zoom * ZOOM),
    smaller: () => canvas.setZoom(canvas.zoom / ZOOM),
    fit: () => canvas.setZoom(1),
    takeBest: candidates.takeBest,
    takeAll: candidates.takeAll,
    ghosts: candidates.toggle,
    lower: () => candidates.moveFloors(-1),
    raise: () => candidates.moveFloors(1),
    compare: toggleComparison,
    crops: () => (cropsAreOpen() ? closeCrops() : openCrops()),
    copy: edits.copyBox,
    paste: edits.pasteBox,
    theme: nextTheme,
    filter: () => { byId("filter-text").focus(); byId("filter-text").select(); },
    line: () => { byId("go-to").focus(); byId("go-to").select(); },
    help: () => byId("help").showModal(),
    deselect: () => edits.select(null),
  };
}

// Accepting means that a person has seen the image with all its boxes.
async function accept(canvas) {
  const obstacle = canvas.obstacle();
  if (obstacle) return showStatus(obstacle, true);
  if (canvas.hidden) {
    canvas.toggleBoxes();
    return showStatus("the boxes were hidden: check them, then accept", true);
  }
  await saveAndGoOn(edits.accept);
}

// Continues only after the line is saved; if its change was refused, the line is shown again with the reason.
async function saveAndGoOn(act) {
  const number = state.line?.number;
  if (number === undefined) return;
  await act();
  if (!isUnsaved() && state.line?.number === number) await goToOpen();
}

async function turn(act, words) {
  const label = await act(async (line, saved) => {
    if (line.number === state.line?.number) restore(line);
    await saved;
    if (line.number !== state.line?.number && !cropsAreOpen()) await goToLine(line.number);
  });
  showStatus(label ? `${label} ${words}` : `nothing can be ${words}`);
  if (cropsAreOpen()) reloadCrops();
}

const KEYS = {
  Enter: "accept", " ": "accept", s: "skip", ArrowRight: "next", ArrowLeft: "previous", j: "next", k: "previous",
  n: "open", Home: "first", End: "last", x: "delete", Delete: "delete", Backspace: "delete", i: "ignore", c: "kind",
  "/": "kind", z: "undo", y: "redo", u: "withdraw", r: "reset", h: "hide", t: "tags", "+": "larger", "=": "larger",
  "-": "smaller", 0: "fit", a: "takeBest", g: "ghosts", "[": "lower", "]": "raise", m: "compare", v: "crops", f: "filter",
  l: "line", d: "theme", "?": "help", Escape: "deselect",
};
const WITH_CONTROL = { z: "undo", y: "redo", c: "copy", v: "paste" };
const ONCE = new Set(["accept", "skip", "takeAll", "undo", "redo", "delete"]); // a key held down must not repeat these

function press(event, canvas) {
  if (event.defaultPrevented || !state.view || document.querySelector("dialog[open]")) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key; // Caps Lock
  if (key === "F6" && !cropsAreOpen()) { // out of a field too
    event.preventDefault();
    return moveFocus(event.shiftKey ? -1 : 1);
  }
  if (event.target.closest("input, select, textarea")) {
    if (key === "Escape") byId("stage").focus();
    return;
  }
  if (cropsAreOpen() && pressInCrops(key, event)) return event.preventDefault();
  if (event.target.closest("button, a, summary") && (key === "Enter" || key === " ")) return;
  const act = actionOf(event, key, canvas);
  if (!act) return;
  event.preventDefault();
  act();
}

function actionOf(event, key) {
  const control = event.ctrlKey || event.metaKey;
  const name = control ? (key === "z" && event.shiftKey ? "redo" : WITH_CONTROL[key]) : KEYS[key];
  if (event.repeat && ONCE.has(name)) return () => {};
  if (cropsAreOpen()) return ["undo", "redo", "help", "theme"].includes(name) ? actions[name] : null;
  if (control) {
    if (name === "copy" && !getSelection().isCollapsed) return null;
    return name ? actions[name] : null;
  }
  if (key === "Tab") return onStage() ? () => edits.selectNext(event.shiftKey ? -1 : 1) : null;
  if (event.shiftKey && key.startsWith("Arrow")) return () => edits.nudge(key, event.altKey);
  if (event.altKey) return null;
  if (event.shiftKey && key === "a") return event.repeat ? () => {} : actions.takeAll;
  if (/^[1-9]$/.test(key)) return () => { const kind = kinds()[Number(key) - 1]; if (kind && state.line) edits.setKind(kind.label); };
  return Object.hasOwn(KEYS, key) ? actions[name] : null;
}

// Tab goes through the boxes while the picture has the focus, and through the page's controls elsewhere.
function onStage() {
  const { activeElement } = document;
  return activeElement === document.body || activeElement === byId("stage");
}

function moveFocus(by) {
  const here = REGIONS.findIndex((id) => byId(id).contains(document.activeElement));
  const next = REGIONS[(Math.max(here, 0) + by + REGIONS.length) % REGIONS.length];
  byId(next).focus();
}

function nextTheme() {
  const now = document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: light)").matches ? "light" : "dark");
  const theme = now === "dark" ? "light" : "dark";
  document.documentElement.dataset.theme = theme;
  try {
    localStorage.setItem("groundhog-theme", theme);
  } catch {
    // storage is disabled in this browser
  }
}

