// The picture with its boxes: drawing them, and what the pointer does to them.
// Boxes are [x1, y1, x2, y2] in pixels of the stored image; the screen shows `scale` CSS pixels for each of them.

const SVG = "http://www.w3.org/2000/svg";
const IGNORED = "#c8c8c8"; // grey, as drawings have it, and lighter: here it is dashed on a dark line
const HANDLE = 9; // CSS pixels
const CLICK = 4; // CSS pixels: a shorter drag is a click
const LARGEST_ZOOM = 16;
const HANDLES = [[0, 0], [0.5, 0], [1, 0], [1, 0.5], [1, 1], [0.5, 1], [0, 1], [0, 0.5]];

export class Canvas {
  // actions: select(index or null), change(index, box), create(box)
  constructor(actions) {
    this.actions = actions;
    this.stage = document.getElementById("stage");
    this.canvas = document.getElementById("canvas");
    this.picture = document.getElementById("picture");
    this.overlay = document.getElementById("overlay");
    this.tags = document.getElementById("tags");
    this.noPicture = document.getElementById("no-picture");
    this.view = null;
    this.zoom = 1;
    this.drag = null;
    this.hidden = false;
    this.overlay.addEventListener("pointerdown", (event) => this.press(event));
    this.overlay.addEventListener("pointermove", (event) => this.move(event));
    this.overlay.addEventListener("pointerup", (event) => this.release(event));
    this.overlay.addEventListener("pointercancel", () => this.endDrag());
    this.stage.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    this.picture.addEventListener("load", () => this.loaded());
    this.picture.addEventListener("error", () => this.failed());
    new ResizeObserver(() => this.draw()).observe(this.stage);
  }

  // view: {number, width, height, boxes: [{box, name, colour, ink, score, ignore}], selected}
  show(view) {
    const another = this.view?.number !== view.number;
    this.view = view;
    if (another) {
      this.zoom = 1;
      this.endDrag();
      this.noPicture.hidden = true;
      this.picture.src = `images/${view.number}`;
    }
    this.draw();
  }

  loaded() {
    const { naturalWidth, naturalHeight } = this.picture;
    const { width, height } = this.view;
    if (Math.abs(naturalWidth / naturalHeight / (width / height) - 1) > 0.02) {
      this.actions.warn(`The picture's sides have the ratio ${naturalWidth} : ${naturalHeight}, but its line says ` +
        `${width} x ${height}: its boxes may belong to another picture.`);
    }
  }

  async failed() {
    const answer = await fetch(this.picture.src).catch(() => null);
    const message = answer ? (await answer.json().catch(() => ({}))).error : "the server does not answer";
    this.noPicture.textContent = `This picture cannot be shown. ${message ?? ""}`;
    this.noPicture.hidden = false;
  }

  setZoom(zoom, at = null) {
    const before = this.scale;
    this.zoom = Math.min(LARGEST_ZOOM, Math.max(1, zoom));
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

  toggleBoxes() {
    this.hidden = !this.hidden;
    this.draw();
  }

  // Drawing

  draw() {
    if (!this.view) return;
    const { width, height, boxes, selected } = this.view;
    const fit = Math.min((this.stage.clientWidth - 28) / width, (this.stage.clientHeight - 28) / height);
    this.scale = Math.max(fit, 0.01) * this.zoom;
    this.canvas.style.width = `${width * this.scale}px`;
    this.canvas.style.height = `${height * this.scale}px`;
    this.overlay.replaceChildren();
    this.tags.replaceChildren();
    if (!this.hidden) {
      // The largest below, so that a small one shows; the selected one on top of all.
      const order = boxes.map((_, index) => index).sort((a, b) => area(boxes[b].box) - area(boxes[a].box));
      for (const index of order) this.drawBox(boxes[index], index === selected);
      if (selected !== null && boxes[selected]) this.drawHandles(boxes[selected].box);
    }
    if (this.drag?.box) this.drawDrag();
  }

  drawBox(each, chosen) {
    const colour = each.ignore ? IGNORED : each.colour;
    const stroke = chosen ? 4 : 2.5;
    this.rectangle(each.box, { class: "rim", "stroke-width": stroke + 2 });
    const look = { class: chosen ? "frame chosen" : "frame", stroke: colour, "stroke-width": stroke };
    this.rectangle(each.box, { ...look, "stroke-dasharray": each.ignore ? "9 7" : "none" });
    this.drawTag(each, colour, chosen);
  }

  drawTag(each, colour, chosen) {
    const tag = document.createElement("span");
    tag.className = chosen ? "tag chosen" : "tag";
    tag.textContent = each.score === null ? each.name : `${each.name} ${each.score.toFixed(2)}`;
    tag.style.background = colour;
    tag.style.color = each.ignore ? "#000" : each.ink;
    const [x, y, , bottom] = each.box.map((side) => side * this.scale);
    const above = y >= 20;
    const below = bottom + 20 <= this.view.height * this.scale;
    tag.style.left = `${Math.max(0, x - 1)}px`;
    tag.style.top = `${above ? y - 20 : below ? bottom + 1 : y + 2}px`;
    this.tags.append(tag);
  }

  drawHandles(box) {
    this.rectangle(box, { class: "movable" });
    const [x1, y1, x2, y2] = box;
    for (const [across, down] of HANDLES) {
      const x = (x1 + (x2 - x1) * across) * this.scale;
      const y = (y1 + (y2 - y1) * down) * this.scale;
      const handle = this.append("rect", {
        class: "handle", x: x - HANDLE / 2, y: y - HANDLE / 2, width: HANDLE, height: HANDLE,
      });
      handle.style.cursor = cursorOf(across, down);
    }
  }

  drawDrag() {
    const { box, kind } = this.drag;
    this.rectangle(box, { class: "rim", "stroke-width": 4 });
    this.rectangle(box, { class: "frame chosen", stroke: "#fff", "stroke-width": 2, "stroke-dasharray": kind === "create" ? "6 4" : "none" });
  }

  rectangle([x1, y1, x2, y2], attributes) {
    const s = this.scale;
    return this.append("rect", { x: x1 * s, y: y1 * s, width: (x2 - x1) * s, height: (y2 - y1) * s, ...attributes });
  }

  append(kind, attributes) {
    const element = document.createElementNS(SVG, kind);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    this.overlay.append(element);
    return element;
  }

  // The pointer

  press(event) {
    if (event.button !== 0 || !this.view || this.hidden) return;
    const at = this.pixel(event);
    const { boxes, selected } = this.view;
    const chosen = selected === null ? null : boxes[selected];
    const handle = chosen && !event.shiftKey ? this.handleAt(chosen.box, at) : null;
    let kind = "create";
    if (handle) kind = "resize";
    else if (chosen && !event.shiftKey && inside(chosen.box, at)) kind = "move";
    this.drag = { kind, handle, from: at, before: chosen?.box, box: null };
    this.overlay.setPointerCapture(event.pointerId);
    event.preventDefault();
  }

  move(event) {
    if (!this.drag) return;
    const at = this.pixel(event);
    const { kind, from, before, handle } = this.drag;
    if (!this.drag.box && distance(from, at) * this.scale < CLICK) return;
    if (kind === "create") this.drag.box = this.within(ordered([...from, ...at]));
    else if (kind === "move") this.drag.box = this.moved(before, at[0] - from[0], at[1] - from[1]);
    else this.drag.box = this.resized(before, handle, at);
    this.draw();
  }

  release(event) {
    if (!this.drag) return;
    const { kind, box, from } = this.drag;
    this.endDrag();
    if (!box) this.actions.select(this.boxAt(from));
    else if (kind === "create") this.finishNew(box);
    else this.actions.change(this.view.selected, rounded(box));
    event.preventDefault();
  }

  finishNew(box) {
    const [x1, y1, x2, y2] = box;
    if ((x2 - x1) * this.scale >= CLICK && (y2 - y1) * this.scale >= CLICK) this.actions.create(rounded(box));
    else this.draw();
  }

  endDrag() {
    this.drag = null;
    this.draw();
  }

  // The smallest box there; where it is selected already, the next larger one.
  boxAt(at) {
    const { boxes, selected } = this.view;
    const there = boxes.map((_, index) => index).filter((index) => inside(boxes[index].box, at));
    there.sort((a, b) => area(boxes[a].box) - area(boxes[b].box));
    if (!there.length) return null;
    return there[(there.indexOf(selected) + 1) % there.length];
  }

  handleAt([x1, y1, x2, y2], at) {
    const reach = (HANDLE / 2 + 2) / this.scale;
    return HANDLES.find(([across, down]) =>
      Math.abs(x1 + (x2 - x1) * across - at[0]) <= reach && Math.abs(y1 + (y2 - y1) * down - at[1]) <= reach) ?? null;
  }

  pixel(event) {
    const frame = this.overlay.getBoundingClientRect();
    return [(event.clientX - frame.left) / this.scale, (event.clientY - frame.top) / this.scale];
  }

  moved(box, across, down) {
    const { width, height } = this.view;
    const dx = Math.min(Math.max(across, -box[0]), width - box[2]);
    const dy = Math.min(Math.max(down, -box[1]), height - box[3]);
    return [box[0] + dx, box[1] + dy, box[2] + dx, box[3] + dy];
  }

  resized([x1, y1, x2, y2], [across, down], at) {
    const box = [across === 0 ? at[0] : x1, down === 0 ? at[1] : y1, across === 1 ? at[0] : x2, down === 1 ? at[1] : y2];
    const [left, top, right, bottom] = this.within(ordered(box));
    return [left, top, Math.max(right, left + 1), Math.max(bottom, top + 1)];
  }

  within([x1, y1, x2, y2]) {
    const { width, height } = this.view;
    const clamp = (value, most) => Math.min(Math.max(value, 0), most);
    return [clamp(x1, width), clamp(y1, height), clamp(x2, width), clamp(y2, height)];
  }
}

const area = ([x1, y1, x2, y2]) => (x2 - x1) * (y2 - y1);
const inside = ([x1, y1, x2, y2], [x, y]) => x >= x1 && x <= x2 && y >= y1 && y <= y2;
const distance = ([x1, y1], [x2, y2]) => Math.hypot(x2 - x1, y2 - y1);
const ordered = ([x1, y1, x2, y2]) => [Math.min(x1, x2), Math.min(y1, y2), Math.max(x1, x2), Math.max(y1, y2)];
const rounded = (box) => box.map((side) => Math.round(side * 100) / 100);

function cursorOf(across, down) {
  if (across === 0.5) return "ns-resize";
  if (down === 0.5) return "ew-resize";
  return across === down ? "nwse-resize" : "nesw-resize";
}
