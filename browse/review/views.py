"""Views: the lines that the page shows for the settings of its filter bar, in order, as arrays of line numbers.

A view does not change after it is opened, so that lines do not disappear when a reviewer changes their state.
N lines of the label file; a position counts in the view.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from browse.review.compare import CHANGES, OtherLabels, changed_lines, compared, named_boxes
from browse.review.index import CHUNK, EDITED, STATES, UNTOUCHED
from browse.review.order import (
    Listed,
    Thresholds,
    doubt_of_boxes,
    ranked_order,
    read_order,
    read_thresholds,
    uncertain_order,
)
from browse.review.page_json import box_words, boxes_to_page
from browse.review.session import Review, journal_key
from browse.review.similarity import Similarity
from formats.io.errors import InputError

VIEWS_IN_MEMORY = 8
ORDERS = ("file", "uncertain", "diverse", "listed", "boxes")
CHANGE_FILTERS = ("", "any", *CHANGES)


@dataclass(frozen=True)
class Query:
    """The settings of the filter bar; by default, every line in file order.

    text: part of the file name or caption. label: lines with a box of it, -1 for any. low, high: that box's score.
    state: one of STATES, "open" for untouched and edited, "" for any. change: against the other label file.
    listed: only lines that the order's file names.
    """

    text: str = ""
    label: int = -1
    low: float = 0.0
    high: float = 1.0
    state: str = ""
    change: str = ""
    listed: bool = False
    order: str = "file"

    @staticmethod
    def of(entries: Mapping[str, Any]) -> Query:
        """Reads a query from a JSON object. Raises InputError for an invalid value."""
        known = {field.name: type(field.default) for field in fields(Query)}
        for name, value in entries.items():
            kinds: tuple[type, ...] = (int, float) if known.get(name) is float else (known.get(name, type(None)),)
            if type(value) not in kinds:
                raise InputError("filter", f"{name} is {value!r}", f"expected {', '.join(known)}")
        query = Query(**entries)
        if query.order not in ORDERS or query.state not in ("", "open", *STATES) or query.change not in CHANGE_FILTERS:
            what = f"order {query.order!r}, state {query.state!r} or change {query.change!r} is unknown"
            raise InputError("filter", what, f"expected an order of {', '.join(ORDERS)}")
        return query

    @property
    def takes_all(self) -> bool:
        """Whether all lines are shown in file order, which needs no line to be read."""
        return self == Query()


@dataclass(frozen=True)
class LineView:
    """An opened view. numbers: (K,) line numbers by position; None: all lines, in file order."""

    query: Query
    numbers: np.ndarray | None
    count: int

    def number(self, position: int) -> int:
        """The number of the line at a position."""
        return position if self.numbers is None else int(self.numbers[position])

    def position(self, number: int) -> int | None:
        """The position of a line; None if it is not in the view."""
        if self.numbers is None:
            return number if 0 <= number < self.count else None
        found = np.flatnonzero(self.numbers == number)
        return int(found[0]) if len(found) else None


class Views:
    """The views of a review.

    order: the value of `--order`. other: the labels to compare with. similarity: compares the images.
    suspects: a list of images that can be selected, unless `order` is one.
    listed: (file name, caption or "") -> reason to look at a line. first: the query that the page opens with.
    """

    def __init__(
        self,
        review: Review,
        order: str = "file",
        other: Path | None = None,
        similarity: Similarity | None = None,
        suspects: Path | None = None,
    ) -> None:
        """Raises InputError for an order that is neither a known name nor a valid file."""
        self.review = review
        self.other = None if other is None else OtherLabels(other)
        self.thresholds: Thresholds = read_thresholds(review.annotations)
        self.listed: Listed = {}
        self._views: OrderedDict[str, LineView] = OrderedDict()
        self._ranked: tuple[np.ndarray, np.ndarray] | None = None
        self._orders: dict[str, np.ndarray] = {}  # that no change of a line changes
        self.similarity = similarity
        self.lines_compared = 0  # with the other label file
        self._stopped = False
        self._changed: dict[str, np.ndarray] | None = None
        self._comparing = threading.Lock()
        self._lock = threading.RLock()
        if order == "diverse" and similarity is None:
            raise InputError("--order", "'diverse' needs the images", "expected their folder")
        named = order in ("file", "uncertain", "diverse")
        self.first = Query(order=order if named else "listed")
        if not named or suspects is not None:
            self.listed, rank = read_order(Path(order) if suspects is None or not named else suspects)
            self._ranked = ranked_order(review.index, rank)
            self.first = replace(self.first, listed=bool(self.listed) and not named)

    def reason(self, number: int) -> str:
        """The reason to look at a line, or ""."""
        if not self.listed:
            return ""
        record = self.review.record(number)
        return self.listed.get((record.filename, record.caption or ""), self.listed.get((record.filename, ""), ""))

    def orders(self) -> list[str]:
        """The orders that are available."""
        missing = {"listed": self._ranked is None, "diverse": self.similarity is None}
        return [each for each in ORDERS if not missing.get(each)]

    def open(self, query: Query) -> tuple[str, LineView]:
        """Opens a view; returns (name, view). Waits for the lines to be read if it needs them."""
        view = self._made(query)
        with self._lock:
            self._count = getattr(self, "_count", 0) + 1
            name = f"v{self._count}"
            self._views[name] = view
            if len(self._views) > VIEWS_IN_MEMORY:
                self._views.popitem(last=False)
        return name, view

    def view(self, name: str) -> LineView:
        """An opened view. Raises KeyError if it has expired."""
        with self._lock:
            self._views.move_to_end(name)
            return self._views[name]

    def next_open(self, view: LineView, position: int) -> int | None:
        """The next position with an untouched or edited line, continuing from the top; None if there is none."""
        index = self.review.index
        if view.numbers is None:
            waiting = (index.state <= EDITED) & ~index.broken
        else:
            waiting = ((index.state <= EDITED) & ~index.broken)[view.numbers]
        for part, start in ((waiting[position + 1 :], position + 1), (waiting[: position + 1], 0)):
            if part.any():
                return start + int(part.argmax())
        return None

    def row(self, view: LineView, position: int) -> dict[str, Any]:
        """The entry of a line in the list of images."""
        number = view.number(position)
        index = self.review.index
        try:
            record = self.review.record(number)
        except InputError as error:
            return {"number": number, "filename": "", "problem": str(error), "state": "broken", "reason": ""}
        state = STATES[int(index.state[number])] if number < index.known else self.review.page(number)["state"]
        return {
            "number": number,
            "filename": record.filename,
            "state": state,
            "reason": self.reason(number),
            "boxes": len(boxes_to_page(record)),
        }

    def comparison(self, number: int, boxes: list[dict[str, Any]], phrases: list[str]) -> dict[str, Any] | None:
        """The boxes of the other label file, and how they differ; None without such a file.

        boxes: of this line, from the page. phrases: for a caption, the words of each.
        """
        if self.other is None:
            return None
        record = self.review.record(number)
        other = self.other.record(journal_key(record))
        theirs = [] if other is None else named_boxes(other)
        names = self.review.categories if record.caption is None else dict(enumerate(phrases))
        ours = [{**each, "name": names.get(each["of"], "")} for each in boxes]
        changes = compared(ours, theirs)
        return {
            "name": self.other.path.name,
            "known": other is not None,
            "truth": self.other.is_truth,
            "boxes": [{**each, "change": change} for each, change in zip(theirs, changes["others"])],
            "changes": changes["ours"],
        }

    def _made(self, query: Query) -> LineView:
        index = self.review.index
        if query.takes_all:
            return LineView(query, None, len(self.review.lines))
        index.done.wait()
        keep = ~index.broken & self._of_state(query.state)
        if query.text:
            keep &= index.matching(query.text)
        if query.label >= 0 or query.low > 0 or query.high < 1:
            keep &= self._with_box(query)
        if query.change:
            keep &= self._changes()[query.change]
        if query.listed and self._ranked is not None:
            keep &= self._ranked[1]
        order = self._order(query.order, keep)
        numbers = np.flatnonzero(keep) if order is None else order[keep[order]]
        return LineView(query, numbers, len(numbers))

    def _of_state(self, state: str) -> np.ndarray:
        states = self.review.index.state
        if state == "open":
            return (states == UNTOUCHED) | (states == EDITED)
        return np.ones(len(states), bool) if not state else states == STATES.index(state)

    def _with_box(self, query: Query) -> np.ndarray:
        """(N,) bool: lines with a box of the label whose score lies between the limits, as the boxes are now."""
        index = self.review.index
        keep = np.zeros(len(index.lines), bool)
        keep[index.box_lines[fitting(index.labels, index.scores, query.label, query.low, query.high)]] = True
        numbers, rows = self.review.changed_boxes()
        keep[numbers] = False
        keep[rows.line[fitting(rows.label, rows.score, query.label, query.low, query.high)]] = True
        return keep

    def _order(self, order: str, keep: np.ndarray) -> np.ndarray | None:
        """(N,) line numbers; None as they come. keep: (N,) bool, the lines that are shown."""
        if order == "diverse" and self.similarity is not None:
            return self.similarity.diverse_order(keep)
        if order in ("uncertain", "boxes"):
            return self._order_of_labels(order)
        return self._ranked[0] if order == "listed" and self._ranked is not None else None

    def _order_of_labels(self, order: str) -> np.ndarray:
        """(N,) int32 line numbers, by what the label file says, which does not change: sorted once."""
        index = self.review.index
        with self._lock:
            if order not in self._orders:
                if order == "uncertain":
                    numbers = uncertain_order(index, self.review.categories, self.thresholds)
                else:
                    numbers = np.argsort(-np.diff(index.first), kind="stable")
                self._orders[order] = numbers.astype(np.int32)
            return self._orders[order]

    def _changes(self) -> dict[str, np.ndarray]:
        """Change -> (N,) bool, lines with such a box. Raises InputError without another label file."""
        if self.other is None:
            raise InputError("filter", "there is no other label file", "expected --compare FILE")
        with self._comparing:
            if self._changed is None:
                count = len(self.review.lines)
                found = {change: np.zeros(count, bool) for change in CHANGES}
                for start in range(0, count, CHUNK):
                    if self._stopped:
                        break
                    self._compare(start, min(count, start + CHUNK), found)
                found["any"] = np.logical_or.reduce([found[change] for change in CHANGES])
                self._changed = found
            return self._changed

    def prepare(self) -> None:
        """Does in advance what takes long for a long file, so that a filter finds it done."""
        self.review.index.done.wait()
        if self._stopped:
            return
        self._order_of_labels("uncertain")
        self.review.changed_boxes()
        if self.other is not None:
            self._changes()

    def stop(self) -> None:
        """Stops comparing in the background."""
        self._stopped = True

    def _compare(self, start: int, stop: int, found: Mapping[str, np.ndarray]) -> None:
        """Compares the lines start … stop - 1."""
        assert self.other is not None
        index = self.review.index
        numbers = start + np.flatnonzero(~index.broken[start:stop])
        ours = self.review.lines.chunk(start, stop)
        changed = [ours[number - start] for number in numbers.tolist()]
        try:
            changes = changed_lines(changed, self.other.raw(index.hashes[numbers]), self.review.categories)
            for change, lines in changes.items():
                found[change][numbers[lines]] = True
        except (KeyError, TypeError, ValueError, IndexError, AttributeError):  # captions, or invalid lines
            for number in numbers.tolist():
                for change in self._changes_of(number):
                    found[change][number] = True
        self.lines_compared = stop

    def _changes_of(self, number: int) -> set[str]:
        assert self.other is not None
        record = self.review.record(number)
        ours = [{**each, "name": box_words(record, each["of"])} for each in boxes_to_page(record)]
        other = self.other.record(journal_key(record))
        changes = compared(ours, [] if other is None else named_boxes(other))
        return {*changes["ours"], *changes["others"]} - {"same"}

    def doubt(self, labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """(B,) float: how far each of some boxes' scores, (B,), is from its threshold."""
        return doubt_of_boxes(labels, scores, self.review.categories, self.thresholds, self.review.index.lowest)


def fitting(labels: np.ndarray, scores: np.ndarray, label: int, low: float, high: float) -> np.ndarray:
    """Positions of the boxes with a label, -1 for any, and a score between limits; 0 and 1 are none."""
    fits = np.ones(len(labels), bool) if label < 0 else labels == label
    if low > 0 or high < 1:
        fits &= (scores >= low) & (scores <= high)
    return np.flatnonzero(fits)
