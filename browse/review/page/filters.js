// The filter bar: decides which lines the list, the arrow keys and `n` go through, and in which order.

import { byId, make, many, showBanner, showStatus } from "./dom.js";
import { goToLine, openView } from "./navigation.js";
import { listen, state } from "./state.js";

const ORDER_WORDS = { file: "as in the file", uncertain: "most uncertain first", diverse: "most diverse first", listed: "as listed", boxes: "most boxes first" };
// The words of a comparison with labels that a person made; those with a model's are in the page.
const AGAINST_TRUTH = { any: "with a mistake", gained: "wrong box", lost: "missed object", moved: "shifted box", relabelled: "wrong name" };
const TYPING = 300; // milliseconds after the last key

let timer;

export function startFilters() {
  const { categories, orders, other, truth } = state.overview;
  fill(byId("filter-label"), [["-1", "any category"], ...categories.map(({ label, name }) => [`${label}`, name])]);
  fill(byId("filter-order"), orders.map((order) => [order, ORDER_WORDS[order]]));
  byId("filter-change-field").hidden = !other;
  for (const option of truth ? byId("filter-change").options : []) option.textContent = AGAINST_TRUTH[option.value] ?? option.textContent;
  byId("filter-listed-field").hidden = !orders.includes("listed");
  byId("filter-label-field").hidden = !categories.length;
  const form = byId("filters");
  form.addEventListener("submit", (event) => { event.preventDefault(); apply(); });
  form.addEventListener("input", (event) => {
    if (event.target === byId("go-to")) return; // not a filter: it must not apply one
    clearTimeout(timer);
    timer = setTimeout(apply, event.target.type === "text" || event.target.type === "number" ? TYPING : 0);
  });
  byId("filter-clear").addEventListener("click", () => { clearTimeout(timer); form.reset(); openView({}); });
  byId("go-to").addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    event.stopPropagation();
    const number = Number(event.target.value);
    if (Number.isInteger(number) && number >= 1) goToLine(number - 1);
    event.target.value = "";
    byId("stage").focus();
  });
  listen("view", showQuery);
}

function fill(select, pairs) {
  select.replaceChildren(...pairs.map(([value, text]) => Object.assign(make("option", "", text), { value })));
}

function queryOfBar() {
  const number = (id, otherwise) => (byId(id).value === "" ? otherwise : Number(byId(id).value));
  const all = {
    text: byId("filter-text").value.trim(), label: Number(byId("filter-label").value),
    low: number("filter-low", 0), high: number("filter-high", 1), state: byId("filter-state").value,
    change: byId("filter-change").value, listed: byId("filter-listed").checked, order: byId("filter-order").value,
  };
  const usual = { text: "", label: -1, low: 0, high: 1, state: "", change: "", listed: false, order: "file" };
  return Object.fromEntries(Object.entries(all).filter(([name, value]) => value !== usual[name]));
}

async function apply() {
  if (byId("filter-order").value === "diverse" && state.query.order !== "diverse") showStatus("comparing the images …");
  try {
    await openView(queryOfBar());
  } catch (error) {
    showBanner(error.message);
  }
}

function showQuery() {
  const { query, view } = state;
  if (!byId("filters").contains(document.activeElement)) {
    byId("filter-text").value = query.text ?? "";
    byId("filter-low").value = query.low ?? "";
    byId("filter-high").value = query.high ?? "";
  }
  byId("filter-label").value = `${query.label ?? -1}`;
  byId("filter-state").value = query.state ?? "";
  byId("filter-change").value = query.change ?? "";
  byId("filter-listed").checked = query.listed ?? false;
  byId("filter-order").value = query.order ?? "file";
  const filtered = Object.entries(query).some(([name, value]) => name !== "order" && value !== "" && value !== false
    && !(name === "label" && value === -1) && !(name === "low" && value === 0) && !(name === "high" && value === 1));
  byId("filter-count").textContent = filtered ? `${view.count} of ${state.overview.total}` : many(view.count, "image");
  byId("filter-clear").hidden = !filtered;
}
