"""The grid of crops: the boxes of one category over all images, and actions on many of them at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from browse.review.page_json import phrase_of_words
from browse.review.session import BoxRows, Review
from browse.review.similarity import like_first, neighbours_together
from browse.review.views import LineView, Views, fitting
from formats.io.errors import InputError

SORTS = ("low", "high", "doubt", "similar", "file")
MOST_LISTED = 20_000  # boxes that one grid may show
BLOCK = 500_000  # boxes that are looked at together
MOST_ALIKE = 2_000  # that are compared by what they look like, those with the lowest scores
MOST_CHANGED = 2_000  # boxes that one action may change
ACTIONS = ("delete", "relabel", "ignore", "accept")


@dataclass(frozen=True)
class CropQuery:
    """Which crops are shown. label: -1 for all. words: for captions, part of the phrase. low, high: the score.

    sort: one of SORTS. like: (line, box), the crop that "similar" starts from; None: groups of similar crops.
    """

    label: int = -1
    words: str = ""
    sort: str = "low"
    low: float = 0.0
    high: float = 1.0
    like: tuple[int, int] | None = None


def list_crops(views: Views, view: LineView, query: CropQuery) -> list[tuple[int, int]]:
    """(line, box) of each matching box in the lines of a view, sorted as in the query.

    Lines that a person has changed have the person's boxes.
    Raises InputError for an unknown sort, or one that is not available for these images.
    """
    if query.sort not in SORTS or (query.sort == "similar" and views.similarity is None):
        raise InputError("crops", f"no sort {query.sort!r}", f"expected one of {', '.join(SORTS)}")
    review, index = views.review, views.review.index
    shown = ~index.broken
    if view.numbers is not None:
        shown[:] = False
        shown[view.numbers] = True
    if query.words:
        shown &= index.matching(query.words)
    numbers, changed = review.changed_boxes()
    shown_now, shown[numbers] = shown.copy(), False
    boxes = _first_boxes(views, shown, query)
    lines = index.box_lines[boxes]
    rows = BoxRows(lines, boxes - index.first[lines], index.labels[boxes], index.scores[boxes])
    now = fitting(changed.label, changed.score, query.label, query.low, query.high)
    rows = rows.with_rows(changed.at(now[shown_now[changed.line[now]]]))
    rows = rows.at(_first(_rank(views, rows.line, rows.label, rows.score, query.sort)))
    found = list(zip(rows.line.tolist(), rows.place.tolist()))
    found = _with_words(review, found, query.words) if query.words else found
    return _alike(views, found, query.like) if query.sort == "similar" else found


def _first_boxes(views: Views, shown: np.ndarray, query: CropQuery) -> np.ndarray:
    """Positions of the boxes of the label file that come first; equal ones as they come. shown: (N,) bool, of lines.

    A block of boxes at a time: copies of millions would take more memory than the file's index.
    """
    index = views.review.index
    labels, scores = index.labels, index.scores
    best = np.zeros(0, np.int64)
    for start in range(0, len(labels), BLOCK):
        block = slice(start, start + BLOCK)
        boxes = start + fitting(labels[block], scores[block], query.label, query.low, query.high)
        boxes = np.concatenate([best, boxes[shown[index.box_lines[boxes]]]])
        best = boxes[_first(_rank(views, boxes, labels[boxes], scores[boxes], query.sort))]
    return best


def _rank(views: Views, place: np.ndarray, label: np.ndarray, score: np.ndarray, sort: str) -> np.ndarray:
    """(B,) numbers, lowest first; NaN and infinite ones last. place: (B,), of each box in the file."""
    if sort == "file":
        return place
    if sort == "doubt":
        return views.doubt(label, score)
    return -score if sort == "high" else score


def _first(rank: np.ndarray) -> np.ndarray:
    """Positions of the lowest ranks, in their order; equal ones as they come. All are sorted only if they are few."""
    places = np.arange(len(rank))
    if len(rank) > MOST_LISTED:
        places = np.sort(np.argpartition(rank, MOST_LISTED)[:MOST_LISTED])
    return places[np.argsort(rank[places], kind="stable")]


def _with_words(review: Review, crops: Sequence[tuple[int, int]], words: str) -> list[tuple[int, int]]:
    """The crops whose phrase contains the words, ignoring case."""
    wanted = words.casefold()
    fits: dict[int, list[bool]] = {}
    for number, _ in crops:
        if number not in fits:
            page = review.page(number)
            fits[number] = [wanted in _name(review, page, each["of"]).casefold() for each in page["boxes"]]
    return [(number, index) for number, index in crops if index < len(fits[number]) and fits[number][index]]


def _alike(views: Views, crops: list[tuple[int, int]], like: tuple[int, int] | None) -> list[tuple[int, int]]:
    """Sorts crops by similarity: similar ones together, or those similar to one of them first."""
    assert views.similarity is not None
    boxes: dict[int, list[dict[str, Any]]] = {}
    compared = list(dict.fromkeys([*([like] if like in crops else []), *crops]))[:MOST_ALIKE]
    for number, _ in compared:
        if number not in boxes:
            boxes[number] = views.review.page(number)["boxes"]
    compared = [each for each in compared if each[1] < len(boxes[each[0]])]
    if not compared:
        return crops
    appearances = views.similarity.crops([(number, tuple(boxes[number][index]["box"])) for number, index in compared])
    order = like_first(appearances, 0) if like in crops else neighbours_together(appearances)
    rest = set(compared)
    return [compared[index] for index in order.tolist()] + [each for each in crops if each not in rest]


def crop_rows(review: Review, crops: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
    """The rows of the grid for some boxes; boxes that no longer exist are left out."""
    pages: dict[int, dict[str, Any]] = {}
    rows = []
    for number, index in crops:
        if number not in pages:
            pages[number] = review.page(number)
        page = pages[number]
        if index < len(page["boxes"]):
            each = page["boxes"][index]
            name = _name(review, page, each["of"])
            rows.append(
                {
                    **each,
                    "number": number,
                    "place": index,
                    "name": name,
                    "filename": page["filename"],
                    "state": page["state"],
                }
            )
    return rows


def _name(review: Review, page: Mapping[str, Any], of: int) -> str:
    return review.categories.get(of, "") if page["caption"] is None else " … ".join(page["phrases"][of]["texts"])


def change_crops(review: Review, action: str, of: Any, items: Any) -> dict[str, Any]:
    """Applies one action to many boxes, to all or none: deletes, relabels or ignores them, or accepts their images.

    items: [{"number", "box", "of"}], as shown in the grid. of: the new label; for captions, the words of the phrase,
    which every caption must contain. Returns {"before", "after"}: the lines before and after the change, for undo.
    Raises InputError for boxes that have changed in the meantime, or an impossible change.
    """
    if action not in ACTIONS or not isinstance(items, list) or not 0 < len(items) <= MOST_CHANGED:
        what = f"no action {action!r}" if action not in ACTIONS else "is not a list of boxes"
        raise InputError("crops", what, f"expected one of {', '.join(ACTIONS)} and up to {MOST_CHANGED} boxes")
    edits = _edits(review, action, of)
    by_line: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for item in items:
        if not isinstance(item, dict) or type(item.get("number")) is not int or item["number"] < 0:
            raise InputError("crops", f"{item!r} is not a box", 'expected {"number", "box", "of"}')
        by_line[item["number"]].append(item)
    before = [review.page(number) for number in by_line]
    changes = [_change(page, by_line[page["number"]], edits(page), action) for page in before]
    return {"before": before, "after": review.save(changes)}


Edit = Callable[[dict[str, Any]], dict[str, Any] | None]


def _edits(review: Review, action: str, of: Any) -> Callable[[dict[str, Any]], Edit]:
    """Line -> function that edits a box of the line, or returns None to delete it. Missing phrases are added."""
    if action == "relabel" and isinstance(of, str):
        return lambda page: _relabelled(phrase_of_words(page, of))
    if action == "relabel":
        if type(of) is not int or of not in review.categories:
            raise InputError("crops", f"there is no category {of!r}", "expected a label of the label map")
        return lambda page: _relabelled(of)
    if action == "ignore":
        return lambda page: lambda box: {**box, "ignore": True}
    return lambda page: lambda box: box if action == "accept" else None


def _relabelled(of: int) -> Edit:
    return lambda box: {**box, "of": of, "score": None}


def _change(page: dict[str, Any], items: Sequence[Mapping[str, Any]], edit: Edit, action: str) -> dict[str, Any]:
    boxes: list[dict[str, Any] | None] = list(page["boxes"])
    for item in items:
        position = next((i for i, each in enumerate(boxes) if each is not None and _same(each, item)), None)
        if position is None:
            raise InputError(page["filename"], "a selected box no longer exists", "load the crops again")
        boxes[position] = edit(dict(boxes[position] or {}))
        if boxes[position] is not None:
            boxes[position] = {**(boxes[position] or {}), "done": True}
    kept = [{name: value for name, value in each.items() if name != "done"} for each in boxes if each is not None]
    state = "accepted" if action == "accept" or page["state"] == "accepted" else "edited"
    changed = {"boxes": kept, "phrases": [dict(each) for each in page["phrases"]]}
    return {"number": page["number"], "revision": page["revision"], "state": state, **changed}


def _same(box: Mapping[str, Any], item: Mapping[str, Any]) -> bool:
    return not box.get("done") and list(box["box"]) == item.get("box") and box["of"] == item.get("of")
