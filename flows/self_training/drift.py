"""How the labels of two rounds differ, image by image and box by box."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

from flows.labelling.manifest import parse_line, read_lines
from formats.boxes import MATCH_IOU, best_pairs, boxes_by_name, pairwise_iou
from formats.io.errors import InputError
from formats.odvg_lines import is_quarantined
from formats.record import Box, Record

MOVED_IOU = 0.75  # a matched pair of an old and a new box with a lower IoU counts as moved


@dataclass(frozen=True)
class Drift:
    """How the labels of a round differ from those of the round before.

    images: that both rounds labelled. changed: number of these with a box gained, lost or moved. same, moved: boxes
    matched to one of the round before (IoU of at least MATCH_IOU; moved if below MOVED_IOU). counts: category or phrase
    -> boxes before and after. of_captions: these are phrases, each too rare to be checked by itself. Ignored boxes are
    not counted.
    """

    images: int = 0
    changed: int = 0
    same: int = 0
    moved: int = 0
    gained: int = 0
    lost: int = 0
    counts: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    of_captions: bool = False

    @property
    def changed_share(self) -> float:
        return self.changed / max(1, self.images)


def label_drift(before: Path, after: Path) -> Drift:
    """Compares two label files of one source line by line, without loading them whole.

    Lines quarantined in either file are left out. Raises InputError if the files do not have the same lines.
    """
    totals: Counter[str] = Counter()
    counts: dict[str, tuple[int, int]] = {}
    of_captions = False
    for old, new in _pairs(before, after):
        totals["images"] += 1
        of_captions = of_captions or old.caption is not None
        old_boxes, new_boxes = boxes_by_name(old), boxes_by_name(new)
        found: Counter[str] = Counter()
        for name in old_boxes.keys() | new_boxes.keys():
            mine, other = old_boxes.get(name, []), new_boxes.get(name, [])
            known = counts.get(name, (0, 0))
            counts[name] = known[0] + len(mine), known[1] + len(other)
            found.update(_matched(mine, other))
        totals.update(found)
        totals["changed"] += bool(found["moved"] + found["gained"] + found["lost"])
    return Drift(**totals, counts=dict(sorted(counts.items())), of_captions=of_captions)


def changed_records(before: Path, after: Path) -> Iterator[tuple[Record, Record]]:
    """The lines that label_drift counts as changed, before and after."""
    for old, new in _pairs(before, after):
        old_boxes, new_boxes = boxes_by_name(old), boxes_by_name(new)
        names = old_boxes.keys() | new_boxes.keys()
        if any(_matched(old_boxes.get(n, []), new_boxes.get(n, [])).keys() - {"same"} for n in names):
            yield old, new


def _pairs(before: Path, after: Path) -> Iterator[tuple[Record, Record]]:
    for old, new in zip_longest(read_lines(before), read_lines(after)):
        if old is None or new is None:
            raise InputError(after, f"does not have as many lines as {before}", "expected labels of the same source")
        if is_quarantined(old.text) or is_quarantined(new.text):
            continue
        records = parse_line(old, before), parse_line(new, after)
        if (records[0].filename, records[0].caption) != (records[1].filename, records[1].caption):
            location = f"{after}:{new.number + 1}"
            raise InputError(
                location, f"is {records[1].filename}, not {records[0].filename}", "expected labels of the same source"
            )
        yield records


def _matched(before: Sequence[Box], after: Sequence[Box]) -> Counter[str]:
    """How many boxes are the same, moved, gained and lost; pairs are matched in order of IoU, the highest first."""
    ious = pairwise_iou(before, after)
    met = [ious[pair] for pair in best_pairs(ious, MATCH_IOU)]
    moved = sum(bool(iou < MOVED_IOU) for iou in met)
    found = {
        "same": len(met) - moved,
        "moved": moved,
        "gained": len(after) - len(met),
        "lost": len(before) - len(met),
    }
    return Counter({name: count for name, count in found.items() if count})
