"""Recall of phrase grounding, as on Flickr30k Entities."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pycocotools import mask

from formats.boxes import MATCH_IOU
from formats.io.errors import InputError
from formats.record import Box, Record, Region, Span
from grounding_model.metrics.pairing import paired_captions, regions_to_find


def recall_at(
    truth: Sequence[Record],
    predictions: Sequence[Record],
    ks: Sequence[int] = (1, 5, 10),
    iou: float = MATCH_IOU,
    merge_boxes: bool = False,
) -> dict[int, float]:
    """Recall@k of phrase grounding: the share of phrases for which one of the best k boxes has IoU >= iou with a true
    box, as on Flickr30k Entities.

    Records are matched by filename and caption, phrases by their spans, or by their text if the ground truth has no
    spans. merge_boxes: replace the true boxes of a phrase by their enclosing box ("merged boxes", Kamath et al. 2021);
    otherwise any of them may match. Phrases without boxes and ignored phrases do not count.
    Raises InputError for predictions of unknown captions, duplicate captions, and ground truth without phrases.
    """
    ranks = phrase_ranks(truth, predictions, iou, merge_boxes)
    return shares([rank for record_ranks in ranks for rank in record_ranks], ks, "no phrase has a box")


def phrase_ranks(
    truth: Sequence[Record], predictions: Sequence[Record], iou: float = MATCH_IOU, merge_boxes: bool = False
) -> list[list[int | None]]:
    """For each true record, the rank of the first matching box for each phrase that counts, as in recall_at."""
    return [
        [
            rank_of_first_hit(
                best_first(_same_phrase(region, found)),
                [_enclosing(region.boxes)] if merge_boxes else region.boxes,
                iou,
            )
            for region in regions_to_find(record)
        ]
        for record, found in paired_captions(truth, predictions)
    ]


def _same_phrase(region: Region, found: Sequence[Region]) -> list[Region]:
    if region.spans:
        return [other for other in found if _as_set(other.spans) == _as_set(region.spans)]
    return [other for other in found if other.phrase == region.phrase]


def _as_set(spans: Sequence[Span]) -> frozenset[Span]:
    return frozenset((int(start), int(end)) for start, end in spans)


def best_first(regions: Sequence[Region], min_score: float = 0.0) -> list[Box]:
    """The boxes of all regions by descending score, without those below min_score; in order if there are no scores."""
    boxes = [box for region in regions for box in region.boxes]
    scores = [score for region in regions for score in region.scores or (0.0,) * len(region.boxes)]
    order = sorted(range(len(boxes)), key=lambda index: -scores[index])
    return [boxes[index] for index in order if scores[index] >= min_score]


def _enclosing(boxes: Sequence[Box]) -> Box:
    lefts, tops, rights, bottoms = zip(*boxes)
    return min(lefts), min(tops), max(rights), max(bottoms)


def rank_of_first_hit(found: Sequence[Box], true_boxes: Sequence[Box], iou: float) -> int | None:
    """The rank, from 1, of the first predicted box with at least this IoU with a true box; None if there is none."""
    if not found:
        return None
    overlaps = mask.iou(with_sizes(found), with_sizes(true_boxes), [0] * len(true_boxes))  # (found, true)
    hits = np.flatnonzero((overlaps >= iou).any(1))
    return int(hits[0]) + 1 if len(hits) else None


def with_sizes(boxes: Sequence[Box] | np.ndarray) -> np.ndarray:
    """(n, 4) corners -> (n, 4) float64: x, y, width, height."""
    corners = np.asarray(boxes, dtype=np.float64)
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)


def shares(ranks: Sequence[int | None], ks: Sequence[int], problem: str) -> dict[int, float]:
    """k -> the share of ranks that are k or better. problem: the message of the InputError if there are no ranks."""
    if not ranks:
        raise InputError("truth", problem, "expected at least one labelled phrase")
    return {k: sum(rank is not None and rank <= k for rank in ranks) / len(ranks) for k in ks}
