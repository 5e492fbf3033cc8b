"""Filtering: what stays, what goes for which reason, and that no line is lost."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flows.cli.command import main
from flows.labelling.bootstrap import bootstrap_od, bootstrap_vg
from flows.labelling.filter import filter_candidates
from flows.labelling.infer import infer
from flows.labelling.manifest import read_manifest
from flows.labelling.plan import plan, prompt_label_map
from flows.policies import Mixture, Policy, Quantile, TargetPrecision
from flows.policies.apply import Candidate, Reasons, apply_policy
from flows.policies.nms import suppress_duplicates
from formats.io.errors import InputError
from formats.odvg import read_odvg, record_to_line
from formats.record import Instance, Record, Region
from tests.paths import GOLDEN
from tests.pipeline_cases import FakeDetector, make_images, make_weights, plan_images


def intersection_over_union(a: np.ndarray, b: np.ndarray) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    overlap = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap
    return overlap / union if union else 0.0


@pytest.mark.parametrize("seed", range(5))
def test_suppression_agrees_with_the_definition(seed: int) -> None:
    random = np.random.default_rng(seed)
    corners = np.sort(random.uniform(0, 100, (60, 2, 2)), axis=1)
    boxes, labels = corners.reshape(-1, 4), random.integers(0, 3, 60)
    kept: list[int] = []
    for index in range(60):
        rivals = [other for other in kept if labels[other] == labels[index]]
        if all(intersection_over_union(boxes[index], boxes[other]) <= 0.4 for other in rivals):
            kept.append(index)
    assert np.flatnonzero(suppress_duplicates(boxes, labels, 0.4)).tolist() == kept


def test_every_drop_has_its_reason() -> None:
    candidates = [
        Candidate(0, (0, 0, 10, 10), 0.9),
        Candidate(0, (0, 0, 10, 9), 0.8),  # duplicate
        Candidate(1, (0, 0, 10, 9), 0.7),  # another category
        Candidate(0, (20, 20, 21, 40), 0.6),  # small
        Candidate(0, (20, 20, 40, 40), 0.3),  # not more than the threshold
        Candidate(0, (50, 50, 60, 60), 0.5),  # over the limit
    ]
    reasons = Reasons()
    labels = apply_policy(candidates, ["cat", "dog"], Policy(min_size=2, max_per_image=2), reasons)
    assert [label.candidate.score for label in labels] == [0.9, 0.7]
    assert reasons == {"duplicate": 1, "small": 1, "score": 1, "over the limit": 1}


def test_a_category_may_have_its_own_threshold_and_a_band_is_ignored() -> None:
    candidates = [Candidate(0, (0, 0, 9, 9), 0.4), Candidate(1, (0, 0, 9, 9), 0.4), Candidate(0, (20, 0, 29, 9), 0.15)]
    policy = Policy(class_thresholds={"dog": 0.5}, ignore_from=0.2)
    labels = apply_policy(candidates, ["cat", "dog"], policy, Reasons())
    assert [(label.candidate.region, label.ignore) for label in labels] == [(0, False), (1, True)]


@pytest.mark.parametrize("kind", ["od", "vg"])
def test_the_reference_dump_is_reproduced(kind: str) -> None:
    inputs = json.loads((GOLDEN / "eval" / "dump_odvg_inputs.json").read_text())
    lines = (GOLDEN / "eval" / f"dump_odvg_{kind}.jsonl").read_text().splitlines()
    settings = inputs[f"{kind}_params"]
    policy = Policy(settings["score_thr"], nms_iou=settings["nms_thr"], min_size=0)
    for image, expected in zip(inputs[kind], map(json.loads, lines), strict=True):
        names = image["text"] if kind == "od" else [str(spans) for spans in image["tokens_positive"]]
        rows = zip(image["pred"]["labels"], map(tuple, image["pred"]["bboxes"]), image["pred"]["scores"])
        labels = apply_policy([Candidate(*row) for row in rows], names, policy, Reasons())
        height, width = image["ori_shape"]
        if kind == "od":
            instances = tuple(Instance(c.box, c.region, names[c.region], c.score) for c, *_ in labels)
            mine = record_to_line(Record("x", height, width, instances=instances))["detection"]["instances"]
            for instance in mine:
                instance["score"] = round(instance["score"], 2)
            assert mine == expected["detection"]["instances"]
        else:
            found = {number: [c for c, *_ in labels if c.region == number] for number in range(len(names))}
            for number, region in enumerate(expected["grounding"]["regions"]):
                boxes = tuple(candidate.box for candidate in found[number])
                entry = record_to_line(
                    Record("x", height, width, caption="x", regions=(Region(boxes, ("x",)),)), placeholder=True
                )["grounding"]["regions"][0]
                assert (entry["bbox"] if boxes else []) == region["bbox"]
                scores = [candidate.score for candidate in found[number]]
                assert scores == pytest.approx(region["score"][0], abs=0.0051)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_images(tmp_path / "images", 6)
    (tmp_path / "images" / "image-002.png").write_text("text")
    make_weights(tmp_path)
    return tmp_path


def test_labels_keep_order_and_number_of_lines_and_say_who_made_them(folder: Path) -> None:
    made = bootstrap_od(folder / "images", ["cat"], folder / "x_od.json")
    with open(made.annotations, "a") as file:
        file.write("broken\n")
    manifest = plan_images(folder, made.annotations, made.label_map, folder / "work")
    infer(manifest, FakeDetector(), progress=False)
    result = filter_candidates(manifest, Policy(score_threshold=0.5))
    assert result.labels == folder / "x_od_v1.json"
    lines = [json.loads(line) for line in result.labels.read_text().splitlines()]
    assert [line.get("filename") for line in lines[:6]] == [f"image-{index:03d}.png" for index in range(6)]
    assert len(lines) == 7
    assert lines[2]["quarantined"]
    assert {"filename", "height", "width"} <= lines[6].keys()
    assert lines[6]["quarantined"].startswith("is not JSON")
    assert [problem.line for problem in result.quarantined] == [2, 6]
    meta = json.loads(result.meta.read_text())
    counts = meta["counts"]
    assert counts["lines"] == 7
    assert counts["quarantined"] == len(meta["quarantined"]) == 2
    assert counts["candidates"] == counts["kept"] + sum(counts["dropped"].values())
    assert meta["policy"]["score_threshold"] == 0.5
    assert meta["plan"] == manifest.key
    assert sum(len(record.instances) for record in read_odvg(result.labels)) == counts["kept"]


def test_phrases_get_boxes_and_scores_in_the_captions_order(folder: Path) -> None:
    caption = "a cat and a dog"
    names = [f"image-{index:03d}.png" for index in range(6)]
    made = bootstrap_vg(
        folder / "images", dict.fromkeys(names, caption), folder / "x_vg.json", {caption: ["a cat", "a dog"]}
    )
    manifest = plan_images(folder, made.annotations, None, folder / "work")
    infer(manifest, FakeDetector(), progress=False)
    result = filter_candidates(manifest, Policy(score_threshold=0.6))
    records = list(read_odvg(result.labels))
    assert len(records) == 5
    for record in records:
        assert record.caption == caption
        assert [region.phrase for region in record.regions] in (
            [("a cat",), ("a dog",)],
            [("a cat",)],
            [("a dog",)],
            [],
        )
        assert all(score > 0.6 for region in record.regions for score in region.scores)
    none = filter_candidates(manifest, Policy(score_threshold=1.0), out=folder / "none.json")
    assert json.loads(none.labels.read_text().splitlines()[0])["grounding"]["regions"] == []


def test_an_image_where_nothing_is_found_says_so(folder: Path) -> None:
    made = bootstrap_od(folder / "images", ["cat"], folder / "x_od.json")
    manifest = plan_images(folder, made.annotations, made.label_map, folder / "work")
    infer(manifest, FakeDetector(boxes=0), progress=False)
    result = filter_candidates(manifest)
    assert json.loads(result.labels.read_text().splitlines()[0])["detection"] == {"instances": []}
    assert result.counts["lines_without_labels"] == 5


def test_what_is_not_labelled_cannot_be_filtered(folder: Path) -> None:
    made = bootstrap_od(folder / "images", ["cat"], folder / "x_od.json")
    manifest = plan_images(folder, made.annotations, made.label_map, folder / "work")
    with pytest.raises(InputError, match="2 of 2 shards"):
        filter_candidates(manifest)
    infer(manifest, FakeDetector(), progress=False)
    with pytest.raises(InputError, match="'dgo' is not in the prompt"):
        filter_candidates(manifest, Policy(class_thresholds={"dgo": 0.5}))
    with pytest.raises(InputError, match="outside 0"):
        Policy(score_threshold=30)


@pytest.mark.parametrize(
    "settings", [{"ignore_from": 0.3}, {"ignore_from": 0.6, "class_thresholds": {"dog": 0.5}}, {"min_size": -1.0}]
)
def test_settings_without_effect_are_refused(settings: dict) -> None:
    with pytest.raises(InputError, match="policy"):
        Policy(**settings)


@pytest.fixture
def labelled(folder: Path) -> Path:
    """Asked for a cat, and for a plate to reject; another look through a mirror lies beside."""
    (folder / "images" / "image-002.png").unlink()
    made = bootstrap_od(folder / "images", ["cat"], folder / "x_od.json")
    asked = prompt_label_map(made.label_map, ["plate"], folder)
    for name, mirrored in (("work", False), ("mirror", True)):
        manifest = plan(
            made.annotations,
            folder / "images",
            folder / "weights.safetensors",
            folder / name,
            label_map=asked,
            mirrored=mirrored,
        )
        infer(manifest, Mirrorable(), progress=False)
    return folder


class Mirrorable(FakeDetector):
    """Sees files only: shown an array, it answers as if nothing was there."""

    def predict_each(self, images, prompt, **settings):
        for image in images:
            if isinstance(image, Path):
                yield from super().predict_each([image], prompt, **settings)
            else:
                yield Record("array", *image.shape[:2], instances=(Instance((0, 0, 10, 30), 0, "cat", 0.8),))


def test_a_distractor_is_in_the_prompt_and_never_written(labelled: Path) -> None:
    result = filter_candidates(labelled / "work", Policy(0.1, distractors=("plate",), nms_iou=0.9, distractor_iou=0.2))
    boxes = [each for record in read_odvg(result.labels) for each in record.instances]
    assert {(each.category, each.label) for each in boxes} == {("cat", 0)}
    assert result.counts["dropped"]["distractor"] > 0
    assert result.counts["candidates"] == len(boxes) + sum(result.counts["dropped"].values())
    with pytest.raises(InputError, match="'dog' is not in the prompt"):
        filter_candidates(labelled / "work", Policy(distractors=("dog",)))
    with pytest.raises(InputError, match="one to keep"):
        filter_candidates(labelled / "work", Policy(distractors=("plate", "cat")))
    with pytest.raises(InputError, match="is a category"):
        prompt_label_map(labelled / "x_label_map.json", ["cat"], labelled)


def test_another_view_adds_its_boxes_and_another_plan_is_none(labelled: Path) -> None:
    result = filter_candidates(labelled / "work", Policy(0.35), labelled / "out.json", views=[labelled / "mirror"])
    for record in read_odvg(result.labels):
        # What the mirror alone has found lies on the right, and counts half; a box of both would score more.
        assert any(each.box == (30, 0, 40, 30) and each.score == pytest.approx(0.4) for each in record.instances)
    meta = json.loads(result.meta.read_text())
    assert meta["views"] == [read_manifest(labelled / "mirror").key]
    assert meta["counts"]["candidates"] == meta["counts"]["kept"] + sum(meta["counts"]["dropped"].values())
    (labelled / "weights.safetensors").write_bytes(b"others")
    other = plan(
        labelled / "x_od.json", labelled / "images", labelled / "weights.safetensors", labelled / "other", shard_size=4
    )
    infer(other, FakeDetector(), progress=False)
    with pytest.raises(InputError, match="views of the same plan"):
        filter_candidates(labelled / "work", Policy(), labelled / "out.json", views=[other])


def test_thresholds_follow_from_the_candidates(labelled: Path) -> None:
    policy = Policy(adaptive=Quantile(2.0), nms_iou=1.0)
    result = filter_candidates(labelled / "work", policy, labelled / "out.json")
    assert result.counts["kept_by_name"] == {"cat": 10, "plate": 10}  # of five images
    found = json.loads(result.meta.read_text())["thresholds_found"]
    assert set(found) == {"cat", "plate"}
    fixed = Policy(class_thresholds=found, nms_iou=1.0)
    again = filter_candidates(labelled / "work", fixed, labelled / "again.json")
    assert again.labels.read_bytes() == result.labels.read_bytes()
    of_cats = filter_candidates(
        labelled / "work", replace(policy, class_thresholds={"cat": 0.9}), labelled / "of_cats.json"
    )
    assert json.loads(of_cats.meta.read_text())["thresholds_found"] == {"plate": found["plate"]}
    few = filter_candidates(labelled / "work", Policy(adaptive=Mixture(least=1000)), labelled / "few.json")
    plain = filter_candidates(labelled / "work", Policy(), labelled / "plain.json")
    assert few.labels.read_bytes() == plain.labels.read_bytes()


def test_a_precision_is_reached_on_reviewed_images(labelled: Path) -> None:
    with pytest.raises(InputError, match="no reviewed labels"):
        filter_candidates(labelled / "work", Policy(adaptive=TargetPrecision()), labelled / "out.json")
    every = filter_candidates(labelled / "work", Policy(0.0, nms_iou=1.0), labelled / "every.json")
    reviewed = labelled / "reviewed.json"
    with open(reviewed, "w") as file:
        for record in read_odvg(every.labels):  # a person keeps what scores more than a half
            right = tuple(each for each in record.instances if each.score > 0.5)
            file.write(json.dumps(record_to_line(replace(record, instances=right)) | {"reviewed": True}) + "\n")
    adaptive = TargetPrecision(reviewed=reviewed, precision=1.0, iou=0.99, least=5)
    result = filter_candidates(labelled / "work", Policy(adaptive=adaptive, nms_iou=1.0), labelled / "out.json")
    scores = [each.score for record in read_odvg(result.labels) for each in record.instances]
    everything = [each.score for record in read_odvg(every.labels) for each in record.instances]
    assert sorted(scores) == sorted(score for score in everything if score > 0.5)


def test_thresholds_of_a_round_follow_from_the_corrections_that_hold_for_it(labelled: Path) -> None:
    every = filter_candidates(labelled / "work", Policy(0.0, nms_iou=1.0), labelled / "every.json")
    reviewed = labelled / "reviewed.json"
    with open(reviewed, "w") as file:  # in round 2 a person kept nothing, in round 1 what scores more than a half
        for record in read_odvg(every.labels):
            right = tuple(each for each in record.instances if each.score > 0.5)
            for since, kept in ((2, ()), (1, right)):
                marks = {"reviewed": True, "since_round": since}
                file.write(json.dumps(record_to_line(replace(record, instances=kept)) | marks) + "\n")

    def found(adaptive: TargetPrecision, corrections: Path | None, number: int) -> dict[str, float]:
        policy = Policy(adaptive=adaptive, nms_iou=1.0)
        provenance = {"round": number}
        out = labelled / f"round-{number}.json"
        result = filter_candidates(labelled / "work", policy, out, reviewed=corrections, provenance=provenance)
        return json.loads(result.meta.read_text())["thresholds_found"]

    settings = {"precision": 1.0, "iou": 0.99, "least": 5}
    for adaptive, corrections in (
        (TargetPrecision(**settings), reviewed),
        (TargetPrecision(reviewed=reviewed, **settings), None),
    ):
        first, second = (found(adaptive, corrections, number) for number in (1, 2))
        assert set(first) == {"cat", "plate"}
        assert all(threshold < 0.6 for threshold in first.values())
        assert all(threshold >= 0.9 for threshold in second.values())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"filename": "nowhere.png"}, "'nowhere.png' is not a line of x_od.json"),
        ({"category": "umbrella"}, "label 0 is not 'umbrella', which is not a category of this plan"),
        ({"category": "Cat"}, "did you mean 'cat'"),
        ({"label": 1}, "label 1 is not 'cat'"),
        ({"label": 7}, "label 7 is not 'cat'"),
    ],
)
@pytest.mark.parametrize("by", ["reviewed", "policy"])
def test_reviewed_lines_that_are_none_of_the_plans_are_named(labelled: Path, change: dict, said: str, by: str) -> None:
    line = json.loads((labelled / "x_od.json").read_text().splitlines()[0])
    instance = {"bbox": [1, 2, 30, 20], "label": 0, "category": "cat"}
    instance |= {name: value for name, value in change.items() if name in instance}
    line |= {"detection": {"instances": [instance]}, "reviewed": True, "since_round": 3}
    line |= {name: value for name, value in change.items() if name in line}
    (labelled / "mine.json").write_text(json.dumps(line))
    policy = Policy() if by == "reviewed" else Policy(adaptive=TargetPrecision(reviewed=labelled / "mine.json"))
    with pytest.raises(InputError, match=r"mine\.json:1: ") as raised:
        filter_candidates(labelled / "work", policy, reviewed=labelled / "mine.json" if by == "reviewed" else None)
    assert said in str(raised.value)
    assert not (labelled / "x_od_v1.json").exists()


def test_the_command_counts_the_boxes_of_a_person_too(labelled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = json.loads((labelled / "x_od.json").read_text().splitlines()[0])
    boxes = [{"bbox": [1, 2, 30, 20], "label": 0, "category": "cat"}] * 2
    (labelled / "mine.json").write_text(json.dumps(line | {"detection": {"instances": boxes}}))
    assert main(["filter", str(labelled / "work"), "--reviewed", str(labelled / "mine.json")]) == 0
    written = sum(len(record.instances) for record in read_odvg(labelled / "x_od_v1.json"))
    assert capsys.readouterr().out.startswith(f"{written} boxes (2 of them a person's) in ")
