// The list of images. Only those in sight are in the document, and their names are fetched as they come into sight.

import { request } from "./api.js";
import { byId, make } from "./dom.js";
import { listen, state } from "./state.js";

const HEIGHT = 68; // CSS pixels an item, as page.css has it
const TALLEST = 8_000_000; // CSS pixels: browsers cut off taller elements
const WINDOW = 60; // rows that are fetched together
const KEPT = 3000; // rows that are remembered
const WORDS = { untouched: "", edited: "✎ edited", accepted: "✓ accepted", skipped: "↷ skipped", broken: "cannot be reviewed" };

export class Strip {
  // open(position) is called for a click
  constructor(open) {
    this.open = open;
    this.frame = byId("strip");
    this.inside = byId("strip-inside");
    this.rows = new Map(); // position -> what views/V/rows gives
    this.requested = new Set(); // windows that are being loaded
    this.items = new Map(); // position -> element
    this.frame.addEventListener("scroll", () => this.draw());
    new ResizeObserver(() => this.draw()).observe(this.frame);
    listen("line", () => this.reveal());
    listen("progress", () => this.takeState());
    state.saved = ({ number, state: now }) => this.setState(number, now);
  }

  // Another view.
  reset() {
    this.rows.clear();
    this.requested.clear();
    for (const item of this.items.values()) item.remove();
    this.items.clear();
    this.inside.style.height = `${Math.min(TALLEST, state.view.count * HEIGHT)}px`;
    this.reveal();
  }

  get last() {
    return Math.max(0, state.view.count * HEIGHT - this.frame.clientHeight); // of an unlimited list
  }

  get scroll() {
    const most = Math.max(1, this.inside.clientHeight - this.frame.clientHeight);
    return Math.min(1, this.frame.scrollTop / most) * this.last;
  }

  reveal() {
    if (!state.view) return;
    const { position } = state;
    if (position !== null) {
      const top = position * HEIGHT;
      const { clientHeight } = this.frame;
      const now = this.scroll;
      if (top < now + HEIGHT || top + 2 * HEIGHT > now + clientHeight) {
        const wanted = Math.max(0, Math.min(this.last, top - clientHeight / 2 + HEIGHT / 2));
        const most = Math.max(1, this.inside.clientHeight - clientHeight);
        this.frame.scrollTop = this.last ? (wanted / this.last) * most : 0;
      }
    }
    this.draw();
  }

  draw() {
    if (!state.view) return;
    const { count } = state.view;
    const scroll = this.scroll;
    const first = Math.max(0, Math.floor(scroll / HEIGHT) - 2);
    const last = Math.min(count, first + Math.ceil(this.frame.clientHeight / HEIGHT) + 4);
    for (const [position, item] of this.items) {
      if (position < first || position >= last) {
        item.remove();
        this.items.delete(position);
      }
    }
    for (let position = first; position < last; position += 1) {
      if (!this.items.has(position)) this.items.set(position, this.make(position));
      const item = this.items.get(position);
      item.style.top = `${position * HEIGHT - scroll + this.frame.scrollTop}px`;
      this.fill(position, item);
    }
    this.fetch(first, last);
  }

  async fetch(first, last) {
    for (let start = first - (first % WINDOW); start < last; start += WINDOW) {
      const { view } = state;
      if (this.requested.has(start) || this.rows.has(start)) continue;
      this.requested.add(start);
      try {
        const { rows } = await request(`views/${view.view}/rows?start=${start}&count=${WINDOW}`);
        if (view !== state.view) return;
        if (this.rows.size > KEPT) this.rows.clear();
        rows.forEach((row, index) => this.rows.set(start + index, row));
        this.draw();
      } catch {
        // the next scroll requests them again; errors are shown when a line is opened
      } finally {
        this.requested.delete(start);
      }
    }
  }

  setState(number, now) {
    for (const row of this.rows.values()) if (row.number === number && row.state !== "broken") row.state = now;
  }

  takeState() {
    if (state.line) this.setState(state.line.number, state.line.state);
    for (const [position, item] of this.items) this.fill(position, item);
  }

  make(position) {
    const item = make("div", "item");
    item.setAttribute("role", "option");
    item.setAttribute("aria-setsize", state.view.count);
    item.setAttribute("aria-posinset", position + 1);
    const words = make("div");
    words.append(make("div", "of-name"), make("div", "state"));
    const picture = make("span", "thumbnail");
    item.append(picture, words);
    item.addEventListener("click", () => this.open(position));
    this.inside.append(item);
    return item;
  }

  fill(position, item) {
    const row = this.rows.get(position);
    const current = position === state.position;
    item.classList.toggle("current", current);
    item.setAttribute("aria-selected", current);
    if (!row) return;
    if (!item.dataset.number) this.fillOnce(row, item);
    const words = item.querySelector(".state");
    words.className = `state ${row.state}`;
    words.textContent = WORDS[row.state] || row.reason || `${position + 1}`;
  }

  fillOnce(row, item) {
    item.dataset.number = row.number;
    item.title = row.problem ?? (row.reason ? `${row.filename}: ${row.reason}` : row.filename);
    const name = make("bdi", "", row.filename || `line ${row.number + 1}`);
    item.querySelector(".of-name").append(name); // the end of a long path is what tells it from others
    if (row.problem) return;
    const picture = make("img");
    picture.src = `thumbnails/${row.number}?${state.overview.run}`;
    picture.alt = "";
    picture.loading = "lazy";
    item.querySelector(".thumbnail").append(picture);
  }
}
