"""Statistics of a data set, counted over a stream of records, as text and as a plot."""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from formats.io.plots import new_figure, write_figure
from formats.io.plurals import many
from formats.record import Box, Record

_SMALL, _MEDIUM = 32**2, 96**2  # pixels; COCO's sizes
_SCORE_BINS = 20
_NAME_WIDTH = 30  # characters, beside a bar


@dataclass
class Statistics:
    """Counts over records. Memory grows with the number of categories and phrases, not with that of images.

    boxes_per_record, boxes_per_category, records_per_category: phrases count as categories. sides: floor(log2) of the
    square root of a box's area. scores: 20 equal bins. quarantined: lines that are not counted in `records`.
    """

    records: int = 0
    captions: int = 0
    unlabelled: int = 0
    empty: int = 0
    ignored: int = 0
    quarantined: int = 0
    sizes: Counter[str] = field(default_factory=Counter)
    boxes_per_record: Counter[int] = field(default_factory=Counter)
    boxes_per_category: Counter[str] = field(default_factory=Counter)
    records_per_category: Counter[str] = field(default_factory=Counter)
    sides: Counter[int] = field(default_factory=Counter)
    scores: Counter[int] = field(default_factory=Counter)

    @property
    def boxes(self) -> int:
        """The number of boxes, including ignored ones."""
        return self.boxes_per_category.total()

    def add(self, record: Record) -> None:
        """Adds one record to the counts."""
        self.records += 1
        self.captions += record.caption is not None
        self.unlabelled += record.instances is None and record.regions is None
        names: set[str] = set()
        boxes = 0
        for instance in record.instances or ():
            names.add(instance.category)
            boxes += 1
            self.ignored += instance.ignore
            self._add_boxes(instance.category, (instance.box,), () if instance.score is None else (instance.score,))
        for region in record.regions or ():
            name = " ".join(region.phrase).lower()
            names.add(name)
            boxes += len(region.boxes)
            self.ignored += region.ignore * len(region.boxes)
            self._add_boxes(name, region.boxes, region.scores)
        self.records_per_category.update(names)
        self.boxes_per_record[boxes] += 1
        self.empty += not boxes and (record.instances is not None or record.regions is not None)

    def _add_boxes(self, name: str, boxes: Iterable[Box], scores: Iterable[float]) -> None:
        for x1, y1, x2, y2 in boxes:
            area = (x2 - x1) * (y2 - y1)
            self.boxes_per_category[name] += 1
            self.sizes["small" if area < _SMALL else "medium" if area < _MEDIUM else "large"] += 1
            self.sides[math.floor(math.log2(max(math.sqrt(area), 1)))] += 1
        self.scores.update(min(int(score * _SCORE_BINS), _SCORE_BINS - 1) for score in scores)


def statistics_of(records: Iterable[Record]) -> Statistics:
    """Statistics of all records."""
    statistics = Statistics()
    for record in records:
        statistics.add(record)
    return statistics


def statistics_table(statistics: Statistics, max_names: int = 20) -> str:
    """Lines of text: the totals, then the `max_names` most frequent categories or phrases."""
    sizes = ", ".join(f"{statistics.sizes[size]} {size}" for size in ("small", "medium", "large"))
    per_record = statistics.boxes / statistics.records if statistics.records else 0.0
    captions = many(statistics.captions, "caption")
    kinds = f"{captions}, {statistics.unlabelled} unlabelled, {statistics.empty} without a box"
    marks = f"{statistics.ignored} ignored, {statistics.scores.total()} with a score"
    lines = [
        f"records     {statistics.records}: {kinds}",
        f"boxes       {statistics.boxes}: {sizes}; {marks}",
        f"per record  {per_record:.2f} boxes, at most {max(statistics.boxes_per_record, default=0)}",
    ]
    if statistics.quarantined:
        quarantined = many(statistics.quarantined, "quarantined line")
        lines.append(f"skipped     {quarantined}, not in these counts")
    names = statistics.records_per_category
    if not names:
        return "\n".join(lines)
    ranked = sorted(names, key=lambda name: (-statistics.boxes_per_category[name], name))
    listed = ranked[:max_names]
    width = max(len(name) for name in listed)
    lines += ["", f"{'name':{width}}  {'boxes':>9}  {'records':>9}"]
    lines += [f"{name:{width}}  {statistics.boxes_per_category[name]:9}  {names[name]:9}" for name in listed]
    if len(ranked) > max_names:
        lines.append(f"… and {len(ranked) - max_names} more")
    return "\n".join(lines)


def draw_statistics(statistics: Statistics, path: str | Path, max_names: int = 20) -> None:
    """Plots the counts as a PNG: frequent categories, boxes per record, sizes, and scores if there are any."""
    figure = new_figure(12, 8)
    ((names, counts), (sides, scores)) = figure.subplots(2, 2)
    ranked = statistics.boxes_per_category.most_common(max_names)[::-1]
    names.barh(range(len(ranked)), [count for _, count in ranked])  # at indices, since shortened names may be equal
    names.set_yticks(range(len(ranked)), [textwrap.shorten(name, _NAME_WIDTH, placeholder="…") for name, _ in ranked])
    names.set(title="most frequent", xlabel="boxes")
    counts.bar(list(statistics.boxes_per_record), list(statistics.boxes_per_record.values()))
    counts.xaxis.get_major_locator().set_params(integer=True)
    most_boxes = max(statistics.boxes_per_record, default=0)
    counts.set(title="boxes per record", xlabel="boxes", ylabel="records", xlim=(-0.7, most_boxes + 0.7))
    ordered = range(min(statistics.sides, default=0), max(statistics.sides, default=0) + 1)
    sides.bar([side + 0.5 for side in ordered], [statistics.sides[side] for side in ordered])
    edges = [*ordered, ordered.stop]
    sides.set_xticks(edges, [f"{2**side}" for side in edges])
    sides.set(title="square root of the boxes' area", xlabel="pixels", ylabel="boxes")
    bins = range(_SCORE_BINS)
    if statistics.scores:
        middles = [(each + 0.5) / _SCORE_BINS for each in bins]
        scores.bar(middles, [statistics.scores[each] for each in bins], 0.9 / _SCORE_BINS)
        scores.set(title="scores", xlabel="score", ylabel="boxes", xlim=(0, 1))
    else:
        scores.set_axis_off()
    write_figure(path, figure)
