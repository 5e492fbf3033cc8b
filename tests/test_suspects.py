"""`groundhog suspects`: each kind of error is found and named, and the review page gets the order with reasons."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.disturbed_labels import Disturbance, disturb, drawn_scenes
from flows.audit.evidence import Evidence, named_boxes_of, stored_candidates
from flows.audit.suspects import (
    SuspectRules,
    find_suspects,
    rank_images,
    usual_counts,
    write_review_order,
    write_suspects_summary,
)
from flows.cli.command import main
from flows.labelling.bootstrap import bootstrap_od
from flows.labelling.filter import filter_candidates
from flows.labelling.infer import infer
from formats.odvg import read_odvg, write_odvg
from formats.record import Instance, Record
from formats.reviewed import key_of
from tests.pipeline_cases import FakeDetector, make_images, make_weights, plan_images

LEFT, RIGHT, MOVED = (0, 0, 40, 40), (50, 50, 90, 90), (22, 0, 62, 40)


def record(*boxes: tuple, name: str = "a.png") -> Record:
    """boxes: (box, category[, score])."""
    instances = tuple(Instance(tuple(map(float, box)), 0, kind, *score) for box, kind, *score in boxes)
    return Record(name, 100, 100, instances)


def kinds(labels: Record, found: Record, **rules) -> dict[str, str]:
    evidence = Evidence({key_of(found): named_boxes_of(found)}, from_labeller=True)
    return {each.kind: each.category for each in find_suspects([labels], evidence, SuspectRules(**rules))}


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        ([(LEFT, "cat")], "overlooked"),
        ([(LEFT, "cat"), (RIGHT, "cat")], "wrong category"),
        ([(MOVED, "cat"), (RIGHT, "dog")], "badly placed"),
        ([(LEFT, "cat"), (RIGHT, "dog"), ((0, 60, 20, 80), "cat")], "nothing there"),
        ([(LEFT, "cat"), (RIGHT, "dog"), ((1, 1, 40, 40), "cat")], "doubled"),
        ([(LEFT, "cat"), (RIGHT, "dog"), ((10, 10, 16, 30), "cat")], "sliver"),
    ],
)
def test_each_kind_of_error_is_the_first_suspect(labels: list, kind: str) -> None:
    found = record((LEFT, "cat", 0.95), (RIGHT, "dog", 0.9))
    assert next(iter(kinds(record(*labels), found))) == kind
    assert kinds(record((LEFT, "cat"), (RIGHT, "dog")), found) == {}


def test_more_of_a_kind_than_is_allowed_are_suspect() -> None:
    found = record((LEFT, "nose", 0.95), (RIGHT, "nose", 0.94))
    assert kinds(found, found, max_count={"nose": 1}) == {"too many": "nose"}
    assert kinds(found, found, max_count={"nose": 2}) == {}


def test_what_is_unusual_is_learnt_from_the_labels_and_doubted_where_little_speaks_for_it() -> None:
    boxes = [(float(8 * i), 0.0, 8.0 * i + 7, 9.0) for i in range(5)]
    few = [record((boxes[0], "nose", 0.9), name=f"{index}.png") for index in range(59)]
    crowd = record(*((box, "nose", score) for box, score in zip(boxes, (0.9, 0.9, 0.4, 0.35, 0.9))), name="crowd.png")
    labels = [*few, crowd]
    assert usual_counts(map(named_boxes_of, labels)) == {"nose": (1, 60)}
    suspects = find_suspects(labels, Evidence({}, from_labeller=True))
    assert [(each.kind, each.box) for each in suspects] == [("too many", boxes[3]), ("too many", boxes[2])]
    assert suspects[0].reason.endswith("5 in the image; usual in 60 images are at most 1")
    assert suspects[0].suspicion == pytest.approx(0.5 * 0.65)
    assert usual_counts(map(named_boxes_of, labels[31:])) == {}  # 29 images: too few to say


def test_a_category_that_comes_in_crowds_has_a_wide_limit() -> None:
    counts = np.random.default_rng(0).poisson(9, 200).clip(1)
    boxes = (0.0, 0.0, 5.0, 5.0)
    labels = [record(*[(boxes, "person")] * count, name=f"{index}.png") for index, count in enumerate(counts)]
    limit = usual_counts(map(named_boxes_of, labels))["person"].maximum
    assert np.quantile(counts, 0.98) <= limit <= 22


def test_planted_errors_come_first_on_scenes() -> None:
    truth, names = drawn_scenes(80, domain="dense")
    labels, planted = disturb(truth, names, Disturbance(0.03, 0.03, 0.03, 0.03, 0.03), seed=2)
    found = {key_of(each): named_boxes_of(each) for each in disturb(truth, names, Disturbance(), seed=3)[0]}
    suspects = find_suspects(labels, Evidence(found, from_labeller=False))
    wrong = {(each.filename, each.box) for each in planted}
    first = [each for each in suspects if each.kind != "overlooked"][:15]
    by_chance = len(planted) / sum(len(each.instances or ()) for each in labels)
    assert np.mean([(each.filename, each.box) in wrong for each in first]) > 3 * by_chance


def test_the_order_for_the_page_has_a_line_an_image_with_its_reasons(tmp_path: Path) -> None:
    good, bad = record((LEFT, "cat"), name="good.png"), record((RIGHT, "cat"), name="bad.png")
    about_good = record((LEFT, "cat", 0.95), name="good.png")
    about_bad = record((RIGHT, "dog", 0.9), (LEFT, "cat", 0.9), name="bad.png")
    evidence = Evidence({key_of(each): named_boxes_of(each) for each in (about_good, about_bad)}, from_labeller=True)
    ranked = rank_images(find_suspects([good, bad], evidence))
    write_review_order(tmp_path / "order.jsonl", ranked)
    [line] = [json.loads(text) for text in (tmp_path / "order.jsonl").read_text().splitlines()]
    assert line["filename"] == "bad.png"
    assert "dog found there with 0.90" in line["reason"]
    assert "overlooked: cat" in line["reason"]


def test_the_summary_counts_what_is_likely_by_kind_and_by_pair_of_categories(tmp_path: Path) -> None:
    labels = [record((LEFT, "cat"), (RIGHT, "cat"), name=f"{index}.png") for index in range(3)]
    about = [record((LEFT, "dog", 0.95), (RIGHT, "cat", 0.9), name=each.filename) for each in labels]
    evidence = Evidence({key_of(each): named_boxes_of(each) for each in about}, from_labeller=True)
    (tmp_path / "x_od_v1.meta.json").write_text('{"round": 1}')
    write_suspects_summary(tmp_path / "x_od_v1.json", find_suspects(labels, evidence), "x_od_v2.json", 3)
    meta = json.loads((tmp_path / "x_od_v1.meta.json").read_text())
    assert meta["round"] == 1
    assert meta["suspects"]["kinds"] == {"wrong category": 3}
    assert meta["suspects"]["confusions"] == [{"label": "cat", "found": "dog", "boxes": 3}]


def test_the_command_takes_the_candidates_of_the_plan_or_another_models_boxes(tmp_path: Path, capsys) -> None:
    make_images(tmp_path / "images", 6)
    make_weights(tmp_path)
    made = bootstrap_od(tmp_path / "images", ["cat", "dog"], tmp_path / "x_od.json")
    manifest = plan_images(tmp_path, made.annotations, made.label_map, tmp_path / "work")
    infer(manifest, FakeDetector())
    labels = filter_candidates(manifest).labels
    assert len(stored_candidates(manifest).found) == 6
    assert main(["suspects", str(labels), "--work-dir", str(tmp_path / "work"), "--no-review"]) == 0
    printed = capsys.readouterr().out
    assert "x_od_v1_suspects.jsonl" in printed
    assert "6 of 6 images compared with the candidates of the model that made them" in printed
    other = [record((LEFT, "cat", 0.9), name=each.filename) for each in read_odvg(labels)]
    write_odvg(tmp_path / "other.json", other)
    assert main(["suspects", str(labels), "--against", str(tmp_path / "other.json"), "--no-review"]) == 0
    summary = json.loads(labels.with_suffix(".meta.json").read_text())["suspects"]
    assert (summary["against"], summary["images"]) == ("other.json", 6)
    write_odvg(tmp_path / "strange.json", [record((LEFT, "cat", 0.9), name="strange.png")])
    assert main(["suspects", str(labels), "--against", str(tmp_path / "strange.json"), "--no-review"]) == 2
    assert "has none of the images of x_od_v1.json" in capsys.readouterr().err
    assert main(["suspects", str(labels)]) == 2
    assert "expected --work-dir" in capsys.readouterr().err
    assert main(["suspects", str(labels), "--max-count", "cat", "--work-dir", str(tmp_path / "work")]) == 2
