"""The judge agrees with the reference's numbers, and with itself however the question is put."""

from __future__ import annotations

import json

import numpy as np
import pytest

from formats.problems import InputError
from formats.record import Instance, Record, Region
from grounding_model.evaluate import bootstrap_interval, evaluate_coco, expression_precision, recall_at
from tests.paths import GOLDEN

EVAL = GOLDEN / "eval"


def golden(name: str):
    return json.loads((EVAL / name).read_text())


def corners(box):
    x, y, width, height = box
    return x, y, x + width, y + height


@pytest.fixture(scope="module")
def coco():
    """(truth, predictions, names) of the reference's case."""
    annotations = golden("coco_ann.json")
    ids = [category["id"] for category in annotations["categories"]]
    names = [category["name"] for category in annotations["categories"]]
    images = {image["id"]: image for image in annotations["images"]}
    found = {prediction["img_id"]: prediction for prediction in golden("coco_preds.json")}

    def record(image_id, instances):
        image = images[image_id]
        return Record(image["file_name"], image["height"], image["width"], tuple(instances))

    truth = [
        record(
            image_id,
            (
                Instance(corners(a["bbox"]), 0, names[ids.index(a["category_id"])], ignore=bool(a["iscrowd"]))
                for a in annotations["annotations"]
                if a["image_id"] == image_id
            ),
        )
        for image_id in images
    ]
    predictions = [
        record(
            image_id,
            (
                Instance(tuple(box), label, names[label], score)
                for box, score, label in zip(p["bboxes"], p["scores"], p["labels"])
            ),
        )
        for image_id, p in found.items()
    ]
    return truth, predictions, names


@pytest.mark.parametrize("counts", [(1, 10, 100), (100, 300, 1000)])
def test_coco_numbers_are_the_references(coco, counts, capsys):
    expected = golden("coco_results.json")
    result = evaluate_coco(*coco, max_detections=counts)
    numbers = {
        "bbox_mAP": result.ap,
        "bbox_mAP_50": result.ap50,
        "bbox_mAP_75": result.ap75,
        "bbox_mAP_s": result.ap_small,
        "bbox_mAP_m": result.ap_medium,
        "bbox_mAP_l": result.ap_large,
    } | {f"{name}_precision": value for name, value in result.per_category.items()}
    assert {f"coco/{name}": round(value, 3) for name, value in numbers.items()} == expected
    assert capsys.readouterr().out == ""
