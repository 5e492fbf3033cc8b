"""LVIS: average precision on a federated data set (Gupta et al. 2019), with the fixed AP of Dave et al. 2021.

An image is scored only on the categories that were annotated in it. Boxes are matched by COCO's rule (matching.py), as
in the `lvis` package, whose version 0.5.3 does not run with current NumPy.
T IoU thresholds, R recall steps, N detections, G true boxes, I images, K categories, F (category, image) pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from formats.io.errors import InputError
from formats.record import Record
from grounding_model.metrics.coco import ALL_AREAS, AREAS, aligned
from grounding_model.metrics.matching import CategoryMatches, box_areas, match_categories, outside
from grounding_model.metrics.predicted_boxes import PredictedBoxes, predictions_as_arrays
from grounding_model.metrics.ranking import Ranking
from grounding_model.metrics.true_boxes import Areas, TrueBoxes

MAX_PER_CATEGORY = 10_000  # detections per category over all images that fixed AP counts
FREQUENCIES = {"r": "rare", "c": "common", "f": "frequent"}


class Federation(NamedTuple):
    """What LVIS annotates besides boxes.

    absent: filename -> categories verified to be absent. not_exhaustive: filename -> categories of which only some
    objects are labelled. frequency: category -> "r" (in 1 to 10 training images), "c" (up to 100) or "f".
    """

    absent: Mapping[str, frozenset[str]]
    not_exhaustive: Mapping[str, frozenset[str]]
    frequency: Mapping[str, str]


@dataclass(frozen=True)
class LvisResult:
    """LVIS's metrics, each 0..1; None if the ground truth has no such boxes.

    ap: mean over IoU thresholds 0.5, 0.55 … 0.95. ap_rare, ap_common, ap_frequent: over the categories of a frequency.
    per_category: name -> AP; names without a true box are left out. precision_recall: as in CocoResult.
    """

    ap: float
    ap50: float
    ap75: float
    ap_small: float | None
    ap_medium: float | None
    ap_large: float | None
    ap_rare: float | None
    ap_common: float | None
    ap_frequent: float | None
    per_category: Mapping[str, float]
    precision_recall: np.ndarray = field(compare=False, repr=False)

    def as_dict(self) -> dict[str, Any]:
        """The metrics as a dict for JSON, in which None becomes null."""
        return self._numbers() | {"per_category": dict(self.per_category)}

    def table(self) -> str:
        """A human-readable table, one line per metric, without the categories."""
        titles = {"ap": "AP", "ap50": "AP50", "ap75": "AP75"}
        return aligned([(titles.get(key, f"AP {key[3:]}"), value) for key, value in self._numbers().items()])

    def _numbers(self) -> dict[str, float | None]:
        sizes = {"ap_small": self.ap_small, "ap_medium": self.ap_medium, "ap_large": self.ap_large}
        frequencies = {"ap_rare": self.ap_rare, "ap_common": self.ap_common, "ap_frequent": self.ap_frequent}
        return {"ap": self.ap, "ap50": self.ap50, "ap75": self.ap75} | sizes | frequencies


def evaluate_lvis(
    truth: Sequence[Record],
    predictions: Sequence[Record] | PredictedBoxes,
    categories: Sequence[str],
    federation: Federation,
    *,
    max_per_category: int | None = MAX_PER_CATEGORY,
    max_per_image: int | None = None,
    areas: Areas | None = None,
) -> LvisResult:
    """LVIS's AP. By default fixed AP: the best 10,000 detections per category over all images count.

    max_per_category=None with max_per_image=300 is the older definition, in which categories compete for the
    detections of an image, so that AP depends on how scores compare across categories. Records, names, areas and
    PredictedBoxes as in evaluate_coco. Raises InputError as evaluate_coco does.
    """
    return evaluate_lvis_with_rankings(
        truth,
        predictions,
        categories,
        federation,
        max_per_category=max_per_category,
        max_per_image=max_per_image,
        areas=areas,
    ).result


class LvisWithRankings(NamedTuple):
    """rankings: one for each category, for a bootstrap interval."""

    result: LvisResult
    rankings: list[Ranking]


def evaluate_lvis_with_rankings(
    truth: Sequence[Record],
    predictions: Sequence[Record] | PredictedBoxes,
    categories: Sequence[str],
    federation: Federation,
    *,
    max_per_category: int | None = MAX_PER_CATEGORY,
    max_per_image: int | None = None,
    areas: Areas | None = None,
) -> LvisWithRankings:
    """Like evaluate_lvis; also returns the rankings from which the metrics were computed."""
    if not categories or len(set(categories)) < len(categories):
        raise InputError("categories", f"{len(categories)} names", "expected at least one name, and no duplicates")
    images = {record.filename: index for index, record in enumerate(truth)}
    labels = {name: label for label, name in enumerate(categories)}
    found = predictions_as_arrays(truth, predictions, labels)
    if max_per_image is not None:
        found = found.best_of_each_image(max_per_image)
    if max_per_category is not None:
        found = found.best_of_each_label(max_per_category)
    true = TrueBoxes.of_records(truth, labels, areas).without_crowds()
    absent, not_exhaustive = (
        _pairs_of(known, images, labels) for known in (federation.absent, federation.not_exhaustive)
    )
    annotated = np.union1d(_pairs(true, len(truth)), absent)
    found = found.rows(np.isin(_pairs(found, len(truth)), annotated))
    levels: dict[str, dict[str, np.ndarray]] = {size: {} for size in AREAS}
    rankings = []
    for name, matches in zip(categories, match_categories(true, found, len(labels), _of_other_size), strict=True):
        not_penalised = np.isin(_pairs(matches.found, len(truth)), not_exhaustive)
        by_size = _rankings(matches, not_penalised, len(truth))
        rankings.append(by_size[ALL_AREAS])
        for size, ranking in by_size.items():
            precision = ranking.precision_at_recall()
            if precision is not None:
                levels[size][name] = precision
    return LvisWithRankings(_result(levels, federation.frequency), rankings)


def _pairs(boxes: PredictedBoxes | TrueBoxes, images: int) -> np.ndarray:
    """(N,) int64: a unique number for the (category, image) pair of each box."""
    return boxes.labels.astype(np.int64) * images + boxes.images


def _pairs_of(known: Mapping[str, frozenset[str]], images: Mapping[str, int], labels: Mapping[str, int]) -> np.ndarray:
    """filename -> categories, as (F,) int64 pair numbers, like those of _pairs."""
    pairs = [
        labels[name] * len(images) + images[filename]
        for filename, names in known.items()
        for name in names & labels.keys()
    ]
    return np.array(pairs, dtype=np.int64)


def _of_other_size(true: TrueBoxes) -> np.ndarray:
    """(S, G): for each area range, the boxes outside it."""
    return np.stack([outside(true.areas, limits) for limits in AREAS.values()])


def _rankings(matches: CategoryMatches, not_penalised: np.ndarray, images: int) -> dict[str, Ranking]:
    """Size -> ranking of one category. not_penalised: (N,) bool, detections in images where the category is not
    labelled exhaustively; if they match nothing, they do not count as wrong.
    """
    areas = box_areas(matches.found.boxes)
    return {
        size: matches.ranking(index, not_penalised | outside(areas, limits), images)
        for index, (size, limits) in enumerate(AREAS.items())
    }


def _result(levels: Mapping[str, Mapping[str, np.ndarray]], frequency: Mapping[str, str]) -> LvisResult:
    """levels: size -> category -> (T, R) precision."""
    every = levels[ALL_AREAS]
    if not every:
        raise InputError("truth", "no box of the categories", "expected at least one labelled object to find")
    by_category = {name: float(level.mean()) for name, level in every.items()}
    mean_level = np.mean(list(every.values()), axis=0)  # (T, R)
    by_frequency = {
        f"ap_{word}": _mean([ap for name, ap in by_category.items() if frequency.get(name) == letter])
        for letter, word in FREQUENCIES.items()
    }
    return LvisResult(
        ap=float(mean_level.mean()),
        ap50=float(mean_level[0].mean()),
        ap75=float(mean_level[5].mean()),
        **{f"ap_{size}": _mean([float(level.mean()) for level in levels[size].values()]) for size in list(AREAS)[1:]},
        **by_frequency,
        per_category=by_category,
        precision_recall=mean_level,
    )


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
