// Creates elements and shows messages in the status line and the banner.

export const byId = (id) => document.getElementById(id);

export function make(kind, name = "", text = "") {
  const element = document.createElement(kind);
  if (name) element.className = name;
  if (text) element.textContent = text;
  return element;
}

// A number with its noun: "1 box", "1,204 boxes".
export function many(count, noun) {
  const plural = noun === "box" ? "boxes" : `${noun}s`;
  return `${count.toLocaleString("en")} ${count === 1 ? noun : plural}`;
}

// A name from the data, isolated so that right-to-left text does not reorder its surroundings.
export function makeName(text) {
  const name = make("bdi", "label", text);
  name.title = text;
  return name;
}

// A row of a list: colour, name, note.
export function makeRow(colour, label, note) {
  const row = make("li", "row");
  const swatch = make("span", "swatch");
  swatch.style.background = colour;
  row.append(swatch, makeName(label), make("span", "note", note));
  return row;
}

export function showStatus(text, failed = false) {
  for (const id of ["stored", "crops-stored"]) { // the crops cover the header
    byId(id).textContent = text;
    byId(id).className = failed ? "failed" : "";
  }
}

export function showBanner(text, good = false) {
  byId("banner").hidden = !text;
  byId("banner").className = good ? "good" : "";
  byId("banner-text").textContent = text;
}
