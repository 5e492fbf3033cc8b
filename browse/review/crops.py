"""Many objects at a glance: the boxes of one category over all images, and what is done with many of them at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from browse.review.index import ACCEPTED, EDITED
from browse.review.session import Review
from browse.review.views import View, Views
from formats.io.errors import InputError

SORTS = ("low", "high", "doubt", "file")
MOST_LISTED = 20_000  # boxes that one grid may show
MOST_CHANGED = 2_000  # boxes that one action may change
ACTIONS = ("delete", "relabel", "ignore", "accept")


def list_crops(views: Views, view: View, label: int, sort: str, low: float, high: float) -> list[tuple[int, int]]:
    """(line, box) of each box of a label in the lines of a view, by score, by doubt, or as they come.

    label: -1 for every one. Boxes of lines that a person has changed are those that the person left.
    Raises InputError for an unknown sort.
    """
    if sort not in SORTS:
        raise InputError("crops", f"no sort {sort!r}", f"expected one of {', '.join(SORTS)}")
    index = views.review.index
    lines, scores = index.box_lines(), index.scores
    shown = np.zeros(len(index.lines), bool)
    shown[view.numbers if view.numbers is not None else slice(None)] = True
    changed = (index.state == EDITED) | (index.state == ACCEPTED)
    fits = shown[lines] & ~changed[lines] & ~index.broken[lines]
    if label >= 0:
        fits &= index.labels == label
    if low > 0 or high < 1:
        fits &= (scores >= low) & (scores <= high)
    boxes = np.flatnonzero(fits)
    rank = {"low": scores, "high": -scores, "doubt": views.doubt(), "file": np.zeros(len(scores))}[sort]
    boxes = boxes[np.argsort(rank[boxes], kind="stable")][:MOST_LISTED]
    untouched = list(zip(lines[boxes].tolist(), (boxes - index.first[lines[boxes]]).tolist()))
    if low > 0 or high < 1:
        return untouched
    return untouched + _of_changed_lines(views.review, np.flatnonzero(shown & changed), label)


def _of_changed_lines(review: Review, numbers: np.ndarray, label: int) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for number in numbers.tolist():
        boxes = review.page(number)["boxes"]
        found += [(number, place) for place, each in enumerate(boxes) if label < 0 or each["of"] == label]
        if len(found) > MOST_LISTED:
            break
    return found


def crop_rows(review: Review, crops: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
    """What the grid shows of some boxes. A box that is not there any more is left out."""
    pages: dict[int, dict[str, Any]] = {}
    rows = []
    for number, place in crops:
        if number not in pages:
            pages[number] = review.page(number)
        page = pages[number]
        if place < len(page["boxes"]):
            each = page["boxes"][place]
            name = _name(review, page, each["of"])
            rows.append({**each, "number": number, "name": name, "filename": page["filename"], "state": page["state"]})
    return rows


def _name(review: Review, page: Mapping[str, Any], of: int) -> str:
    return review.categories.get(of, "") if page["caption"] is None else " … ".join(page["phrases"][of]["texts"])


def change_crops(review: Review, action: str, of: Any, items: Any) -> dict[str, Any]:
    """Does one thing with many boxes, all or none: deletes, relabels, ignores them, or accepts their images.

    items: [{"number", "box", "of"}], as the grid showed them. Returns {"before", "after"}: the lines as they were and
    as they are, for undo. Raises InputError for boxes that changed meanwhile, or an impossible change.
    """
    if action not in ACTIONS or not isinstance(items, list) or not 0 < len(items) <= MOST_CHANGED:
        what = f"no action {action!r}" if action not in ACTIONS else "is not a list of boxes"
        raise InputError("crops", what, f"expected one of {', '.join(ACTIONS)} and up to {MOST_CHANGED} boxes")
    edit = _edit(review, action, of)
    by_line: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for item in items:
        if not isinstance(item, dict) or type(item.get("number")) is not int or item["number"] < 0:
            raise InputError("crops", f"{item!r} is not a box", 'expected {"number", "box", "of"}')
        by_line[item["number"]].append(item)
    before = [review.page(number) for number in by_line]
    changes = [_change(page, by_line[page["number"]], edit, action) for page in before]
    return {"before": before, "after": review.save(changes)}


Edit = Callable[[dict[str, Any]], dict[str, Any] | None]


def _edit(review: Review, action: str, of: Any) -> Edit:
    """A box -> the box as it becomes; None where it goes."""
    if action == "relabel":
        if type(of) is not int or of not in review.categories:
            raise InputError("crops", f"there is no category {of!r}", "expected a label of the label map")
        return lambda box: {**box, "of": of, "score": None}
    if action == "ignore":
        return lambda box: {**box, "ignore": True}
    return lambda box: box if action == "accept" else None


def _change(page: dict[str, Any], items: Sequence[Mapping[str, Any]], edit: Edit, action: str) -> dict[str, Any]:
    boxes: list[dict[str, Any] | None] = list(page["boxes"])
    for item in items:
        place = next((i for i, each in enumerate(boxes) if each is not None and _same(each, item)), None)
        if place is None:
            raise InputError(page["filename"], "a selected box is not there any more", "load the crops again")
        boxes[place] = edit(dict(boxes[place] or {}))
        if boxes[place] is not None:
            boxes[place] = {**(boxes[place] or {}), "done": True}
    kept = [{name: value for name, value in each.items() if name != "done"} for each in boxes if each is not None]
    state = "accepted" if action == "accept" or page["state"] == "accepted" else "edited"
    changed = {"boxes": kept, "phrases": [dict(each) for each in page["phrases"]]}
    return {"number": page["number"], "revision": page["revision"], "state": state, **changed}


def _same(box: Mapping[str, Any], item: Mapping[str, Any]) -> bool:
    return not box.get("done") and list(box["box"]) == item.get("box") and box["of"] == item.get("of")
