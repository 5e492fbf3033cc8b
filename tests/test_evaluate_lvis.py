"""LVIS: the reference's numbers, and pycocotools as the oracle where it knows the rules."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest

from flows.evaluation.benchmarks import GlyphQuestionData
from flows.evaluation.config import EvaluateConfig
from flows.evaluation.evaluate import evaluate_benchmark
from flows.evaluation.predictions import predict_benchmark
from flows.evaluation.readers import open_benchmark
from flows.evaluation.report import confident_boxes
from flows.labelling.detector_pool import pool_of
from formats.io.errors import InputError
from formats.record import Instance, Record
from grounding_model.detector import load_detector
from grounding_model.metrics.coco import evaluate_coco
from grounding_model.metrics.lvis import Federation, evaluate_lvis, evaluate_lvis_with_rankings
from grounding_model.metrics.predicted_boxes import PredictedBoxes
from tests.golden_metrics import golden


@pytest.fixture(scope="module")
def lvis():
    """(truth, predictions, names, federation, areas) of the reference's case."""
    content = golden("lvis_ann.json")
    names = {category["id"]: category["name"] for category in content["categories"]}
    order = list(names.values())
    instances, areas = defaultdict(list), defaultdict(list)
    for entry in content["annotations"]:
        x, y, width, height = entry["bbox"]
        instances[entry["image_id"]].append(Instance((x, y, x + width, y + height), 0, names[entry["category_id"]]))
        areas[entry["image_id"]].append(entry["area"])
    images = {image["id"]: image for image in content["images"]}

    def record(image_id, found):
        return Record(images[image_id]["file_name"], images[image_id]["height"], images[image_id]["width"], found)

    predictions = [
        record(
            guess["img_id"],
            tuple(
                Instance(tuple(box), label, order[label], score)
                for box, score, label in zip(guess["bboxes"], guess["scores"], guess["labels"])
            ),
        )
        for guess in golden("lvis_preds.json")
    ]
    federation = Federation(
        absent={i["file_name"]: frozenset(names[c] for c in i["neg_category_ids"]) for i in images.values()},
        not_exhaustive={
            i["file_name"]: frozenset(names[c] for c in i["not_exhaustive_category_ids"]) for i in images.values()
        },
        frequency={category["name"]: category["frequency"] for category in content["categories"]},
    )
    truth = [record(image_id, tuple(instances[image_id])) for image_id in images]
    return (
        truth,
        predictions,
        order,
        federation,
        {images[key]["file_name"]: image_areas for key, image_areas in areas.items()},
    )


def numbers(result) -> dict[str, float]:
    short = {"ap_small": "s", "ap_medium": "m", "ap_large": "l", "ap_rare": "r", "ap_common": "c", "ap_frequent": "f"}
    rest = {f"AP{letter}": getattr(result, name) for name, letter in short.items()}
    return {"AP": result.ap, "AP50": result.ap50, "AP75": result.ap75} | rest


@pytest.mark.parametrize("most", [10_000, 6])
def test_fixed_ap_is_the_references(lvis, most):
    *case, areas = lvis
    expected = golden("lvis_results.json")[f"fixed_ap_topk{most}"]
    found = numbers(evaluate_lvis(*case, max_per_category=most, areas=areas))
    assert {f"lvis_fixed_ap/{name}": value for name, value in found.items()} == pytest.approx(expected, abs=1e-12)


def test_the_older_definition_is_the_references(lvis):
    *case, areas = lvis
    expected = golden("lvis_results.json")["lvis_metric"]
    found = numbers(evaluate_lvis(*case, max_per_category=None, max_per_image=300, areas=areas))
    assert {f"lvis/bbox_{name}": round(value, 3) for name, value in found.items()} == expected


def everything_judged(truth, names) -> Federation:
    """All categories were looked for everywhere: what COCO is."""
    return Federation({record.filename: frozenset(names) for record in truth}, {}, {})


@pytest.mark.parametrize("seed", range(5))
def test_with_exhaustive_annotations_lvis_equals_coco(seed):
    """The oracle: pycocotools, on scenes with many overlaps and without equal scores."""
    rng = np.random.default_rng(seed)

    def instances(count, scored):
        made = []
        for _ in range(count):
            x, y, side = rng.uniform(0, 60), rng.uniform(0, 60), rng.choice([20, 33, 90, 150])
            score = float(rng.random()) if scored else None
            box = (x, y, x + side, y + side * rng.uniform(0.9, 1.1))
            made.append(Instance(tuple(map(float, box)), 0, str(rng.choice(["a", "b"])), score))
        return tuple(made)

    truth = [Record(f"{index}", 300, 300, instances(rng.integers(0, 6), False)) for index in range(8)]
    found = [Record(f"{index}", 300, 300, instances(rng.integers(0, 12), True)) for index in range(8)]
    ours = evaluate_lvis(truth, found, ["a", "b"], everything_judged(truth, "ab"))
    judge = evaluate_coco(truth, found, ["a", "b"])
    for name in ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"):
        assert getattr(ours, name) == pytest.approx(getattr(judge, name), abs=1e-12), name
    assert ours.per_category == pytest.approx(dict(judge.per_category))
    assert ours.precision_recall == pytest.approx(judge.precision_recall)


def one_image(found, absent=(), partly=()):
    """AP of cats in two images: one with a cat, perfectly found, and one without."""
    cat = Instance((0.0, 0.0, 50.0, 50.0), 0, "cat")
    truth = [Record("with", 100, 100, (cat,)), Record("without", 100, 100, ())]
    predictions = [Record("with", 100, 100, (replace(cat, score=0.5),)), Record("without", 100, 100, found)]
    federation = Federation({"without": frozenset(absent)}, {"without": frozenset(partly)}, {"cat": "r"})
    return evaluate_lvis(truth, predictions, ["cat"], federation)


def test_a_box_counts_as_wrong_only_if_its_category_was_annotated():
    wrong = (Instance((0.0, 0.0, 50.0, 50.0), 0, "cat", 0.9),)
    assert one_image(wrong).ap == pytest.approx(1)
    assert one_image(wrong, absent=["cat"]).ap == pytest.approx(0.5)
    assert one_image(wrong, absent=["cat"], partly=["cat"]).ap == pytest.approx(1)
    assert one_image(()).ap_rare == pytest.approx(1)
    assert one_image(()).ap_common is None


def test_order_of_records_does_not_matter(lvis):
    truth, predictions, names, federation, areas = lvis
    again = evaluate_lvis(truth[::-1], predictions[::-1], names[::-1], federation, areas=areas)
    assert numbers(again) == pytest.approx(numbers(evaluate_lvis(*lvis[:4], areas=areas)))


def test_rankings_for_the_interval_have_the_same_ap(lvis):
    expected, rankings = evaluate_lvis_with_rankings(*lvis[:4], areas=lvis[4])
    levels = [ranking.precision_at_recall() for ranking in rankings]
    assert np.mean([level.mean() for level in levels if level is not None]) == pytest.approx(expected.ap)


def test_what_cannot_be_scored_is_named(lvis):
    truth, predictions, names, federation, _ = lvis
    with pytest.raises(InputError, match="no box"):
        evaluate_lvis(truth, predictions, ["unicorn"], federation)
    with pytest.raises(InputError, match="no duplicates"):
        evaluate_lvis(truth, predictions, [*names, names[0]], federation)
    with pytest.raises(InputError, match="is not labelled"):
        evaluate_lvis([replace(truth[0], instances=None)], [], names, federation)
    with pytest.raises(InputError, match="has no score"):
        evaluate_lvis(truth, truth, names, federation)


def test_arrays_say_the_same_as_records_in_any_order(lvis):
    truth, predictions, names, federation, areas = lvis
    images = {record.filename: index for index, record in enumerate(truth)}
    labels = {name: label for label, name in enumerate(names)}
    parts = [PredictedBoxes.of_records([each], images, labels) for each in predictions]
    found = PredictedBoxes.joined(parts[::-1])
    assert evaluate_lvis(truth, found, names, federation, areas=areas) == evaluate_lvis(*lvis[:4], areas=areas)


def test_the_best_of_a_category_count_whatever_images_they_are_in():
    """Three cats in three images, a wrong box above them; with the two best, the wrong box and one cat are left."""
    cat = Instance((0.0, 0.0, 50.0, 50.0), 0, "cat")
    truth = [Record(f"{index}", 100, 100, (cat,)) for index in range(3)]
    wrong = replace(cat, box=(60.0, 60.0, 90.0, 90.0), score=0.9)
    found = [
        replace(record, instances=(*((wrong,) if index == 2 else ()), replace(cat, score=0.5 + index / 10)))
        for index, record in enumerate(truth)
    ]
    federation = Federation({}, {}, {"cat": "r"})
    boxes = PredictedBoxes.of_records(found, {"0": 0, "1": 1, "2": 2}, {"cat": 0})
    assert sorted(boxes.best_of_each_label(2).scores) == [0.7, 0.9]
    assert evaluate_lvis(truth, found, ["cat"], federation, max_per_category=2).ap == pytest.approx(0.5 * 34 / 101)
    assert evaluate_lvis(truth, found, ["cat"], federation).ap == pytest.approx(0.75, abs=0.01)


def test_each_chunk_of_names_keeps_its_boxes_if_a_configuration_says_so(tmp_path):
    """As the reference evaluates LVIS: every chunk is a query of its own, and fixed AP cuts their boxes by category."""
    truth = GlyphQuestionData("lvis", count=6)
    benchmark, detector = open_benchmark(truth, tmp_path / "drawn"), load_detector()
    images = [benchmark.image_root / record.filename for record in benchmark.records]
    found = [replace(record, instances=()) for record in benchmark.records]
    for start in range(0, len(benchmark.names), 5):
        names = list(benchmark.names[start : start + 5])
        answers = detector.predict(images, names, score_threshold=0.0, max_per_image=10, batch_size=6)
        found = [replace(one, instances=one.instances + more.instances) for one, more in zip(found, answers)]
    expected = evaluate_lvis(benchmark.records, found, benchmark.names, benchmark.federation)

    config = EvaluateConfig(truth, chunk_size=5, max_per_image=10, resamples=0, work_dir=tmp_path / "image")
    per_chunk = replace(config, max_per_chunk=10, work_dir=tmp_path / "chunk")
    ap = {each: evaluate_benchmark(each, detector=detector).numbers["ap"] for each in (config, per_chunk)}
    assert ap[per_chunk] == pytest.approx(expected.ap, abs=1e-6)
    assert ap[config] < ap[per_chunk] - 0.02  # what an image keeps is outbid by the frequent names


def test_pictures_and_tables_show_only_confident_boxes(tmp_path):
    """Of 300 candidates per image most are faint: pages are written without making records of those."""
    config = EvaluateConfig(GlyphQuestionData("lvis", count=6), shard_size=4, resamples=0, work_dir=tmp_path)
    benchmark = open_benchmark(config.truth, tmp_path)
    stored = predict_benchmark(config, benchmark, "lvis", lambda: pool_of(load_detector()))
    score = float(np.median(stored.as_arrays().scores))  # one that a box has: it stays
    confident = stored.from_score(score)
    assert list(confident) == [confident_boxes(each, "lvis", score) for each in stored]
    assert 0 < sum(len(each.instances) for each in confident) < sum(len(each.instances) for each in stored)


def test_a_limit_per_category_is_kept_while_shards_are_read(tmp_path, monkeypatch):
    """A data set of millions of boxes is cut on the way, and never whole in memory; equal scores keep the first."""
    config = EvaluateConfig(GlyphQuestionData("lvis", count=6), shard_size=1, resamples=0, work_dir=tmp_path)
    detector = load_detector()
    benchmark = open_benchmark(config.truth, tmp_path)
    stored = predict_benchmark(config, benchmark, "lvis", lambda: pool_of(detector))
    whole = stored.as_arrays()
    monkeypatch.setattr("flows.evaluation.predictions.CUT_AT", 100)
    for count in (3, 17):
        cut = stored.as_arrays(max_per_category=count)
        assert len(cut.scores) == sum(min(count, n) for n in np.bincount(whole.labels))
        for one, other in zip(cut, whole.best_of_each_label(count), strict=True):
            np.testing.assert_array_equal(one, other)
