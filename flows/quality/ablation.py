"""`groundhog quality`: compares policies by the quality of their labels and by the models trained on them.

The images have known labels, which labelling does not see. The work is divided into pieces, one per variant and seed,
each in its own folder. A piece is finished if its done.json records the same settings, so an interrupted ablation
resumes.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from flows.evaluation.evaluate import evaluate
from flows.labelling.filter import filter_candidates
from flows.labelling.settings import Execution, LabellingSettings, View, settings_payload
from flows.policies.calibration import correct_boxes
from flows.policies.policy import Policy
from flows.self_training.config import Labelling
from flows.self_training.round import Labelled, PlannedView, Round, label_images, run_round, train_model
from flows.self_training.source import Source
from flows.self_training.stages import PLAIN_STAGES
from formats.boxes import MATCH_IOU, boxes_by_name
from formats.dataset_names import annotation_path, label_map_path
from formats.io.errors import InputError
from formats.io.files import write_json
from formats.io.ranges import Count, Factor, Name, PositiveShare, Seed, Share, check_ranges
from formats.label_map import write_label_map
from formats.odvg import read_odvg, write_odvg
from formats.record import Record
from grounding_model.checkpoints.locations import checkpoint_hash
from grounding_model.data.sources import GlyphData, OdvgData, TrainingData
from grounding_model.detector import load_detector
from grounding_model.glyphs import write_scenes
from grounding_model.metrics.coco import evaluate_coco
from grounding_model.training.config import FromWeights, TrainConfig

DONE_NAME = "done.json"


@dataclass(frozen=True)
class Variant:
    """One way of labelling and training to be compared.

    labels: "policy" trains on the labels that the policy makes, "none" only on the pretraining data, "truth" on the
    known labels. student: weight of the trained model in the interpolation with the first one (WiSE-FT); 1 for none.
    """

    labels: Literal["policy", "none", "truth"] = "policy"
    policy: Policy = field(default_factory=Policy)
    views: tuple[View, ...] = (View(),)
    rounds: Count = 1
    student: PositiveShare = 1.0

    def __post_init__(self) -> None:
        if not self.views:
            raise InputError("views", "is empty", "expected one view or more")
        if self.rounds < 1:
            raise InputError("rounds", f"{self.rounds}", "expected 1 or more")
        if not 0.0 < self.student <= 1.0:
            raise InputError("student", f"{self.student}", "expected a fraction above 0")


@dataclass(frozen=True)
class QualityConfig:
    """The configuration of an ablation. Compare only numbers of one machine and one version of this software.

    data: images with known labels, which are hidden from labelling; glyph scenes are drawn with the seed of the piece.
    train: the training of a round; its start makes the first labels, and its datasets are mixed in. target: labelled
    images like the data, not used in training. source: labelled images of the original domain, to measure forgetting;
    None to skip that. baseline: the variant with which the table compares the others.
    """

    name: Name
    data: GlyphData | OdvgData
    categories: tuple[str, ...]
    target: TrainingData
    train: TrainConfig
    variants: dict[str, Variant]
    baseline: str
    source: TrainingData | None = None
    seeds: tuple[Seed, ...] = (0, 1, 2)
    ratio: Factor = 1.0  # pretraining images per labelled image
    score_floor: Share = LabellingSettings.score_floor
    shard_size: Count = Execution.shard_size
    batch_size: Count = Execution.batch_size

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.baseline not in self.variants:
            raise InputError("baseline", f"no variant {self.baseline!r}", f"expected one of {', '.join(self.variants)}")
        if not isinstance(self.train.start, FromWeights):
            raise InputError("train.start", "random weights cannot label", 'expected kind = "weights"')
        if not self.seeds:
            raise InputError("seeds", "is empty", "expected one seed or more")

    @property
    def start(self) -> FromWeights:
        """The model that makes the first labels."""
        assert isinstance(self.train.start, FromWeights)
        return self.train.start


class LabelQuality(NamedTuple):
    """The quality of the labels of one round. precision, recall: of boxes without `ignore`, at IoU 0.5. ap: COCO's.

    curve: precision at recall 0, 0.01 … 1 of the policy without thresholds.
    """

    precision: float
    recall: float
    ap: float
    boxes: int
    curve: tuple[float, ...]


class Piece(NamedTuple):
    """The results of a variant and a seed. labels: quality in each round; () if the policy made none. target, source:
    AP of the model before the first and after each round; () if nothing was trained, or there is no source.
    """

    variant: str
    seed: int
    labels: tuple[LabelQuality, ...]
    target: tuple[float, ...]
    source: tuple[float, ...]


def measure_quality(
    config: QualityConfig,
    variants: Sequence[str] = (),
    seeds: Sequence[int] = (),
    report: Callable[[str], None] = lambda line: None,
) -> list[Piece]:
    """Computes the missing pieces; returns all finished ones.

    variants, seeds: compute only these; () for all. Raises InputError for one that is not in the configuration.
    """
    for requested, known, setting in ((variants, config.variants, "variants"), (seeds, config.seeds, "seeds")):
        if unknown := [each for each in requested if each not in known]:
            raise InputError(setting, f"there is no {unknown[0]}", f"expected some of {', '.join(map(str, known))}")
    for seed in seeds or config.seeds:
        if missing := [name for name in variants or config.variants if _read_piece(config, name, seed) is None]:
            of_seed = _SeedPieces(config, seed)
        for name in missing:
            report(f"{name}, seed {seed} …")
            piece = of_seed.piece(name)
            _write_piece(config, piece)
            report(f"{name}, seed {seed}: AP {piece.target[0]:.3f} -> {piece.target[-1]:.3f}")
    return list(done_pieces(config))


def measure_labels(config: QualityConfig, seeds: Sequence[int] = ()) -> list[Piece]:
    """The quality of the first labels of every variant with a policy, without training: pieces without AP of a model.

    This takes minutes and helps to choose a policy. Only measure_quality shows what a model gains from the labels.
    """
    pieces = []
    for seed in seeds or config.seeds:
        of_seed = _SeedPieces(config, seed)
        pieces += [of_seed.labels(name) for name, variant in config.variants.items() if variant.labels == "policy"]
    return sorted(pieces, key=lambda piece: list(config.variants).index(piece.variant))


def done_pieces(config: QualityConfig) -> Iterator[Piece]:
    """The finished pieces of a configuration, variant by variant."""
    for name in config.variants:
        for seed in config.seeds:
            if (piece := _read_piece(config, name, seed)) is not None:
                yield piece


def label_quality(labels: Path, everything: Path, truth: Path, categories: Sequence[str]) -> LabelQuality:
    """Compares labels with the truth. everything: labels from the same candidates without thresholds."""
    true = [_select_categories(record, categories) for record in read_odvg(truth)]
    made = [_without_ignored(record) for record in read_odvg(labels)]
    right = boxes = 0
    for record, labelled in zip(true, made, strict=True):
        objects_of, boxes_of = boxes_by_name(record, with_ignored=True), boxes_by_name(labelled)
        for name in categories:
            found = correct_boxes(boxes_of.get(name, ()), objects_of.get(name, ()), MATCH_IOU)
            right, boxes = right + int(found.sum()), boxes + len(found)
    objects = sum(len(record.instances or ()) for record in true)
    curve = evaluate_coco(true, list(read_odvg(everything)), categories).precision_recall[0]
    return LabelQuality(
        precision=right / boxes if boxes else 1.0,
        recall=right / objects if objects else 1.0,
        ap=evaluate_coco(true, made, categories).ap,
        boxes=boxes,
        curve=tuple(round(float(value), 4) for value in curve),
    )


class _SeedPieces:
    """The pieces of one seed, which share images and candidates."""

    def __init__(self, config: QualityConfig, seed: int) -> None:
        self.config, self.seed = config, seed
        self.folder = config.train.work_dir / f"seed-{seed}"
        self.source, self.truth = _prepare(config, seed, self.folder / "data")

    def piece(self, name: str) -> Piece:
        """Runs the rounds of a variant: labels, trains and evaluates."""
        variant, weights = self.config.variants[name], self.config.start.source
        qualities: list[LabelQuality] = []
        scores = [self._before]
        for number in range(1, variant.rounds + 1):
            weights = self._next_weights(variant, self._round(name, number, weights), qualities)
            scores.append(self._scores(weights))
        target, source = zip(*scores)
        return Piece(name, self.seed, tuple(qualities), target, tuple(ap for ap in source if ap is not None))

    def labels(self, name: str) -> Piece:
        """The quality of the labels of a variant's first round, without training."""
        task = self._round(name, 1, self.config.start.source)
        return Piece(name, self.seed, (self._quality(task, label_images(task, PLAIN_STAGES)),), (), ())

    @functools.cached_property
    def _before(self) -> tuple[float, float | None]:
        """The scores before the first round, equal for all variants."""
        return self._scores(self.config.start.source, self.config.start.text_encoder)

    def _next_weights(self, variant: Variant, task: Round, qualities: list[LabelQuality]) -> str:
        """The weights after a round. qualities: the quality of its labels is appended if the policy made any."""
        if variant.labels != "policy":
            return train_model(task, self.truth if variant.labels == "truth" else None, PLAIN_STAGES)

        def review(labelled: Labelled) -> Path:
            qualities.append(self._quality(task, labelled))
            return labelled.result.labels

        weights = run_round(task, review, PLAIN_STAGES)
        assert isinstance(weights, str), weights  # `review` never stops a round
        return weights

    def _round(self, name: str, number: int, weights: str) -> Round:
        config, variant = self.config, self.config.variants[name]
        folder = piece_folder(config, name, self.seed) / f"round-{number}"
        return Round(
            number,
            folder,
            self.source,
            weights,
            config.start,
            tuple(
                PlannedView(view, self._candidates_folder(view, variant.policy.distractors, weights))
                for view in variant.views
            ),
            annotation_path(folder, "labels", "od"),
            variant.policy,
            Labelling(score_floor=config.score_floor, shard_size=config.shard_size, batch_size=config.batch_size),
            replace(config.train, seed=self.seed),
            config.ratio,
            variant.student,
            training=folder / "train",
        )

    def _candidates_folder(self, view: View, distractors: Sequence[str], weights: str) -> Path:
        """The folder of candidates, shared by all variants with the same view, distractors and weights."""
        deciding = json.dumps([checkpoint_hash(weights), settings_payload(view), list(distractors)])
        return self.folder / "candidates" / hashlib.sha256(deciding.encode()).hexdigest()[:12]

    def _quality(self, task: Round, labelled: Labelled) -> LabelQuality:
        """The quality of the labels of a round."""
        first, *views = labelled.manifests
        unsorted = task.policy.without_thresholds()
        everything = filter_candidates(first, unsorted, annotation_path(task.folder, "everything", "od"), views=views)
        return label_quality(labelled.result.labels, everything.labels, self.truth, self.config.categories)

    def _scores(self, weights: str, text_encoder: Path | None = None) -> tuple[float, float | None]:
        """(AP on the target for the configured categories, AP on the source for all of its categories)."""
        config = self.config
        detector = load_detector(weights, text_encoder, config.train.device)
        target = evaluate(config.target, detector, config.categories, batch_size=config.batch_size).ap
        if config.source is None:
            return target, None
        return target, evaluate(config.source, detector, batch_size=config.batch_size).ap


def piece_folder(config: QualityConfig, variant: str, seed: int) -> Path:
    return config.train.work_dir / f"seed-{seed}" / variant


def _prepare(config: QualityConfig, seed: int, folder: Path) -> tuple[Source, Path]:
    """Writes the source to be labelled, and the truth separately; draws glyph scenes if configured."""
    label_map, truth = label_map_path(folder, "x"), annotation_path(folder, "truth", "od")
    source = Source(annotation_path(folder, "x", "od"), folder / "images", label_map)
    data = config.data
    if isinstance(data, OdvgData):
        source = source._replace(images=data.image_root)
        records = list(read_odvg(data.annotations))
    else:
        written = write_scenes(folder, data.domain, data.count, seed, data.task, data.pairs, hardness=data.hardness)
        if written is None:
            raise InputError("data.task", data.task, "expected a detection task")
        records = list(read_odvg(written))
    known = {each.category for record in records for each in record.instances or ()}
    if unknown := sorted(set(config.categories) - known):
        raise InputError("categories", f"the truth has no {', '.join(unknown)}", f"expected some of {sorted(known)}")
    folder.mkdir(parents=True, exist_ok=True)
    write_label_map(label_map, dict(enumerate(config.categories)))
    write_odvg(truth, [_select_categories(record, config.categories) for record in records])
    write_odvg(source.annotations, [replace(record, instances=None) for record in records])
    return source, truth


def _select_categories(record: Record, categories: Sequence[str]) -> Record:
    """The record with only the boxes of these categories, whose labels are their indices."""
    labels = {name: label for label, name in enumerate(categories)}
    return replace(
        record,
        instances=tuple(
            replace(each, label=labels[each.category]) for each in record.instances or () if each.category in labels
        ),
    )


def _without_ignored(record: Record) -> Record:
    return replace(record, instances=tuple(each for each in record.instances or () if not each.ignore))


# Finished pieces


def _cache_key(config: QualityConfig, variant: str) -> Any:
    """What determines a piece, as JSON values."""
    deciding = {
        "variant": settings_payload(config.variants[variant]),
        "data": asdict(config.data),
        "categories": config.categories,
        "target": asdict(config.target),
        "source": None if config.source is None else asdict(config.source),
        "train": asdict(config.train),
        "ratio": config.ratio,
        "score_floor": config.score_floor,
    }
    return json.loads(json.dumps(deciding, default=str))


def _write_piece(config: QualityConfig, piece: Piece) -> None:
    payload = piece._asdict() | {"labels": [quality._asdict() for quality in piece.labels]}
    done = piece_folder(config, piece.variant, piece.seed) / DONE_NAME
    write_json(done, {"asked": _cache_key(config, piece.variant), "piece": payload}, indent=1)


def _read_piece(config: QualityConfig, variant: str, seed: int) -> Piece | None:
    path = piece_folder(config, variant, seed) / DONE_NAME
    try:
        payload = json.loads(path.read_text(encoding="utf-8"))
        if payload["asked"] != _cache_key(config, variant):
            return None
        piece = payload["piece"]
        labels = tuple(LabelQuality(**quality | {"curve": tuple(quality["curve"])}) for quality in piece["labels"])
        return Piece(piece["variant"], piece["seed"], labels, tuple(piece["target"]), tuple(piece["source"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
