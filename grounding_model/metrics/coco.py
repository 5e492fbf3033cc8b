"""COCO's average precision, computed on arrays, with results bit for bit equal to those of pycocotools.

T IoU thresholds, R recall steps, K categories, S area ranges, M limits on detections per image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from formats.io.errors import InputError
from formats.io.notebook import html_text
from formats.record import Record
from grounding_model.metrics.matching import (
    IOU_THRESHOLDS,
    RECALL_STEPS,
    CategoryMatches,
    box_areas,
    match_categories,
    outside,
)
from grounding_model.metrics.predicted_boxes import PredictedBoxes, predictions_as_arrays
from grounding_model.metrics.ranking import Ranking
from grounding_model.metrics.true_boxes import Areas, TrueBoxes

ALL_AREAS = "all"
# Square pixels, both ends included.
AREAS = {ALL_AREAS: (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
MAX_DETECTIONS = (1, 10, 100)  # per category and image
MAX_IN_TABLE = 100  # categories
UNDEFINED = -1.0  # the value for a category without true boxes


@dataclass(frozen=True)
class CocoResult:
    """COCO's metrics, each 0..1, with the largest of the requested limits on detections per image.

    ap: mean over IoU thresholds 0.5, 0.55 … 0.95. ap50, ap75: at one threshold. ap_small, ap_medium, ap_large: objects
    with boxes below 32², up to 96² and above, in square pixels; None if the ground truth has none of that size.
    ar: limit on detections per image -> mean recall. per_category: name -> AP; names without a true box are left out.
    precision_recall: (T, R), the precision at recall 0, 0.01 … 1 for each IoU threshold, averaged over categories.
    """

    ap: float
    ap50: float
    ap75: float
    ap_small: float | None
    ap_medium: float | None
    ap_large: float | None
    ar: Mapping[int, float]
    per_category: Mapping[str, float]
    precision_recall: np.ndarray = field(compare=False, repr=False)

    def as_dict(self) -> dict[str, Any]:
        """The metrics as a dict for JSON, in which None becomes null."""
        return {
            "ap": self.ap,
            "ap50": self.ap50,
            "ap75": self.ap75,
            "ap_small": self.ap_small,
            "ap_medium": self.ap_medium,
            "ap_large": self.ap_large,
            "ar": {str(count): recall for count, recall in self.ar.items()},
            "per_category": dict(self.per_category),
        }

    def _repr_html_(self) -> str:
        return html_text(self.table())

    def table(self) -> str:
        """A human-readable table; "-" means undefined. Categories are listed if there are at most 100."""
        rows: list[tuple[str, float | None]] = [
            ("AP", self.ap),
            ("AP50", self.ap50),
            ("AP75", self.ap75),
            ("AP small", self.ap_small),
            ("AP medium", self.ap_medium),
            ("AP large", self.ap_large),
            *((f"AR@{count}", recall) for count, recall in self.ar.items()),
        ]
        if len(self.per_category) <= MAX_IN_TABLE:
            rows += [(f"AP {name}", value) for name, value in self.per_category.items()]
        return aligned(rows)


def aligned(rows: Sequence[tuple[str, float | None]]) -> str:
    """One line per row, with aligned names and numbers."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {'-' if value is None else f'{value:.3f}':>5}" for name, value in rows)


def evaluate_coco(
    truth: Sequence[Record],
    predictions: Sequence[Record] | PredictedBoxes,
    categories: Sequence[str],
    max_detections: Sequence[int] = MAX_DETECTIONS,
    areas: Areas | None = None,
) -> CocoResult:
    """COCO's box metrics, equal to those of pycocotools.

    Records are matched by filename, boxes by category name; boxes of other categories are left out on both sides. An
    image without a prediction record has no detections. PredictedBoxes hold predictions in far less memory than
    records. Instances with ignore=True are crowds in COCO's sense. max_detections: limits on the best detections per
    category and image, ascending; AP uses the last. (mmdet logs (100, 300, 1000) and mixes them: mAP with 100, mAP_50
    and all others with 1000.)
    areas: the areas of the objects' masks, which COCO's files contain and published AP by size uses; None uses the
    areas of the boxes.

    Raises InputError for predictions of unknown images or without scores, duplicate images, unlabelled images,
    duplicate names, and ground truth without any box.
    """
    return evaluate_coco_with_rankings(truth, predictions, categories, max_detections, areas).result


class CocoWithRankings(NamedTuple):
    """rankings: one for each category, for a bootstrap interval."""

    result: CocoResult
    rankings: list[Ranking]


def evaluate_coco_with_rankings(
    truth: Sequence[Record],
    predictions: Sequence[Record] | PredictedBoxes,
    categories: Sequence[str],
    max_detections: Sequence[int] = MAX_DETECTIONS,
    areas: Areas | None = None,
) -> CocoWithRankings:
    """Like evaluate_coco; also returns the rankings from which the metrics were computed."""
    if list(max_detections) != sorted(set(max_detections)) or not max_detections or max_detections[0] < 1:
        raise InputError("max_detections", f"{tuple(max_detections)}", "expected rising positive numbers")
    labels = {name: label for label, name in enumerate(categories)}
    if not categories or len(labels) < len(categories):
        raise InputError("categories", f"[{', '.join(categories)}]", "expected at least one name, and no duplicates")
    predicted = predictions_as_arrays(truth, predictions, labels)
    true = TrueBoxes.of_records(truth, labels, areas)
    matches = match_categories(true, predicted, len(labels), _ignored, max_per_image=max_detections[-1])
    scores = [_category_scores(each, max_detections, len(truth)) for each in matches]
    return CocoWithRankings(_result(scores, categories, max_detections), [category.ranking for category in scores])


def _ignored(true: TrueBoxes) -> np.ndarray:
    """(S, G): for each area range, the crowds and the boxes outside the range."""
    return np.stack([true.ignored | outside(true.areas, limits) for limits in AREAS.values()])


class _CategoryScores(NamedTuple):
    """The scores of one category; UNDEFINED without true boxes."""

    precision: np.ndarray  # (T, R, S), with the largest limit on detections
    recall: np.ndarray  # (T, M), of all areas
    ranking: Ranking


def _category_scores(matches: CategoryMatches, max_detections: Sequence[int], images: int) -> _CategoryScores:
    precision = np.full((len(IOU_THRESHOLDS), len(RECALL_STEPS), len(AREAS)), UNDEFINED)
    rankings = []
    found_areas = box_areas(matches.found.boxes)
    for size, limits in enumerate(AREAS.values()):
        ranking = matches.ranking(size, outside(found_areas, limits), images)
        level = ranking.precision_at_recall(epsilon=np.spacing(1))
        if level is not None:
            precision[..., size] = level
        rankings.append(ranking)
    every = list(AREAS).index(ALL_AREAS)
    return _CategoryScores(precision, _recall(matches, every, max_detections), rankings[every])


def _recall(matches: CategoryMatches, size: int, max_detections: Sequence[int]) -> np.ndarray:
    """(T, M): the recall when only so many of the best detections of each image count."""
    to_find = np.count_nonzero(~matches.ignored_true[size])
    if not to_find:
        return np.full((len(IOU_THRESHOLDS), len(max_detections)), UNDEFINED)
    right = matches.matched[size] & ~matches.on_ignored[size]
    ranks = matches.ranks_in_image()[matches.rows]
    return np.stack([right[:, ranks < count].sum(1) / to_find for count in max_detections], axis=1)


def _result(scores: Sequence[_CategoryScores], categories: Sequence[str], max_detections: Sequence[int]) -> CocoResult:
    """Averages over categories. Raises InputError for ground truth without any box."""
    precision = np.stack([category.precision for category in scores], axis=2)  # (T, R, K, S)
    recall = np.stack([category.recall for category in scores], axis=1)  # (T, K, M)
    sizes = {size: mean_of_defined(precision[..., index]) for index, size in enumerate(AREAS)}
    every = precision[..., list(AREAS).index(ALL_AREAS)]
    ap = mean_of_defined(every)
    if ap is None:
        raise InputError("truth", f"no box of {', '.join(categories)}", "expected at least one labelled object to find")
    by_category = {name: mean_of_defined(every[:, :, label]) for label, name in enumerate(categories)}
    return CocoResult(
        ap=ap,
        ap50=float(mean_of_defined(every[0]) or 0.0),
        ap75=float(mean_of_defined(every[5]) or 0.0),
        ap_small=sizes["small"],
        ap_medium=sizes["medium"],
        ap_large=sizes["large"],
        ar={count: mean_of_defined(recall[..., index]) or 0.0 for index, count in enumerate(max_detections)},
        per_category={name: value for name, value in by_category.items() if value is not None},
        precision_recall=every[:, :, (every > UNDEFINED).all((0, 1))].mean(2),
    )


def mean_of_defined(values: np.ndarray) -> float | None:
    """The mean of all defined values; None where there are none."""
    defined = values[values > UNDEFINED]
    return float(defined.mean()) if defined.size else None
