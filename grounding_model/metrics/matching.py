"""Which detection takes which true box, for all images and categories of a data set at once: COCO's rule, and LVIS's.

In each image and category the detections take true boxes one after the other, the best score first. That order
matters inside a group (a category in an image) only, so all groups take their turns together: as many steps as the
largest group has detections that could be matched, each over whole arrays.
N detections, G true boxes, E pairs that overlap enough, S ranges of sizes, T IoU thresholds, C detections that could be
matched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from grounding_model.metrics.phrases import with_sizes
from grounding_model.metrics.predicted_boxes import PredictedBoxes
from grounding_model.metrics.ranking import Ranking
from grounding_model.metrics.true_boxes import TrueBoxes

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_STEPS = np.linspace(0.0, 1.0, 101)
BOXES_AT_ONCE = 1_000_000  # detections of a block of categories
PAIRS_AT_ONCE = 2_000_000  # overlaps that are computed in one piece


class CategoryMatches(NamedTuple):
    """One category in all images."""

    found: PredictedBoxes  # sorted by image, and by falling score inside an image
    true: TrueBoxes  # sorted by image
    ignored_true: np.ndarray  # (S, G) bool
    rows: np.ndarray  # (C,) int64, which detections overlap a true box enough for some threshold
    matched: np.ndarray  # (S, T, C) bool
    on_ignored: np.ndarray  # (S, T, C) bool, matched with a true box that is ignored

    def ranks_in_image(self) -> np.ndarray:
        """(N,): the rank of each detection in its image, from 0."""
        return _ranks(self.found.images)

    def ranking(self, size: int, unmatched_ignored: np.ndarray, images: int) -> Ranking:
        """Everything found, best first. size: index of the range. unmatched_ignored: (N,) bool, True where a detection
        that takes no true box is not counted as wrong. images: number of images of the data set.
        """
        to_find = np.bincount(self.true.images[~self.ignored_true[size]], minlength=images)
        return Ranking.of_matches(
            self.found.images,
            self.found.scores,
            self.rows,
            self.matched[size],
            self.on_ignored[size],
            unmatched_ignored,
            to_find,
            RECALL_STEPS,
        )


def match_categories(
    true: TrueBoxes,
    found: PredictedBoxes,
    labels: int,
    ignore: Callable[[TrueBoxes], np.ndarray],
    *,
    max_per_image: int | None = None,
) -> Iterator[CategoryMatches]:
    """The matches of each category 0 … labels - 1.

    ignore: gives (S, G) bool, the true boxes that do not count in each range of sizes. They are taken only where no
    other is left, and a crowd (TrueBoxes.ignored) can be taken again.
    max_per_image: best detections of a category in an image; None: all.
    """
    found = found.sorted_by_label()
    if max_per_image is not None:
        found = found.best_of_each_group(max_per_image)
    true = true.sorted_by_label()
    found_ends = np.searchsorted(found.labels, np.arange(labels + 1))
    true_ends = np.searchsorted(true.labels, np.arange(labels + 1))
    for first, last in _blocks(np.diff(found_ends)):
        own_found = found.rows(slice(found_ends[first], found_ends[last]))
        own_true = true.rows(slice(true_ends[first], true_ends[last]))
        ignored = ignore(own_true)
        rows, matched, on_ignored = match_detections(own_true, own_found, ignored)
        for label in range(first, last):
            start, end = found_ends[[label, label + 1]] - found_ends[first]
            true_part = slice(*(true_ends[[label, label + 1]] - true_ends[first]))
            part = slice(*np.searchsorted(rows, [start, end]))
            yield CategoryMatches(
                own_found.rows(slice(start, end)),
                own_true.rows(true_part),
                ignored[:, true_part],
                rows[part] - start,
                matched[..., part],
                on_ignored[..., part],
            )


def box_areas(boxes: np.ndarray) -> np.ndarray:
    """(N, 4) corners -> (N,) square pixels."""
    sizes = with_sizes(boxes)
    return sizes[:, 2] * sizes[:, 3]


def outside(areas: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """(N,) bool: which areas are below or above a range."""
    return (areas < limits[0]) | (areas > limits[1])


def _blocks(sizes: np.ndarray) -> Iterator[tuple[int, int]]:
    """(K,) boxes of each category -> first and last + 1 of blocks that hold at most BOXES_AT_ONCE, or one category."""
    first, total = 0, 0
    for label, size in enumerate(sizes.tolist()):
        if label > first and total + size > BOXES_AT_ONCE:
            yield first, label
            first, total = label, 0
        total += size
    yield first, len(sizes)


def match_detections(
    true: TrueBoxes, found: PredictedBoxes, ignored: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """rows (C,), matched (S, T, C) and on_ignored (S, T, C), as CategoryMatches has them.

    true, found: sorted by label and image, found by falling score inside them. ignored: (S, G) bool.
    A detection takes the true box that it overlaps most and that nothing better has taken; of equal overlaps the last,
    as pycocotools does.
    """
    found_groups, true_groups = _groups(found), _groups(true)
    detections, truths, overlaps = _pairs(found_groups, found, true_groups, true)
    rows, columns = np.unique(detections, return_inverse=True)
    turns = _ranks(found_groups[rows])[columns]  # (E,)
    matched = np.zeros((len(ignored), len(IOU_THRESHOLDS), len(rows)), dtype=bool)
    on_ignored = np.zeros_like(matched)
    for size, ignored_here in enumerate(ignored):
        # Inside a detection the pair that it prefers comes last.
        order = np.lexsort((truths, overlaps, ~ignored_here[truths], columns, turns))
        _take_turns(
            turns[order],
            columns[order],
            truths[order],
            overlaps[order],
            true.ignored,
            ignored_here,
            matched[size],
            on_ignored[size],
        )
    return rows, matched, on_ignored


def _take_turns(
    turns: np.ndarray,
    columns: np.ndarray,
    truths: np.ndarray,
    overlaps: np.ndarray,
    crowds: np.ndarray,
    ignored: np.ndarray,
    matched: np.ndarray,
    on_ignored: np.ndarray,
) -> None:
    """Fills matched and on_ignored, (T, C). turns, columns, truths, overlaps: (E,), a pair each, sorted by turn, by
    detection, and from the least to the most preferred true box. crowds, ignored: (G,) of true boxes.
    """
    free = np.ones((len(matched), len(ignored)), dtype=bool)
    bounds = np.searchsorted(turns, np.arange(turns[-1] + 2 if len(turns) else 0))
    for start, end in pairwise(bounds):
        pairs = truths[start:end]
        eligible = free[:, pairs] & (overlaps[start:end] >= IOU_THRESHOLDS[:, None])
        firsts = np.flatnonzero(np.diff(columns[start:end], prepend=-1))
        preferred = np.maximum.reduceat(np.where(eligible, np.arange(len(pairs)), -1), firsts, axis=1)
        hit = preferred >= 0
        taken = pairs[preferred]
        own_columns = columns[start:end][firsts]
        matched[:, own_columns] = hit
        on_ignored[:, own_columns] = hit & ignored[taken]
        levels, detections = np.nonzero(hit & ~crowds[taken])
        free[levels, taken[levels, detections]] = False


def _pairs(
    found_groups: np.ndarray, found: PredictedBoxes, true_groups: np.ndarray, true: TrueBoxes
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Detection, true box and IoU, (E,) each, of all pairs of one group that overlap enough for some threshold."""
    firsts = np.searchsorted(true_groups, found_groups)
    counts = np.searchsorted(true_groups, found_groups, side="right") - firsts
    candidates = np.flatnonzero(counts)
    kept = []
    for part in _pieces(candidates, counts[candidates]):
        part_counts = counts[part]
        detections = np.repeat(part, part_counts)
        truths = np.repeat(firsts[part], part_counts) + _positions(part_counts)
        overlaps = _overlaps(found.boxes[detections], true.boxes[truths], true.ignored[truths])
        enough = overlaps >= IOU_THRESHOLDS[0]
        kept.append((detections[enough], truths[enough], overlaps[enough]))
    if not kept:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0)
    detections, truths, overlaps = (np.concatenate(columns) for columns in zip(*kept))
    return detections, truths, overlaps


def _pieces(rows: np.ndarray, counts: np.ndarray) -> Sequence[np.ndarray]:
    """rows with counts pairs each -> parts of them that have about PAIRS_AT_ONCE pairs."""
    if not len(rows):
        return ()
    cuts = np.flatnonzero(np.diff(np.cumsum(counts) // PAIRS_AT_ONCE)) + 1
    return np.split(rows, cuts)


def _overlaps(found: np.ndarray, true: np.ndarray, crowds: np.ndarray) -> np.ndarray:
    """(E, 4) corners of both -> (E,) IoU, with pycocotools' operations in their order, so equal to the last bit.

    Of a crowd: the share of the found box that lies in it.
    """
    found, true = with_sizes(found), with_sizes(true)
    ends = np.minimum(found[:, :2] + found[:, 2:], true[:, :2] + true[:, 2:])
    sides = ends - np.maximum(found[:, :2], true[:, :2])
    shared = np.where((sides > 0).all(1), sides[:, 0] * sides[:, 1], 0.0)
    found_areas, true_areas = found[:, 2] * found[:, 3], true[:, 2] * true[:, 3]
    union = np.where(crowds, found_areas, found_areas + true_areas - shared)
    return np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0)


def _groups(boxes: PredictedBoxes | TrueBoxes) -> np.ndarray:
    """(N,) int64, one number for each category in an image, ascending as the boxes are sorted."""
    return (boxes.labels.astype(np.int64) << 32) | boxes.images.astype(np.int64)


def _ranks(groups: np.ndarray) -> np.ndarray:
    """(N,) ascending groups -> the rank of each row in its group, from 0."""
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    return _positions(np.diff([*starts, len(groups)]))


def _positions(counts: np.ndarray) -> np.ndarray:
    """(2, 3) -> 0, 1, 0, 1, 2."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
