// Saves changes, one request at a time. Changes that cannot be sent are retried and never silently lost.

import { request } from "./api.js";
import { showBanner, showStatus } from "./dom.js";
import { state, notify } from "./state.js";

const RETRY = 3000; // milliseconds

const revisions = new Map(); // number of a line -> its revision
const waiting = []; // unsent changes: {number, state, boxes, phrases}, the latest for each line
let sending = null; // promise of the current request
let failing = false; // whether the banner reports an unsaved change
let rejected = () => {}; // called with the numbers of the lines whose change was refused

export function onRejected(act) {
  rejected = act;
}

export function remember(line) {
  revisions.set(line.number, line.revision);
}

export function isUnsaved() {
  return waiting.length > 0 || sending !== null;
}

// The change that turns a line into a snapshot.
export function changeTo({ number, state: wanted, earlier, boxes, phrases }) {
  return { number, state: earlier ? "earlier" : wanted, boxes, phrases };
}

// Saves changes to one or more lines; the promise settles when they are saved or refused.
export function save(changes) {
  for (const change of changes) {
    const before = waiting.findIndex((each) => each.number === change.number);
    if (before >= 0) waiting.splice(before, 1);
    waiting.push(change);
  }
  showStatus("saving …");
  return flush();
}

// Sends the waiting changes.
export function flush() {
  sending ??= send().finally(() => { sending = null; });
  return sending;
}

async function send() {
  while (waiting.length) {
    const batch = waiting.slice(0, 200);
    const changes = batch.map((each) => ({ ...each, revision: revisions.get(each.number) }));
    let response;
    try {
      response = await request("lines", { changes });
    } catch (error) {
      if (error.status === 0 || error.status >= 500) {
        showStatus("NOT SAVED", true);
        showBanner(`Not saved: ${error.message} Trying again.`);
        failing = true;
        setTimeout(flush, RETRY);
        return;
      }
      drop(batch);
      showStatus("NOT SAVED", true);
      rejected(batch.map((each) => each.number), error);
      continue;
    }
    drop(batch);
    take(response);
  }
}

function drop(batch) {
  for (const each of batch) {
    const place = waiting.indexOf(each);
    if (place >= 0) waiting.splice(place, 1);
  }
}

// Updates the revisions from the saved lines.
export function take({ lines, progress }) {
  for (const line of lines) {
    remember(line);
    state.saved?.(line);
    if (state.line?.number === line.number && !waiting.some((each) => each.number === line.number)) {
      Object.assign(state.line, { revision: line.revision, state: line.state, earlier: line.earlier,
        reviewer: line.reviewer, at: line.at, since: line.since });
    }
  }
  state.progress = progress;
  showStatus("saved");
  if (failing) showBanner("");
  failing = false;
  notify("progress");
}
