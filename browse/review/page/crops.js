// A grid with the crops of many objects, to select several and act on all of them at once.

import { request } from "./api.js";
import { byId, make, many, showBanner, showStatus } from "./dom.js";
import * as history from "./history.js";
import { goToLine } from "./navigation.js";
import { take } from "./saving.js";
import { openSearch } from "./search.js";
import { state } from "./state.js";

const WINDOW = 120; // crops that are fetched together
const DONE = { delete: "deleted", relabel: "relabelled", ignore: "ignored", accept: "accepted" };

// like: [line, position] of the crop that "similar" starts with; loads: lists requested so far
const grid = { open: false, list: null, rows: [], chosen: new Set(), anchor: null, loading: false, like: null, loads: 0 };

export const isOpen = () => grid.open;

export async function openCrops() {
  grid.open = true;
  byId("crops").hidden = false;
  byId("crops-button").setAttribute("aria-pressed", true);
  await load();
}

export function closeCrops() {
  grid.open = false;
  byId("crops").hidden = true;
  byId("crops-button").setAttribute("aria-pressed", false);
  if (state.line) goToLine(state.line.number); // its boxes may have changed
  byId("stage").focus();
}

// keep: the list is that of before with a change: its place on the screen stays.
async function load(keep = false) {
  const body = {
    view: state.view.view, label: Number(byId("crops-label").value), words: byId("crops-words").value.trim(),
    sort: byId("crops-sort").value, like: grid.like,
    low: state.query.low ?? 0, high: state.query.high ?? 1,
  };
  const mine = (grid.loads += 1);
  if (body.sort === "similar") byId("crops-count").textContent = "comparing the crops …";
  const frame = byId("crops-grid");
  const before = keep ? { top: frame.scrollTop, first: Math.min(...grid.chosen), rows: grid.rows.length } : null;
  const end = Math.ceil((before?.rows ?? 0) / WINDOW) * WINDOW || WINDOW;
  let list;
  let rows = [];
  try {
    list = await request("crops", body);
    for (let start = 0; start < Math.min(end, list.count); start += WINDOW) rows = rows.concat(await fetchRows(list, start));
  } catch (error) {
    return showBanner(error.message);
  }
  if (mine !== grid.loads) return; // another list was requested meanwhile
  Object.assign(grid, { list, fetched: { list, end }, ended: end >= list.count ? list : null });
  grid.rows = [];
  grid.chosen.clear();
  grid.anchor = null;
  frame.replaceChildren();
  for (const row of rows) add(row);
  frame.scrollTop = before?.top ?? 0;
  draw();
  const here = Number.isFinite(before?.first) ? Math.min(before.first, rows.length - 1) : 0;
  (frame.children[here] ?? frame).focus({ preventScroll: keep });
}

async function fetchRows(list, start) {
  return (await request(`crops/${list.crops}/rows?start=${start}&count=${WINDOW}`)).rows;
}

async function more() {
  if (grid.loading || !grid.list || grid.rows.length >= grid.list.count || grid.ended === grid.list) return;
  grid.loading = true;
  try {
    const { list } = grid;
    const start = grid.fetched.end;
    const rows = await fetchRows(list, start);
    if (list !== grid.list) return;
    grid.fetched = { list, end: start + WINDOW };
    if (start + WINDOW >= list.count) grid.ended = list;
    for (const row of rows) add(row);
  } catch (error) {
    showBanner(error.message);
  } finally {
    grid.loading = false;
  }
  draw();
}

function add(row) {
  const index = grid.rows.length;
  grid.rows.push(row);
  const crop = make("button", "crop");
  crop.type = "button";
  crop.setAttribute("role", "option");
  crop.title = row.filename;
  const picture = make("img");
  picture.src = `cuts/${row.number}?box=${row.box.join(",")}&${state.overview.run}`;
  picture.alt = "";
  picture.loading = "lazy";
  const words = make("span", "words");
  words.append(make("bdi", "", row.name), make("span", "score", row.score === null ? "by hand" : row.score.toFixed(2)));
  crop.append(picture, words);
  crop.addEventListener("click", (event) => pick(index, event.shiftKey));
  crop.addEventListener("dblclick", () => open(index));
  byId("crops-grid").append(crop);
}

function pick(index, range) {
  if (range && grid.anchor !== null) {
    const [first, last] = [Math.min(grid.anchor, index), Math.max(grid.anchor, index)];
    for (let each = first; each <= last; each += 1) grid.chosen.add(each);
  } else {
    if (!grid.chosen.delete(index)) grid.chosen.add(index);
    grid.anchor = index;
  }
  draw();
}

function draw() {
  [...byId("crops-grid").children].forEach((crop, index) => {
    crop.classList.toggle("chosen", grid.chosen.has(index));
    crop.setAttribute("aria-selected", grid.chosen.has(index));
    crop.classList.toggle("ignored", grid.rows[index].ignore);
  });
  const count = grid.list?.count ?? 0;
  byId("crops-empty").hidden = count > 0 || !grid.list;
  byId("crops-count").textContent = `${many(count, "box")}, ${grid.chosen.size.toLocaleString("en")} selected`;
  for (const button of document.querySelectorAll("#crops [data-action]")) button.disabled = !grid.chosen.size;
}

// Applies an action to the selected crops.
export async function act(action, of = null) {
  const items = [...grid.chosen].sort((a, b) => a - b).map((index) => {
    const { number, box, of: kind } = grid.rows[index];
    return { number, box, of: kind };
  });
  if (!items.length) return showStatus("nothing is selected");
  showStatus("saving …");
  try {
    const done = await request("crops/change", { action, of, items });
    history.push(`${action} of ${many(items.length, "crop")}`, done.before.map(plain), done.after.map(plain));
    take({ lines: done.after, progress: done.progress });
    showStatus(`${DONE[action]} ${many(items.length, "box")} in ${many(done.after.length, "image")}; z: undo`);
    await load(true);
  } catch (error) {
    showBanner(error.message);
  }
}

// The snapshot of a line that undo restores.
function plain({ number, state: was, earlier, boxes, phrases }) {
  return { number, state: was, earlier, boxes, phrases: phrases.map(({ texts, spans }) => ({ texts, spans })) };
}

export const reload = () => load(true);

function open(index) {
  const { number } = grid.rows[index];
  grid.open = false;
  byId("crops").hidden = true;
  byId("crops-button").setAttribute("aria-pressed", false);
  goToLine(number);
  byId("stage").focus();
}

// Captions share no categories: their boxes get the words of another phrase, which every caption must contain.
function relabel() {
  if (!grid.chosen.size) return showStatus("nothing is selected");
  if (state.overview.categories.length) return openSearch((of) => act("relabel", of));
  const names = [...new Set(grid.rows.map((row) => row.name))].sort();
  openSearch((words) => act("relabel", words), names.map((name) => ({ label: name, name, colour: "transparent" })));
}

// Sorts by similarity to the selected crop or, without a selection, into groups that look alike.
function sortAlike() {
  const row = grid.rows[grid.chosen.size ? [...grid.chosen].at(-1) : -1];
  grid.like = row ? [row.number, row.place] : null;
  byId("crops-sort").value = "similar";
  load();
}

// Handles keys while the grid is open; returns whether the key was handled.
export function pressInCrops(key, event) {
  const crops = [...byId("crops-grid").children];
  const here = crops.indexOf(document.activeElement);
  if (key.startsWith("Arrow") && crops.length) {
    const columns = Math.max(1, crops.filter((crop) => crop.offsetTop === crops[0].offsetTop).length);
    const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[key];
    const next = Math.min(Math.max(here + by, 0), crops.length - 1);
    crops[next].focus();
    if (event.shiftKey) pick(next, true);
    return true;
  }
  const acts = {
    " ": () => { if (here >= 0) pick(here, event.shiftKey); },
    x: () => act("delete"), Delete: () => act("delete"), i: () => act("ignore"), Enter: () => act("accept"),
    c: relabel, "/": relabel, s: sortAlike, o: () => { if (here >= 0) open(here); },
    Escape: closeCrops, v: closeCrops,
  };
  if ((event.ctrlKey || event.metaKey) && key === "a") {
    grid.rows.forEach((_, index) => grid.chosen.add(index));
    draw();
    return true;
  }
  if (event.ctrlKey || event.metaKey) return false;
  if (key === "s" && !state.overview.similar) return true;
  if (/^[1-9]$/.test(key) && state.overview.categories[Number(key) - 1]) {
    act("relabel", state.overview.categories[Number(key) - 1].label);
    return true;
  }
  if (!Object.hasOwn(acts, key)) return false;
  acts[key]();
  return true;
}

export function startCrops() {
  const { categories } = state.overview;
  byId("crops-label").replaceChildren(...[[-1, "every category"], ...categories.map(({ label, name }) => [label, name])]
    .map(([value, text]) => Object.assign(make("option", "", text), { value })));
  if (categories.length) byId("crops-label").value = categories[0].label;
  byId("crops-label-field").hidden = !categories.length;
  byId("crops-words-field").hidden = categories.length > 0;
  byId("crops-sort-similar").hidden = !state.overview.similar;
  byId("crops-label").addEventListener("change", () => { grid.like = null; load(); });
  byId("crops-words").addEventListener("change", () => { grid.like = null; load(); });
  byId("crops-sort").addEventListener("change", () => (byId("crops-sort").value === "similar" ? sortAlike() : load()));
  byId("crops-close").addEventListener("click", closeCrops);
  const size = byId("crops-size");
  size.addEventListener("input", () => { byId("crops-grid").style.setProperty("--crop", `${size.value}px`); });
  for (const button of document.querySelectorAll("#crops [data-action]")) {
    const { action } = button.dataset;
    button.addEventListener("click", () => (action === "relabel" ? relabel() : act(action)));
  }
  byId("crops-grid").addEventListener("scroll", (event) => {
    const { scrollTop, clientHeight, scrollHeight } = event.target;
    if (scrollTop + 2 * clientHeight > scrollHeight) more();
  });
}
