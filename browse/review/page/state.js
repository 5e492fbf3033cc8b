// What the page knows, and who is notified when it changes.

export const state = {
  overview: null, // the response of "overview"
  query: null, // the query of the filter bar
  view: null, // {view, count, open}: the lines that it shows
  position: null, // of the shown line in the view; null if the view does not contain it
  line: null, // the response of "lines/N"; null while it loads
  boxes: [], // of the line as they are now, [{box, of, score, ignore}]
  phrases: [], // of a caption, [{texts, spans}]
  outside: 0, // boxes of the line that lie wholly outside its image: these are left out
  selected: null, // position of a box, or null
  kind: null, // what a new box is: a label, or for a caption the position of a phrase
  candidates: [], // the model's boxes that did not become labels
  comparison: null, // the other label file's boxes, and the change of each
  progress: null, // how many lines are in each state
};

const listeners = { line: [], boxes: [], selection: [], candidates: [], progress: [], view: [] };

// what: "line", "boxes", "selection", "candidates", "progress" or "view"
export function listen(what, act) {
  listeners[what].push(act);
}

export function notify(what) {
  for (const act of listeners[what]) act();
}

// What a box of the line can be: a category of the label map, or a phrase of the caption.
export function kinds() {
  if (!state.line || state.line.caption === null) return state.overview.categories;
  const colours = state.overview.phrase_colours;
  return state.phrases.map((phrase, index) => ({
    label: index, name: phrase.texts.join(" … "), ...colours[index % colours.length],
  }));
}

export function kindWord() {
  return !state.line || state.line.caption === null ? "category" : "phrase";
}

// The line as a change of it needs it, and as undo restores it.
export function snapshot() {
  const { line, boxes, phrases } = state;
  const plain = phrases.map(({ texts, spans }) => ({ texts, spans }));
  return structuredClone({ number: line.number, state: line.state, earlier: line.earlier, boxes, phrases: plain });
}
