"""Compares the boxes of an image with its ground truth or other labels, and draws them coloured by the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from browse.draw import IGNORE_COLOUR, Note, draw_record
from browse.images.colours import Colour, css_of
from browse.review.compare import MATCHED, compared, named_boxes
from formats.boxes import pairwise_iou
from formats.record import Record

GREEN, RED, PINK, AMBER, VIOLET = (62, 207, 142), (255, 122, 107), (255, 157, 224), (255, 184, 77), (199, 146, 255)
PALE: Colour = (184, 188, 196)

# Change of a box -> its word and colour, the same as in the review page.
CHANGES: Mapping[str, tuple[str, Colour]] = {
    "same": ("same", PALE),
    "gained": ("gained", GREEN),
    "lost": ("lost", RED),
    "moved": ("moved", AMBER),
    "relabelled": ("relabelled", VIOLET),
}
AGAINST_TRUTH: Mapping[str, tuple[str, Colour]] = {
    "same": ("right", GREEN),
    "gained": ("wrong", RED),
    "lost": ("missed", PINK),
    "moved": ("shifted", AMBER),
    "relabelled": ("wrong name", VIOLET),
}
# Against the ground truth, a box with the IoU of AP50 or more counts as right.
CORRECTNESS = {**AGAINST_TRUTH, "moved": AGAINST_TRUTH["same"]}
CORRECTNESS_LEGEND = tuple((word, css_of(colour)) for word, colour in dict.fromkeys(CORRECTNESS.values()))
_UNNAMED = ("same", "right")  # not written on the boxes: the colour is enough


class BoxChanges(NamedTuple):
    """The change of each box, in the order of the records: keys of the tables above, or "ignored"."""

    ours: list[str]
    others: list[str]

    def count(self, *changes: str) -> int:
        """The number of our boxes with these changes, and of the others' if they are lost."""
        return sum(each in changes for each in (*self.ours, *(each for each in self.others if each == "lost")))


def box_changes(ours: Record, others: Record, excused: bool = True) -> BoxChanges:
    """Compares two records of one image. Ignored boxes of either side count as neither right, wrong nor missed.

    excused: one of our boxes that matches an ignored one of the others is not wrong, as in the metrics.
    """
    mine, theirs = named_boxes(ours), named_boxes(others)
    counting = [[index for index, each in enumerate(side) if not each["ignore"]] for side in (mine, theirs)]
    changes = compared([mine[index] for index in counting[0]], [theirs[index] for index in counting[1]])
    found = BoxChanges(["ignored"] * len(mine), ["ignored"] * len(theirs))
    for side, places, became in zip(found, counting, (changes["ours"], changes["others"])):
        for index, change in zip(places, became):
            side[index] = change
    if excused:
        ignored = [each["box"] for each in theirs if each["ignore"]]
        covered = pairwise_iou([each["box"] for each in mine], ignored).max(axis=1, initial=0.0) >= MATCHED
        for index in range(len(mine)):
            if found.ours[index] == "gained" and covered[index]:
                found.ours[index] = "ignored"
    return found


def draw_changes(
    image: np.ndarray, record: Record, changes: Sequence[str], table: Mapping[str, tuple[str, Colour]]
) -> np.ndarray:
    """(H, W, 3) uint8 RGB with the record's boxes in the colours of a table above. changes: one per box."""
    found = (table.get(change, ("ignored", IGNORE_COLOUR)) for change in changes)
    notes = [Note("" if word in _UNNAMED else word, colour) for word, colour in found]
    return draw_record(image, record, notes=notes)
