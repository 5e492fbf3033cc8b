"""`groundhog audit`: what is drawn, what the reviews say, and where it is written."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from flows.audit.messages import describe_audit
from flows.audit.outcomes import confused_labels, label_outcomes
from flows.audit.report import report_audit, write_audit_report
from flows.audit.sample import draw_audit, read_audit
from flows.cli.command import main
from flows.labelling.bootstrap import bootstrap_od
from flows.labelling.filter import filter_candidates
from flows.labelling.infer import infer
from flows.policies import Policy
from flows.self_training.gate import Gate, judge_round
from formats.dataset_names import labels_path, metadata_path, reviewed_path
from formats.io.errors import InputError
from formats.label_map import write_label_map
from formats.odvg import read_odvg, record_to_line, write_odvg
from formats.record import Instance, Record
from formats.reviewed import reviewed_line, reviewed_text, write_corrections
from tests.pipeline_cases import FakeDetector, make_images, make_weights, plan_images

BOX, ELSEWHERE = (0.0, 0.0, 10.0, 10.0), (50.0, 50.0, 60.0, 60.0)


def record(name: str, *boxes: tuple, score: float | None = None, category: str = "cat") -> Record:
    return Record(name, 100, 100, tuple(Instance(box, 0, category, score) for box in boxes))


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """40 images; every fourth has a wrong box that scores little, every fifth lacks an object."""
    path = tmp_path / "x_od_v1.json"
    lines = []
    for index in range(40):
        wrong = (Instance(ELSEWHERE, 0, "cat", 0.4),) if index % 4 == 0 else ()
        lines.append(Record(f"{index}.png", 100, 100, (Instance(BOX, 0, "cat", 0.9), *wrong)))
    write_odvg(path, lines)
    return path


def review(labels: Path, images: range = range(40)) -> None:
    missed = (80.0, 80.0, 90.0, 90.0)
    truth = [record(f"{index}.png", BOX, *([missed] if index % 5 == 0 else [])) for index in images]
    write_corrections(reviewed_path(labels), [reviewed_text(each, 1) for each in truth])


def test_all_images_reviewed_give_precision_and_recall_exactly(labels: Path) -> None:
    audit = draw_audit(labels, reviews=100)
    review(labels)
    report = report_audit(audit)
    assert report.reviews == report.images == 40
    assert report.overall.precision == pytest.approx((0.8, 0.8, 0.8, 40, 50))
    assert report.overall.recall == pytest.approx((40 / 48, 40 / 48, 40 / 48, 40, 48))  # what was missed counts


def test_a_sample_brackets_them_and_says_from_how_many_reviews(labels: Path) -> None:
    audit = draw_audit(labels, reviews=20)
    review(labels)
    report = report_audit(audit, precision=0.85)
    assert report.reviews == 20
    precision, recall = report.overall.precision, report.overall.recall
    assert precision is not None
    assert recall is not None
    assert precision.low < 0.8 < precision.high
    assert recall.low < 40 / 48 < recall.high
    text = describe_audit(report)
    assert "20 reviewed images of 40" in text
    assert text.count("reviewed images") >= 3
    assert report.threshold is not None
    assert report.threshold.score is not None
    assert 0.4 <= report.threshold.score < 0.9
    assert report.threshold.command == f"groundhog filter WORK_DIR --score-threshold {report.threshold.score:g}"
    assert report.more_reviews["precision"] > 0


def test_the_printed_command_keeps_the_policy_of_the_audited_labels(labels: Path) -> None:
    policy = asdict(
        Policy(0.1, cross_class_iou=0.5, min_size=8, ignore_from=0.05, distractors=("a toy", "dog"), distractor_iou=0.3)
    )
    made_by = {"source": "x_od.json", "plan": "0" * 64, "policy": policy, "thresholds_found": {}, "views": []}
    metadata_path(labels).write_text(json.dumps(made_by))
    audit = draw_audit(labels, reviews=20)
    review(labels)
    found = report_audit(audit, precision=0.85, work_dir="wd").threshold
    assert found is not None
    assert found.command == (
        f"groundhog filter wd --score-threshold {found.score:g} --ignore-from 0.05 --cross-class-iou 0.5 "
        "--distractor-iou 0.3 --min-size 8 --distractors 'a toy,dog'"
    )


def test_the_printed_command_writes_the_audited_file_and_names_views(tmp_path: Path, labels: Path) -> None:
    second = labels.rename(tmp_path / "x_od_v2.json")
    metadata_path(second).write_text(json.dumps({"source": "x_od.json", "views": ["mirrored"]}))
    audit = draw_audit(second, reviews=20)
    review(second)
    found = report_audit(audit, precision=0.85, work_dir="wd").threshold
    assert found is not None
    assert found.command.endswith(f" --view WORK_DIR_OF_VIEW -o {second}")


def test_images_skipped_so_early_that_a_stratum_is_unknown_must_be_reviewed(labels: Path) -> None:
    audit = draw_audit(labels, reviews=30)  # two strata, whose first images come first
    order = [int(Path(audit.records[image].filename).stem) for image in audit.drawn]
    write_corrections(reviewed_path(labels), [reviewed_text(record(f"{i}.png", BOX), 1) for i in order[1:]])
    with pytest.raises(InputError, match=rf"estimates for \d+ images depend on.* review {order[0]}.png"):
        report_audit(audit)


def test_an_interrupted_audit_resumes_and_a_larger_one_keeps_what_was_reviewed(labels: Path) -> None:
    first = draw_audit(labels, reviews=15)
    names = [each.filename for each in read_odvg(first.sample_path)]
    again = draw_audit(labels)
    assert [each.filename for each in read_odvg(again.sample_path)] == names
    larger = draw_audit(labels, reviews=25)
    assert [each.filename for each in read_odvg(larger.sample_path)][:15] == names
    assert draw_audit(labels, reviews=12).settings.drawn == 25
    reached = {int(Path(name).stem) for name in names[:11]}
    write_corrections(reviewed_path(labels), [reviewed_text(record(f"{i}.png", BOX), 1) for i in reached])
    assert report_audit(larger).reviews == 11


def test_an_audit_that_an_older_version_began_keeps_its_order(tmp_path: Path) -> None:
    path = tmp_path / "x_od_v1.json"
    lines = [record(f"{index}.png", *([BOX] if index % 2 else []), score=0.5) for index in range(40)]
    write_odvg(path, lines)
    names = [each.filename for each in read_odvg(draw_audit(path, reviews=20).sample_path)]
    settings = tmp_path / "x_od_v1.audit" / "audit.json"
    begun = json.loads(settings.read_text())
    del begun["empty_apart"]
    settings.write_text(json.dumps(begun))
    older = draw_audit(path)
    assert older.design.stratum.max() == 0
    assert [each.filename for each in read_odvg(older.sample_path)] != names


def test_another_seed_is_refused_for_an_audit_that_is_continued(labels: Path) -> None:
    names = [each.filename for each in read_odvg(draw_audit(labels, reviews=15, seed=3).sample_path)]
    with pytest.raises(InputError, match=r"--seed: 4, but .* drawn with seed 3; expected the same seed, or --new"):
        draw_audit(labels, seed=4)
    assert [each.filename for each in read_odvg(draw_audit(labels).sample_path)] == names
    other = draw_audit(labels, reviews=15, seed=4, anew=True)
    assert [each.filename for each in read_odvg(other.sample_path)] != names


def test_labels_without_a_box_are_audited_and_counts_are_in_the_singular(tmp_path: Path) -> None:
    path = tmp_path / "x_od_v1.json"
    write_odvg(path, [Record("0.png", 100, 100, ())])
    audit = draw_audit(path)
    with pytest.raises(InputError, match=r"0 of 1 sampled images .* expected at least 1,"):
        report_audit(audit)
    write_corrections(reviewed_path(path), [reviewed_text(record("0.png"), 1)])
    text = describe_audit(report_audit(audit))
    assert "1 reviewed image of 1" in text
    assert "precision  unknown: no labels in the reviewed images" in text
    assert "no threshold: that takes labels that all have a score" in text


def test_too_few_reviews_are_refused_with_what_to_do(labels: Path) -> None:
    with pytest.raises(InputError, match="has no audit yet"):
        read_audit(labels)
    with pytest.raises(InputError, match="expected at least 10"):
        draw_audit(labels, reviews=5)
    audit = draw_audit(labels, reviews=20)
    with pytest.raises(InputError, match="0 of 20 sampled images are reviewed"):
        report_audit(audit)


def test_images_that_a_person_labelled_are_not_drawn(labels: Path) -> None:
    records = list(read_odvg(labels))
    lines = [reviewed_line(each) if index < 25 else record_to_line(each) for index, each in enumerate(records)]
    labels.write_text("".join(json.dumps(line) + "\n" for line in lines))
    audit = draw_audit(labels, reviews=100)
    assert {each.filename for each in audit.records} == {f"{index}.png" for index in range(25, 40)}


def test_an_image_that_is_listed_twice_would_count_as_two_reviews(labels: Path) -> None:
    labels.write_text(labels.read_text() + labels.read_text().splitlines()[3] + "\n")
    with pytest.raises(InputError, match=r"lists 1 image more than once, such as 3.png"):
        draw_audit(labels)


def test_labels_made_anew_need_a_new_audit(labels: Path) -> None:
    draw_audit(labels, reviews=20)
    write_odvg(labels, [record(f"{index}.png", BOX) for index in range(12)])
    with pytest.raises(InputError, match="has changed since its audit was drawn; audit the new labels with --new"):
        draw_audit(labels)
    assert len(draw_audit(labels, anew=True).records) == 12


def test_what_the_reviewer_ignores_counts_neither_way() -> None:
    mine = record("a", BOX, ELSEWHERE, score=0.5)
    theirs = record("a", BOX)
    ignored = replace(theirs, instances=(*(theirs.instances or ()), Instance(ELSEWHERE, 0, "cat", ignore=True)))
    assert [label_outcomes(mine, each)["cat"].labels for each in (theirs, ignored)] == [2, 1]
    assert label_outcomes(mine, ignored)["cat"].hits == 1
    assert label_outcomes(mine, record("a"))["cat"].objects == 0


def test_a_renamed_box_is_wrong_of_one_category_and_missing_of_the_other() -> None:
    found = label_outcomes(record("a", BOX, category="dog"), record("a", BOX))
    assert (found["dog"].hits, found["dog"].labels, found["dog"].objects) == (0, 1, 0)
    assert (found["cat"].hits, found["cat"].labels, found["cat"].objects) == (0, 0, 1)


def test_categories_that_are_mixed_up_are_counted_once_a_box() -> None:
    labels = Record("a", 100, 100, (Instance(BOX, 0, "dog"), Instance(ELSEWHERE, 1, "cat"), Instance(BOX, 2, "fox")))
    objects = Record("a", 100, 100, (Instance(BOX, 1, "cat"), Instance(ELSEWHERE, 1, "cat")))
    assert confused_labels(labels, objects) == {("dog", "cat"): 1}
    assert confused_labels(labels, labels) == confused_labels(objects, objects) == {}
    both = Record("a", 100, 100, (Instance(BOX, 1, "cat"), Instance(BOX, 0, "dog")))
    assert confused_labels(both, objects) == {}  # the object was found; the second label is one too many


def test_a_report_lists_confused_categories_and_further_reviews_for_each(tmp_path: Path) -> None:
    path = tmp_path / "x_od_v1.json"
    names = ["cat" if index % 3 else "dog" for index in range(30)]
    write_odvg(path, [record(f"{index}.png", BOX, score=0.8, category=name) for index, name in enumerate(names)])
    audit = draw_audit(path, reviews=20)
    truth = [record(f"{index}.png", BOX, category="cat") for index in range(30)]
    write_corrections(reviewed_path(path), [reviewed_text(each, 1) for each in truth])
    report = report_audit(audit)
    wrong = sum(names[int(Path(audit.records[image].filename).stem)] == "dog" for image in audit.drawn)
    assert [tuple(each) for each in report.confusions] == [("dog", "cat", wrong)]
    assert report.categories["cat"].more_reviews["recall"] > 0
    assert report.too_few == {"dog": wrong}
    text = describe_audit(report)
    assert f"wrong category in 20 reviewed images: dog for cat ({wrong})" in text
    assert f"separate estimates: dog ({wrong})" in text
    assert report.payload()["categories"]["cat"]["more_reviews"] == report.categories["cat"].more_reviews
    assert report.payload()["threshold"]["reviews"] == 20


def test_the_audit_stays_in_the_metadata_when_corrections_go_into_the_labels(tmp_path: Path) -> None:
    make_images(tmp_path / "images", 12)
    make_weights(tmp_path)
    made = bootstrap_od(tmp_path / "images", ["cat", "dog"], tmp_path / "x_od.json")
    manifest = plan_images(tmp_path, made.annotations, made.label_map, tmp_path / "work")
    infer(manifest, FakeDetector())
    result = filter_candidates(manifest)
    audit = draw_audit(result.labels, reviews=12)
    write_corrections(audit.reviewed, [reviewed_text(each, 1) for each in audit.records])
    path = write_audit_report(audit, report_audit(audit))
    payload = json.loads(path.read_text())
    assert json.loads(result.meta.read_text())["audit"] == payload
    assert payload["reviews"] == 12
    filter_candidates(manifest, reviewed=audit.reviewed)
    assert json.loads(result.meta.read_text())["audit"] == payload
    assert read_audit(result.labels).settings.drawn == 12  # still the same audit
    filter_candidates(manifest, Policy(score_threshold=0.5))
    assert "audit" not in json.loads(result.meta.read_text())


def test_a_gate_may_require_an_audit_and_compares_its_lower_limit() -> None:
    gate, counts = Gate(audit_precision=0.8), {"kept": 90, "lines": 100}
    [missing] = judge_round(gate, counts).reasons
    assert "has not been audited" in missing
    audit = {"reviews": 60, "precision": {"value": 0.9, "low": 0.79, "high": 0.95}}
    [weak] = judge_round(gate, counts, audit=audit).reasons
    assert weak.startswith("precision of the labels is 0.900 (0.790 … 0.950) from 60 reviews")
    audit["precision"] = {"value": 0.9, "low": 0.81, "high": 0.95}
    assert judge_round(gate, counts, audit=audit).passed
    assert judge_round(Gate(), counts).passed


def test_the_command_draws_for_another_tool_and_takes_its_corrections(labels: Path, capsys) -> None:
    assert main(["audit", str(labels), "-n", "20", "--no-review"]) == 0
    assert "20 of 40 images drawn, 0 of them reviewed" in capsys.readouterr().out
    corrected = labels.parent / "corrected.json"
    shutil.copy(labels.parent / "x_od_v1.audit" / "x_od_v1.json", corrected)
    assert main(["audit", str(labels), "--report", "--reviewed", str(corrected)]) == 0
    assert "precision  1.000" in capsys.readouterr().out
    assert not metadata_path(labels).exists()
    assert main(["audit", str(labels), "--report", "--reviewed", "nowhere.json"]) == 2
    assert main(["audit", "nowhere.json"]) == 2
    assert main(["audit", str(labels)]) == 2  # no folder of images
    assert "expected --images" in capsys.readouterr().err


def test_a_sample_is_reviewed_in_another_tool_and_imported(labels: Path, capsys) -> None:
    write_label_map(labels.parent / "x_label_map.json", {0: "cat"})
    assert main(["audit", str(labels), "-n", "20", "--no-review"]) == 0
    sample, tasks = labels.parent / "x_od_v1.audit" / "x_od_v1.json", labels.parent / "tasks.xml"
    assert main(["convert", "odvg", "cvat", str(sample), str(tasks)]) == 0
    boxes = re.findall(r"<box.*?(?:/>|</box>)", tasks.read_text(), re.DOTALL)
    wrong = [box for box in boxes if 'xtl="50' in box]
    edited = tasks.read_text()
    for box in wrong:
        edited = edited.replace(box, "", 1)
    tasks.write_text(edited)
    assert main(["reviews", "import", str(labels), str(tasks), "--from", "cvat"]) == 0
    assert (
        main(["audit", str(labels), "--report"]) == 2
    )  # of images that nobody changed, nobody said that they are right
    assert main(["reviews", "import", str(labels), str(tasks), "--from", "cvat", "--all"]) == 0
    assert main(["audit", str(labels), "--report"]) == 0
    report = json.loads((labels.parent / "x_od_v1.audit/report.json").read_text())
    assert report["reviews"] == 20
    assert 0 < len(wrong) < report["precision"]["boxes"] == len(boxes)
    assert report["precision"]["low"] < 0.8 < report["precision"]["high"]


def test_labels_path_and_audit_are_of_one_round() -> None:
    assert labels_path("x_od.json", 1).with_suffix(".audit") == Path("x_od_v1.audit")
