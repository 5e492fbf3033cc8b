// The other label file's boxes over ours: what was gained, lost, moved or relabelled.

import { ask } from "./api.js";
import { byId, showStatus } from "./dom.js";
import { state, tell } from "./state.js";

let shown = false;

export async function loadComparison() {
  const { line } = state;
  state.comparison = null;
  if (!shown || !state.overview.other || !line) return;
  const { comparison } = await ask(`lines/${line.number}/comparison`).catch(() => ({ comparison: null }));
  if (state.line !== line) return;
  state.comparison = comparison;
  const counts = new Map();
  for (const each of [...comparison.changes, ...comparison.boxes.filter((box) => box.change === "lost").map((box) => box.change)]) {
    counts.set(each, (counts.get(each) ?? 0) + 1);
  }
  byId("comparison").hidden = false;
  const words = [...counts].map(([change, count]) => `${count} ${change}`).join(", ") || "no boxes";
  byId("comparison").textContent = comparison.known ? `against ${comparison.name}: ${words}` : `${comparison.name} has no line for this image`;
  tell("boxes");
}

export function toggleComparison() {
  if (!state.overview.other) return showStatus("start with --compare FILE to see other labels", true);
  shown = !shown;
  byId("compare-button").setAttribute("aria-pressed", shown);
  byId("comparison").hidden = true;
  if (shown) return loadComparison();
  state.comparison = null;
  tell("boxes");
}
