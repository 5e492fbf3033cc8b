"""COCO's average precision, computed by pycocotools.

T IoU thresholds, R recall steps, K categories, A ranges of areas, M numbers of detections.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from formats.io.errors import InputError
from formats.record import Record
from grounding_model.metrics.found_boxes import FoundBoxes, found_boxes
from grounding_model.metrics.phrases import with_sizes
from grounding_model.metrics.ranking import Match, Ranking
from grounding_model.metrics.true_boxes import Areas, TrueBoxes

ALL_AREAS = "all"
AREAS = (ALL_AREAS, "small", "medium", "large")  # in pycocotools' order
MAX_DETECTIONS = (1, 10, 100)  # of a category in an image
MAX_IN_TABLE = 100  # categories
IMAGES_AT_ONCE = 1000  # of a category, as pycocotools' dictionaries


@dataclass(frozen=True)
class CocoResult:
    """COCO's numbers, each 0..1, for the largest of the requested maximum numbers of detections an image.

    ap: mean over IoU thresholds 0.5, 0.55 … 0.95. ap50, ap75: at one threshold. ap_small, ap_medium, ap_large: objects
    with boxes below 32², up to 96² and above, in square pixels; None where the truth has none of that size.
    ar: maximum detections an image -> mean recall. per_category: name -> AP; names without a true box are left out.
    precision_recall: (T, R), the precision at recall 0, 0.01 … 1 for each IoU threshold, mean over the categories.
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
        """A human-readable table; - for a size that the truth does not have. More than 100 categories are left out."""
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
    """A line a row, with aligned names and numbers."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {'-' if value is None else f'{value:.3f}':>5}" for name, value in rows)


def evaluate_coco(
    truth: Sequence[Record],
    predictions: Sequence[Record] | FoundBoxes,
    categories: Sequence[str],
    max_detections: Sequence[int] = MAX_DETECTIONS,
    areas: Areas | None = None,
) -> CocoResult:
    """COCO's box metrics, computed by pycocotools; prints nothing.

    Records are matched by filename and boxes by the name of their category; other categories than `categories` are
    left out on both sides. An image without a prediction record has no detections. FoundBoxes are the same in
    far less memory. Instances with ignore=True are COCO's crowds. max_detections: numbers of
    best detections of a category in an image, rising; AP is that of the last.
    (mmdet's logs use (100, 300, 1000) and mix them: mAP of 100, mAP_50 and the rest of 1000.)
    areas: COCO's own files give the area of an object's mask, and published AP by size uses it; None takes the
    area of the box.

    Raises InputError for predictions of unknown images or without scores, duplicate images, unlabelled images,
    duplicate names, and a truth without any box.
    """
    return judge_coco(truth, predictions, categories, max_detections, areas).result


class CocoJudgement(NamedTuple):
    """rankings: one for each category, for a bootstrap interval."""

    result: CocoResult
    rankings: list[Ranking]


def judge_coco(
    truth: Sequence[Record],
    predictions: Sequence[Record] | FoundBoxes,
    categories: Sequence[str],
    max_detections: Sequence[int] = MAX_DETECTIONS,
    areas: Areas | None = None,
) -> CocoJudgement:
    """As evaluate_coco, with the matches behind its numbers.

    Categories are evaluated one after the other, as pycocotools does too: the numbers are the same to the last bit, but
    pycocotools' dictionaries never hold more than a part of one category.
    """
    if list(max_detections) != sorted(set(max_detections)) or not max_detections or max_detections[0] < 1:
        raise InputError("max_detections", f"{tuple(max_detections)}", "expected rising positive numbers")
    labels = {name: place for place, name in enumerate(categories)}
    if not categories or len(labels) < len(categories):
        raise InputError("categories", f"[{', '.join(categories)}]", "expected one name or more, each once")
    predicted = found_boxes(truth, predictions, labels)
    true_boxes = TrueBoxes.of_records(truth, labels, areas)
    pairs = zip(true_boxes.by_label(len(labels)), predicted.by_label(len(labels)), strict=True)
    with contextlib.redirect_stdout(io.StringIO()):
        judged = [_judge_category(true, found, max_detections, len(truth)) for true, found in pairs]
    return CocoJudgement(_result(judged, categories, max_detections), [category.ranking for category in judged])


class _Judged(NamedTuple):
    """Of one category; -1 where there are no true boxes."""

    precision: np.ndarray  # (T, R, A), with the largest number of detections
    recall: np.ndarray  # (T, M), of all areas
    ranking: Ranking


def _judge_category(true: TrueBoxes, found: FoundBoxes, max_detections: Sequence[int], images: int) -> _Judged:
    """found: sorted by image. images: number of images of the truth."""
    found = found.best_of_each_image(max_detections[-1])  # pycocotools would ignore more
    places = np.union1d(true.images, found.images)  # other images do not count
    matches: list[list[dict[str, np.ndarray]]] = [[] for _ in AREAS]
    for start in range(0, len(places), IMAGES_AT_ONCE):
        block = places[start : start + IMAGES_AT_ONCE].tolist()
        part = _evaluation(block, max_detections)
        part.cocoGt = _coco(block, _true_entries(true.select_images(block[0], block[-1])))
        part.cocoDt = _coco(block, _found_entries(found.select_images(block[0], block[-1])))
        part.evaluate()
        for area, area_matches in enumerate(matches):
            area_matches += map(_compact, part.evalImgs[area * len(block) : (area + 1) * len(block)])
    whole = _evaluation(places.tolist(), max_detections)
    whole.evalImgs = [match for area_matches in matches for match in area_matches]
    whole._paramsEval = whole.params  # as evaluate() leaves them for accumulate()
    whole.accumulate()
    all_areas = AREAS.index(ALL_AREAS)
    ranking = Ranking.of(
        [_match(image, kept) for image, kept in zip(places.tolist(), matches[all_areas])],
        images,
        whole.params.recThrs,
    )
    return _Judged(whole.eval["precision"][:, :, 0, :, -1], whole.eval["recall"][:, 0, all_areas], ranking)


def _evaluation(images: Sequence[int], max_detections: Sequence[int]) -> COCOeval:
    evaluation = COCOeval(iouType="bbox")
    evaluation.params.imgIds, evaluation.params.catIds = list(images), [1]
    evaluation.params.maxDets = list(max_detections)
    return evaluation


def _true_entries(true: TrueBoxes) -> Iterator[dict[str, Any]]:
    rows = zip(_entries(true), true.areas.tolist(), true.ignored.tolist(), strict=True)
    return (entry | {"area": area, "iscrowd": int(ignored)} for entry, area, ignored in rows)


def _found_entries(found: FoundBoxes) -> Iterator[dict[str, Any]]:
    return (entry | {"score": score} for entry, score in zip(_entries(found), found.scores.tolist(), strict=True))


def _entries(boxes: TrueBoxes | FoundBoxes) -> Iterator[dict[str, Any]]:
    """Annotations of the evaluated category. Ids count from 1: pycocotools reads a match with id 0 as none."""
    rows = zip(boxes.images.tolist(), with_sizes(boxes.boxes).tolist(), strict=True)
    for number, (image, box) in enumerate(rows, start=1):
        yield {"id": number, "image_id": image, "category_id": 1, "bbox": box, "area": box[2] * box[3]}


def _coco(images: Sequence[int], annotations: Iterable[Mapping[str, Any]]) -> COCO:
    coco = COCO()
    coco.dataset = {
        "images": [{"id": place} for place in images],
        "annotations": list(annotations),
        "categories": [{"id": 1}],
    }
    coco.createIndex()
    return coco


def _compact(found: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The part of pycocotools' result for an image that accumulate() needs, in the smallest types."""
    return {
        "dtScores": np.asarray(found["dtScores"], dtype=np.float64),
        "dtMatches": np.asarray(found["dtMatches"]) > 0,
        "dtIgnore": np.asarray(found["dtIgnore"]) != 0,
        "gtIgnore": np.asarray(found["gtIgnore"]) != 0,
    }


def _match(image: int, found: Mapping[str, np.ndarray]) -> Match:
    to_find = int(np.count_nonzero(~found["gtIgnore"]))
    return Match(image, found["dtScores"], found["dtMatches"], found["dtIgnore"], to_find)


def _result(judged: Sequence[_Judged], categories: Sequence[str], max_detections: Sequence[int]) -> CocoResult:
    """Raises InputError for a truth without any box."""
    precision = np.stack([category.precision for category in judged], axis=2)  # (T, R, K, A)
    recall = np.stack([category.recall for category in judged], axis=1)  # (T, K, M)
    sizes = {size: mean_of_defined(precision[..., place]) for place, size in enumerate(AREAS)}
    every = precision[..., AREAS.index(ALL_AREAS)]
    ap = mean_of_defined(every)
    if ap is None:
        raise InputError("truth", f"no box of {', '.join(categories)}", "expected at least one labelled object to find")
    by_category = {name: mean_of_defined(every[:, :, place]) for place, name in enumerate(categories)}
    return CocoResult(
        ap=ap,
        ap50=float(mean_of_defined(every[0]) or 0.0),
        ap75=float(mean_of_defined(every[5]) or 0.0),
        ap_small=sizes["small"],
        ap_medium=sizes["medium"],
        ap_large=sizes["large"],
        ar={count: mean_of_defined(recall[..., place]) or 0.0 for place, count in enumerate(max_detections)},
        per_category={name: value for name, value in by_category.items() if value is not None},
        precision_recall=every[:, :, (every > -1).all((0, 1))].mean(2),
    )


def mean_of_defined(values: np.ndarray) -> float | None:
    """The mean of all defined values; COCO marks undefined ones with -1."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else None
