// Entry point of the review page. The server (browse/review/app.py) checks and saves the changes.

import { remember } from "./address.js";
import { request } from "./api.js";
import { Canvas } from "./canvas.js";
import { startCandidates } from "./candidates.js";
import { startCaption } from "./caption.js";
import { startCrops } from "./crops.js";
import { byId, many, showBanner } from "./dom.js";
import { startFilters } from "./filters.js";
import * as history from "./history.js";
import { startKeys } from "./keys.js";
import { go, goToLine, openView } from "./navigation.js";
import { startPanel } from "./panel.js";
import { Pointer } from "./pointer.js";
import { isUnsaved, onRejected } from "./saving.js";
import { openSearch, startSearch } from "./search.js";
import { listen, state } from "./state.js";
import { Strip } from "./strip.js";

const LISTENING = 700; // milliseconds between checks of how much of a long file has been read

async function start() {
  restoreTheme();
  try {
    state.overview = await request("overview");
  } catch (error) {
    return showBanner(error.message);
  }
  remember();
  state.progress = state.overview.progress;
  const { annotations, total, known, problems } = state.overview;
  byId("source").textContent = annotations;
  document.title = `${annotations} – groundhog review`;
  const canvas = new Canvas();
  new Pointer(canvas);
  const strip = new Strip((position) => { go(position); byId("stage").focus(); });
  listen("view", () => strip.reset());
  startPanel();
  startCandidates();
  startCaption();
  startSearch();
  startFilters();
  startCrops();
  startKeys(canvas);
  startButtons();
  onRejected(afterRejection);
  addEventListener("beforeunload", (event) => { if (isUnsaved()) event.preventDefault(); });
  if (!total) return showBanner(`${annotations} has no lines.`);
  await openFirst();
  byId("stage").focus({ preventScroll: true });
  if (known < total) watchReading();
  const { broken } = state.progress;
  if (broken) showBanner(`${many(broken, "line")} cannot be reviewed. ${problems[0]}`);
}

async function openFirst() {
  const requested = Number(location.hash.slice(1)) - 1;
  const { query } = state.overview;
  if (Number.isInteger(requested) && requested >= 0 && requested < state.overview.total) {
    state.line = { number: requested }; // kept if the view contains it
    await openView(query);
    await goToLine(requested);
  } else {
    await openView(query, false);
  }
}

// The counts grow while a long file is read in the background.
function watchReading() {
  const timer = setInterval(async () => {
    const now = await request("progress").catch(() => null);
    if (!now) return;
    byId("reading").hidden = now.known >= now.total;
    byId("reading").textContent = `reading the lines: ${Math.floor((100 * now.known) / now.total)} %`;
    if (now.known >= now.total) clearInterval(timer);
  }, LISTENING);
}

// Another window or program changed the line first: show the saved state.
async function afterRejection(numbers, error) {
  history.forget(numbers);
  const shown = state.line?.number ?? state.left?.number;
  if (numbers.includes(shown)) await goToLine(shown);
  showBanner(error.status === 409 ? `${error.message}. This is the saved state.` : `Not saved: ${error.message}`);
}

function startButtons() {
  byId("help-close").addEventListener("click", () => byId("help").close());
  byId("banner-close").addEventListener("click", () => showBanner(""));
  byId("add-category").addEventListener("click", () => openSearch(() => {}));
}

function restoreTheme() {
  try {
    const theme = localStorage.getItem("groundhog-theme");
    if (theme) document.documentElement.dataset.theme = theme;
  } catch {
    // storage is disabled in this browser
  }
}

start();
