"""The gate, a person's word, and the chain from a box to where it comes from, on loops whose model is a stand-in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flows.cli.command import main
from flows.policies import TargetPrecision
from flows.self_training.config import SelfTrainConfig
from flows.self_training.drift import Drift, label_drift
from flows.self_training.gate import Evaluation, Gate, Verdict, count_ratio, drifted, judge_round
from flows.self_training.lineage import lineage
from flows.self_training.loop import self_train
from flows.self_training.messages import status
from flows.self_training.stages import Stages
from flows.self_training.state import RoundResult, approve_round, best_round, read_loop_state
from formats.io.errors import InputError
from formats.odvg import read_odvg, write_odvg
from formats.record import Instance, Record
from grounding_model.metrics.bootstrap import Shares, write_samples
from tests.test_self_train import Recorder, config  # noqa: F401 - the fixture

IMAGES = 200


def samples(path: Path, right: float) -> Path:
    """200 phrases in as many images, of which the first share is right."""
    write_samples(path, Shares(np.arange(IMAGES), np.arange(IMAGES) < right * IMAGES, IMAGES))
    return path


class Measured(Recorder):
    """A Recorder whose evaluations find what the test says, round by round."""

    def __init__(self, shares: Sequence[float]) -> None:
        super().__init__()
        self.shares = shares

    def stages(self) -> Stages:
        return super().stages()._replace(evaluate=self.evaluate)

    def evaluate(self, truth, manifest, device, out: Path, **settings):
        share = self.shares[int(manifest.work_dir.name.removeprefix("round-")) - 1]
        samples(out.with_suffix("") / "samples.npz", share)
        return {"recall@1": share, "headline": "recall@1", "interval": [share - 0.05, share + 0.05]}


def labelled(*boxes: tuple[float, ...], name: str = "a.png", category: str = "cat", score: float = 0.5) -> Record:
    return Record(name, 100, 100, tuple(Instance(box, 0, category, score) for box in boxes))


# The gate


def test_the_loop_stops_where_the_held_out_figure_falls_and_keeps_the_best_round(config: SelfTrainConfig) -> None:  # noqa: F811
    recorder = Measured([0.5, 0.6, 0.3, 0.9])
    result = self_train(replace(config, rounds=3), stages=recorder.stages())
    assert (result.state, len(result.rounds), recorder.trained) == ("stopped", 3, 2)
    assert result.best.round == 2
    assert result.weights == result.rounds[1].weights
    assert "recall@1 fell from 0.600 (v2) to 0.300 (95 % interval" in result.reason
    assert json.loads(result.summary.read_text())["best"] == 2
    again = self_train(replace(config, rounds=3), stages=recorder.stages())
    assert again == result
    assert recorder.trained == 2


def test_a_gate_that_is_off_stops_nothing_and_the_best_round_is_told(config: SelfTrainConfig) -> None:  # noqa: F811
    off = replace(config, gate=Gate(enabled=False))
    result = self_train(off, stages=Measured([0.5, 0.2, 0.1]).stages())
    assert (result.state, len(result.rounds), result.best.round) == ("finished", 3, 1)
    assert result.rounds[1].verdict.reasons


def test_of_rounds_that_score_alike_the_first_is_the_best() -> None:
    def scored(number: int, score: float) -> RoundResult:
        metrics = {"headline": "ap", "ap": score}
        return RoundResult(number, Path("x_od.json"), "weights", score, {}, metrics, Verdict(passed=True))

    assert best_round([scored(1, 0.4), scored(2, 0.6), scored(3, 0.6)]).round == 2


def test_a_person_may_let_a_round_pass_that_the_gate_stopped(config: SelfTrainConfig) -> None:  # noqa: F811
    recorder = Measured([0.5, 0.2, 0.6])
    assert self_train(config, stages=recorder.stages()).state == "stopped"
    assert approve_round(config.train.work_dir) == 2
    result = self_train(config, stages=recorder.stages())
    assert (result.state, result.best.round) == ("finished", 3)


def test_without_evaluation_data_drift_alone_judges_and_says_so(config: SelfTrainConfig) -> None:  # noqa: F811
    result = self_train(replace(config, evaluation=None), stages=Recorder().stages())
    assert result.best.round == 3
    assert "(drift only)" in status(config.train.work_dir)


def test_a_fall_within_the_interval_is_no_fall(tmp_path: Path) -> None:
    right = np.arange(IMAGES) % 2 == 0
    write_samples(tmp_path / "before.npz", Shares(np.arange(IMAGES), right, IMAGES))
    right = right.copy()
    right[0] = False  # one phrase of 200
    write_samples(tmp_path / "after.npz", Shares(np.arange(IMAGES), right, IMAGES))
    before = Evaluation(1, "recall@1", 0.5, tmp_path / "before.npz")
    after = Evaluation(2, "recall@1", 0.495, tmp_path / "after.npz")
    verdict = judge_round(Gate(), {"kept": 90, "lines": 100}, None, after, before)
    assert verdict.passed
    assert verdict.gain == pytest.approx(-0.005)
    assert verdict.interval is not None
    assert verdict.interval[0] < verdict.gain < verdict.interval[1] <= 0


def test_drift_counts_what_came_went_and_moved(tmp_path: Path) -> None:
    before = [labelled((0, 0, 10, 10), (20, 20, 40, 40)), labelled((0, 0, 50, 50), name="b.png")]
    after = [labelled((0, 0, 10, 10), (20, 20, 40, 46), (60, 60, 70, 70)), labelled(name="b.png")]
    for name, records in (("before", before), ("after", after)):
        write_odvg(tmp_path / name, records)
    drift = label_drift(tmp_path / "before", tmp_path / "after")
    assert drift == Drift(images=2, changed=2, same=2, moved=0, gained=1, lost=1, counts={"cat": (3, 3)})
    write_odvg(tmp_path / "after", [labelled((0, 0, 10, 14), (20, 20, 40, 40)), before[1]])
    assert (label_drift(tmp_path / "before", tmp_path / "after").moved) == 1
    assert label_drift(tmp_path / "before", tmp_path / "before").changed == 0
    write_odvg(tmp_path / "after", before[:1])
    with pytest.raises(InputError, match="as many lines as"):
        label_drift(tmp_path / "before", tmp_path / "after")


@pytest.mark.parametrize(
    ("drift", "message"),
    [
        (Drift(images=100, changed=95, counts={"cat": (50, 50)}), "95% of the images"),
        (Drift(images=100, changed=5, counts={"cat": (50, 200)}), "boxes of all went from 50 to 200"),
        (Drift(images=100, changed=5, counts={"cat": (300, 300), "dog": (40, 5)}), "boxes of dog went from 40 to 5"),
        (Drift(images=100, changed=5, counts={"cat": (300, 300), "dog": (12, 0)}), None),  # too few to judge
        (Drift(images=100, changed=5, counts={"a cat": (300, 300), "cats": (31, 9)}, of_captions=True), None),
        (Drift(images=5, changed=5, counts={"cat": (3, 9)}), None),
    ],
)
def test_bounds_of_drift(drift: Drift, message: str | None) -> None:
    reasons = " ".join(drifted(Gate(), drift))
    assert message in reasons if message else not reasons


def test_labels_with_hardly_a_box_are_not_trained_on(config: SelfTrainConfig) -> None:  # noqa: F811
    recorder = Recorder()
    strict = replace(config, policy=replace(config.policy, score_threshold=1.0))
    result = self_train(strict, stages=recorder.stages())
    assert (result.state, recorder.trained, result.best.round) == ("stopped", 0, 1)
    assert "only 0 boxes in 5 images" in result.reason
    assert "stopped after v1: did not pass the gate: only 0 boxes" in status(config.train.work_dir)
    approve_round(config.train.work_dir)
    assert self_train(strict, stages=recorder.stages()).rounds[0].approved


def test_a_category_that_vanished_has_no_finite_ratio() -> None:
    assert (count_ratio(4, 8), count_ratio(8, 4), count_ratio(30, 0)) == (2, 2, float("inf"))


@pytest.mark.parametrize("settings", [{"confidence": 1.5}, {"max_count_ratio": 0.5}, {"max_changed_images": 0}])
def test_a_gate_that_no_round_could_pass_is_refused(settings: dict[str, float]) -> None:
    with pytest.raises(InputError, match="gate"):
        Gate(**settings)


# A person


def reviewing(config: SelfTrainConfig) -> SelfTrainConfig:  # noqa: F811
    return replace(config, review=(1,))


def test_the_loop_waits_and_what_a_person_corrected_wins_from_then_on(
    config: SelfTrainConfig,  # noqa: F811
    tmp_path: Path,
) -> None:
    recorder = Recorder()
    waiting = self_train(reviewing(config), stages=recorder.stages())
    assert (waiting.state, len(waiting.rounds), recorder.trained) == ("waiting", 1, 0)
    assert "groundhog rounds approve" in status(config.train.work_dir)
    assert self_train(reviewing(config), stages=recorder.stages()).state == "waiting"
    mine = labelled((1, 2, 30, 20), name="image-003.png", score=0.9)
    mine = replace(mine, height=30, width=40, instances=(replace(mine.instances[0], weight=0.3),))
    write_odvg(tmp_path / "corrected.json", [mine])
    assert main(["rounds", "approve", str(config.train.work_dir), "--reviewed", str(tmp_path / "corrected.json")]) == 0
    result = self_train(reviewing(config), stages=recorder.stages())
    assert (result.state, recorder.trained) == ("finished", 2)
    for done in result.rounds:
        record = list(read_odvg(done.labels))[3]
        assert record.instances == (Instance((1, 2, 30, 20), 0, "cat", score=None, weight=1.0),)
        assert (done.counts["reviewed"], done.counts["reviewed_boxes"]) == (1, 1)
        assert done.counts["candidates"] == done.counts["kept"] + sum(done.counts["dropped"].values())
    assert result == self_train(reviewing(config), stages=recorder.stages())


def test_corrections_of_a_later_round_leave_earlier_labels_as_they_were(
    config: SelfTrainConfig,  # noqa: F811
    tmp_path: Path,
) -> None:
    recorder = Recorder()
    second = replace(config, review=(2,))
    first = self_train(second, stages=recorder.stages()).rounds[0].labels.read_bytes()
    write_odvg(tmp_path / "mine.json", [replace(labelled(name="image-000.png"), height=30, width=40)])
    approve_round(config.train.work_dir, 2, tmp_path / "mine.json")
    result = self_train(second, stages=recorder.stages())
    assert result.rounds[0].labels.read_bytes() == first
    assert [done.counts["reviewed"] for done in result.rounds] == [0, 1, 1]
    assert recorder.trained == 2


def test_only_marked_lines_count_where_some_are_marked(config: SelfTrainConfig, tmp_path: Path) -> None:  # noqa: F811
    recorder = Recorder()
    labels = self_train(reviewing(config), stages=recorder.stages()).rounds[0].labels
    lines = [json.loads(line) for line in labels.read_text().splitlines()]
    lines[1] |= {"reviewed": True, "detection": {"instances": []}}
    (tmp_path / "mine.json").write_text("\n".join(map(json.dumps, lines)))
    approve_round(config.train.work_dir, 1, tmp_path / "mine.json")
    assert self_train(reviewing(config), stages=recorder.stages()).rounds[0].counts["reviewed"] == 1


def test_a_scheduler_may_wait_in_place(config: SelfTrainConfig) -> None:  # noqa: F811
    answers = []

    def wait(work_dir: Path, number: int) -> bool:
        answers.append((read_loop_state(work_dir).state, approve_round(work_dir, number)))
        return True

    assert self_train(reviewing(config), stages=Recorder().stages(), wait_for_person=wait).state == "finished"
    assert answers == [("waiting", 1)]


def test_an_approval_is_of_its_policy(config: SelfTrainConfig) -> None:  # noqa: F811
    self_train(reviewing(config), stages=Recorder().stages())
    approve_round(config.train.work_dir)
    other = replace(reviewing(config), policy=replace(config.policy, score_threshold=0.7))
    assert self_train(other, stages=Recorder().stages()).state == "waiting"


def test_a_policy_that_names_a_file_of_corrections_is_approved_too(config: SelfTrainConfig, tmp_path: Path) -> None:  # noqa: F811
    corrected = replace(labelled(name="image-000.png"), height=30, width=40)
    write_odvg(tmp_path / "corrected.json", [corrected])
    adaptive = TargetPrecision(reviewed=tmp_path / "corrected.json")
    asking = replace(reviewing(config), policy=replace(config.policy, adaptive=adaptive))
    assert self_train(asking, stages=Recorder().stages()).state == "waiting"
    approve_round(config.train.work_dir)
    assert self_train(asking, stages=Recorder().stages()).state == "finished"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"filename": "other.png", "detection": {"instances": []}}, "'other.png' is not a line of x_od.json"),
        ({"filename": "image-000.png"}, "unlabelled line"),
        (
            {
                "filename": "image-000.png",
                "detection": {"instances": [{"bbox": [0, 0, 9, 9], "label": 0, "category": "dog"}]},
            },
            "label 0 is not 'dog'",
        ),
    ],
)
def test_corrections_that_fit_nothing_are_refused(
    config: SelfTrainConfig,  # noqa: F811
    tmp_path: Path,
    line: dict,
    message: str,
) -> None:
    self_train(reviewing(config), stages=Recorder().stages())
    (tmp_path / "mine.json").write_text(json.dumps({"height": 30, "width": 40} | line))
    with pytest.raises(InputError, match=r"mine\.json:1") as raised:
        approve_round(config.train.work_dir, 1, tmp_path / "mine.json")
    assert message in str(raised.value)
    assert not (config.train.work_dir / "round-1" / "approval.json").exists()


def test_a_round_that_is_not_there_cannot_be_approved(config: SelfTrainConfig, tmp_path: Path) -> None:  # noqa: F811
    self_train(reviewing(config), stages=Recorder().stages())
    with pytest.raises(InputError, match="2 has no labels yet"):
        approve_round(config.train.work_dir, 2)
    assert main(["rounds", "status", str(tmp_path)]) == 2


# Lineage


def test_a_box_leads_back_to_the_first_checkpoint(config: SelfTrainConfig, capsys: pytest.CaptureFixture) -> None:  # noqa: F811
    result = self_train(config, stages=Recorder().stages())
    links = lineage(result.rounds[2].labels, "image-002.png", 1)
    assert [link.round for link in links] == [3, 2, 1]
    assert [link.weights for link in links[:2]] == [done.weights for done in reversed(result.rounds[1:])]
    assert not any(link.broken for link in links)
    assert [link.trained_on for link in links] == ["x_od_v2.json", "x_od_v1.json", None]
    assert links[0].mixed_with == ("10 glyph scenes of 'source', weight 0.5",)
    for link in links:  # the stand-in finds the same boxes each round
        assert link.box is not None
        assert link.candidate is not None
        assert link.candidate.score == pytest.approx(link.box.score, abs=1e-5)
        assert link.candidate.rank == 2
    assert main(["rounds", "lineage", str(result.rounds[2].labels), "--image", "image-002.png"]) == 0
    assert "the chain is intact" in capsys.readouterr().out
    with pytest.raises(InputError, match="has no box 99"):
        lineage(result.rounds[2].labels, "image-002.png", 99)
    with pytest.raises(InputError, match=r"no image 'none\.png'"):
        lineage(result.rounds[2].labels, "none.png")


@pytest.mark.parametrize("file", ["x_od_v1.json", "x_od_v1.meta.json", "x_od.json", "weights.safetensors"])
@pytest.mark.parametrize("change", ["edited", "gone"])
def test_a_file_that_changed_is_named(config: SelfTrainConfig, tmp_path: Path, file: str, change: str) -> None:  # noqa: F811
    last = self_train(config, stages=Recorder().stages()).rounds[-1].labels
    path = tmp_path / file
    if change == "gone":
        path.unlink()
    elif file.endswith(".meta.json"):
        path.write_text(path.read_text().replace('"labels_sha256": "', '"labels_sha256": "0'))
    else:
        path.write_bytes(path.read_bytes() + b"\n")
    message = " ".join(what for link in lineage(last) for what in link.broken)
    assert str(path) in message or str(path.with_name("x_od_v1.json")) in message


def test_labels_of_no_loop_have_no_lineage(tmp_path: Path) -> None:
    write_odvg(tmp_path / "x_od_v1.json", [labelled((0, 0, 1, 1))])
    (tmp_path / "x_od_v1.meta.json").write_text("{}")
    with pytest.raises(InputError, match="records no round"):
        lineage(tmp_path / "x_od_v1.json")


def test_each_round_keeps_its_labels_whatever_becomes_of_them(config: SelfTrainConfig) -> None:  # noqa: F811
    labels = self_train(config, stages=Recorder().stages()).rounds[1].labels
    kept = config.train.work_dir / "round-2" / labels.name
    before = labels.read_bytes()
    assert kept.read_bytes() == before
    labels.unlink()
    labels.write_bytes(b"other")
    assert kept.read_bytes() == before
