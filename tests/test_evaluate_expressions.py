"""Generalized referring expressions (gRefCOCO) and described objects (D3)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from formats.io.errors import InputError
from formats.record import Instance, Record, Region
from grounding_model.metrics.described_objects import evaluate_described_objects, length_of
from grounding_model.metrics.expressions import evaluate_generalized_expressions, keep_first_boxes
from tests.golden_metrics import corners, golden


@pytest.fixture(scope="module")
def grefcoco():
    """(truth, predictions) of the reference's case."""
    content = golden("grefcoco_ann.json")
    boxes: dict[int, list] = {image["id"]: [] for image in content["images"]}
    for entry in content["annotations"]:
        if entry["category_id"] != -1:
            boxes[entry["image_id"]].append(corners(entry["bbox"]))
    guesses = {guess["img_id"]: guess for guess in golden("grefcoco_preds.json")}
    truth, predictions = [], []
    for image in content["images"]:
        shape = {key: image[key] for key in ("height", "width", "caption")} | {"filename": image["file_name"]}
        meant, guess = tuple(boxes[image["id"]]), guesses[image["id"]]
        phrase = (image["caption"],)
        truth.append(Record(**shape, regions=(Region(meant, phrase),) if meant else ()))
        found = Region(tuple(map(tuple, guess["bboxes"])), phrase, scores=tuple(guess["scores"]))
        predictions.append(Record(**shape, regions=(found,)))
    return truth, predictions


@pytest.mark.parametrize(("score", "f1"), [(0.7, 1.0), (0.5, 1.0), (0.7, 0.5)])
def test_of_the_first_box_alone_the_numbers_are_the_references(grefcoco, score, f1):
    truth, predictions = grefcoco
    expected = golden("grefcoco_results.json")[f"score{score}_f1{f1}"]
    result = evaluate_generalized_expressions(
        keep_first_boxes(truth), predictions, score_threshold=score, f1_threshold=f1
    )
    assert {"F1_score": result.f1, "N_acc": result.no_target, "T_acc": result.target} == pytest.approx(expected)


def test_all_boxes_that_are_meant_count(grefcoco):
    truth, predictions = grefcoco
    published = evaluate_generalized_expressions(truth, predictions)
    reference = evaluate_generalized_expressions(keep_first_boxes(truth), predictions)
    assert (published.no_target, published.target) == (reference.no_target, reference.target)
    perfect = [
        replace(one, regions=tuple(replace(r, scores=(0.9,) * len(r.boxes)) for r in one.regions)) for one in truth
    ]
    assert evaluate_generalized_expressions(truth, perfect) == (1, 1, 1)
    assert evaluate_generalized_expressions(keep_first_boxes(truth), perfect).f1 < 1


def expression(*boxes, scores=()):
    regions = (Region(boxes, ("it",), scores=scores),) if boxes else ()
    return [Record("a.png", 500, 500, caption="it", regions=regions)]


LEFT, RIGHT, NEARLY_LEFT = (0.0, 0.0, 100.0, 100.0), (200.0, 0.0, 300.0, 100.0), (10.0, 0.0, 110.0, 100.0)


@pytest.mark.parametrize(
    ("meant", "found", "right"),
    [
        ((LEFT, RIGHT), (RIGHT, LEFT), 1),
        ((LEFT, RIGHT), (LEFT, NEARLY_LEFT), 0),  # one to one: the second box meets nothing that is left
        ((LEFT,), (LEFT, NEARLY_LEFT), 0),
        ((LEFT,), (RIGHT,), 0),
        ((LEFT,), (), 0),
        ((), (), 1),
        ((), (LEFT,), 0),
    ],
)
def test_one_expression_by_hand(meant, found, right):
    result = evaluate_generalized_expressions(expression(*meant), expression(*found, scores=(0.8,) * len(found)))
    assert result.f1 == right
    assert result.target == (None if not meant else float(bool(found)))
    assert result.no_target == (None if meant else float(not found))


def test_boxes_below_the_threshold_were_not_found():
    found = expression(LEFT, RIGHT, scores=(0.7, 0.69))
    assert evaluate_generalized_expressions(expression(LEFT), found).f1 == 1
    assert evaluate_generalized_expressions(expression(LEFT), found, score_threshold=0.6).f1 == 0
    with pytest.raises(InputError, match="no expression"):
        evaluate_generalized_expressions([], [])


# Described objects


@pytest.fixture(scope="module")
def described():
    content = golden("dod_ann.json")
    names = {category["id"]: category["name"] for category in content["categories"]}
    images = {image["id"]: image for image in content["images"]}
    guesses = {guess["img_id"]: guess for guess in golden("dod_preds.json")}

    def record(image_id, instances):
        image = images[image_id]
        return Record(image["file_name"], image["height"], image["width"], tuple(instances))

    truth = [
        record(
            image_id,
            (
                Instance(corners(entry["bbox"]), 0, names[entry["category_id"]])
                for entry in content["annotations"]
                if entry["image_id"] == image_id
            ),
        )
        for image_id in images
    ]
    predictions = [
        record(
            image_id,
            (
                Instance(tuple(box), 0, names[guess["sent_ids"][label]], score)
                for box, score, label in zip(guess["bboxes"], guess["scores"], guess["labels"])
            ),
        )
        for image_id, guess in guesses.items()
    ]
    return truth, predictions, list(names.values())


def test_described_objects_are_the_references(described):
    result = evaluate_described_objects(*described)
    full = result.full
    found = {"mAP": full.ap, "mAP_50": full.ap50, "mAP_75": full.ap75}
    found |= {"mAP_s": full.ap_small, "mAP_m": full.ap_medium, "mAP_l": full.ap_large}
    lengths = {"short": "short", "mid": "middle", "long": "long", "very_long": "very_long"}
    found |= {f"mAP_{key}": result.by_length[name] for key, name in lengths.items()}
    assert {key: round(value, 3) for key, value in found.items()} == golden("dod_results.json")


def test_presence_and_absence_are_scored_on_separate_descriptions(described):
    truth, predictions, names = described
    absence = names[::3]
    result = evaluate_described_objects(truth, predictions, names, absence)
    rest = [name for name in names if name not in absence]
    assert result.absence == pytest.approx(evaluate_described_objects(truth, predictions, absence).full.ap)
    assert result.presence == pytest.approx(evaluate_described_objects(truth, predictions, rest).full.ap)
    assert evaluate_described_objects(truth, predictions, names).absence is None
    with pytest.raises(InputError, match="is not a description"):
        evaluate_described_objects(truth, predictions, names, ["a unicorn"])


@pytest.mark.parametrize(
    ("words", "group"),
    [(1, "short"), (3, "short"), (4, "middle"), (6, "middle"), (7, "long"), (9, "long"), (10, "very_long")],
)
def test_lengths_count_words(words, group):
    assert length_of(" ".join("w" * words)) == group
