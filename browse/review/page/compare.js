// Draws the boxes of another label file over these: gained, lost, moved or relabelled; right or wrong.

import { request } from "./api.js";
import { byId, make, showStatus } from "./dom.js";
import { state, notify } from "./state.js";

// change -> [word, colour]; black text is legible on every colour
const CHANGES = {
  same: ["same", "#b8bcc4"], gained: ["gained", "#3ecf8e"], lost: ["lost", "#ff7a6b"], moved: ["moved", "#ffb84d"],
  relabelled: ["relabelled", "#c792ff"],
};
const AGAINST_TRUTH = {
  same: ["right", "#3ecf8e"], gained: ["wrong", "#ff7a6b"], lost: ["missed", "#ff9de0"], moved: ["shifted", "#ffb84d"],
  relabelled: ["wrong name", "#c792ff"],
};
const ORDER = ["same", "moved", "relabelled", "gained", "lost"];

let shown = false;

export const wordOf = (change) => (state.comparison.truth ? AGAINST_TRUTH : CHANGES)[change][0];
export const colourOf = (change) => (state.comparison.truth ? AGAINST_TRUTH : CHANGES)[change][1];

export async function loadComparison() {
  const { line } = state;
  state.comparison = null;
  byId("comparison").hidden = true;
  if (!shown || !state.overview.other || !line) return;
  const { comparison } = await request(`lines/${line.number}/comparison`).catch(() => ({ comparison: null }));
  if (!comparison || state.line !== line) return;
  state.comparison = comparison;
  showCounts();
  notify("boxes");
}

function showCounts() {
  const { changes, boxes, known, name } = state.comparison;
  const every = [...changes, ...boxes.filter((box) => box.change === "lost").map((box) => box.change)];
  const there = ORDER.filter((change) => every.includes(change));
  const words = there.map((change) => {
    const part = make("span", "change-count", `${every.filter((each) => each === change).length} ${wordOf(change)}`);
    part.style.setProperty("--change", colourOf(change));
    return part;
  });
  const parts = words.flatMap((word, index) => (index ? [", ", word] : [word]));
  const said = known ? [`against ${name}: `, ...(parts.length ? parts : ["no boxes"])] : [`${name} has no line for this image`];
  byId("comparison").replaceChildren(...said);
  byId("comparison").hidden = false;
}

export function toggleComparison() {
  if (!state.overview.other) return showStatus("there are no other labels: start the server with --compare FILE", true);
  shown = !shown;
  byId("compare-button").setAttribute("aria-pressed", shown);
  if (shown) return loadComparison();
  byId("comparison").hidden = true;
  state.comparison = null;
  notify("boxes");
}
