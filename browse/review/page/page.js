// Review of labels: which image is shown, what the keys do; every change is saved at once.
// The server (browse/serve.py) checks and saves; this page shows the lines, and says when a change was not saved.

import { Canvas } from "./canvas.js";
import { Strip } from "./strip.js";

const byId = (id) => document.getElementById(id);

const page = {
  overview: null, // what lines/ gives
  line: null, // what lines/N gives, of the image that is shown
  boxes: [], // as they are now, [{box, of, score, ignore}]
  phrases: [], // of a caption, [{texts, spans}]
  selected: null, // position of a box, or null
  kind: null, // what a new box is: a label, or for a caption the position of a phrase
  histories: new Map(), // number of a line -> what it was before each change
};

let canvas;
let strip;

// Requests to the server

class RequestError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function ask(path, body) {
  const options = body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new RequestError(0, "The server does not answer. Is it still running?");
  }
  const payload = await answer.json().catch(() => ({ error: `The server answered ${answer.status}.` }));
  if (!answer.ok) throw new RequestError(answer.status, payload.error);
  return payload;
}

// One request at a time; of the changes made meanwhile only the last is sent, since it contains all before it.
const saving = { wanted: null, running: null, failed: false };

function store(reviewed) {
  const { line, boxes, phrases } = page;
  const change = reviewed ? { boxes, phrases: phrases.map(({ texts, spans }) => ({ texts, spans })) } : { reviewed };
  saving.wanted = { number: line.number, change: structuredClone(change) };
  saving.failed = false;
  showStatus("saving …");
  saving.running ??= storeAll().finally(() => { saving.running = null; });
  return saving.running;
}

async function storeAll() {
  while (saving.wanted) {
    const { number, change } = saving.wanted;
    saving.wanted = null;
    try {
      const saved = await ask(`lines/${number}`, { revision: page.line.revision, ...change });
      page.line.revision = saved.revision;
      showState(saved);
      showStatus(saved.reviewed ? "saved" : "correction removed");
    } catch (error) {
      saving.wanted = null;
      saving.failed = true;
      await explain(error, number);
    }
  }
}

async function explain(error, number) {
  showStatus("NOT SAVED", true);
  if (error.status === 409) {
    page.histories.delete(number);
    saving.failed = false;
    await load(number);
    showBanner(`${error.message}. This is the saved state.`);
  } else {
    showBanner(`Not saved: ${error.message}`);
  }
}

// Going from image to image

async function load(number) {
  const line = await ask(`lines/${number}`);
  page.line = line;
  page.boxes = line.boxes;
  page.phrases = line.phrases;
  page.selected = null;
  if (line.caption !== null) page.kind = line.phrases.length ? 0 : null;
  else page.kind ??= page.overview.categories[0].label;
  history.replaceState(null, "", `#${number + 1}`);
  showBanner("");
  showStatus("");
  showState(line);
  strip.show(number);
  draw();
  const next = page.overview.lines[number + 1];
  if (next) new Image().src = `images/${number + 1}`;
}

async function go(number) {
  if (number < 0 || number >= page.overview.lines.length) return;
  if (saving.failed) store(page.line.reviewed);
  await saving.running;
  if (saving.failed) return;
  try {
    await load(number);
  } catch (error) {
    showBanner(error.message);
  }
}

function nextUnreviewed() {
  const { lines } = page.overview;
  for (let step = 1; step <= lines.length; step += 1) {
    const number = (page.line.number + step) % lines.length;
    if (!lines[number].reviewed) return number;
  }
  return null;
}

function goToUnreviewed() {
  const number = nextUnreviewed();
  if (number !== null) return go(number);
  const message = `All ${page.overview.lines.length} images are reviewed; the corrections are in ${page.overview.stored}.`;
  showBanner(message, true);
}

// Changes

function remember() {
  const { line, boxes, phrases, histories } = page;
  if (!histories.has(line.number)) histories.set(line.number, []);
  histories.get(line.number).push(structuredClone({ boxes, phrases, reviewed: line.reviewed }));
}

function change(edit) {
  remember();
  edit();
  page.line.reviewed = true;
  store(true);
  draw();
}

async function accept() {
  if (!page.line.reviewed) remember();
  page.line.reviewed = true;
  await store(true);
  if (!saving.failed) goToUnreviewed();
}

function undo() {
  const before = page.histories.get(page.line.number)?.pop();
  if (!before) return showStatus("nothing to undo here");
  page.boxes = before.boxes;
  page.phrases = before.phrases;
  page.line.reviewed = before.reviewed;
  page.selected = null;
  store(before.reviewed);
  draw();
}

function changeBox(index, box) {
  // A box that a person moved has no score any more: the model gave it to another one.
  change(() => { page.boxes[index] = { ...page.boxes[index], box, score: null }; });
}

function createBox(box) {
  if (page.kind === null) {
    draw();
    return showBanner("Mark the words of the caption that this box belongs to; then draw it.");
  }
  change(() => {
    page.boxes.push({ box, of: page.kind, score: null, ignore: false });
    page.selected = page.boxes.length - 1;
  });
}

function deleteBox() {
  if (page.selected === null) return;
  change(() => {
    page.boxes.splice(page.selected, 1);
    page.selected = null;
  });
}

function toggleIgnore(index = page.selected) {
  if (index === null) return;
  change(() => { page.boxes[index] = { ...page.boxes[index], ignore: !page.boxes[index].ignore }; });
}

function setKind(of) {
  page.kind = of;
  if (page.selected === null || page.boxes[page.selected].of === of) return draw();
  change(() => { page.boxes[page.selected] = { ...page.boxes[page.selected], of, score: null }; });
}

function addPhrase(start, end) {
  const text = Array.from(page.line.caption).slice(start, end).join("");
  page.phrases.push({ texts: [text], spans: [[start, end]] });
  setKind(page.phrases.length - 1);
}

function nudge(key, corner) {
  if (page.selected === null) return;
  const { width, height } = page.line;
  const dx = { ArrowLeft: -1, ArrowRight: 1 }[key] ?? 0;
  const dy = { ArrowUp: -1, ArrowDown: 1 }[key] ?? 0;
  const [x1, y1, x2, y2] = page.boxes[page.selected].box;
  const box = corner ? [x1, y1, x2 + dx, y2 + dy] : [x1 + dx, y1 + dy, x2 + dx, y2 + dy];
  const fits = box[0] >= 0 && box[1] >= 0 && box[2] <= width && box[3] <= height && box[0] < box[2] && box[1] < box[3];
  if (fits) changeBox(page.selected, box);
}

function select(index) {
  page.selected = index;
  if (index !== null) page.kind = page.boxes[index].of;
  draw();
}

function selectNext(step) {
  const count = page.boxes.length;
  if (!count) return;
  // From nothing, forwards to the first and backwards to the last.
  const from = page.selected ?? (step > 0 ? -1 : count);
  select((from + step + count) % count);
}

// What a box can be: a category of the label map, or a phrase of the caption

function kinds() {
  if (page.line.caption === null) return page.overview.categories;
  const colours = page.overview.phrase_colours;
  return page.phrases.map((phrase, index) => ({
    label: index, name: phrase.texts.join(" … "), ...colours[index % colours.length],
  }));
}

// Showing

function draw() {
  const known = new Map(kinds().map((kind) => [kind.label, kind]));
  const boxes = page.boxes.map((each) => ({ ...each, ...known.get(each.of) }));
  const { number, width, height } = page.line;
  canvas.show({ number, width, height, boxes, selected: page.selected });
  drawBoxes(boxes);
  drawKinds();
  drawCaption();
}

function drawBoxes(boxes) {
  byId("boxes-title").textContent = boxes.length === 1 ? "1 box" : `${boxes.length} boxes`;
  byId("boxes").replaceChildren(...boxes.map((each, index) => {
    const row = makeRow(each.colour, each.name, each.score === null ? "by hand" : each.score.toFixed(2));
    row.classList.toggle("chosen", index === page.selected);
    row.classList.toggle("ignored", each.ignore);
    if (each.ignore) row.querySelector(".note").textContent = "ignored";
    row.addEventListener("click", () => select(index));
    return row;
  }));
  if (!boxes.length) byId("boxes").append(makeText("li", "empty", "no boxes"));
  byId("boxes").querySelector(".chosen")?.scrollIntoView({ block: "nearest" });
}

function drawKinds() {
  const all = kinds();
  byId("kinds-title").textContent = page.line.caption === null ? "Categories" : "Phrases";
  byId("kind-word").textContent = page.line.caption === null ? "category" : "phrase";
  byId("kinds").replaceChildren(...all.map((kind, index) => {
    const count = page.boxes.filter((each) => each.of === kind.label).length;
    const row = makeRow(kind.colour, kind.name, count ? `${count}` : "");
    row.prepend(makeText("kbd", index < 9 ? "" : "none", `${index + 1}`));
    row.classList.toggle("chosen", kind.label === page.kind);
    row.addEventListener("click", () => setKind(kind.label));
    return row;
  }));
}

// Long phrases first, so that a phrase within a phrase keeps its own colour.
function drawCaption() {
  const bar = byId("caption");
  bar.hidden = page.line.caption === null;
  if (bar.hidden) return;
  const letters = Array.from(page.line.caption); // code points, as spans count them
  const owner = new Array(letters.length).fill(null);
  const length = (phrase) => phrase.spans.reduce((sum, [start, end]) => sum + end - start, 0);
  const order = page.phrases.map((_, index) => index).sort((a, b) => length(page.phrases[b]) - length(page.phrases[a]));
  for (const index of order) for (const [start, end] of page.phrases[index].spans) owner.fill(index, start, end);
  bar.replaceChildren();
  for (let start = 0; start < letters.length;) {
    let end = start + 1;
    while (end < letters.length && owner[end] === owner[start]) end += 1;
    bar.append(captionPiece(letters.slice(start, end).join(""), owner[start], start));
    start = end;
  }
}

function captionPiece(text, index, start) {
  const piece = makeText("span", index === null ? "" : "phrase", text);
  piece.dataset.start = start;
  if (index === null) return piece;
  const found = page.boxes.some((each) => each.of === index);
  const { colour, ink } = kinds()[index];
  piece.classList.toggle("unfound", !found);
  piece.classList.toggle("chosen", index === page.kind);
  if (found) Object.assign(piece.style, { background: colour, color: ink });
  piece.title = found ? "" : "no box for these words";
  piece.addEventListener("click", () => { if (getSelection().isCollapsed) setKind(index); });
  return piece;
}

// Words that were marked with the mouse become a phrase by a click.
function offerPhrase() {
  const bar = byId("caption");
  bar.querySelector("button")?.remove();
  const marked = getSelection();
  if (marked.isCollapsed || !bar.contains(marked.anchorNode) || !bar.contains(marked.focusNode)) return;
  const range = marked.getRangeAt(0);
  const [start, end] = trimmed(positionInCaption(range.startContainer, range.startOffset),
    positionInCaption(range.endContainer, range.endOffset));
  if (start >= end) return;
  const text = Array.from(page.line.caption).slice(start, end).join("");
  const button = makeText("button", "", `make “${text}” a phrase`);
  button.addEventListener("click", () => { marked.removeAllRanges(); addPhrase(start, end); });
  bar.append(button);
}

function positionInCaption(node, offset) {
  const piece = (node.nodeType === Node.TEXT_NODE ? node.parentElement : node).closest("[data-start]");
  if (!piece) return Array.from(page.line.caption).length;
  const before = node.nodeType === Node.TEXT_NODE ? node.textContent.slice(0, offset) : "";
  return Number(piece.dataset.start) + Array.from(before).length;
}

function trimmed(start, end) {
  const letters = Array.from(page.line.caption);
  while (start < end && !letters[start].trim()) start += 1;
  while (start < end && !letters[end - 1].trim()) end -= 1;
  return [start, end];
}

function showState({ number, filename, reviewed, progress }) {
  page.overview.lines[number].reviewed = reviewed;
  byId("progress").textContent = `${progress.reviewed} of ${progress.lines} reviewed`;
  byId("bar").value = progress.reviewed / Math.max(1, progress.lines);
  strip.draw();
  if (page.line.number !== number) return;
  page.line.reviewed = reviewed;
  byId("position").textContent = `${number + 1} / ${progress.lines}`;
  byId("name").textContent = filename;
  byId("badge").textContent = reviewed ? "reviewed" : "not reviewed";
  byId("badge").className = reviewed ? "reviewed" : "";
}

function showStatus(text, failed = false) {
  byId("stored").textContent = text;
  byId("stored").className = failed ? "failed" : "";
}

function showBanner(text, good = false) {
  byId("banner").hidden = !text;
  byId("banner").className = good ? "good" : "";
  byId("banner-text").textContent = text;
}

function makeText(kind, name, text) {
  const element = document.createElement(kind);
  element.className = name;
  element.textContent = text;
  return element;
}

function makeRow(colour, label, note) {
  const row = makeText("li", "row", "");
  const swatch = makeText("span", "swatch", "");
  swatch.style.background = colour;
  const name = makeText("span", "label", label);
  name.title = label;
  row.append(swatch, name, makeText("span", "note", note));
  return row;
}

// Searching for a category or phrase by typing

function openSearch() {
  byId("search-text").value = "";
  showFound();
  byId("search").showModal();
}

function found() {
  const words = byId("search-text").value.trim().toLowerCase();
  const begins = (kind) => (kind.name.toLowerCase().startsWith(words) ? 0 : 1);
  return kinds().filter((kind) => kind.name.toLowerCase().includes(words)).sort((a, b) => begins(a) - begins(b));
}

function showFound() {
  byId("search-found").replaceChildren(...found().slice(0, 50).map((kind, index) => {
    const row = makeRow(kind.colour, kind.name, index ? "" : "Enter");
    row.classList.toggle("chosen", index === 0);
    row.addEventListener("click", () => choose(kind));
    return row;
  }));
}

function choose(kind) {
  byId("search").close();
  if (kind) setKind(kind.label);
}

// Keys

const KEYS = {
  Enter: accept,
  " ": accept,
  ArrowRight: () => go(page.line.number + 1),
  ArrowLeft: () => go(page.line.number - 1),
  j: () => go(page.line.number + 1),
  k: () => go(page.line.number - 1),
  n: goToUnreviewed,
  x: deleteBox,
  Delete: deleteBox,
  Backspace: deleteBox,
  i: () => toggleIgnore(),
  z: undo,
  c: openSearch,
  "/": openSearch,
  h: () => canvas.toggleBoxes(),
  "+": () => canvas.setZoom(canvas.zoom * 1.5),
  "=": () => canvas.setZoom(canvas.zoom * 1.5),
  "-": () => canvas.setZoom(canvas.zoom / 1.5),
  0: () => canvas.setZoom(1),
  "?": () => byId("help").showModal(),
  Escape: () => select(null),
};

function press(event) {
  if (!page.line || document.querySelector("dialog[open]")) return;
  const act = actionOf(event);
  if (!act) return;
  event.preventDefault();
  act();
}

function actionOf(event) {
  const { key } = event;
  if (event.ctrlKey || event.metaKey) return key === "z" ? undo : null;
  if (key === "Tab") return () => selectNext(event.shiftKey ? -1 : 1);
  if (event.shiftKey && key.startsWith("Arrow")) return () => nudge(key, event.altKey);
  if (event.altKey) return null;
  if (/^[1-9]$/.test(key)) return () => { const kind = kinds()[Number(key) - 1]; if (kind) setKind(kind.label); };
  return Object.hasOwn(KEYS, key) ? KEYS[key] : null;
}

async function start() {
  try {
    page.overview = await ask("lines");
  } catch (error) {
    return showBanner(error.message);
  }
  const { lines, annotations, problem_count: broken, problems } = page.overview;
  byId("source").textContent = annotations;
  document.title = `${annotations} – groundhog review`;
  canvas = new Canvas({ select, change: changeBox, create: createBox, warn: showBanner });
  strip = new Strip(lines, go);
  document.addEventListener("keydown", press);
  document.addEventListener("selectionchange", offerPhrase);
  addEventListener("beforeunload", (event) => { if (saving.failed || saving.running) event.preventDefault(); });
  byId("help-button").addEventListener("click", () => byId("help").showModal());
  byId("help-close").addEventListener("click", () => byId("help").close());
  byId("banner-close").addEventListener("click", () => showBanner(""));
  byId("search-text").addEventListener("input", showFound);
  byId("search-text").addEventListener("keydown", (event) => {
    if (event.key === "Enter") {
      event.preventDefault();
      choose(found()[0]);
    }
  });
  if (!lines.length) return showBanner(`${annotations} has no lines that can be reviewed.`);
  const requested = Number(location.hash.slice(1)) - 1;
  const unreviewed = lines.findIndex((line) => !line.reviewed);
  await load(lines[requested] ? requested : Math.max(0, unreviewed));
  if (broken) showBanner(`${broken} lines are not shown. ${problems[0]}`);
}

start();
