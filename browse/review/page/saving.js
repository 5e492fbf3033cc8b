// Saving changes, one request after the other; what cannot be sent is tried again and never forgotten silently.

import { ask } from "./api.js";
import { showBanner, showStatus } from "./dom.js";
import { state, tell } from "./state.js";

const RETRY = 3000; // milliseconds

const revisions = new Map(); // number of a line -> its revision
const waiting = []; // changes that are not sent: {number, state, boxes, phrases}; a later one of a line replaces it
let sending = null; // the promise of the request under way
let failing = false; // the banner says that something is not saved
let rejected = () => {}; // called with the numbers of lines whose change was refused

export function onRejected(act) {
  rejected = act;
}

export function remember(line) {
  revisions.set(line.number, line.revision);
}

export function isUnsaved() {
  return waiting.length > 0 || sending !== null;
}

// The change that makes a line what a snapshot says.
export function changeTo({ number, state: wanted, earlier, boxes, phrases }) {
  return { number, state: earlier ? "earlier" : wanted, boxes, phrases };
}

// Saves changes of one or several lines; settles when they are saved or refused.
export function save(changes) {
  for (const change of changes) {
    const before = waiting.findIndex((each) => each.number === change.number);
    if (before >= 0) waiting.splice(before, 1);
    waiting.push(change);
  }
  showStatus("saving …");
  return flush();
}

// Sends what waits.
export function flush() {
  sending ??= send().finally(() => { sending = null; });
  return sending;
}

async function send() {
  while (waiting.length) {
    const batch = waiting.slice(0, 200);
    const changes = batch.map((each) => ({ ...each, revision: revisions.get(each.number) }));
    let answer;
    try {
      answer = await ask("lines", { changes });
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
    take(answer);
  }
}

function drop(batch) {
  for (const each of batch) {
    const place = waiting.indexOf(each);
    if (place >= 0) waiting.splice(place, 1);
  }
}

// Takes lines as the server has saved them.
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
  tell("progress");
}
