"""Matches detections with true boxes by the rule of COCO and LVIS, for all images and categories at once.

In each group (a category in an image), detections are assigned true boxes one after the other, highest score first.
Groups are independent, so step k processes the k-th detection of every group at once, as array operations; the number
of steps is that of the largest group.
N detections, G true boxes, E (detection, true box) pairs with sufficient IoU, S size ranges, T IoU thresholds,
C detections that occur in such a pair.
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
BOXES_AT_ONCE = 1_000_000  # detections in a block of categories
PAIRS_AT_ONCE = 2_000_000  # IoUs computed at once


class CategoryMatches(NamedTuple):
    """The matches of one category in all images."""

    found: PredictedBoxes  # sorted by image, then by descending score
    true: TrueBoxes  # sorted by image
    ignored_true: np.ndarray  # (S, G) bool
    rows: np.ndarray  # (C,) int64, detections whose IoU with a true box reaches the lowest threshold
    matched: np.ndarray  # (S, T, C) bool
    on_ignored: np.ndarray  # (S, T, C) bool, matched with a true box that is ignored

    def ranks_in_image(self) -> np.ndarray:
        """(N,): the rank of each detection in its image, from 0."""
        return _ranks(self.found.images)

    def ranking(self, size: int, unmatched_ignored: np.ndarray, images: int) -> Ranking:
        """The detections ranked by score. size: index of the size range. unmatched_ignored: (N,) bool, True for a
        detection that does not count as wrong if it is unmatched. images: number of images of the data set.
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
    """Yields the matches of each category 0 … labels - 1.

    ignore: returns (S, G) bool, the true boxes that do not count in each size range. They are matched only if no other
    true box is available, and a crowd (TrueBoxes.ignored) can be matched repeatedly.
    max_per_image: limit on the best detections per category and image; None for no limit.
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
    """(N,) bool: whether each area is outside a range."""
    return (areas < limits[0]) | (areas > limits[1])


def _blocks(sizes: np.ndarray) -> Iterator[tuple[int, int]]:
    """(K,) boxes per category -> (start, end) of blocks with at most BOXES_AT_ONCE boxes, or a single category."""
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
    """Returns rows (C,), matched (S, T, C) and on_ignored (S, T, C), as in CategoryMatches.

    true, found: sorted by label and image, and `found` then by descending score. ignored: (S, G) bool. A detection is
    matched with the free true box of highest IoU; among equal ones with the last, as in pycocotools.
    """
    found_groups, true_groups = _groups(found), _groups(true)
    detections, truths, overlaps = _pairs(found_groups, found, true_groups, true)
    rows, columns = np.unique(detections, return_inverse=True)
    turns = _ranks(found_groups[rows])[columns]  # (E,)
    matched = np.zeros((len(ignored), len(IOU_THRESHOLDS), len(rows)), dtype=bool)
    on_ignored = np.zeros_like(matched)
    for size, ignored_here in enumerate(ignored):
        # Sorted so that the preferred pair of each detection comes last.
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
    """Fills matched and on_ignored, (T, C). turns, columns, truths, overlaps: (E,), the pairs, sorted by turn (rank of
    the detection in its group), detection, and ascending preference. crowds, ignored: (G,) of the true boxes.
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
    """Detection, true box and IoU, (E,) each, of all pairs in a group whose IoU reaches the lowest threshold."""
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
    """Splits rows, of which each has `counts` pairs, into parts with about PAIRS_AT_ONCE pairs."""
    if not len(rows):
        return ()
    cuts = np.flatnonzero(np.diff(np.cumsum(counts) // PAIRS_AT_ONCE)) + 1
    return np.split(rows, cuts)


def _overlaps(found: np.ndarray, true: np.ndarray, crowds: np.ndarray) -> np.ndarray:
    """(E, 4) corners of both -> (E,) IoU, bit for bit that of pycocotools, since the operations have the same order.

    For a crowd, the share of the detection's area that is inside it.
    """
    found, true = with_sizes(found), with_sizes(true)
    ends = np.minimum(found[:, :2] + found[:, 2:], true[:, :2] + true[:, 2:])
    sides = ends - np.maximum(found[:, :2], true[:, :2])
    shared = np.where((sides > 0).all(1), sides[:, 0] * sides[:, 1], 0.0)
    found_areas, true_areas = found[:, 2] * found[:, 3], true[:, 2] * true[:, 3]
    union = np.where(crowds, found_areas, found_areas + true_areas - shared)
    return np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0)


def _groups(boxes: PredictedBoxes | TrueBoxes) -> np.ndarray:
    """(N,) int64, a number for each (category, image), ascending in the sort order of the boxes."""
    return (boxes.labels.astype(np.int64) << 32) | boxes.images.astype(np.int64)


def _ranks(groups: np.ndarray) -> np.ndarray:
    """(N,) ascending groups -> the rank of each row in its group, from 0."""
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    return _positions(np.diff([*starts, len(groups)]))


def _positions(counts: np.ndarray) -> np.ndarray:
    """(2, 3) -> 0, 1, 0, 1, 2."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
