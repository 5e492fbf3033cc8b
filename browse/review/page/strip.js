// The list of all images. Only those in sight are in the document: there may be a hundred thousand.

const HEIGHT = 68; // CSS pixels an item, as page.css has it

export class Strip {
  // lines: [{filename, reviewed}]; open(number) is called for a click
  constructor(lines, open) {
    this.lines = lines;
    this.open = open;
    this.current = null;
    this.frame = document.getElementById("strip");
    this.inside = document.getElementById("strip-inside");
    this.inside.style.height = `${lines.length * HEIGHT}px`;
    this.items = new Map();
    this.frame.addEventListener("scroll", () => this.draw());
    new ResizeObserver(() => this.draw()).observe(this.frame);
  }

  show(number) {
    this.current = number;
    const top = number * HEIGHT;
    const { scrollTop, clientHeight } = this.frame;
    if (top < scrollTop + HEIGHT || top + 2 * HEIGHT > scrollTop + clientHeight) {
      this.frame.scrollTop = top - clientHeight / 2 + HEIGHT / 2;
    }
    this.draw();
  }

  draw() {
    const first = Math.max(0, Math.floor(this.frame.scrollTop / HEIGHT) - 2);
    const last = Math.min(this.lines.length, first + Math.ceil(this.frame.clientHeight / HEIGHT) + 4);
    for (const [number, item] of this.items) {
      if (number < first || number >= last) {
        item.remove();
        this.items.delete(number);
      }
    }
    for (let number = first; number < last; number += 1) {
      if (!this.items.has(number)) this.items.set(number, this.make(number));
      this.update(number, this.items.get(number));
    }
  }

  make(number) {
    const item = document.createElement("div");
    item.className = "item";
    item.style.top = `${number * HEIGHT}px`;
    item.title = this.lines[number].filename;
    const picture = document.createElement("img");
    picture.src = `thumbnails/${number}`;
    picture.alt = "";
    const words = document.createElement("div");
    const name = document.createElement("div");
    name.className = "of-name";
    const text = document.createElement("bdi"); // the end of a long path is what tells it from others
    text.textContent = this.lines[number].filename;
    name.append(text);
    const state = document.createElement("div");
    state.dataset.state = "";
    words.append(name, state);
    item.append(picture, words);
    item.addEventListener("click", () => this.open(number));
    this.inside.append(item);
    return item;
  }

  update(number, item) {
    const { reviewed } = this.lines[number];
    item.classList.toggle("current", number === this.current);
    const state = item.querySelector("[data-state]");
    state.className = reviewed ? "done" : "";
    state.textContent = reviewed ? "✓ reviewed" : `${number + 1}`;
  }
}
