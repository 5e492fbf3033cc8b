"""One round, as the loop and the ablation run it: what is labelled, what review decides, what is trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from flows.labelling.settings import View
from flows.self_training.config import SelfTrainConfig
from flows.self_training.round import Labelled, PlannedView, Round, Stop, run_round
from flows.self_training.source import prepare
from flows.self_training.stages import RunName
from tests.test_self_train import Recorder, config  # noqa: F401 - the fixture


def round_of(config: SelfTrainConfig, tmp_path: Path, *views: View) -> Round:  # noqa: F811
    folder = tmp_path / "round"
    planned = tuple(PlannedView(view, folder / str(index)) for index, view in enumerate((View(), *views)))
    weights, labels = config.start.source, folder / "labels.json"
    source, train = prepare(config), replace(config.train, datasets=())
    return Round(4, folder, source, weights, config.start, planned, labels, config.policy, config.labelling, train)


def test_a_round_trains_on_the_labels_that_review_gives(config: SelfTrainConfig, tmp_path: Path) -> None:  # noqa: F811
    recorder, events = Recorder(), []
    task, corrected = round_of(config, tmp_path), tmp_path / "corrected.json"

    def review(labelled: Labelled) -> Path:
        corrected.write_bytes(labelled.result.labels.read_bytes())
        return corrected

    weights = run_round(task, review, recorder.stages(), lambda stage, state, **_: events.append((stage, state)))
    (datasets,) = recorder.datasets
    assert [data.annotations for data in datasets] == [corrected]
    assert Path(weights).is_relative_to(task.folder)
    assert events == [("infer", "started"), ("train", "started"), ("train", "finished")]


def test_a_round_that_review_stops_trains_nothing(config: SelfTrainConfig, tmp_path: Path) -> None:  # noqa: F811
    recorder, stop = Recorder(), Stop("stopped", "did not pass the gate")
    assert run_round(round_of(config, tmp_path), lambda labelled: stop, recorder.stages()) == stop
    assert recorder.trained == 0


def test_each_stage_is_named_by_its_round_and_view(config: SelfTrainConfig, tmp_path: Path) -> None:  # noqa: F811
    recorder, named = Recorder(), []

    def name(stage, run: RunName):
        def called(*arguments, **settings):
            named.append(f"{stage.__name__} {run}")
            return stage(*arguments, **settings)

        return called

    task = round_of(config, tmp_path, View(scale=(30, 40)))
    run_round(task, lambda labelled: labelled.result.labels, recorder.stages()._replace(named=name))
    assert named == [
        "plan v4",
        "plan v4, view 1",
        "infer v4",
        "infer v4, view 1",
        "filter_candidates v4",
        "merge v4",
        "train v4",
    ]
