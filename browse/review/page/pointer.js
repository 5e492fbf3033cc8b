// Mouse and touch input: draw, move, resize and select boxes, add candidates, and drag the picture.

import { take, visible } from "./candidates.js";
import { HANDLE, HANDLES } from "./canvas.js";
import { changeBox, createBox, select } from "./edits.js";
import { area, clamp, distance, inside, ordered, rounded } from "./geometry.js";
import { state } from "./state.js";

const TAP = 10; // CSS pixels that a finger may move during a tap
const CLICK = 4; // CSS pixels: a shorter drag is a click
const MIDDLE = 1; // button

export class Pointer {
  constructor(canvas) {
    this.canvas = canvas;
    const { overlay, stage } = canvas;
    overlay.addEventListener("pointerdown", (event) => this.press(event));
    overlay.addEventListener("pointermove", (event) => this.move(event));
    overlay.addEventListener("pointerup", (event) => this.release(event));
    overlay.addEventListener("pointercancel", () => this.end());
    stage.addEventListener("pointerdown", (event) => this.startPan(event));
    stage.addEventListener("pointermove", (event) => this.pan(event));
    stage.addEventListener("pointerup", () => { this.panning = null; });
  }

  press(event) {
    if (event.button !== 0 || event.altKey || !state.line || this.canvas.hidden) return;
    const at = this.pixel(event);
    if (event.pointerType === "touch") {
      // Fingers pan and zoom the page; only a tap selects a box.
      this.canvas.drag = { kind: "tap", from: at, box: null, line: state.line };
      return;
    }
    const { boxes, selected } = state;
    const chosen = selected === null ? null : boxes[selected];
    const handle = chosen && !event.shiftKey ? this.handleAt(chosen.box, at) : null;
    let kind = "create";
    if (handle) kind = "resize";
    else if (chosen && !event.shiftKey && inside(chosen.box, at)) kind = "move";
    this.canvas.drag = { kind, handle, from: at, before: chosen?.box, box: null, line: state.line };
    this.canvas.overlay.setPointerCapture(event.pointerId);
    this.canvas.stage.focus({ preventScroll: true });
    event.preventDefault();
  }

  move(event) {
    const { drag } = this.canvas;
    if (!drag) return;
    const at = this.pixel(event);
    const { kind, from, before, handle } = drag;
    if (kind === "tap") {
      if (distance(from, at) * this.canvas.scale >= TAP) this.end();
      return;
    }
    if (!drag.box && distance(from, at) * this.canvas.scale < CLICK) return;
    if (kind === "create") drag.box = this.within(ordered([...from, ...at]));
    else if (kind === "move") drag.box = this.moved(before, at[0] - from[0], at[1] - from[1]);
    else drag.box = this.resized(before, handle, at);
    this.canvas.drawSelection();
  }

  release(event) {
    const { drag } = this.canvas;
    if (!drag) return;
    this.end();
    if (drag.line !== state.line) return; // the drag began on another image
    const { kind, box, from } = drag;
    if (!box) this.click(from);
    else if (kind === "create") this.finishNew(box);
    else changeBox(state.selected, rounded(box));
    event.preventDefault();
  }

  end() {
    this.canvas.drag = null;
    this.canvas.drawSelection();
  }

  finishNew(box) {
    const [x1, y1, x2, y2] = box;
    const { scale } = this.canvas;
    if ((x2 - x1) * scale >= CLICK && (y2 - y1) * scale >= CLICK) createBox(box);
  }

  // Selects the smallest box at this point, or the next larger one if it is already selected. Adds a smaller candidate.
  click(at) {
    const { boxes, selected } = state;
    const there = boxes.map((_, index) => index).filter((index) => inside(boxes[index].box, at));
    there.sort((a, b) => area(boxes[a].box) - area(boxes[b].box));
    const ghosts = visible().filter((each) => inside(each.box, at)).sort((a, b) => area(a.box) - area(b.box));
    if (ghosts.length && (!there.length || area(ghosts[0].box) < area(boxes[there[0]].box))) return take(ghosts[0]);
    select(there.length ? there[(there.indexOf(selected) + 1) % there.length] : null);
  }

  // With the middle button, or with Alt.
  startPan(event) {
    if (event.button !== MIDDLE && !(event.button === 0 && event.altKey)) return;
    this.panning = { x: event.clientX, y: event.clientY, left: this.canvas.stage.scrollLeft, top: this.canvas.stage.scrollTop };
    event.preventDefault();
  }

  pan(event) {
    if (!this.panning) return;
    this.canvas.stage.scrollLeft = this.panning.left - (event.clientX - this.panning.x);
    this.canvas.stage.scrollTop = this.panning.top - (event.clientY - this.panning.y);
  }

  handleAt([x1, y1, x2, y2], at) {
    const reach = (HANDLE / 2 + 2) / this.canvas.scale;
    return HANDLES.find(([across, down]) =>
      Math.abs(x1 + (x2 - x1) * across - at[0]) <= reach && Math.abs(y1 + (y2 - y1) * down - at[1]) <= reach) ?? null;
  }

  pixel(event) {
    const frame = this.canvas.overlay.getBoundingClientRect();
    return [(event.clientX - frame.left) / this.canvas.scale, (event.clientY - frame.top) / this.canvas.scale];
  }

  moved(box, across, down) {
    const { width, height } = state.line;
    const dx = clamp(across, -box[0], width - box[2]);
    const dy = clamp(down, -box[1], height - box[3]);
    return [box[0] + dx, box[1] + dy, box[2] + dx, box[3] + dy];
  }

  resized([x1, y1, x2, y2], [across, down], at) {
    const box = [across === 0 ? at[0] : x1, down === 0 ? at[1] : y1, across === 1 ? at[0] : x2, down === 1 ? at[1] : y2];
    const [left, top, right, bottom] = this.within(ordered(box));
    const { width, height } = state.line;
    return [Math.min(left, width - 1), Math.min(top, height - 1), Math.max(right, left + 1), Math.max(bottom, top + 1)];
  }

  within([x1, y1, x2, y2]) {
    const { width, height } = state.line;
    return [clamp(x1, 0, width), clamp(y1, 0, height), clamp(x2, 0, width), clamp(y2, 0, height)];
  }
}
