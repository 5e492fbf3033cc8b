// Changes to the current line. Each is saved at once and can be undone.

import { request } from "./api.js";
import { showBanner, showStatus } from "./dom.js";
import { rounded } from "./geometry.js";
import * as history from "./history.js";
import { changeTo, flush, save } from "./saving.js";
import { kinds, kindWord, snapshot, state, notify } from "./state.js";

let copied = null; // a box, {box, of, ignore}

// Applies an edit. An accepted line stays accepted; any other becomes a draft.
export function change(label, edit, wanted = state.line?.state === "accepted" ? "accepted" : "edited") {
  if (!state.line) return Promise.resolve(); // the next line is loading: a key must not change the previous one
  const before = snapshot();
  edit();
  Object.assign(state.line, { state: wanted, earlier: false });
  const after = snapshot();
  history.push(label, [before], [after]);
  notify("boxes");
  notify("progress");
  return save([changeTo(after)]);
}

export const accept = () => mark("acceptance", "accepted");
export const skip = () => mark("skip", "skipped");

// Pressing a key again while the first change is being saved is not a separate undo step.
function mark(label, wanted) {
  if (state.line?.state === wanted && !state.line.earlier) return flush();
  return change(label, () => {}, wanted);
}

export function withdraw() {
  if (!state.line || state.line.state === "untouched") return showStatus("this image has not been reviewed");
  const { since } = state.line;
  change("withdrawal", () => {
    state.boxes = structuredClone(state.line.model);
    state.selected = null;
  }, "untouched");
  if (since !== null && since < state.overview.round) {
    const { round } = state.overview;
    showBanner(`This was corrected in round ${since}; from round ${round} on, the model's labels are used.`, true);
  }
}

export function resetBoxes() {
  if (!state.line) return;
  change("reset", () => {
    state.boxes = structuredClone(state.line.model);
    state.selected = null;
  });
}

export function changeBox(index, box) {
  // A box loses its score when a person moves it: the score was for the old position.
  change("move", () => { state.boxes[index] = { ...state.boxes[index], box, score: null }; });
}

export function createBox(box, of = state.kind, ignore = false) {
  if (of === null) {
    notify("boxes");
    return showBanner("First select the words of the caption that the box belongs to, then draw it.");
  }
  change("new box", () => {
    state.boxes.push({ box: rounded(box), of, score: null, ignore });
    state.selected = state.boxes.length - 1;
  });
}

export function deleteBox() {
  if (state.selected === null) return showStatus("no box is selected");
  change("deletion", () => {
    state.boxes.splice(state.selected, 1);
    state.selected = null;
  });
}

export function toggleIgnore() {
  if (state.selected === null) return showStatus("no box is selected");
  const box = state.boxes[state.selected];
  change("ignore", () => { state.boxes[state.selected] = { ...box, ignore: !box.ignore }; });
}

// Sets the class or phrase of the selected box and of new boxes.
export function setKind(of) {
  state.kind = of;
  if (state.selected === null || state.boxes[state.selected].of === of) return notify("selection");
  change(kindWord(), () => { state.boxes[state.selected] = { ...state.boxes[state.selected], of, score: null }; });
}

export function addPhrase(start, end) {
  const text = Array.from(state.line.caption).slice(start, end).join("");
  state.phrases.push({ texts: [text], spans: [[start, end]] });
  setKind(state.phrases.length - 1);
  notify("boxes");
}

export function nudge(key, corner) {
  if (state.selected === null || !state.line) return;
  const { width, height } = state.line;
  const dx = { ArrowLeft: -1, ArrowRight: 1 }[key] ?? 0;
  const dy = { ArrowUp: -1, ArrowDown: 1 }[key] ?? 0;
  const [x1, y1, x2, y2] = state.boxes[state.selected].box;
  const box = corner ? [x1, y1, x2 + dx, y2 + dy] : [x1 + dx, y1 + dy, x2 + dx, y2 + dy];
  const fits = box[0] >= 0 && box[1] >= 0 && box[2] <= width && box[3] <= height && box[0] < box[2] && box[1] < box[3];
  if (fits) changeBox(state.selected, box);
}

export function copyBox() {
  if (state.selected === null) return showStatus("no box is selected");
  copied = structuredClone(state.boxes[state.selected]);
  showStatus("box copied");
}

export function pasteBox() {
  if (!copied || !state.line) return showStatus("no box was copied");
  const { width, height } = state.line;
  const [x1, y1, x2, y2] = copied.box;
  const [w, h] = [Math.min(x2 - x1, width), Math.min(y2 - y1, height)];
  const there = state.boxes.some((each) => each.box.every((side, index) => side === copied.box[index]));
  const shift = there ? 8 : 0; // shifted so that it does not hide the original
  const left = Math.min(x1 + shift, width - w);
  const top = Math.min(y1 + shift, height - h);
  const known = kinds().some((kind) => kind.label === copied.of);
  createBox([left, top, left + w, top + h], known ? copied.of : state.kind, copied.ignore);
}

export function select(index) {
  state.selected = index;
  if (index !== null) state.kind = state.boxes[index].of;
  notify("selection");
}

export function selectNext(step) {
  const count = state.boxes.length;
  if (!count) return;
  // Without a selection, forwards selects the first box and backwards the last.
  const from = state.selected ?? (step > 0 ? -1 : count);
  select((from + step + count) % count);
}

export async function addCategory(name) {
  try {
    const { categories } = await request("categories", { name });
    state.overview.categories = categories;
    const added = categories.find((each) => each.name === name.trim());
    notify("boxes");
    if (added) setKind(added.label);
  } catch (error) {
    showBanner(error.message);
  }
}
