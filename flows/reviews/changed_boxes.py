"""Finds what a person changed in the boxes of an image that was exported to another program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from formats.boxes import pairwise_iou
from formats.export_tools import TOLERANCE
from formats.exported import ExportedImage
from formats.io.errors import InputError, expected_one_of
from formats.io.plurals import many
from formats.record import Box, Instance, Record
from formats.reviewed import by_person

NEAR = 2.0  # pixels per side by which rounding, or counting pixels from 1, may move a box that nobody changed
_SAME_OBJECT = 0.5  # IoU from which a person's box replaces an ignored one


class Categories:
    """Looks up labels of category names, ignoring case, and collects unknown names to report each once."""

    def __init__(self, names: Mapping[int, str]) -> None:
        self.names = names
        self._exact = {name: label for label, name in names.items()}
        self._labels = {name.strip().casefold(): label for label, name in names.items()}
        self._unknown: dict[str, list[str]] = {}

    def label(self, name: str, location: str) -> int | None:
        """The label of a name; None if it is not in the label map."""
        label = self._exact.get(name, self._labels.get(name.strip().casefold()))
        if label is None:
            self._unknown.setdefault(name, []).append(location)
        return label

    def problems(self) -> list[InputError]:
        """An error for each unknown name, at the first image with it."""
        return [
            InputError(
                locations[0],
                f"{name!r} is not a category ({many(len(locations), 'box')} of {many(len(set(locations)), 'image')})",
                expected_one_of(self.names.values(), name),
            )
            for name, locations in self._unknown.items()
        ]


def drawn_instances(image: ExportedImage, record: Record, categories: Categories) -> tuple[Instance, ...] | None:
    """The boxes of an exported image in pixels, clipped to the image, with labels of the label map.

    record: the same image in our labels. None if a category is unknown, which `categories` collects. Raises InputError
    for a box without area inside the image.
    """
    across, down = (record.width, record.height) if image.relative else (1, 1)
    instances = []
    labels = []
    for each in image.boxes or ():
        x1, y1, x2, y2 = each.box
        box = clipped((x1 * across, y1 * down, x2 * across, y2 * down), record)
        if box[0] >= box[2] or box[1] >= box[3]:
            what = f"a box of {each.category!r} is empty or outside the image"
            raise InputError(image.location, what, "expected a box inside the image; delete it otherwise")
        labels.append(categories.label(each.category, image.location))
        if (label := labels[-1]) is not None:
            instances.append(Instance(box, label, categories.names[label], ignore=each.ignore))
    return None if None in labels else tuple(instances)


def clipped(box: Box, record: Record) -> Box:
    """The part of a box inside the image; empty for a box outside."""
    width, height = float(record.width), float(record.height)
    x1, x2 = (min(max(side, 0.0), width) for side in box[::2])
    y1, y2 = (min(max(side, 0.0), height) for side in box[1::2])
    return x1, y1, x2, y2


def ignored_beside(record: Record, drawn: Sequence[Instance]) -> tuple[Instance, ...]:
    """The ignored boxes of a record, except those that a person has drawn as objects of the same category."""
    kept = []
    for each in record.instances or ():
        rivals = [other.box for other in drawn if other.label == each.label]
        if each.ignore and not (rivals and pairwise_iou([each.box], rivals).max() >= _SAME_OBJECT):
            kept.append(each)
    return tuple(kept)


@dataclass(frozen=True)
class Change:
    """A person's changes to an image. record: the result. added, removed: boxes; a moved or relabelled one is both.

    near: number of added boxes that differ from a label by at most NEAR.
    """

    record: Record
    added: int
    removed: int
    near: int = 0

    def __bool__(self) -> bool:
        return bool(self.added or self.removed)


def change_of(record: Record, drawn: Sequence[Instance], tolerance: float = TOLERANCE, flagged: bool = True) -> Change:
    """Compares drawn boxes with those of a record. A box within `tolerance` pixels of the record's counts as unchanged.

    flagged: False if no box of the export is marked `ignore`, since the program has probably lost these marks.
    """
    free = [replace(each, box=clipped(each.box, record)) for each in record.instances or ()]
    shown = len(free)
    instances, added, near = [], 0, 0
    for each in drawn:
        others = [other for other in free if other.label == each.label and (other.ignore == each.ignore or not flagged)]
        best = min(others, key=lambda other: (_distance(each.box, other.box), other.ignore), default=None)
        if best is None or _distance(each.box, best.box) > tolerance:
            added += 1
            near += best is not None and _distance(each.box, best.box) <= NEAR
            instances.append(each)
        else:
            free.remove(best)
            instances.append(best)
    theirs = by_person(replace(record, instances=tuple(instances)))
    return Change(theirs, added, shown - (len(drawn) - added), near)


def _distance(a: Box, b: Box) -> float:
    """The largest difference of a side, in pixels."""
    return max(abs(one - other) for one, other in zip(a, b))
