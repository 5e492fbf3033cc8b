// Loads, draws and zooms the picture with its boxes. Mouse and touch input is in pointer.js.
// Boxes are in pixels of the stored image; the screen shows `scale` CSS pixels for each of them.

import { visible } from "./candidates.js";
import { colourOf, wordOf } from "./compare.js";
import { byId, make, many, showBanner } from "./dom.js";
import { area, clamp } from "./geometry.js";
import { kinds, listen, state } from "./state.js";

const SVG = "http://www.w3.org/2000/svg";
const IGNORED = "#c8c8c8"; // a lighter grey than in drawings, since the dashes are on a dark line
export const HANDLE = 9; // CSS pixels
const MARGIN = 28; // CSS pixels round the picture
const LARGEST_ZOOM = 32;
const MANY = 40; // with more boxes than this, only the selected one has a tag, unless all tags are switched on
// Height of a tag and maximum width per character, padding included, in CSS pixels; page.css has the same two sizes.
const TAG = { height: 20, letter: 9 };
const SMALL_TAG = { height: 17, letter: 7.7 };
const SMALL = matchMedia("(max-width: 700px)");
const CROWD = 150; // with more tags than this, no free position is searched for: there is none
const SHARPER = 1.15; // ratio of screen pixels to those of the reduced picture above which a sharper part is fetched
const SETTLED = 150; // milliseconds without scrolling before a part is fetched
export const HANDLES = [[0, 0], [0.5, 0], [1, 0], [1, 0.5], [1, 1], [0.5, 1], [0, 1], [0, 0.5]];
const RETRY = 1000; // milliseconds before a picture is requested again that the server was too busy for

export class Canvas {
  constructor() {
    this.stage = byId("stage");
    this.canvas = byId("canvas");
    this.picture = byId("picture");
    this.part = byId("part");
    this.overlay = byId("overlay");
    this.tags = byId("tags");
    this.note = byId("no-picture");
    this.zoom = 1;
    this.scale = 1;
    this.hidden = false; // boxes
    this.tagMode = "auto"; // or "all", "selected"
    this.drag = null; // the current pointer action, {kind, box}
    this.ready = null; // number of the line whose picture is on the screen
    this.drawn = []; // of each box {rim, frame, tag}
    this.unplaced = []; // tags of this drawing, {tag, box, rank, below}
    listen("line", () => this.showLine());
    listen("boxes", () => this.draw());
    listen("candidates", () => this.draw());
    listen("selection", () => this.drawSelection());
    this.stage.addEventListener("scroll", () => this.sharpenSoon());
    this.stage.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    new ResizeObserver(() => this.draw()).observe(this.stage);
  }

  // The picture

  // Clears the previous line: otherwise its picture under the new boxes could be accepted.
  async showLine() {
    const { line } = state;
    this.zoom = 1;
    this.hidden = false;
    this.drag = null;
    this.ready = null;
    this.part.hidden = true;
    this.picture.hidden = true;
    this.note.hidden = !line;
    this.note.className = "loading";
    this.note.textContent = "loading the picture …";
    this.draw();
    if (line) await this.loadPicture(line);
  }

  async loadPicture(line) {
    const loaded = new Image();
    loaded.src = `images/${line.number}?${state.overview.run}`;
    try {
      await loaded.decode();
    } catch {
      if (state.line === line) await this.explain(line, loaded.src);
      return;
    }
    if (state.line !== line) return; // another line is shown now
    loaded.id = "picture";
    loaded.alt = `${line.filename}, with ${many(state.boxes.length, "box")}`;
    this.picture.replaceWith(loaded);
    this.picture = loaded;
    this.note.hidden = true;
    this.ready = line.number;
    this.checkShape(line);
    this.draw();
  }

  checkShape({ width, height }) {
    const { naturalWidth, naturalHeight } = this.picture;
    if (Math.abs(naturalWidth / naturalHeight / (width / height) - 1) > 0.02) {
      showBanner(`The picture has an aspect ratio of ${naturalWidth} : ${naturalHeight}, but the label file says ` +
        `${width} x ${height}: these boxes may belong to another picture.`);
    }
  }

  async explain(line, address) {
    const response = await fetch(address).catch(() => null);
    if (response?.status === 503 || response?.ok) {
      setTimeout(() => { if (state.line === line) this.loadPicture(line); }, RETRY);
      return;
    }
    const message = response ? (await response.json().catch(() => ({}))).error : "the server does not respond";
    if (state.line !== line) return;
    this.note.className = "broken";
    this.note.textContent = `This picture cannot be shown, so it cannot be accepted. Press s to skip it. ${message ?? ""}`;
    this.note.hidden = false;
  }

  // Why the line cannot be accepted now; "" if it can.
  obstacle() {
    if (!state.line || this.ready !== state.line.number) return "the picture is not loaded yet, so it cannot be accepted";
    return "";
  }

  // Zooming

  setZoom(zoom, at = null) {
    const before = this.scale;
    this.zoom = clamp(zoom, 1, LARGEST_ZOOM);
    this.draw();
    const box = this.stage.getBoundingClientRect();
    const x = at ? at.clientX - box.left : box.width / 2;
    const y = at ? at.clientY - box.top : box.height / 2;
    const ratio = this.scale / before;
    this.stage.scrollLeft = (this.stage.scrollLeft + x) * ratio - x;
    this.stage.scrollTop = (this.stage.scrollTop + y) * ratio - y;
  }

  wheel(event) {
    if (!event.ctrlKey) return;
    event.preventDefault();
    this.setZoom(this.zoom * Math.exp(-event.deltaY / 300), event);
  }

  sharpenSoon() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.sharpen(), SETTLED);
  }

  // Shows the visible part at full resolution if the reduced picture has too few pixels for the screen.
  async sharpen() {
    const { line } = state;
    if (!line || this.ready !== line.number) return;
    const pixels = this.scale * devicePixelRatio;
    const reduced = this.picture.naturalWidth / line.width;
    if (pixels < reduced * SHARPER || reduced >= 0.99) {
      this.part.hidden = true;
      return;
    }
    const frame = this.canvas.getBoundingClientRect();
    const stage = this.stage.getBoundingClientRect();
    const sight = [stage.left - frame.left, stage.top - frame.top, stage.right - frame.left, stage.bottom - frame.top];
    const [x1, y1, x2, y2] = sight.map((side, index) =>
      clamp((index < 2 ? Math.floor : Math.ceil)(side / this.scale), 0, index % 2 ? line.height : line.width));
    if (x2 <= x1 || y2 <= y1) return;
    const side = Math.ceil(Math.max(x2 - x1, y2 - y1) * Math.min(1, pixels));
    const loaded = new Image();
    loaded.src = `regions/${line.number}?box=${x1},${y1},${x2},${y2}&side=${side}&${state.overview.run}`;
    if (!await loaded.decode().then(() => true, () => false) || state.line !== line) return;
    loaded.id = "part";
    loaded.alt = "";
    this.part.replaceWith(loaded);
    this.part = loaded;
    this.part.dataset.box = [x1, y1, x2, y2].join(" ");
    this.placePart();
  }

  placePart() {
    if (!this.part.dataset.box) return;
    const [x1, y1, x2, y2] = this.part.dataset.box.split(" ").map(Number);
    Object.assign(this.part.style, {
      left: `${x1 * this.scale}px`, top: `${y1 * this.scale}px`,
      width: `${(x2 - x1) * this.scale}px`, height: `${(y2 - y1) * this.scale}px`,
    });
  }

  // Drawing

  toggleBoxes() {
    this.hidden = !this.hidden;
    this.draw();
  }

  nextTagMode() {
    const modes = ["auto", "all", "selected"];
    this.tagMode = modes[(modes.indexOf(this.tagMode) + 1) % modes.length];
    this.drawSelection();
    return this.tagMode;
  }

  draw() {
    byId("hidden-sign").hidden = !this.hidden || !state.line;
    this.overlay.replaceChildren();
    this.overlay.classList.toggle("many", state.boxes.length > MANY);
    this.tags.replaceChildren();
    this.drawn = [];
    this.unplaced = [];
    if (!state.line) return;
    this.fit();
    if (!this.hidden) {
      const known = new Map(kinds().map((kind) => [kind.label, kind]));
      for (const ghost of visible()) this.drawGhost(ghost, known.get(ghost.of));
      this.drawOthers();
      // The largest box is drawn first, so that small ones stay visible.
      const order = state.boxes.map((_, index) => index);
      order.sort((a, b) => area(state.boxes[b].box) - area(state.boxes[a].box));
      for (const index of order) this.drawn[index] = this.drawBox(state.boxes[index], known.get(state.boxes[index].of), index);
      this.placeTags();
    }
    this.selectionLayer = this.append("g", {});
    this.drawSelection();
    this.sharpenSoon();
    this.placePart();
  }

  fit() {
    const { width, height } = state.line;
    const fit = Math.min((this.stage.clientWidth - MARGIN) / width, (this.stage.clientHeight - MARGIN) / height);
    this.scale = Math.max(fit, 0.01) * this.zoom;
    this.canvas.style.width = `${width * this.scale}px`;
    this.canvas.style.height = `${height * this.scale}px`;
  }

  // A new selection changes only a few CSS classes, not hundreds of elements.
  drawSelection() {
    if (!this.selectionLayer) return;
    const { selected, boxes } = state;
    this.drawn.forEach(({ frame, tag }, index) => {
      const chosen = index === selected;
      frame.classList.toggle("chosen", chosen);
      tag.classList.toggle("chosen", chosen);
      tag.hidden = !chosen && (this.tagMode === "selected" || (this.tagMode === "auto" && boxes.length > MANY));
    });
    this.selectionLayer.replaceChildren();
    if (selected !== null && boxes[selected] && !this.hidden && !this.drag?.box) this.drawHandles(boxes[selected].box);
    if (this.drag?.box) this.drawDrag();
  }

  // In a comparison the colour shows how a box changed, not its class.
  drawBox(each, kind, index) {
    const change = state.comparison?.changes[index];
    const colour = change ? colourOf(change) : each.ignore ? IGNORED : kind?.colour ?? IGNORED;
    const ink = change || each.ignore ? "#000" : kind?.ink ?? "#000";
    const rim = this.rectangle(each.box, { class: "rim" });
    const frame = this.rectangle(each.box, { class: "frame", stroke: colour });
    if (each.ignore) frame.setAttribute("stroke-dasharray", "9 7");
    const tag = this.tag(each.box, kind?.name ?? "?", each.score, colour, ink, { rank: 0 });
    if (change && change !== "same") tag.append(make("span", "change", ` ${wordOf(change)}`));
    return { rim, frame, tag };
  }

  drawGhost(each, kind) {
    if (!kind) return;
    this.rectangle(each.box, { class: "ghost-rim" });
    this.rectangle(each.box, { class: "ghost", stroke: kind.colour });
    const tag = this.tag(each.box, kind.name, each.score, "rgb(0 0 0 / .62)", "#fff", { rank: 2 });
    tag.classList.add("of-ghost");
  }

  // Boxes of the other label file that have no identical box here.
  drawOthers() {
    for (const each of state.comparison?.boxes ?? []) {
      if (each.change === "same") continue;
      const colour = colourOf(each.change);
      this.rectangle(each.box, { class: "other-rim" });
      this.rectangle(each.box, { class: "other", stroke: colour });
      const word = each.change === "lost" ? wordOf("lost") : state.comparison.truth ? "truth:" : "was";
      const tag = this.tag(each.box, `${word} ${each.name}`, each.score, colour, "#000", { rank: 1, below: true });
      tag.classList.add("of-other");
    }
  }

  // rank: tags of a lower one choose their place first. below: rather under the box than above it.
  tag(box, name, score, paper, ink, { rank, below = false }) {
    const tag = make("span", "tag");
    tag.append(make("bdi", "", name), score === null ? "" : ` ${score.toFixed(2)}`);
    tag.style.background = paper;
    tag.style.color = ink;
    this.tags.append(tag);
    this.unplaced.push({ tag, box, rank, below });
    return tag;
  }

  // Each tag where it covers least of the others. Widths are guessed: measuring costs a layout a tag.
  placeTags() {
    const taken = [];
    const size = SMALL.matches ? SMALL_TAG : TAG;
    for (const { tag, box, below } of this.unplaced.sort((a, b) => a.rank - b.rank)) {
      const places = this.placesOf(box, size.letter * tag.textContent.length, size.height, below);
      const place = this.unplaced.length < CROWD ? freest(places, taken) : places[0];
      taken.push(place);
      tag.style.top = `${place.top}px`;
      if (place.atRight) tag.style.right = `${state.line.width * this.scale - place.right}px`;
      else tag.style.left = `${place.left}px`;
    }
  }

  // Where a tag may stand, in CSS pixels of the image, best first: over, under and in the box, beside it, farther off.
  // atRight: its right side is exact, else its left side.
  placesOf(box, width, height, below) {
    const [x, y, right, bottom] = box.map((side) => side * this.scale);
    const [across, down] = [state.line.width * this.scale, state.line.height * this.scale];
    const start = Math.max(0, x - 1);
    const end = Math.min(across, right + 1);
    const atLeft = { left: start, right: start + width, atRight: false };
    const atRight = { left: end - width, right: end, atRight: true };
    const sides = right <= width ? [atLeft] : start + width > across ? [atRight] : [atLeft, atRight];
    const beside = [{ left: end + 1, right: end + 1 + width, atRight: false },
      { left: start - 1 - width, right: start - 1, atRight: true }].filter(({ left, right }) => left >= 0 && right <= across);
    const outside = below ? [bottom + 1, y - height] : [y - height, bottom + 1];
    const within = (top) => top >= 0 && top + height <= down;
    const at = (tops, sides) => tops.filter(within).flatMap((top) => sides.map((side) => ({ ...side, top, bottom: top + height })));
    const places = [...at([...outside, y + 2, bottom - height - 1], sides), ...at([y, bottom - height], beside),
      ...at([y - 2 * height, bottom + height, y + 2 + height], sides)];
    return places.length ? places : [{ ...sides[0], top: y + 2, bottom: y + 2 + height }];
  }

  drawHandles(box) {
    this.rectangle(box, { class: "movable" }, this.selectionLayer);
    const [x1, y1, x2, y2] = box;
    for (const [across, down] of HANDLES) {
      const x = (x1 + (x2 - x1) * across) * this.scale;
      const y = (y1 + (y2 - y1) * down) * this.scale;
      const place = { class: "handle", x: x - HANDLE / 2, y: y - HANDLE / 2, width: HANDLE, height: HANDLE };
      this.append("rect", place, this.selectionLayer).style.cursor = cursorOf(across, down);
    }
  }

  drawDrag() {
    const { box, kind } = this.drag;
    this.rectangle(box, { class: "rim" }, this.selectionLayer);
    const dashes = kind === "create" ? "6 4" : "none";
    this.rectangle(box, { class: "frame chosen", stroke: "#fff", "stroke-dasharray": dashes }, this.selectionLayer);
  }

  rectangle([x1, y1, x2, y2], attributes, parent = this.overlay) {
    const s = this.scale;
    const place = { x: x1 * s, y: y1 * s, width: (x2 - x1) * s, height: (y2 - y1) * s };
    return this.append("rect", { ...place, ...attributes }, parent);
  }

  append(kind, attributes, parent = this.overlay) {
    const element = document.createElementNS(SVG, kind);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    parent.append(element);
    return element;
  }
}

// The first of the places that covers least of what is taken.
function freest(places, taken) {
  let [best, least] = [places[0], Infinity];
  for (const place of places) {
    const covered = taken.reduce((sum, other) => sum + common(place, other), 0);
    if (covered < least) [best, least] = [place, covered];
    if (!covered) break;
  }
  return best;
}

function common(one, other) {
  const width = Math.min(one.right, other.right) - Math.max(one.left, other.left);
  const height = Math.min(one.bottom, other.bottom) - Math.max(one.top, other.top);
  return Math.max(0, width) * Math.max(0, height);
}

function cursorOf(across, down) {
  if (across === 0.5) return "ns-resize";
  if (down === 0.5) return "ew-resize";
  return across === down ? "nwse-resize" : "nesw-resize";
}
