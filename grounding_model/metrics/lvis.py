"""LVIS: average precision over a federated data set (Gupta et al. 2019), with the fixed AP of Dave et al. 2021.

An image is judged only on the categories that somebody looked for in it. The `lvis` package (0.5.3) does not run with
today's NumPy, so the matching is written anew; boxes overlap by pycocotools.
T IoU thresholds, R recall steps, D detections and G true boxes of one category in one image.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask

from formats.io.errors import InputError
from formats.record import Record
from grounding_model.metrics.coco import aligned
from grounding_model.metrics.found_boxes import FoundBoxes, found_boxes
from grounding_model.metrics.phrases import with_sizes
from grounding_model.metrics.ranking import Match, Ranking
from grounding_model.metrics.true_boxes import Areas, TrueBoxes

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_STEPS = np.linspace(0.0, 1.0, 101)
SIZES = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
FREQUENCIES = {"r": "rare", "c": "common", "f": "frequent"}


class Federation(NamedTuple):
    """What LVIS knows beyond boxes.

    absent: filename -> categories that are certainly not in the image. partly: filename -> categories of which only
    some objects are labelled there. frequency: category -> "r" (in 1 to 10 training images), "c" (to 100) or "f".
    """

    absent: Mapping[str, frozenset[str]]
    partly: Mapping[str, frozenset[str]]
    frequency: Mapping[str, str]


@dataclass(frozen=True)
class LvisResult:
    """LVIS's numbers, each 0..1, None where the truth has nothing of the kind.

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
        """The numbers as JSON takes them; None becomes null."""
        return self._numbers() | {"per_category": dict(self.per_category)}

    def table(self) -> str:
        """A line a number, for people; of the categories only in the CSV."""
        titles = {"ap": "AP", "ap50": "AP50", "ap75": "AP75"}
        return aligned([(titles.get(key, f"AP {key[3:]}"), value) for key, value in self._numbers().items()])

    def _numbers(self) -> dict[str, float | None]:
        sizes = {"ap_small": self.ap_small, "ap_medium": self.ap_medium, "ap_large": self.ap_large}
        frequencies = {"ap_rare": self.ap_rare, "ap_common": self.ap_common, "ap_frequent": self.ap_frequent}
        return {"ap": self.ap, "ap50": self.ap50, "ap75": self.ap75} | sizes | frequencies


def evaluate_lvis(
    truth: Sequence[Record],
    predictions: Sequence[Record] | FoundBoxes,
    categories: Sequence[str],
    federation: Federation,
    *,
    max_per_category: int | None = 10_000,
    max_per_image: int | None = None,
    areas: Areas | None = None,
) -> LvisResult:
    """By default LVIS's fixed AP: the best 10,000 detections of a category in all images count, any number an image.

    max_per_category=None with max_per_image=300 is the older definition, which rewards a category for scores that
    outbid other categories in the same image. Records, names and areas are matched as by evaluate_coco; FoundBoxes
    say the same in far less memory. Raises InputError as evaluate_coco.
    """
    return judge_lvis(
        truth,
        predictions,
        categories,
        federation,
        max_per_category=max_per_category,
        max_per_image=max_per_image,
        areas=areas,
    ).result


class LvisJudgement(NamedTuple):
    """rankings: one for each category, for a bootstrap interval."""

    result: LvisResult
    rankings: list[Ranking]


def judge_lvis(
    truth: Sequence[Record],
    predictions: Sequence[Record] | FoundBoxes,
    categories: Sequence[str],
    federation: Federation,
    *,
    max_per_category: int | None = 10_000,
    max_per_image: int | None = None,
    areas: Areas | None = None,
) -> LvisJudgement:
    """The numbers of evaluate_lvis, and the matches that they come from."""
    if not categories or len(set(categories)) < len(categories):
        raise InputError("categories", f"{len(categories)} names", "expected one name or more, each once")
    images = {record.filename: place for place, record in enumerate(truth)}
    labels = {name: place for place, name in enumerate(categories)}
    found = found_boxes(truth, predictions, labels)
    if max_per_image is not None:
        found = found.best_of_each_image(max_per_image)
    true = TrueBoxes.of_records(truth, labels, areas).by_label(len(labels))
    absent, partly = (_places(images, known, categories) for known in (federation.absent, federation.partly))
    levels: dict[str, dict[str, np.ndarray]] = {size: {} for size in SIZES}
    rankings = []
    for name, own_true, own in zip(categories, true, found.by_label(len(labels)), strict=True):
        judged = own if max_per_category is None else own.best(max_per_category)
        by_size = _rankings(own_true.by_image(), judged.by_image(), absent[name], partly[name], len(truth))
        rankings.append(by_size["all"])
        for size, ranking in by_size.items():
            precision = ranking.precision_at_recall()
            if precision is not None:
                levels[size][name] = precision
    return LvisJudgement(_result(levels, federation.frequency), rankings)


def _places(
    images: Mapping[str, int], known: Mapping[str, frozenset[str]], categories: Sequence[str]
) -> dict[str, set[int]]:
    """filename -> categories, turned into category -> places of images."""
    places: dict[str, set[int]] = {name: set() for name in categories}
    for filename, names in known.items():
        for name in names & places.keys():
            places[name].add(images[filename])
    return places


def _result(levels: Mapping[str, Mapping[str, np.ndarray]], frequency: Mapping[str, str]) -> LvisResult:
    """levels: size -> category -> (T, R) precision."""
    every = levels["all"]
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
        **{f"ap_{size}": _mean([float(level.mean()) for level in levels[size].values()]) for size in list(SIZES)[1:]},
        **by_frequency,
        per_category=by_category,
        precision_recall=mean_level,
    )


def _rankings(
    true: Mapping[int, TrueBoxes],
    found: Mapping[int, tuple[np.ndarray, np.ndarray]],
    absent: Collection[int],
    partly: Collection[int],
    images: int,
) -> dict[str, Ranking]:
    """Of one category, size -> ranking. true: image -> boxes. found: image -> boxes and scores, best first.

    absent, partly: the images that have none of it, and those of which only some of it is labelled.
    """
    matches: dict[str, list[Match]] = {size: [] for size in SIZES}
    for place in sorted(true.keys() | (found.keys() & set(absent))):
        boxes, scores = found.get(place, _NOTHING)
        known = true.get(place, _NONE)
        overlaps = np.zeros((len(boxes), len(known.boxes)))
        if overlaps.size:
            overlaps = np.asarray(mask.iou(with_sizes(boxes), with_sizes(known.boxes), [0] * len(known.boxes)))
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        for size, limits in SIZES.items():
            matches[size].append(_match(place, scores, areas, known.areas, overlaps, limits, place in partly))
    return {size: Ranking.of(own, images, RECALL_STEPS) for size, own in matches.items()}


_NONE = TrueBoxes.of_records((), {})
_NOTHING = np.zeros((0, 4)), np.zeros(0)  # boxes, scores


def _match(
    image: int,
    scores: np.ndarray,
    areas: np.ndarray,
    true_areas: np.ndarray,
    overlaps: np.ndarray,
    sizes: tuple[float, float],
    partly: bool,
) -> Match:
    """scores, areas: (D,) of the detections. true_areas: (G,). overlaps: (D, G) IoU.

    Each detection, best first, takes the true box that it overlaps most and that nothing better has taken.
    True boxes of another size are ignored, and taken only where no other is left. Detections without a true box are
    ignored when they are of another size, or of a category of which the image has more than is labelled.
    """
    other_size = (true_areas < sizes[0]) | (true_areas > sizes[1])
    matched = np.zeros((len(IOU_THRESHOLDS), len(scores)), dtype=bool)
    ignored = np.zeros_like(matched)
    _take(overlaps, other_size, matched, ignored)
    unjudged = partly | (areas < sizes[0]) | (areas > sizes[1])
    ignored |= ~matched & unjudged
    return Match(image, scores, matched, ignored, int(np.count_nonzero(~other_size)))


def _take(overlaps: np.ndarray, other_size: np.ndarray, matched: np.ndarray, ignored: np.ndarray) -> None:
    """(D, G) overlaps, (G,) bool -> fills matched and ignored, (T, D) bool, of the detections that take a box.

    Of equal overlaps the last counts, as in LVIS's evaluation.
    """
    free = np.ones((len(matched), len(other_size)), dtype=bool)
    rows = np.arange(len(matched))
    for detection in np.flatnonzero((overlaps >= IOU_THRESHOLDS[0]).any(1)):  # others can take nothing
        overlap = overlaps[detection]
        enough = free & (overlap >= IOU_THRESHOLDS[:, None])  # (T, G)
        if not enough.any():
            continue
        right = enough & ~other_size
        eligible = np.where(right.any(1, keepdims=True), right, enough)
        backwards = np.where(eligible, overlap, -1.0)[:, ::-1]
        taken = len(other_size) - 1 - backwards.argmax(1)
        hit = eligible.any(1)
        matched[:, detection] = hit
        ignored[:, detection] = hit & other_size[taken]
        free[rows[hit], taken[hit]] = False


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
