// Undo and redo across all images: each step stores its lines before and after the change.

import { state } from "./state.js";
import { changeTo, save } from "./saving.js";

const STEPS = 1000; // maximum number of steps kept

const done = []; // [{label, before: [snapshot], after: [snapshot]}]
let undone = [];

export function push(label, before, after) {
  done.push({ label, before, after });
  if (done.length > STEPS) done.shift();
  undone = [];
}

// Drops the steps of lines whose saved state no longer matches them.
export function forget(numbers) {
  const others = (step) => !step.after.some(({ number }) => numbers.includes(number));
  const kept = done.filter(others);
  done.splice(0, done.length, ...kept);
  undone = undone.filter(others);
}

export function undo(show) {
  return turn(done, undone, "before", show);
}

export function redo(show) {
  return turn(undone, done, "after", show);
}

// Restores the lines of the last step; show(number, restored) displays the first of them. Returns the step's label.
async function turn(from, to, side, show) {
  const step = from.pop();
  if (!step) return null;
  to.push(step);
  const lines = structuredClone(step[side]);
  const saved = save(lines.map(changeTo));
  const here = lines.find(({ number }) => number === state.line?.number);
  await show(here ?? lines[0], saved);
  return step.label;
}
