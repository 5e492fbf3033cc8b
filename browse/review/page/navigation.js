// Moves from image to image in the view that the filter bar selects.

import { request } from "./api.js";
import { loadCandidates } from "./candidates.js";
import { loadComparison } from "./compare.js";
import { byId, many, showBanner, showStatus } from "./dom.js";
import { touches } from "./geometry.js";
import { flush, isUnsaved, remember } from "./saving.js";
import { state, notify } from "./state.js";

const CHECK = 500; // milliseconds between checks of how much of a long file has been read

let going = 0; // number of navigations so far: responses to older ones are discarded
let opening = 0; // number of views requested so far: only the latest is opened
let heading = null; // target of the step in progress: the next step counts from there

// Opens the view for a query. stay: keep the current line if the view contains it.
export async function openView(query, stay = true) {
  const waiting = setInterval(showReading, CHECK);
  const mine = (opening += 1);
  let view;
  try {
    view = await request("views", query);
  } finally {
    clearInterval(waiting);
    showStatus("");
  }
  if (mine !== opening) return; // another filter was chosen meanwhile
  Object.assign(state, { view, query });
  const number = state.line?.number;
  const kept = stay && number !== undefined ? (await askView(`position?number=${number}`)).position : null;
  state.position = kept;
  notify("view");
  notify("progress");
  if (!view.count) {
    begin(); // nothing is shown, and what is still loading is not either
    state.left = null;
    return showBanner("No image fits this filter.");
  }
  showBanner("");
  if (kept === null) await go(view.open ?? 0);
}

// Requests data of the view; after a restart of the server the view is opened again.
async function askView(rest) {
  try {
    return await request(`views/${state.view.view}/${rest}`);
  } catch (error) {
    if (error.status !== 410) throw error;
    state.view = await request("views", state.query);
    return request(`views/${state.view.view}/${rest}`);
  }
}

async function showReading() {
  const { known, total, compared, progress } = await request("progress").catch(() => state.overview);
  if (known < total) showStatus(`reading the lines: ${Math.floor((100 * known) / total)} %`);
  else if (compared !== null && compared < total) showStatus(`comparing the lines: ${Math.floor((100 * compared) / total)} %`);
  state.progress = progress;
  notify("progress");
}

// The line at a position of the view.
export async function go(position) {
  if (position < 0 || position >= state.view.count) return;
  const mine = begin();
  heading = position;
  try {
    await saved();
    const { rows } = await askView(`rows?start=${position}&count=1`);
    if (mine !== going || !rows.length) return; // another line, or another view
    await load(rows[0].number, position, mine);
  } catch (error) {
    fail(error, mine);
  }
}

// A line by its number, whether the view shows it or not.
export async function goToLine(number) {
  const mine = begin();
  try {
    await saved();
    const { position } = await askView(`position?number=${number}`);
    await load(number, position, mine);
  } catch (error) {
    fail(error, mine);
  }
}

// From now on no key changes the line that is still displayed.
function begin() {
  going += 1;
  heading = null;
  if (state.line?.model) state.left = { ...state.line, boxes: state.boxes, phrases: state.phrases };
  state.line = null;
  state.boxes = [];
  state.selected = null;
  state.candidates = [];
  state.comparison = null;
  notify("line");
  return going;
}

async function saved() {
  if (isUnsaved()) await flush();
  if (isUnsaved()) throw new Error("The last change is not saved yet.");
}

function fail(error, mine) {
  if (mine !== going) return;
  heading = null;
  showBanner(error.message);
  if (error.status !== 422 && state.left) show(state.left, state.position); // go back to the previous line
}

async function load(number, position, mine) {
  let line;
  try {
    line = await request(`lines/${number}`);
  } catch (error) {
    if (mine === going && error.status === 422) showBroken(number, position, error.message);
    else throw error;
    return;
  }
  if (mine !== going) return;
  showBanner("");
  showStatus("");
  show(line, position);
  state.progress = line.progress;
  notify("progress");
  preload(position);
}

export function show(line, position) {
  remember(line);
  const fits = (each) => touches(each.box, line.width, line.height);
  state.line = line;
  state.left = line;
  state.position = position;
  heading = null;
  state.boxes = line.boxes.filter(fits);
  line.model = line.model.filter(fits);
  state.outside = line.boxes.length - state.boxes.length;
  state.phrases = line.phrases;
  if (line.caption !== null) state.kind = line.phrases.length ? 0 : null;
  else state.kind ??= state.overview.categories[0]?.label ?? null;
  history.replaceState(null, "", `#${line.number + 1}`);
  notify("line");
  if (state.outside) showBanner(`Boxes entirely outside the image were left out: ${state.outside}.`);
  loadCandidates();
  loadComparison();
}

// Shows the current line after undo or redo; the picture stays.
export function restore({ state: was, earlier, boxes, phrases }) {
  Object.assign(state.line, { state: was, earlier });
  state.boxes = boxes;
  state.phrases = phrases.length ? phrases : state.line.phrases;
  state.selected = null;
  notify("boxes");
  notify("progress");
}

// A line that is not a valid record: nothing to review, but navigation still works.
function showBroken(number, position, message) {
  state.position = position;
  heading = null;
  state.left = null;
  history.replaceState(null, "", `#${number + 1}`);
  notify("line");
  showBanner(`This line cannot be reviewed. ${message}`);
}

async function preload(position) {
  if (position === null || position + 1 >= state.view.count) return;
  const { rows } = await askView(`rows?start=${position + 1}&count=1`).catch(() => ({ rows: [] }));
  if (rows[0] && !rows[0].problem) new Image().src = `images/${rows[0].number}?${state.overview.run}`;
}

export const step = (by) => { if (state.view) go((heading ?? state.position ?? -1) + by); };

// Goes to the next line that is untouched or edited, or says that there is none.
export async function goToOpen() {
  let position;
  try {
    await saved();
    ({ position } = await askView(`open?after=${state.position ?? -1}`));
  } catch (error) {
    return showBanner(error.message);
  }
  if (position !== null && position !== state.position) return go(position);
  const { accepted, lines } = state.progress;
  const whole = accepted === lines;
  const all = lines === 1 ? "The image is" : `All ${many(lines, "image")} are`;
  showBanner(whole ? `${all} accepted; the corrections are in ${state.overview.stored}.`
    : "No image of this filter is left to review.", true);
  byId("stage").focus();
}
