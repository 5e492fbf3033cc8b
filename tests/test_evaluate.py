"""The judge agrees with the reference's numbers, and with itself however the question is put."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from flows.evaluation.benchmarks import Benchmark
from flows.evaluation.scoring import measure
from formats.io.errors import InputError
from formats.record import Instance, Record, Region
from grounding_model.metrics import matching
from grounding_model.metrics.bootstrap import (
    Shares,
    bootstrap_interval,
    read_samples,
    resampled,
    samples_interval,
    write_samples,
)
from grounding_model.metrics.coco import evaluate_coco, evaluate_coco_with_rankings
from grounding_model.metrics.expressions import expression_precision
from grounding_model.metrics.phrases import recall_at
from grounding_model.metrics.predicted_boxes import PredictedBoxes
from tests.golden_metrics import EVAL, corners, golden


def box(at: float):
    """100 pixels square, `at` pixels from the left."""
    return at, 0.0, at + 100.0, 100.0


def picture(name: str, *found):
    """A record of (box, category, score=None, ignore=False)."""
    instances = []
    for at, category, *rest in found:
        instances.append(Instance(at, 0, category, **dict(zip(("score", "ignore"), rest))))
    return Record(name, 500, 1000, instances=tuple(instances))


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


@pytest.mark.parametrize(("seed", "at_once"), [(0, 1), (1, 50), (2, 10**6), (3, 10**6)])
def test_numbers_are_those_of_pycocotools_to_the_last_bit(seed, at_once, monkeypatch):
    """With equal scores, equal overlaps and crowds, in blocks of any size, from records and from arrays."""
    monkeypatch.setattr("grounding_model.metrics.matching.BOXES_AT_ONCE", at_once)
    monkeypatch.setattr("grounding_model.metrics.matching.PAIRS_AT_ONCE", at_once)
    truth, found = crowded_case(15, seed)
    names, limits = ("bird", "dog", "cat"), (1, 3, 12)  # of birds there is nothing
    ours, rankings = evaluate_coco_with_rankings(truth, found, names, limits)
    judge = all_at_once(truth, found, names, limits)
    precision, recall = judge.eval["precision"][..., -1], judge.eval["recall"][:, :, 0]
    sizes = [np.mean(each[each > -1]) for each in np.moveaxis(precision, -1, 0)]
    assert [ours.ap, ours.ap_small, ours.ap_medium, ours.ap_large] == sizes
    assert ours.ar == {count: np.mean(recall[:, 1:, index]) for index, count in enumerate(limits)}
    np.testing.assert_array_equal(ours.precision_recall, precision[:, :, 1:, 0].mean(2))
    assert ours.per_category == {name: np.mean(precision[:, :, k, 0]) for k, name in enumerate(names) if k}
    assert [len(each.images) for each in rankings] == [
        sum(len(each["dtScores"]) for each in judge.evalImgs[k * 60 : k * 60 + 15] if each) for k in range(3)
    ]
    images = {record.filename: index for index, record in enumerate(truth)}
    arrays = PredictedBoxes.of_records(found, images, {name: label for label, name in enumerate(names)})
    assert evaluate_coco_with_rankings(truth, arrays, names, limits).result == ours


def test_of_equal_overlaps_the_last_true_box_is_taken():
    """As by pycocotools: so the second detection, which overlaps that one alone, finds nothing left."""
    truth = [picture("a", ((0.0, 0.0, 100.0, 100.0), "cat"), ((20.0, 0.0, 120.0, 100.0), "cat"))]
    found = [picture("a", ((10.0, 0.0, 110.0, 100.0), "cat", 0.9), ((40.0, 0.0, 140.0, 100.0), "cat", 0.8))]
    recall = all_at_once(truth, found, ("cat",), (1, 10)).eval["recall"][0, 0, 0]
    assert evaluate_coco(truth, found, ["cat"], (1, 10)).ap50 == pytest.approx(51 / 101)
    assert recall[-1] == 0.5


def crowded_case(images: int, seed: int):
    """Many boxes on a coarse grid, so that scores and overlaps are often equal; small, medium and large ones."""
    rng = np.random.default_rng(seed)

    def instances(count: int, scored: bool) -> list[tuple]:
        made = []
        for _ in range(count):
            x, y, side = *rng.integers(0, 12, 2) * 10.0, float(rng.choice([20, 30, 90, 100, 110]))
            corners = (float(x), float(y), float(x + side), float(y + side + rng.choice([0, 10, 20])))
            score = float(rng.integers(1, 10) / 10) if scored else None
            made.append((corners, str(rng.choice(["cat", "dog"])), score, not scored and rng.random() < 0.15))
        return made

    truth = [picture(f"{index}", *instances(rng.integers(0, 12), False)) for index in range(images)]
    found = [picture(f"{index}", *instances(rng.integers(0, 60), True)) for index in range(images)]
    return truth, found


def all_at_once(truth, found, names, max_detections) -> COCOeval:
    """The oracle: every category and image in one evaluation of pycocotools."""
    sides = []
    for records in (truth, found):
        annotations = [
            {
                "id": number,
                "image_id": index,
                "category_id": names.index(each.category),
                "bbox": [each.box[0], each.box[1], each.box[2] - each.box[0], each.box[3] - each.box[1]],
                "area": (each.box[2] - each.box[0]) * (each.box[3] - each.box[1]),
                "iscrowd": int(each.ignore),
                "score": each.score,
            }
            for number, (index, each) in enumerate(
                ((index, each) for index, record in enumerate(records) for each in record.instances), start=1
            )
        ]
        side = COCO()
        side.dataset = {
            "images": [{"id": index} for index in range(len(truth))],
            "annotations": annotations,
            "categories": [{"id": index} for index in range(len(names))],
        }
        side.createIndex()
        sides.append(side)
    judge = COCOeval(*sides, "bbox")
    judge.params.maxDets = list(max_detections)
    judge.evaluate()
    judge.accumulate()
    return judge


def test_order_of_records_and_labels_do_not_matter(coco):
    truth, predictions, names = coco
    shuffled = [replace(one, instances=tuple(replace(i, label=7) for i in one.instances)) for one in predictions[::-1]]
    result = evaluate_coco(truth, shuffled, names)
    again = evaluate_coco(truth, predictions, names[::-1])
    assert result == evaluate_coco(*coco)
    assert again.ap == pytest.approx(result.ap)
    assert again.per_category == pytest.approx(dict(result.per_category))


def test_an_image_without_prediction_is_one_where_nothing_was_found(coco):
    truth, predictions, names = coco
    emptied = [replace(predictions[0], instances=()), replace(predictions[1], instances=None), *predictions[2:]]
    assert evaluate_coco(truth, predictions[2:], names) == evaluate_coco(truth, emptied, names)


def test_perfect_predictions_score_one_and_none_score_zero():
    truth = [picture("a", (box(0), "cat"), (box(50), "dog")), picture("b"), picture("c", (box(10), "cat"))]
    perfect = [replace(one, instances=tuple(replace(each, score=0.5) for each in one.instances)) for one in truth]
    result = evaluate_coco(truth, perfect, ["cat", "dog", "cow"])
    assert result.ap == pytest.approx(1)
    assert result.ar[100] == 1
    assert result.per_category == pytest.approx({"cat": 1, "dog": 1})  # no cow to find: it counts for nothing
    assert result.ap_small is None
    assert result.ap_medium is None
    assert result.ap_large == pytest.approx(1)
    assert evaluate_coco(truth, [], ["cat", "dog"]).ap == 0


def test_average_precision_by_hand():
    """Best first: right, wrong, right, of three: precision 1 up to recall 1/3, then 2/3 up to recall 2/3."""
    truth = [picture("a", (box(0), "cat"), (box(150), "cat"), (box(300), "cat"))]
    found = [picture("a", (box(0), "cat", 0.9), (box(450), "cat", 0.8), (box(150), "cat", 0.7))]
    result = evaluate_coco(truth, found, ["cat"])
    assert result.ap == pytest.approx((34 * 1 + 33 * 2 / 3) / 101)  # recall steps 0, 0.01 … 1
    assert result.ar == pytest.approx({1: 1 / 3, 10: 2 / 3, 100: 2 / 3})


def test_a_box_on_something_ignored_is_neither_right_nor_wrong():
    truth = [picture("a", (box(0), "cat"), (box(200), "cat", None, True))]
    found = [picture("a", (box(0), "cat", 0.5), (box(200), "cat", 0.9))]
    assert evaluate_coco(truth, found, ["cat"]).ap == pytest.approx(1)


def test_the_table_and_the_dictionary_say_the_same(coco):
    result = evaluate_coco(*coco)
    dictionary = json.loads(json.dumps(result.as_dict()))
    assert dictionary["ap"] == result.ap
    assert dictionary["ar"]["100"] == result.ar[100]
    lines = dict(line.rsplit(maxsplit=1) for line in result.table().splitlines())
    assert lines["AP"] == f"{dictionary['ap']:.3f}"
    assert lines["AP red apple"] == "0.213"
    absent = replace(result, ap_small=None).table().splitlines()
    assert ["AP", "small", "-"] in [line.split() for line in absent]


@pytest.mark.parametrize(
    ("truth", "found", "names", "complaint"),
    [
        ("a", "b", ["cat"], "b is not in the truth"),
        ("aa", "a", ["cat"], "truth: a is listed twice"),
        ("a", "aa", ["cat"], "predictions: a is listed twice"),
        ("a", "a", ["dog"], "no box of dog"),
        ("a", "a", [], "expected at least one name"),
        ("a", "a", ["cat", "cat"], "no duplicates"),
        ("", "", ["cat"], "no box of cat"),
    ],
)
def test_what_cannot_be_scored_is_named(truth, found, names, complaint):
    truth = [picture(name, (box(0), "cat")) for name in truth]
    found = [picture(name, (box(0), "cat", 0.5)) for name in found]
    with pytest.raises(InputError, match=complaint):
        evaluate_coco(truth, found, names)


def test_predictions_need_scores_and_truth_needs_labels():
    with pytest.raises(InputError, match="has no score"):
        evaluate_coco([picture("a", (box(0), "cat"))], [picture("a", (box(0), "cat"))], ["cat"])
    with pytest.raises(InputError, match="is not labelled"):
        evaluate_coco([replace(picture("a"), instances=None)], [], ["cat"])


# Confidence interval


def noisy_case(images: int, seed: int):
    """Truth of two categories, and predictions that find most of it, some of it badly, and some that is not there.

    No two scores are equal: the order of equal ones depends on the order of images.
    """
    rng = np.random.default_rng(seed)
    truth, found = [], []
    for index in range(images):
        boxes = [(box(float(rng.integers(0, 400))), str(rng.choice(["cat", "dog"]))) for _ in range(rng.integers(0, 4))]
        ignored = [rng.random() < 0.1 for _ in boxes]
        truth.append(picture(f"{index}", *((b, name, None, i) for (b, name), i in zip(boxes, ignored))))
        guesses = [
            (tuple(np.add(b, rng.normal(0, 5, 4) * (0, 0, 1, 1))), name, rng.uniform(0.3, 1))
            for b, name in boxes
            if rng.random() < 0.8
        ]
        guesses += [(box(float(rng.integers(0, 400))), "cat", rng.uniform(0, 0.7)) for _ in range(rng.integers(0, 3))]
        found.append(picture(f"{index}", *guesses))
    return truth, found


@pytest.mark.parametrize("seed", range(5))
def test_weighing_images_is_repeating_them(seed):
    """The oracle: the data set of a draw, image by image with its copies, judged by pycocotools."""
    truth, found = noisy_case(12, seed)
    draw = np.random.default_rng(seed).multinomial(12, np.full(12, 1 / 12))
    names = ["cat", "dog"]
    repeated = [
        [replace(one, filename=f"{one.filename}-{copy}") for one, count in zip(side, draw) for copy in range(count)]
        for side in (truth, found)
    ]
    weighed = resampled(evaluate_coco_with_rankings(truth, found, names).rankings, [draw])
    assert weighed[0] == pytest.approx(evaluate_coco(*repeated, names).ap, abs=1e-12)


def test_draws_that_are_scored_together_are_scored_as_alone(monkeypatch):
    truth, found = noisy_case(12, seed=3)
    rankings = evaluate_coco_with_rankings(truth, found, ["cat", "dog", "cow"]).rankings
    draws = np.random.default_rng(0).multinomial(3, np.full(12, 1 / 12), 40)
    draws[7] = 0  # nothing to find
    alone = np.concatenate([resampled(rankings, [draw]) for draw in draws])
    assert np.isnan(alone[7])
    assert len(set(alone)) > 10
    for block in (1, 500, 10**6):
        monkeypatch.setattr("grounding_model.metrics.ranking.BLOCK", block)
        np.testing.assert_allclose(resampled(rankings, draws), alone, rtol=1e-12)


def test_the_interval_holds_the_number_and_narrows_with_more_images():
    widths = []
    for images in (15, 150):
        truth, found = noisy_case(images, seed=1)
        ap = evaluate_coco(truth, found, ["cat", "dog"]).ap
        low, high = bootstrap_interval(truth, found, ["cat", "dog"], resamples=200)
        assert 0 <= low <= ap <= high <= 1
        assert bootstrap_interval(truth, found, ["cat", "dog"], resamples=200) == (low, high)
        widths.append(high - low)
    assert widths[1] < widths[0] / 2


def test_the_interval_of_a_gain_is_paired():
    truth, found = noisy_case(40, seed=2)
    assert bootstrap_interval(truth, found, ["cat"], baseline=found, resamples=50) == (0, 0)
    worse = [replace(one, instances=one.instances[1:]) for one in found]
    low, high = bootstrap_interval(truth, found, ["cat"], baseline=worse, resamples=200)
    assert 0 < low < high
    mirrored = bootstrap_interval(truth, worse, ["cat"], baseline=found, resamples=200)
    assert mirrored == pytest.approx((-high, -low))


def test_samples_come_back_as_they_were_written(tmp_path):
    truth, found = noisy_case(10, seed=3)
    for samples in (
        evaluate_coco_with_rankings(truth, found, ["cat", "dog"]).rankings,
        Shares(np.array([0, 0, 2]), np.array([True, False, True]), 3),
    ):
        write_samples(tmp_path / "samples.npz", samples)
        again = read_samples(tmp_path / "samples.npz")
        images = 3 if isinstance(samples, Shares) else len(truth)
        draws = np.random.default_rng(0).integers(0, 3, (4, images))
        np.testing.assert_array_equal(resampled(again, draws), resampled(samples, draws))
    (tmp_path / "samples.npz").write_bytes(b"no archive")
    with pytest.raises(InputError, match="cannot be read"):
        read_samples(tmp_path / "samples.npz")


def test_samples_of_older_versions_are_read(tmp_path):
    arrays = {
        "images": np.array([0, 1, 1]),
        "counted": np.ones((1, 3), dtype=bool),
        "places": np.array([0, 2]),
        "correct": np.ones((10, 2), dtype=bool),
        "to_find": np.array([1, 1]),
        "recall_steps": np.linspace(0, 1, 101),
    }
    np.savez_compressed(tmp_path / "older.npz", **{f"0/{name}": value for name, value in arrays.items()})
    (ranking,) = read_samples(tmp_path / "older.npz")
    for found, expected in zip(ranking, arrays.values(), strict=True):
        np.testing.assert_array_equal(found, expected)
    write_samples(tmp_path / "now.npz", [ranking])
    with np.load(tmp_path / "now.npz") as tables:
        assert set(tables.files) == {f"0/{name}" for name in arrays}


def test_a_share_counts_every_phrase_as_often_as_its_image_is_drawn():
    samples = Shares(np.array([0, 0, 2]), np.array([True, False, True]), 3)
    assert resampled(samples, np.array([[1, 1, 1], [0, 1, 2], [2, 1, 0]])).tolist() == pytest.approx([2 / 3, 1, 1 / 2])
    assert np.isnan(resampled(samples, np.array([[0, 3, 0]])))[0]
    low, high = samples_interval(samples, resamples=200)
    assert low < 2 / 3 < high
    assert samples_interval(samples, samples, resamples=50) == (0, 0)


def test_an_interval_of_nothing_is_refused():
    for truth in ([], [picture("a")]):
        with pytest.raises(InputError):
            bootstrap_interval(truth, [], ["cat"])


# Captions


@pytest.mark.parametrize("merge", [False, True])
def test_phrase_recall_is_the_references(merge):
    expected = golden("flickr30k_results.json")["merge_true_fixed" if merge else "merge_false"]
    truth, predictions = [], []
    for entry in golden("flickr30k_inputs.json"):
        caption, places = " ".join(entry["phrases"]), sorted(set(entry["phrase_ids"]))
        shape = {"filename": f"{entry['img_id']}.jpg", "height": entry["height"], "width": entry["width"]}

        def regions(boxes, owners, scores=None):
            made = []
            for owner in sorted(set(owners)):
                indices = [index for index, each in enumerate(owners) if each == owner]
                made.append(
                    Region(
                        tuple(tuple(boxes[index]) for index in indices),
                        (f"phrase {owner}",),
                        scores=tuple(scores[index] for index in indices) if scores else (),
                    )
                )
            return tuple(made)

        owners = [places.index(each) for each in entry["phrase_ids"]]
        found = entry["pred"]
        truth.append(Record(**shape, caption=caption, regions=regions(entry["gt_bboxes"], owners)))
        predictions.append(
            Record(**shape, caption=caption, regions=regions(found["bboxes"], found["labels"], found["scores"]))
        )
    everything = 10**6
    recall = recall_at(truth, predictions[::-1], (1, 5, 10, everything), merge_boxes=merge)
    assert recall == {int(k) if k != "-1" else everything: value["all"] for k, value in expected.items()}


def test_expression_precision_is_the_references():
    annotations, expected = golden("refexp_ann.json"), golden("refexp_results.json")["all"]
    boxes = {each["image_id"]: corners(each["bbox"]) for each in annotations["annotations"]}
    found = {each["img_id"]: each for each in golden("refexp_preds.json")}
    for data_set in ("refcoco", "refcoco+", "refcocog"):
        truth, predictions = [], []
        for image in annotations["images"]:
            if image["dataset_name"] == data_set:
                shape = {key: image[key] for key in ("height", "width", "caption")} | {"filename": image["file_name"]}
                phrase = (image["caption"],)
                truth.append(Record(**shape, regions=(Region((boxes[image["id"]],), phrase),)))
                guess = found[image["id"]]
                region = Region(tuple(map(tuple, guess["bboxes"])), phrase, scores=tuple(guess["scores"]))
                predictions.append(Record(**shape, regions=(region,)))
        precision = expression_precision(truth, predictions)
        assert precision == {k: pytest.approx(expected[f"{data_set}_precision@{k}"]) for k in (1, 5, 10)}


def caption(*regions: Region, text: str = "a red cat and a cat") -> Record:
    return Record("a.png", 500, 1000, caption=text, regions=regions)


def test_phrases_meet_by_their_spans_and_by_their_words_without():
    red, other = Region((box(0),), ("a red cat",), ((0, 9),)), Region((box(200),), ("a cat",), ((14, 19),))
    found_red, found_other = (replace(each, scores=(0.5,)) for each in (red, other))
    assert recall_at([caption(red, other)], [caption(found_other, found_red)])[1] == 1
    swapped = caption(replace(found_red, spans=other.spans), replace(found_other, spans=red.spans))
    assert recall_at([caption(red, other)], [swapped])[1] == 0
    without = [caption(replace(red, spans=()), replace(other, spans=()))]
    assert recall_at(without, [caption(found_other, found_red)])[1] == 1
    assert recall_at([caption(red, other)], [caption(found_red)])[10] == 0.5
    assert recall_at([caption(red, other)], [])[10] == 0


def test_the_best_score_comes_first_whatever_the_order():
    true = caption(Region((box(0),), ("a cat",)))
    found = caption(Region((box(500), box(0)), ("a cat",), scores=(0.2, 0.9)))
    assert recall_at([true], [found])[1] == expression_precision([true], [found])[1] == 1


def test_two_captions_of_one_image_are_two():
    truth = [caption(Region((box(at),), ("it",)), text=text) for at, text in ((0, "one"), (300, "two"))]
    assert recall_at(truth, truth[::-1])[1] == 1


def test_what_names_nothing_and_what_is_ignored_does_not_count():
    counted, nothing = Region((box(0),), ("a cat",)), Region((), ("a cow",))
    ignored = Region((box(0),), ("a dog",), ignore=True)
    assert recall_at([caption(counted, nothing, ignored)], [caption(counted)])[1] == 1
    assert expression_precision([caption(counted), caption(text="nothing")], [caption(counted)])[1] == 1
    with pytest.raises(InputError, match="no phrase has a box"):
        recall_at([caption(nothing, ignored)], [])


def test_captions_that_cannot_be_scored_are_named():
    region = Region((box(0),), ("a cat",))
    with pytest.raises(InputError, match=r"a\.png: other is not in the truth"):
        recall_at([caption(region)], [caption(region, text="other")])
    with pytest.raises(InputError, match="has no caption"):
        recall_at([picture("a", (box(0), "cat"))], [])
    with pytest.raises(InputError, match="has 2 regions"):
        expression_precision([caption(region, region)], [])


def test_boxes_are_matched_once_for_the_numbers_and_their_interval(monkeypatch):
    """The samples of a measurement are those of a matching of their own."""
    truth, found = noisy_case(20, seed=4)
    names = ("cat", "dog")
    expected = evaluate_coco(truth, found, names)
    interval = bootstrap_interval(truth, found, names, resamples=30)
    matchings = []
    match = matching.match_detections
    monkeypatch.setattr(matching, "match_detections", lambda *boxes: matchings.append(boxes) or match(*boxes))
    measured = measure(Benchmark(truth, EVAL, "coco", names), found, "coco")
    assert len(matchings) == 1
    assert measured.numbers["ap"] == expected.ap
    assert resampled(measured.samples, [np.ones(20, dtype=np.int64)])[0] == pytest.approx(expected.ap, abs=1e-12)
    assert samples_interval(measured.samples, resamples=30) == interval
