// Choosing a category or phrase by typing its name.

import { byId, makeRow, showStatus } from "./dom.js";
import { addCategory } from "./edits.js";
import { kinds, kindWord, state } from "./state.js";

const SHOWN = 50;

let chosen = () => {}; // called with the chosen kind
let offered = null; // kinds to choose from instead of those of the line; any other text may be typed then

export function openSearch(act, among = null) {
  chosen = act;
  offered = among;
  byId("search-text").value = "";
  byId("search-text").setAttribute("aria-label", `name of the ${kindWord()}`);
  showFound();
  byId("search").showModal();
}

function words() {
  return byId("search-text").value.trim();
}

function found() {
  const wanted = words().toLowerCase();
  const begins = (kind) => (kind.name.toLowerCase().startsWith(wanted) ? 0 : 1);
  return (offered ?? kinds()).filter((kind) => kind.name.toLowerCase().includes(wanted)).sort((a, b) => begins(a) - begins(b));
}

function showFound() {
  const rows = found().slice(0, SHOWN).map((kind, index) => {
    const row = makeRow(kind.colour, kind.name, index ? "" : "Enter");
    row.classList.toggle("chosen", index === 0);
    row.addEventListener("click", () => choose(kind));
    return row;
  });
  byId("search-found").replaceChildren(...rows);
  const offer = byId("search-add");
  const known = kinds().some((kind) => kind.name.toLowerCase() === words().toLowerCase());
  offer.hidden = offered !== null || !words() || known || kindWord() === "phrase" || !state.overview.may_add_category;
  offer.textContent = `add “${words()}” to the label map`;
}

function choose(kind) {
  byId("search").close();
  if (kind) chosen(kind.label);
  else showStatus(`no ${kindWord()} “${words()}”: nothing was changed`);
}

export function startSearch() {
  byId("search-text").addEventListener("input", showFound);
  byId("search-add").addEventListener("click", () => {
    byId("search").close();
    addCategory(words());
  });
  byId("search-text").addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    event.stopPropagation(); // Enter chooses a name here; on the page it would accept the image
    choose(found()[0] ?? (offered && words() ? { label: words() } : undefined));
  });
}
