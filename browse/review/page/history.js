// Undo and redo over all images: each step knows its lines as they were and as they became.

import { state } from "./state.js";
import { changeTo, save } from "./saving.js";

const STEPS = 1000; // that are kept

const done = []; // [{label, before: [snapshot], after: [snapshot]}]
let undone = [];

export function push(label, before, after) {
  done.push({ label, before, after });
  if (done.length > STEPS) done.shift();
  undone = [];
}

// The steps of these lines are not what the server has any more.
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

// Restores the lines of the last step; show(number, restored) brings the first of them up. Returns what was done.
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
