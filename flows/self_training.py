"""The loop: label, filter, mix, train, and again with the better model. Plain functions, no scheduler.

Files decide what is done: shards carry the key of their plan, a training its key, an evaluation the weights it judged.
An interrupted run is run again and goes on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from flows.bootstrapping import bootstrap_od, bootstrap_vg
from flows.evaluation import evaluate
from flows.filtering import FilterResult, Policy, filter_candidates, versioned
from flows.inference import BATCH_SIZE, infer
from flows.merging import merge
from flows.planning import Manifest, plan
from flows.training import train, training_key
from flows.workers import Workers, load_planned_detector
from formats.candidates import ImageProblem
from formats.files import sha256_of, write_whole
from formats.label_map import label_map_beside, read_label_map, write_label_map
from formats.problems import InputError
from formats.toml_config import read_config
from grounding_model.data import GlyphData, OdvgData, TrainingData
from grounding_model.train_config import FromWeights, TrainConfig

ROUNDS_NAME = "rounds.json"
Event = Mapping[str, Any]


@dataclass(frozen=True)
class ImageFolder:
    """Images and the categories to look for. annotations: bootstrapped there when it is not there.

    label_map: beside the annotations when None. how_to_get: what to tell somebody who has not got the images.
    """

    images: Path
    annotations: Path
    categories: tuple[str, ...]
    label_map: Path | None = None
    how_to_get: str = "want a folder of images"
    kind: Literal["images"] = "images"


@dataclass(frozen=True)
class CaptionedImages:
    """Images with captions, in any form that bootstrap_vg takes. annotations: bootstrapped when it is not there."""

    images: Path
    captions: Path
    annotations: Path
    how_to_get: str = "want a folder of images and their captions"
    kind: Literal["captions"] = "captions"


@dataclass(frozen=True)
class GlyphScenes:
    """Unlabelled scenes of the glyph world, drawn into the work_dir: needs nothing."""

    domain: str = "cats"
    count: int = 144
    seed: int = 0
    categories: tuple[str, ...] = ("cat",)
    kind: Literal["glyphs"] = "glyphs"


@dataclass(frozen=True)
class Labelling:
    """How images are looked at; see flows.plan."""

    score_floor: float = 0.05
    scale: tuple[int, int] | None = None  # the model's own
    max_per_image: int = 300
    chunk_size: int | None = None
    shard_size: int = 64
    batch_size: int = BATCH_SIZE
    workers: Workers = field(default_factory=Workers)  # on train.device where they name no devices


@dataclass(frozen=True)
class SelfTrainConfig:
    """A run of the loop.

    train: how a round trains. Its work_dir holds all rounds, its start is the first round's model, its datasets are
    the pretraining data that are mixed in, if any.
    """

    name: str
    data: ImageFolder | CaptionedImages | GlyphScenes
    train: TrainConfig
    rounds: int = 1  # trainings; labels are made once more than that
    ratio: float = 1.0  # pretraining images for each pseudo-labelled one; 0 leaves the pretraining data out
    policy: Policy = field(default_factory=Policy)
    labelling: Labelling = field(default_factory=Labelling)
    evaluation: TrainingData | None = None  # labelled images that no round sees
    evaluated_categories: tuple[str, ...] | None = None  # None: all that the evaluation data know

    def __post_init__(self) -> None:
        if self.rounds < 0:
            raise InputError("rounds", f"{self.rounds} is negative", "want 0 to label only, or more")
        if not isinstance(self.train.start, FromWeights):
            raise InputError("train.start", "random weights cannot label", 'want kind = "weights"')

    @property
    def start(self) -> FromWeights:
        """The first round's model."""
        assert isinstance(self.train.start, FromWeights)
        return self.train.start


class Source(NamedTuple):
    """What is labelled. label_map: None for captions."""

    annotations: Path
    images: Path
    label_map: Path | None


class RoundResult(NamedTuple):
    """round: from 1. labels: the _vN file. weights: what made them. ap: of these weights, None without evaluation data.

    counts: what the filter counted. metrics: what the evaluation found.
    """

    round: int
    labels: Path
    weights: str
    ap: float | None
    counts: dict[str, Any]
    metrics: dict[str, Any]


class SelfTrainResult(NamedTuple):
    """rounds: one more than trainings. weights: the last checkpoint. summary: rounds.json, what a report reads.

    quarantined: the lines that the last round could not label.
    """

    rounds: tuple[RoundResult, ...]
    weights: str
    summary: Path
    quarantined: tuple[ImageProblem, ...]


def evaluate_weights(
    truth: TrainingData, manifest: Manifest, device: str, out: Path, **settings: Any
) -> dict[str, Any]:
    """The figures of a plan's model, or those in `out` when they are of the same weights, truth and settings."""
    asked = json.loads(json.dumps({"truth": repr(truth), "settings": settings}, default=str))
    asked["weights_sha256"] = manifest.weights_sha256
    asked["truth_sha256"] = None if isinstance(truth, GlyphData) else sha256_of(truth.annotations)
    try:
        told = json.loads(out.read_text(encoding="utf-8"))
        if told["asked"] == asked:
            return told["metrics"]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    metrics = evaluate(truth, load_planned_detector(manifest, device), **settings).as_dict()
    with write_whole(out) as file:
        json.dump({"metrics": metrics, "asked": asked}, file, indent=2)
        file.write("\n")
    return metrics


class Stages(NamedTuple):
    """The stages that the loop calls; a scheduler puts its own shells here."""

    bootstrap_od: Callable[..., Any] = bootstrap_od
    bootstrap_vg: Callable[..., Any] = bootstrap_vg
    plan: Callable[..., Manifest] = plan
    infer: Callable[..., Any] = infer
    filter_candidates: Callable[..., FilterResult] = filter_candidates
    merge: Callable[..., Any] = merge
    train: Callable[..., Path] = train
    evaluate: Callable[..., dict[str, Any]] = evaluate_weights


PLAIN_STAGES = Stages()


def read_self_train(path: str | Path, overrides: tuple[str, ...] = ()) -> SelfTrainConfig:
    """The configuration in a TOML file. Raises InputError for whatever is wrong in it."""
    return read_config(path, SelfTrainConfig, overrides)


def self_train(
    config: SelfTrainConfig | str | Path,
    on_event: Callable[[Event], None] = lambda event: None,
    stages: Stages = PLAIN_STAGES,
) -> SelfTrainResult:
    """Labels, trains and labels again, `rounds` times; gives every round's labels and figures.

    config: or the TOML file that holds one.
    on_event is told {"round", "stage", "state": "started" | "finished", …}. Run again, it goes on where it stopped.
    """
    config = config if isinstance(config, SelfTrainConfig) else read_self_train(config)
    work_dir = config.train.work_dir
    source = prepare(config, stages)
    weights = config.start.source
    rounds: list[RoundResult] = []
    for number in range(1, config.rounds + 2):
        tell = partial(_tell, on_event, number)
        folder = work_dir / f"round-{number}"
        manifest = _plan_round(config, stages, source, weights, folder, number)
        tell("infer", "started", shards=len(manifest.shards))
        workers = config.labelling.workers.on(config.train.device)
        stages.infer(manifest, workers=workers, batch_size=config.labelling.batch_size)
        labels = stages.filter_candidates(manifest, config.policy, versioned(source.annotations, number))
        tell("filter", "finished", counts=labels.counts)
        metrics = _evaluate_round(config, stages, manifest, folder)
        rounds.append(RoundResult(number, labels.labels, weights, metrics.get("ap"), labels.counts, metrics))
        _write_summary(config, rounds)
        tell("evaluate", "finished", metrics=metrics)
        if number <= config.rounds:
            tell("train", "started")
            weights = str(_train_round(config, stages, source, labels, weights, folder, tell))
            tell("train", "finished", weights=weights)
    return SelfTrainResult(tuple(rounds), weights, work_dir / ROUNDS_NAME, labels.quarantined)


def prepare(config: SelfTrainConfig, stages: Stages = PLAIN_STAGES) -> Source:
    """The images to label, bootstrapped where that has not been done. Raises InputError when they are not there."""
    data, truth = config.data, config.evaluation
    if not isinstance(data, GlyphScenes) and not data.images.is_dir():
        raise InputError(data.images, "no such folder", data.how_to_get)
    if truth is not None and not isinstance(truth, GlyphData) and not truth.annotations.is_file():
        raise InputError(truth.annotations, "no such file", getattr(data, "how_to_get", "want labelled images"))
    if isinstance(data, GlyphScenes):
        return _draw_glyphs(data, config.train.work_dir / "data", stages)
    if isinstance(data, CaptionedImages):
        if not data.annotations.exists():
            stages.bootstrap_vg(data.images, data.captions, data.annotations)
        return Source(data.annotations, data.images, None)
    label_map = data.label_map or label_map_beside(data.annotations)
    if not data.annotations.exists():
        stages.bootstrap_od(data.images, data.categories, data.annotations, label_map)
    elif not label_map.exists():  # the annotations may be somebody's own: they are never written over
        write_label_map(label_map, dict(enumerate(data.categories)))
    names, wanted = sorted(read_label_map(label_map).values()), sorted(name.strip() for name in data.categories)
    if names != wanted:
        raise InputError(label_map, f"has {', '.join(names)}", f"want data.categories: {', '.join(wanted)}")
    return Source(data.annotations, data.images, label_map)


def _draw_glyphs(data: GlyphScenes, folder: Path, stages: Stages) -> Source:
    """Writes the scenes once; their truth lies apart, under truth/, and no stage reads it."""
    from grounding_model.glyphs import write_scenes

    source = Source(folder / "glyphs_od.json", folder / "truth" / "images", folder / "glyphs_label_map.json")
    told, asked = folder / "scenes.json", json.loads(json.dumps(asdict(data)))
    if told.exists() and json.loads(told.read_text(encoding="utf-8")) != asked:
        raise InputError(told, "other scenes were drawn there", "want another train.work_dir, or that folder removed")
    if not source.annotations.exists():
        with write_whole(told) as file:
            json.dump(asked, file)
        write_scenes(folder / "truth", data.domain, data.count, data.seed)
        stages.bootstrap_od(source.images, data.categories, source.annotations, source.label_map)
    return source


def _plan_round(
    config: SelfTrainConfig, stages: Stages, source: Source, weights: str, folder: Path, number: int
) -> Manifest:
    settings = config.labelling
    return stages.plan(
        source.annotations,
        source.images,
        weights,
        folder,
        label_map=source.label_map,
        text_encoder=config.start.text_encoder if number == 1 else None,  # our checkpoints carry theirs
        score_floor=settings.score_floor,
        scale=settings.scale,
        max_per_image=settings.max_per_image,
        chunk_size=settings.chunk_size,
        shard_size=settings.shard_size,
        overwrite=number > 1,  # later rounds follow from the first: when its labels changed, theirs do
    )


def _evaluate_round(config: SelfTrainConfig, stages: Stages, manifest: Manifest, folder: Path) -> dict[str, Any]:
    if config.evaluation is None:
        return {}
    return stages.evaluate(
        config.evaluation,
        manifest,
        config.train.device,
        folder / "evaluation.json",
        categories=config.evaluated_categories,
        scale=config.labelling.scale,
        chunk_size=config.labelling.chunk_size,
        batch_size=config.labelling.batch_size,
    )


def _train_round(
    config: SelfTrainConfig,
    stages: Stages,
    source: Source,
    labels: FilterResult,
    weights: str,
    folder: Path,
    tell: Callable[..., None],
) -> Path:
    """The checkpoint of this round: its labels mixed with the pretraining data, from the round's own model."""
    pseudo = OdvgData(labels.labels, source.images, source.label_map)
    datasets = stages.merge(pseudo, config.train.datasets, config.ratio, folder / "merge.json")
    text_encoder = config.start.text_encoder if weights == config.start.source else None
    start = FromWeights(weights, text_encoder)
    settings = replace(config.train, datasets=tuple(datasets), start=start)
    # An interrupted training belongs to its labels and settings: others train in a folder of their own.
    settings = replace(settings, work_dir=folder / f"train-{training_key(settings)[:8]}")
    return stages.train(settings, lambda progress: tell("train", "progress", **progress))


def _write_summary(config: SelfTrainConfig, rounds: list[RoundResult]) -> None:
    with write_whole(config.train.work_dir / ROUNDS_NAME) as file:
        json.dump({"name": config.name, "rounds": [result._asdict() for result in rounds]}, file, indent=2, default=str)
        file.write("\n")


def _tell(on_event: Callable[[Event], None], number: int, stage: str, state: str, **details: Any) -> None:
    on_event({"round": number, "stage": stage, "state": state} | details)
