// The caption with its phrases in colour. Words selected with the mouse can be made a phrase.

import { byId, make } from "./dom.js";
import { addPhrase, setKind } from "./edits.js";
import { kinds, listen, state } from "./state.js";

export function startCaption() {
  listen("line", draw);
  listen("boxes", draw);
  listen("selection", draw);
  document.addEventListener("selectionchange", offerPhrase);
}

// Long phrases come first, so that a phrase inside another keeps its colour.
function draw() {
  const bar = byId("caption");
  bar.hidden = !state.line || state.line.caption === null;
  if (bar.hidden) return;
  const letters = Array.from(state.line.caption); // code points, as spans count them
  const owner = new Array(letters.length).fill(null);
  const length = (phrase) => phrase.spans.reduce((sum, [start, end]) => sum + end - start, 0);
  const order = state.phrases.map((_, index) => index).sort((a, b) => length(state.phrases[b]) - length(state.phrases[a]));
  for (const index of order) for (const [start, end] of state.phrases[index].spans) owner.fill(index, start, end);
  bar.replaceChildren();
  for (let start = 0; start < letters.length;) {
    let end = start + 1;
    while (end < letters.length && owner[end] === owner[start]) end += 1;
    bar.append(piece(letters.slice(start, end).join(""), owner[start], start));
    start = end;
  }
}

function piece(text, index, start) {
  const part = make("span", index === null ? "" : "phrase", text);
  part.dataset.start = start;
  if (index === null) return part;
  const found = state.boxes.some((each) => each.of === index);
  const { colour, ink } = kinds()[index];
  part.classList.toggle("unfound", !found);
  part.classList.toggle("chosen", index === state.kind);
  if (found) Object.assign(part.style, { background: colour, color: ink });
  part.title = found ? "" : "no box for these words";
  part.addEventListener("click", () => { if (getSelection().isCollapsed) setKind(index); });
  return part;
}

function offerPhrase() {
  const bar = byId("caption");
  bar.querySelector("button")?.remove();
  const marked = getSelection();
  if (marked.isCollapsed || !state.line || !bar.contains(marked.anchorNode) || !bar.contains(marked.focusNode)) return;
  const range = marked.getRangeAt(0);
  const [start, end] = trimmed(positionInCaption(range.startContainer, range.startOffset),
    positionInCaption(range.endContainer, range.endOffset));
  if (start >= end) return;
  const text = Array.from(state.line.caption).slice(start, end).join("");
  const button = make("button", "", `make “${text}” a phrase`);
  button.addEventListener("click", () => { marked.removeAllRanges(); addPhrase(start, end); });
  bar.append(button);
}

function positionInCaption(node, offset) {
  const part = (node.nodeType === Node.TEXT_NODE ? node.parentElement : node).closest("[data-start]");
  if (!part) return Array.from(state.line.caption).length;
  const before = node.nodeType === Node.TEXT_NODE ? node.textContent.slice(0, offset) : "";
  return Number(part.dataset.start) + Array.from(before).length;
}

function trimmed(start, end) {
  const letters = Array.from(state.line.caption);
  while (start < end && !letters[start].trim()) start += 1;
  while (start < end && !letters[end - 1].trim()) end -= 1;
  return [start, end];
}
