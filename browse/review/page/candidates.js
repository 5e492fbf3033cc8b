// The model's boxes below the threshold, drawn faintly. Each class has a slider; a key or click adds a box.

import { request } from "./api.js";
import { byId, make, makeRow, many, showStatus } from "./dom.js";
import { change } from "./edits.js";
import { iou } from "./geometry.js";
import { kinds, kindWord, state, notify, listen } from "./state.js";

const SAME = 0.7; // IoU with a box of its class above which a candidate is a duplicate
const START = 0.6; // the slider begins at this share of the threshold
const UNKNOWN_THRESHOLD = 0.3;
const STEP = 0.05; // by which the keys move all sliders

const COUNTING = 800; // milliseconds between requests while the server counts
const LEVELS = 100; // score levels, as in browse/review/candidate_counts.py

const floors = new Map(); // name of a kind -> minimum score at which its candidates are shown
const counts = new Map(); // label -> response of "counts/LABEL": boxes and images at every level, over all images
export const ghosts = { shown: true, loading: false };

export async function loadCandidates() {
  const { line } = state;
  state.candidates = [];
  if (!state.overview.candidates) return;
  ghosts.loading = true;
  try {
    const { candidates } = await request(`lines/${line.number}/candidates`);
    if (state.line !== line) return; // another line is shown now
    state.candidates = candidates;
  } catch (error) {
    showStatus(`no candidates: ${error.message}`, true);
  }
  ghosts.loading = false;
  notify("candidates");
}

export function floorOf(name) {
  const { threshold, thresholds } = state.overview;
  return floors.get(name) ?? START * (thresholds[name] ?? threshold ?? UNKNOWN_THRESHOLD);
}

// The candidates that are shown: above the slider of their class, and not duplicating a box.
export function visible() {
  if (!ghosts.shown || !state.line) return [];
  const names = new Map(kinds().map((kind) => [kind.label, kind.name]));
  return state.candidates.filter((each) => each.score >= floorOf(names.get(each.of)) && isFree(each));
}

function isFree(candidate) {
  return !state.boxes.some((box) => box.of === candidate.of && iou(box.box, candidate.box) >= SAME);
}

export function take(candidate) {
  change("candidate", () => {
    state.boxes.push({ box: candidate.box, of: candidate.of, score: null, ignore: false });
    state.selected = state.boxes.length - 1;
    state.kind = candidate.of;
  });
}

export function takeBest() {
  const [best] = visible();
  if (best) take(best);
  else showStatus("no candidate is shown");
}

export function takeAll() {
  const all = visible();
  if (!all.length) return showStatus("no candidate is shown");
  change("candidates", () => {
    for (const { box, of } of all) if (isFree({ box, of })) state.boxes.push({ box, of, score: null, ignore: false });
    state.selected = null;
  });
}

export function toggle() {
  ghosts.shown = !ghosts.shown;
  notify("candidates");
}

export function moveFloors(direction) {
  for (const { name } of kinds()) setFloor(name, floorOf(name) + direction * STEP);
  notify("candidates");
}

function setFloor(name, score) {
  floors.set(name, Math.min(1, Math.max(0, Math.round(score * 100) / 100)));
}

// The panel: a slider for each class or phrase that has candidates in this image.
export function drawCandidates() {
  const section = byId("candidates-section");
  section.hidden = !state.overview.candidates;
  if (section.hidden) return;
  const shown = visible();
  const free = state.line ? state.candidates.filter(isFree) : [];
  byId("candidates-title").textContent = ghosts.loading ? "Candidates" : ghosts.shown
    ? `Candidates: ${shown.length} of ${free.length} shown` : "Candidates: hidden (g)";
  byId("take-all").disabled = !shown.length;
  const there = kinds().filter((kind) => free.some((each) => each.of === kind.label));
  const list = byId("candidates");
  const known = new Map([...list.children].map((row) => [row.dataset.name, row]));
  for (const kind of there) loadCounts(kind.label);
  list.replaceChildren(...there.map((kind) => known.get(kind.name) ?? sliderRow(kind)));
  for (const kind of there) updateSlider(list.children[there.indexOf(kind)], kind, shown, free);
  if (!there.length) list.append(make("li", "empty", ghosts.loading ? "loading …" : "none for this image"));
}

function sliderRow(kind) {
  const row = makeRow(kind.colour, kind.name, "");
  row.dataset.name = kind.name;
  const slider = make("input");
  Object.assign(slider, { type: "range", min: 0, max: 1, step: 0.01 });
  slider.setAttribute("aria-label", `minimum score of the candidates shown for ${kind.name}`);
  slider.addEventListener("input", () => {
    setFloor(kind.name, Number(slider.value));
    notify("candidates");
  });
  const words = make("span", "everywhere");
  words.title = "number of boxes above this threshold in all images, without duplicates";
  row.append(slider, words);
  return row;
}

function updateSlider(row, kind, shown, free) {
  const slider = row.querySelector("input");
  slider.value = floorOf(kind.name);
  const count = (list) => list.filter((each) => each.of === kind.label).length;
  row.querySelector(".note").textContent = `${floorOf(kind.name).toFixed(2)} · ${count(shown)}/${count(free)}`;
  row.querySelector(".everywhere").textContent = everywhere(kind);
}

// The number of boxes in all images above the score that the slider shows.
function everywhere(kind) {
  const known = counts.get(kind.label);
  if (!known?.read || !known.boxes.length) return "";
  const level = Math.round(floorOf(kind.name) * LEVELS);
  const words = `overall: ${many(known.boxes[level], "box")} in ${many(known.images[level], "image")}`;
  return known.read < known.shards ? `${words}, ${Math.floor((100 * known.read) / known.shards)} % counted` : words;
}

async function loadCounts(label) {
  const { overview } = state;
  if (!overview.counts || kindWord() === "phrase" || counts.has(label)) return;
  counts.set(label, null); // being requested
  for (;;) {
    const found = await request(`counts/${label}`).catch(() => null);
    if (!found) return counts.delete(label);
    counts.set(label, found);
    showEverywhere();
    if (found.read >= found.shards) return;
    await new Promise((done) => setTimeout(done, COUNTING));
  }
}

function showEverywhere() {
  const named = new Map(kinds().map((kind) => [kind.name, kind]));
  for (const row of byId("candidates").children) {
    const kind = named.get(row.dataset.name);
    if (kind) row.querySelector(".everywhere").textContent = everywhere(kind);
  }
}

export function startCandidates() {
  byId("take-all").addEventListener("click", takeAll);
  listen("candidates", drawCandidates);
  listen("boxes", drawCandidates);
  listen("line", drawCandidates);
}
