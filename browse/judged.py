"""Draws boxes coloured by comparison: right and wrong against the truth, gained and lost against other labels."""

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

# What became of a box -> its word and colour, the same as in the review page.
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
# Of predictions a box counts as right from the IoU of AP50 on.
JUDGED = {**AGAINST_TRUTH, "moved": AGAINST_TRUTH["same"]}
JUDGED_LEGEND = tuple((word, css_of(colour)) for word, colour in dict.fromkeys(JUDGED.values()))
_UNSAID = ("same", "right")  # of most boxes: their colour says enough


class Verdicts(NamedTuple):
    """What became of each box, in the order of the records: keys of the tables above, or "ignored"."""

    ours: list[str]
    others: list[str]

    def count(self, *changes: str) -> int:
        """How many of our boxes, and lost ones of the others."""
        return sum(each in changes for each in (*self.ours, *(each for each in self.others if each == "lost")))


def verdicts(ours: Record, others: Record, excused: bool = True) -> Verdicts:
    """Two records of one image compared. Boxes to be ignored, of either side, are neither right nor wrong, nor missed.

    excused: a box of ours where the others ignore one is not wrong, as metrics have it.
    """
    mine, theirs = named_boxes(ours), named_boxes(others)
    counting = [[index for index, each in enumerate(side) if not each["ignore"]] for side in (mine, theirs)]
    changes = compared([mine[index] for index in counting[0]], [theirs[index] for index in counting[1]])
    found = Verdicts(["ignored"] * len(mine), ["ignored"] * len(theirs))
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


def draw_judged(
    image: np.ndarray, record: Record, changes: Sequence[str], table: Mapping[str, tuple[str, Colour]]
) -> np.ndarray:
    """(H, W, 3) uint8 RGB with the record's boxes in the colours of a table above. changes: of each box."""
    found = (table.get(change, ("ignored", IGNORE_COLOUR)) for change in changes)
    notes = [Note("" if word in _UNSAID else word, colour) for word, colour in found]
    return draw_record(image, record, notes=notes)
