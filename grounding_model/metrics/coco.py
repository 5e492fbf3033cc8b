"""COCO's average precision, judged by pycocotools. T IoU thresholds, R recall steps, K categories."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from formats.problems import InputError
from formats.record import Instance, Record
from grounding_model.metrics.pairing import check_pairing

ALL_AREAS = "all"
MAX_DETECTIONS = (1, 10, 100)  # of a category in an image
MOST_IN_TABLE = 100  # categories
Areas = Mapping[str, Sequence[float]]  # filename -> area of each of its instances, in square pixels


@dataclass(frozen=True)
class CocoResult:
    """COCO's numbers, each 0..1, for the most detections an image that were asked for.

    ap: mean over IoU thresholds 0.5, 0.55 … 0.95. ap50, ap75: at one threshold. ap_small, ap_medium, ap_large: objects
    with boxes below 32², up to 96² and above, in square pixels; None where the truth has none of that size.
    ar: the most detections an image -> mean recall. per_category: name -> AP; names without a true box are left out.
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
        """A line a number, for people; a size that the truth does not have shows as -. Many categories are left out."""
        rows: list[tuple[str, float | None]] = [
            ("AP", self.ap),
            ("AP50", self.ap50),
            ("AP75", self.ap75),
            ("AP small", self.ap_small),
            ("AP medium", self.ap_medium),
            ("AP large", self.ap_large),
            *((f"AR@{count}", recall) for count, recall in self.ar.items()),
        ]
        if len(self.per_category) <= MOST_IN_TABLE:
            rows += [(f"AP {name}", value) for name, value in self.per_category.items()]
        return aligned(rows)


def aligned(rows: Sequence[tuple[str, float | None]]) -> str:
    """A line a row, names and numbers below one another."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {'-' if value is None else f'{value:.3f}':>5}" for name, value in rows)


def evaluate_coco(
    truth: Sequence[Record],
    predictions: Sequence[Record],
    categories: Sequence[str],
    max_detections: Sequence[int] = MAX_DETECTIONS,
    areas: Areas | None = None,
) -> CocoResult:
    """COCO's box metrics, judged by pycocotools; prints nothing.

    Records are matched by filename and boxes by the name of their category; other categories than `categories` are
    left out on both sides. An image without a prediction record counts as one where nothing was found. Instances with
    ignore=True are COCO's crowds. max_detections: the best so many of a category in an image count, rising; AP is that
    of the last. (mmdet's logs use (100, 300, 1000) and mix them: mAP of 100, mAP_50 and the rest of 1000.)
    areas: COCO's own files give the area of an object's mask, and published AP by size goes by it; None takes the
    area of its box.

    Raises InputError for predictions of unknown images or without scores, images given twice, images that nobody has
    labelled, names given twice, and a truth without a single box to find.
    """
    return result_of(judged(truth, predictions, categories, max_detections, areas))


def result_of(judge: COCOeval) -> CocoResult:
    """The numbers of what `judged` matched. Raises InputError for a truth without a single box to find."""
    categories = [category["name"] for category in judge.cocoGt.dataset["categories"]]
    with contextlib.redirect_stdout(io.StringIO()):
        judge.accumulate()
    precision, recall = judge.eval["precision"], judge.eval["recall"]  # (T, R, K, areas, counts), (T, K, areas, counts)
    sizes = {size: mean_of_defined(precision[:, :, :, place, -1]) for place, size in enumerate(judge.params.areaRngLbl)}
    every = precision[:, :, :, judge.params.areaRngLbl.index(ALL_AREAS), -1]
    ap = mean_of_defined(every)
    if ap is None:
        raise InputError("truth", f"no box of {', '.join(categories)}", "want at least one labelled object to find")
    thresholds = np.round(judge.params.iouThrs, 2)
    by_category = {name: mean_of_defined(every[:, :, place]) for place, name in enumerate(categories)}
    return CocoResult(
        ap=ap,
        ap50=float(mean_of_defined(every[thresholds == 0.5]) or 0.0),
        ap75=float(mean_of_defined(every[thresholds == 0.75]) or 0.0),
        ap_small=sizes["small"],
        ap_medium=sizes["medium"],
        ap_large=sizes["large"],
        ar={count: mean_of_defined(recall[:, :, 0, place]) or 0.0 for place, count in enumerate(judge.params.maxDets)},
        per_category={name: value for name, value in by_category.items() if value is not None},
        precision_recall=every[:, :, (every > -1).all((0, 1))].mean(2),
    )


def judged(
    truth: Sequence[Record],
    predictions: Sequence[Record],
    categories: Sequence[str],
    max_detections: Sequence[int] = MAX_DETECTIONS,
    areas: Areas | None = None,
) -> COCOeval:
    """pycocotools' evaluation after its matching, of which result_of and bootstrap.rankings_of tell more.

    Arguments and errors as evaluate_coco's.
    """
    if list(max_detections) != sorted(set(max_detections)) or not max_detections or max_detections[0] < 1:
        raise InputError("max_detections", f"{tuple(max_detections)}", "want rising positive numbers")
    labels = {name: place for place, name in enumerate(categories, start=1)}
    if not categories or len(labels) < len(categories):
        raise InputError("categories", f"[{', '.join(categories)}]", "want one name or more, each once")
    image_ids = {record.filename: place for place, record in enumerate(truth, start=1)}
    check_pairing([record.filename for record in truth], [record.filename for record in predictions])
    with contextlib.redirect_stdout(io.StringIO()):
        judge = COCOeval(_coco(truth, image_ids, labels, areas or {}), _coco(predictions, image_ids, labels), "bbox")
        judge.params.imgIds = list(image_ids.values())  # else a truth without images or boxes would have none
        judge.params.catIds = list(labels.values())
        judge.params.maxDets = list(max_detections)
        judge.evaluate()
    return judge


def _coco(
    records: Sequence[Record], image_ids: Mapping[str, int], labels: Mapping[str, int], areas: Areas | None = None
) -> COCO:
    """The records as pycocotools wants them; areas: None for predictions.

    Ids count from 1: pycocotools reads a match with id 0 as none.
    """
    annotations: list[dict[str, Any]] = []
    for record in records:
        if record.instances is None and areas is not None:
            raise InputError(record.filename, "nobody has labelled it", "want detection records with instances")
        for place, instance in enumerate(record.instances or ()):
            if instance.category in labels:
                annotation: dict[str, Any] = {"id": len(annotations) + 1, "image_id": image_ids[record.filename]}
                annotation |= _box_of(instance) | {"category_id": labels[instance.category]}
                if areas is None:
                    annotation["score"] = score_of(instance, record.filename)
                else:
                    annotation["iscrowd"] = int(instance.ignore)
                    if record.filename in areas:
                        annotation["area"] = areas[record.filename][place]
                annotations.append(annotation)
    coco = COCO()
    coco.dataset = {
        "images": [{"id": place, "file_name": name} for name, place in image_ids.items()],
        "annotations": annotations,
        "categories": [{"id": label, "name": name} for name, label in labels.items()],
    }
    coco.createIndex()
    return coco


def _box_of(instance: Instance) -> dict[str, Any]:
    x1, y1, x2, y2 = instance.box
    return {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}


def score_of(instance: Instance, filename: str) -> float:
    """Raises InputError where a prediction has none."""
    if instance.score is None:
        raise InputError(filename, f"a predicted {instance.category} without score", "want a score for every box")
    return instance.score


def mean_of_defined(values: np.ndarray) -> float | None:
    """Of what is defined; COCO marks the rest with -1."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else None
