"""One round of the loop or the ablation: a model labels the images, and the next model is trained on the labels.

Files record what is done: shards contain the key of their plan, and a training its key, so that running a round again
resumes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from flows.labelling.filter import FilterResult, refuse_other_labels
from flows.labelling.manifest import Manifest
from flows.labelling.plan import prompt_label_map
from flows.labelling.settings import Execution, View, settings_part
from flows.policies.policy import Policy
from flows.self_training.config import Labelling
from flows.self_training.labelled import KnownLabels, LabelledSplit
from flows.self_training.source import Source
from flows.self_training.stages import RunName, Stages
from flows.self_training.state import State
from flows.training.finished import best_weights
from flows.training.train import interpolate_with_start, training_key
from grounding_model.data.sources import OdvgData, TrainingData
from grounding_model.students.config import FromStudent, is_student
from grounding_model.training.config import FromWeights, TrainConfig


class PlannedView(NamedTuple):
    """A view of the images; None: that of the labelling settings. folder: of its plan and candidates."""

    view: View | None
    folder: Path


@dataclass(frozen=True)
class Round:
    """The inputs of a round, and where its files go.

    number: from 1. weights: of the model that labels, and that training starts from. start: the first round's model.
    views: the boxes of all are merged into those of the first. labels: the file to write.
    train: how it trains; its datasets are the pretraining data. ratio, student: as in SelfTrainConfig.
    reviewed, provenance: as in filter_candidates. mixture: the file that records the data sets of the training.
    training: its folder; None: one in `folder` that is named by the training's key, so that a training is never
    resumed with other labels or settings.
    replaces_plans: a different plan in a view's folder is replaced instead of refused.
    known, known_share: existing labels, if any, and their share of an epoch.
    """

    number: int
    folder: Path
    source: Source
    weights: str
    start: FromWeights
    views: tuple[PlannedView, ...]
    labels: Path
    policy: Policy
    labelling: Labelling
    train: TrainConfig
    ratio: float = 1.0
    student: float = 1.0
    reviewed: Path | None = None
    provenance: Mapping[str, Any] | None = None
    mixture: Path | None = None
    training: Path | None = None
    replaces_plans: bool = False
    known: LabelledSplit | None = None
    known_share: float = KnownLabels.share

    @property
    def text_encoder(self) -> Path | None:
        """The text encoder of the first round's model; trained checkpoints contain their own."""
        return self.start.text_encoder if self.weights == self.start.source else None


class Labelled(NamedTuple):
    """The labels of a round. manifests: the plan of each view, with all candidates computed."""

    manifests: tuple[Manifest, ...]
    result: FilterResult


class Stop(NamedTuple):
    """Why no training follows the labels of a round."""

    state: State
    reason: str


Reporter = Callable[..., None]  # (stage, state, **details)


def run_round(
    task: Round,
    review: Callable[[Labelled], Path | Stop],
    stages: Stages,
    report: Reporter = lambda stage, state, **details: None,
) -> str | Stop:
    """Labels the images and trains on the labels; returns the weights of the next model, or why there are none.

    review: checks the labels; returns the file to train on, or the reason to stop.
    """
    accepted = review(label_images(task, stages, report))
    return accepted if isinstance(accepted, Stop) else train_model(task, accepted, stages, report)


def label_images(task: Round, stages: Stages, report: Reporter = lambda stage, state, **details: None) -> Labelled:
    """Computes the candidates of every view and filters them into labels; finished parts are not repeated."""
    named = [stages.run_as(RunName(task.number, index or None)) for index in range(len(task.views))]
    manifests = tuple(_plan(task, planned, for_view) for planned, for_view in zip(task.views, named, strict=True))
    if not task.labelling.overwrite:  # filter would refuse them too, after the images were labelled
        refuse_other_labels(manifests[0], task.labels, task.provenance or {})
    report("infer", "started", shards=len(manifests[0].shards))
    workers = task.labelling.workers.on(task.train.device)
    for manifest, for_view in zip(manifests, named, strict=True):
        for_view.infer(manifest, workers=workers, batch_size=task.labelling.batch_size)
    result = named[0].filter_candidates(
        manifests[0],
        task.policy,
        task.labels,
        views=manifests[1:],
        reviewed=task.reviewed,
        provenance=task.provenance,
        overwrite=task.labelling.overwrite,
    )
    return Labelled(manifests, result)


def _plan(task: Round, planned: PlannedView, stages: Stages) -> Manifest:
    labelling, label_map, (view, folder) = task.labelling, task.source.label_map, planned
    return stages.plan(
        task.source.annotations,
        task.source.images,
        work_dir=folder,
        label_map=label_map and prompt_label_map(label_map, task.policy.distractors, folder),
        settings=labelling.with_model(task.weights, task.text_encoder, view),
        execution=replace(
            settings_part(labelling, Execution),
            overwrite=labelling.overwrite or task.replaces_plans,
            workers=labelling.workers.on(task.train.device),
        ),
    )


def train_model(
    task: Round, labels: Path | None, stages: Stages, report: Reporter = lambda stage, state, **details: None
) -> str:
    """Trains, starting from the model that labelled; returns the resulting weights.

    labels: mixed with the pretraining data; None: only the pretraining data are used.
    """
    report("train", "started")
    stages = stages.run_as(RunName(task.number))
    datasets: tuple[TrainingData, ...] = task.train.datasets
    if labels is not None:
        pseudo = OdvgData(labels, task.source.images, task.source.label_map)
        datasets = tuple(stages.merge(pseudo, datasets, task.ratio, task.mixture))
        if task.known is not None:
            datasets += (task.known.beside(pseudo, task.known_share),)
    settings = replace(task.train, datasets=datasets, start=_start_of(task))
    folder = task.training or task.folder / f"train-{training_key(settings)[:8]}"
    progress = partial(report, "train", "progress", steps=settings.steps)
    settings = replace(settings, work_dir=folder)
    if task.known is not None:
        settings = task.known.watching(settings)
    trained = _chosen(stages.train(settings, lambda numbers: progress(**numbers)), task.known)
    weights = str(interpolate_with_start(task.start, trained, task.student))
    report("train", "finished", weights=weights)
    return weights


def _start_of(task: Round) -> FromWeights | FromStudent:
    """The model that labelled: a full one, or a student with fixed classes."""
    if is_student(task.weights):
        return FromStudent(task.weights)
    return FromWeights(task.weights, task.text_encoder)


def _chosen(checkpoint: Path, known: LabelledSplit | None) -> Path:
    """The weights to use of a finished training: the last or the best."""
    return checkpoint if known is None or known.best_of == 1 else best_weights(checkpoint)


def train_on_known(
    train: TrainConfig, known: LabelledSplit, steps: int | None, folder: Path, stages: Stages, report: Reporter
) -> str:
    """Trains on the existing labels before the first round; returns the resulting weights.

    train: its datasets are pretraining data, which are mixed in with their own weights.
    """
    report("train", "started")
    settings = replace(train, datasets=(known.training, *train.datasets))
    if steps is not None:
        settings = replace(settings, steps=steps, epochs=None)
    progress = partial(report, "train", "progress", steps=settings.steps)
    settings = replace(settings, work_dir=folder / f"train-{training_key(settings)[:8]}")
    trained = stages.run_as(RunName(0)).train(known.watching(settings), lambda numbers: progress(**numbers))
    weights = str(_chosen(trained, known))
    report("train", "finished", weights=weights)
    return weights
