"""How good predictions are: COCO AP with its confidence interval, recall of phrases, precision of expressions.

Every function takes records of what is true and records of what a detector found. T IoU thresholds, R recall steps,
N detections of one category, I images.
"""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from formats.problems import InputError
from formats.record import Box, Instance, Record, Region, Span

ALL_AREAS = "all"


@dataclass(frozen=True)
class CocoResult:
    """COCO's numbers, each 0..1, for the most detections an image that were asked for.

    ap: mean over IoU thresholds 0.5, 0.55 … 0.95. ap50, ap75: at one threshold. ap_small, ap_medium, ap_large: objects
    with boxes below 32², up to 96² and above, in square pixels; None where the truth has none of that size.
    ar: the most detections an image -> mean recall. per_category: name -> AP; names without a true box are left out.
    """

    ap: float
    ap50: float
    ap75: float
    ap_small: float | None
    ap_medium: float | None
    ap_large: float | None
    ar: Mapping[int, float]
    per_category: Mapping[str, float]

    def as_dict(self) -> dict[str, Any]:
        """The numbers as JSON takes them; None becomes null."""
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

    def table(self) -> str:
        """A line a number, for people; a size that the truth does not have shows as -."""
        rows: list[tuple[str, float | None]] = [
            ("AP", self.ap),
            ("AP50", self.ap50),
            ("AP75", self.ap75),
            ("AP small", self.ap_small),
            ("AP medium", self.ap_medium),
            ("AP large", self.ap_large),
            *((f"AR@{count}", recall) for count, recall in self.ar.items()),
            *((f"AP {name}", value) for name, value in self.per_category.items()),
        ]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {'-' if value is None else f'{value:.3f}':>5}" for name, value in rows)


class Interval(NamedTuple):
    """Where a number lies, both ends included."""

    low: float
    high: float


def evaluate_coco(
    truth: Sequence[Record],
    predictions: Sequence[Record],
    categories: Sequence[str],
    max_detections: Sequence[int] = (1, 10, 100),
) -> CocoResult:
    """COCO's box metrics, judged by pycocotools; prints nothing.

    Records are matched by filename and boxes by the name of their category; other categories than `categories` are
    left out on both sides. An image without a prediction record counts as one where nothing was found. Instances with
    ignore=True are COCO's crowds. max_detections: the best so many of a category in an image count, rising; AP is that
    of the last. (mmdet's logs use (100, 300, 1000) and mix them: mAP of 100, mAP_50 and the rest of 1000.) The area of
    an object is its box's, where COCO's own files have the mask's: AP by size differs a little from theirs.

    Raises InputError for predictions of unknown images or without scores, images given twice, images that nobody has
    labelled, names given twice, and a truth without a single box to find.
    """
    judge = _judge(truth, predictions, categories, max_detections)
    with contextlib.redirect_stdout(io.StringIO()):
        judge.accumulate()
    precision, recall = judge.eval["precision"], judge.eval["recall"]  # (T, R, K, areas, counts), (T, K, areas, counts)
    sizes = {size: _mean(precision[:, :, :, place, -1]) for place, size in enumerate(judge.params.areaRngLbl)}
    every = precision[:, :, :, judge.params.areaRngLbl.index(ALL_AREAS), -1]
    ap = _mean(every)
    if ap is None:
        raise InputError("truth", f"no box of {', '.join(categories)}", "want at least one labelled object to find")
    thresholds = np.round(judge.params.iouThrs, 2)
    by_category = {name: _mean(every[:, :, place]) for place, name in enumerate(categories)}
    return CocoResult(
        ap=ap,
        ap50=float(_mean(every[thresholds == 0.5]) or 0.0),
        ap75=float(_mean(every[thresholds == 0.75]) or 0.0),
        ap_small=sizes["small"],
        ap_medium=sizes["medium"],
        ap_large=sizes["large"],
        ar={count: _mean(recall[:, :, 0, place]) or 0.0 for place, count in enumerate(max_detections)},
        per_category={name: value for name, value in by_category.items() if value is not None},
    )


def bootstrap_interval(
    truth: Sequence[Record],
    predictions: Sequence[Record],
    categories: Sequence[str],
    *,
    baseline: Sequence[Record] | None = None,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The percentile bootstrap interval of AP (Efron and Tibshirani 1993, chapter 13): images are drawn anew with
    replacement, so it tells how much of a number is owed to the choice of test images.

    baseline: other predictions of the same images; the interval is then of the gain in AP over them, both judged on
    the same draws, which is far narrower than the difference of two intervals. Draws without a box to find are left
    out. Boxes are matched once, by pycocotools; a draw only weighs the matches. Raises InputError as evaluate_coco.
    """
    draws = _draws(len(truth), resamples, seed)
    samples = _resampled_ap(_rankings(truth, predictions, categories), draws)
    if baseline is not None:
        samples = samples - _resampled_ap(_rankings(truth, baseline, categories), draws)
    samples = samples[np.isfinite(samples)]
    if not len(samples):
        raise InputError("truth", f"no box of {', '.join(categories)}", "want at least one labelled object to find")
    low, high = np.quantile(samples, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))


def recall_at(
    truth: Sequence[Record],
    predictions: Sequence[Record],
    ks: Sequence[int] = (1, 5, 10),
    iou: float = 0.5,
    merge_boxes: bool = False,
) -> dict[int, float]:
    """Phrase grounding recall as on Flickr30k Entities: the share of phrases of which one of the best k boxes meets a
    true box with IoU >= iou.

    Records are matched by filename and caption, phrases by their spans, or by their text where the truth has no spans.
    merge_boxes: all true boxes of a phrase become the one box round them ("merged boxes", Kamath et al. 2021), instead
    of any of them being enough. Phrases that name nothing and ignored phrases do not count.
    Raises InputError for predictions of unknown captions, captions given twice, and a truth without phrases.
    """
    ranks = []
    for record, found in _paired_captions(truth, predictions):
        for region in _regions_to_find(record):
            wanted = [_enclosing(region.boxes)] if merge_boxes else region.boxes
            ranks.append(_rank_of_first_hit(_best_first(_same_phrase(region, found)), wanted, iou))
    return _shares(ranks, ks, "no phrase has a box")


def expression_precision(
    truth: Sequence[Record], predictions: Sequence[Record], ks: Sequence[int] = (1, 5, 10), iou: float = 0.5
) -> dict[int, float]:
    """Precision@k of referring expressions as on RefCOCO: the share of expressions of which one of the best k boxes
    meets the thing that is meant with IoU >= iou.

    A record is one expression: its truth has one region, its prediction's regions count together. Expressions that
    mean nothing in their image do not count. Raises InputError as recall_at, and for a truth of several regions.
    """
    ranks = []
    for record, found in _paired_captions(truth, predictions):
        regions = _regions_to_find(record)
        if len(regions) > 1:
            raise InputError(record.filename, f"'{record.caption}' has {len(regions)} regions", "want one expression")
        ranks += [_rank_of_first_hit(_best_first(found), region.boxes, iou) for region in regions]
    return _shares(ranks, ks, "no expression has a box")


# COCO


def _judge(
    truth: Sequence[Record], predictions: Sequence[Record], categories: Sequence[str], max_detections: Sequence[int]
) -> COCOeval:
    """pycocotools' evaluation after its matching."""
    if list(max_detections) != sorted(set(max_detections)) or not max_detections or max_detections[0] < 1:
        raise InputError("max_detections", f"{tuple(max_detections)}", "want rising positive numbers")
    labels = {name: place for place, name in enumerate(categories, start=1)}
    if not categories or len(labels) < len(categories):
        raise InputError("categories", f"[{', '.join(categories)}]", "want one name or more, each once")
    image_ids = {record.filename: place for place, record in enumerate(truth, start=1)}
    _check_pairing([record.filename for record in truth], [record.filename for record in predictions])
    with contextlib.redirect_stdout(io.StringIO()):
        judge = COCOeval(
            _coco(truth, image_ids, labels, scored=False), _coco(predictions, image_ids, labels, scored=True), "bbox"
        )
        judge.params.imgIds = list(image_ids.values())  # else a truth without images or boxes would have none
        judge.params.catIds = list(labels.values())
        judge.params.maxDets = list(max_detections)
        judge.evaluate()
    return judge


def _coco(records: Sequence[Record], image_ids: Mapping[str, int], labels: Mapping[str, int], *, scored: bool) -> COCO:
    """The records as pycocotools wants them. Ids count from 1: it reads a match with id 0 as none."""
    annotations: list[dict[str, Any]] = []
    for record in records:
        if record.instances is None and not scored:
            raise InputError(record.filename, "nobody has labelled it", "want detection records with instances")
        for instance in record.instances or ():
            if instance.category in labels:
                ids = {"id": len(annotations) + 1, "image_id": image_ids[record.filename]}
                annotations.append(ids | _annotation(instance, labels, record.filename, scored))
    coco = COCO()
    coco.dataset = {
        "images": [{"id": place, "file_name": name} for name, place in image_ids.items()],
        "annotations": annotations,
        "categories": [{"id": label, "name": name} for name, label in labels.items()],
    }
    coco.createIndex()
    return coco


def _annotation(instance: Instance, labels: Mapping[str, int], filename: str, scored: bool) -> dict[str, Any]:
    width, height = instance.box[2] - instance.box[0], instance.box[3] - instance.box[1]
    annotation: dict[str, Any] = {
        "category_id": labels[instance.category],
        "bbox": [instance.box[0], instance.box[1], width, height],
        "area": width * height,
        "iscrowd": int(instance.ignore and not scored),
    }
    if scored:
        if instance.score is None:
            raise InputError(filename, f"a predicted {instance.category} without score", "want a score for every box")
        annotation["score"] = instance.score
    return annotation


def _check_pairing(known: Sequence[Any], found: Sequence[Any]) -> None:
    """Raises InputError for a key given twice on a side and for found keys that are not known."""
    for side, keys in (("truth", known), ("predictions", found)):
        twice = [key for key, count in Counter(keys).items() if count > 1]
        if twice:
            raise InputError(side, f"{_shown(twice[0])} is there twice", "want each once")
    unknown = set(found) - set(known)
    if unknown:
        raise InputError("predictions", f"the truth does not know {_shown(min(unknown))}", "want no more than it has")


def _shown(key: Any) -> str:
    return key if isinstance(key, str) else ": ".join(str(part) for part in key)


def _mean(values: np.ndarray) -> float | None:
    """Of what is defined; COCO marks the rest with -1."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else None


# Confidence interval


class _Ranking(NamedTuple):
    """What was found of one category in all images, best first; N detections, C of them correct at some threshold."""

    images: np.ndarray  # (N,) int64, the image that each is in
    counted: np.ndarray  # (T, N) bool, False where it met something ignored; (1, N) where that is so at every threshold
    places: np.ndarray  # (C,) int64, which of the N are correct at some threshold: only there does recall change
    correct: np.ndarray  # (T, C) bool
    to_find: np.ndarray  # (I,) int64, true boxes an image
    recall_steps: np.ndarray  # (R,) float64


def _rankings(truth: Sequence[Record], predictions: Sequence[Record], categories: Sequence[str]) -> list[_Ranking]:
    """One for each category."""
    judge = _judge(truth, predictions, categories, (1, 10, 100))
    images, areas = len(truth), len(judge.params.areaRng)
    rankings = []
    for place in range(len(categories)):
        start = (place * areas + judge.params.areaRngLbl.index(ALL_AREAS)) * images
        rankings.append(_ranking(judge.evalImgs[start : start + images], judge.params.recThrs))
    return rankings


def _ranking(matches: Sequence[dict[str, Any] | None], recall_steps: np.ndarray) -> _Ranking:
    """From pycocotools' matches of one category; None where an image has neither truth nor detections."""
    kept = [(image, match) for image, match in enumerate(matches) if match is not None]
    to_find = np.zeros(len(matches), dtype=np.int64)
    for image, match in kept:
        to_find[image] = np.count_nonzero(np.asarray(match["gtIgnore"]) == 0)
    if not kept:
        nothing, nowhere = np.zeros((1, 0), dtype=bool), np.zeros(0, dtype=np.int64)
        return _Ranking(nowhere, nothing, nowhere, nothing, to_find, recall_steps)
    order = np.argsort(-np.concatenate([match["dtScores"] for _, match in kept]), kind="stable")
    images = np.repeat([image for image, _ in kept], [len(match["dtScores"]) for _, match in kept])[order]
    matched = np.concatenate([match["dtMatches"] for _, match in kept], axis=1)[:, order] > 0
    counted = np.concatenate([match["dtIgnore"] for _, match in kept], axis=1)[:, order] == 0
    correct = matched & counted
    places = np.flatnonzero(correct.any(0))
    if (counted == counted[:1]).all():
        counted = counted[:1]
    return _Ranking(images, counted, places, correct[:, places], to_find, recall_steps)


def _draws(images: int, resamples: int, seed: int) -> np.ndarray:
    """(resamples, I) int64: how often each draw holds each image."""
    if images == 0:
        raise InputError("truth", "no images", "want at least one")
    return np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), size=resamples)


def _resampled_ap(rankings: Sequence[_Ranking], draws: np.ndarray) -> np.ndarray:
    """(resamples,) AP of each draw, the mean over categories that it has boxes of; NaN where it has none at all."""
    values = np.array([[_average_precision(ranking, draw) for ranking in rankings] for draw in draws])
    defined = np.isfinite(values)
    count = defined.sum(1)
    return np.where(count > 0, np.where(defined, values, 0).sum(1) / np.maximum(count, 1), np.nan)


def _average_precision(ranking: _Ranking, draw: np.ndarray) -> float:
    """COCO's AP if every image stood in the data set as often as `draw` says; NaN without a box to find.

    Copies of a detection rank next to each other, and precision between two copies of a correct one is below that
    after them: so their number is a weight, and nothing has to be repeated.
    """
    to_find = int(draw @ ranking.to_find)
    if to_find == 0:
        return float("nan")
    if not len(ranking.places):
        return 0.0
    weights = draw[ranking.images]
    seen = np.cumsum(ranking.counted * weights, axis=1)[:, ranking.places]  # (T or 1, C)
    correct = np.cumsum(ranking.correct * weights[ranking.places], axis=1)  # (T, C)
    precision = correct / np.maximum(seen, 1)
    best_from_here = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    recall = correct / to_find
    total = 0.0
    for line, reached in zip(best_from_here, recall):
        places = np.searchsorted(reached, ranking.recall_steps)
        total += line[places[places < len(line)]].sum()
    return total / (len(recall) * len(ranking.recall_steps))


# Captions


def _paired_captions(truth: Sequence[Record], predictions: Sequence[Record]) -> list[tuple[Record, tuple[Region, ...]]]:
    """Each true record with the regions found for it, () where nothing was."""
    for record in (*truth, *predictions):
        if record.caption is None:
            raise InputError(record.filename, "has no caption", "want captions with phrases")
    keys = [(record.filename, record.caption) for record in truth]
    found = {(record.filename, record.caption): record.regions or () for record in predictions}
    _check_pairing(keys, [(record.filename, record.caption) for record in predictions])
    return [(record, found.get(key, ())) for record, key in zip(truth, keys)]


def _regions_to_find(record: Record) -> list[Region]:
    return [region for region in record.regions or () if region.boxes and not region.ignore]


def _same_phrase(region: Region, found: Sequence[Region]) -> list[Region]:
    if region.spans:
        return [other for other in found if _as_set(other.spans) == _as_set(region.spans)]
    return [other for other in found if other.phrase == region.phrase]


def _as_set(spans: Sequence[Span]) -> frozenset[Span]:
    return frozenset((int(start), int(end)) for start, end in spans)


def _best_first(regions: Sequence[Region]) -> list[Box]:
    """The boxes of all regions by falling score; as they stand where they have none."""
    boxes = [box for region in regions for box in region.boxes]
    scores = [score for region in regions for score in region.scores or (0.0,) * len(region.boxes)]
    return [boxes[place] for place in sorted(range(len(boxes)), key=lambda place: -scores[place])]


def _enclosing(boxes: Sequence[Box]) -> Box:
    lefts, tops, rights, bottoms = zip(*boxes)
    return min(lefts), min(tops), max(rights), max(bottoms)


def _rank_of_first_hit(found: Sequence[Box], wanted: Sequence[Box], iou: float) -> int | None:
    """Place, from 1, of the first box that meets a wanted one with at least this IoU; None if there is none."""
    if not found:
        return None
    overlaps = mask.iou(_with_sizes(found), _with_sizes(wanted), [0] * len(wanted))  # (found, wanted)
    hits = np.flatnonzero((overlaps >= iou).any(1))
    return int(hits[0]) + 1 if len(hits) else None


def _with_sizes(boxes: Sequence[Box]) -> np.ndarray:
    """(n, 4) float64: x, y, width, height."""
    corners = np.asarray(boxes, dtype=np.float64)
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)


def _shares(ranks: Sequence[int | None], ks: Sequence[int], complaint: str) -> dict[int, float]:
    """k -> share of ranks that are k or better."""
    if not ranks:
        raise InputError("truth", complaint, "want at least one labelled phrase")
    return {k: sum(rank is not None and rank <= k for rank in ranks) / len(ranks) for k in ks}
