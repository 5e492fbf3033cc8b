"""Prepares the file that a loop labels, an ODVG file of images with categories or captions, or of drawn scenes.

Also checks at the start of a loop what its later stages would refuse.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from flows.distillation.distill import check_student
from flows.evaluation.benchmarks import BenchmarkData, paths_of
from flows.labelling import bootstrap as bootstrapping
from flows.labelling.adaptive import reviewed_truth
from flows.labelling.corrections import check_lines
from flows.labelling.filter import check_policy_names
from flows.labelling.plan import check_prompt
from flows.policies.policy import Policy
from flows.self_training.config import CaptionedImages, GlyphScenes, SelfTrainConfig
from flows.self_training.labelled import check_known_labels
from flows.self_training.scores import check_truth
from formats.dataset_names import annotation_path, label_map_beside, label_map_path, reviewed_path
from formats.io.errors import InputError
from formats.io.files import load_json, write_json, write_whole
from formats.label_map import read_label_map, write_label_map
from formats.odvg import read_odvg
from formats.reviewed import corrections_for
from grounding_model.detector import choose_device
from grounding_model.glyphs import write_scenes
from grounding_model.training.config import TrainConfig
from grounding_model.training.distributed import check_devices
from grounding_model.training.loop import check_data


class Source(NamedTuple):
    """The file to label and its images. label_map: None for captions."""

    annotations: Path
    images: Path
    label_map: Path | None


def prepare(
    config: SelfTrainConfig,
    bootstrap_od: Callable[..., Any] = bootstrapping.bootstrap_od,
    bootstrap_vg: Callable[..., Any] = bootstrapping.bootstrap_vg,
) -> Source:
    """The images to label, bootstrapped if necessary. Raises InputError if they are missing."""
    data, truth = config.data, config.evaluation
    if not isinstance(data, GlyphScenes) and not data.images.is_dir():
        raise InputError(data.images, "no such folder", data.how_to_get)
    for path in () if truth is None else paths_of(truth):
        if not path.exists():
            raise InputError(path, "no such file", getattr(data, "how_to_get", "expected labelled images"))
    if isinstance(data, GlyphScenes):
        return _draw_glyphs(data, config.train.work_dir / "data", bootstrap_od, bootstrap_vg)
    if isinstance(data, CaptionedImages):
        if not data.annotations.exists():
            bootstrap_vg(data.images, data.captions, data.annotations, data.phrases)
        return Source(data.annotations, data.images, None)
    label_map = data.label_map or label_map_beside(data.annotations)
    if not data.annotations.exists():
        without = {} if config.labelled is None else {"without": config.labelled.annotations}
        bootstrap_od(data.images, data.categories, data.annotations, label_map, **without)
    elif not label_map.exists():  # the annotations may be the user's own, and are never overwritten
        write_label_map(label_map, dict(enumerate(data.categories)))
    names, wanted = sorted(read_label_map(label_map).values()), sorted(name.strip() for name in data.categories)
    if names != wanted:
        raise InputError(label_map, f"has {', '.join(names)}", f"expected data.categories: {', '.join(wanted)}")
    return Source(data.annotations, data.images, label_map)


def _draw_glyphs(
    data: GlyphScenes, folder: Path, bootstrap_od: Callable[..., Any], bootstrap_vg: Callable[..., Any]
) -> Source:
    """Draws the scenes once; their true boxes are kept in truth/, which no stage reads."""
    recorded, requested = folder / "scenes.json", json.loads(json.dumps(asdict(data)))
    remedy = "choose another train.work_dir, or remove that folder"
    if recorded.exists() and load_json(recorded, remedy) != requested:
        raise InputError(recorded, "is of other scenes", remedy)
    captions, images = folder / "captions.csv", folder / "truth" / "images"
    if data.task == "captions":
        source = Source(annotation_path(folder, "glyphs", "vg"), images, None)
    else:
        source = Source(annotation_path(folder, "glyphs", "od"), images, label_map_path(folder, "glyphs"))
    # The label map is written last: if it is missing, the last run was interrupted.
    if not (source.annotations.exists() and (source.label_map is None or source.label_map.exists())):
        write_json(recorded, requested)
        truth = write_scenes(folder / "truth", data.domain, data.count, data.seed, data.task)
        if source.label_map is not None:
            bootstrap_od(images, data.categories, source.annotations, source.label_map)
        else:
            assert truth is not None  # scenes are labelled
            _write_captions(captions, truth)
            bootstrap_vg(images, captions, source.annotations)
    return source


def _write_captions(path: Path, truth: Path) -> None:
    """Writes the captions alone, without boxes, like a user's file."""
    with write_whole(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("filename", "caption"))
        writer.writerows((record.filename, record.caption) for record in read_odvg(truth))


def check_inputs(config: SelfTrainConfig, source: Source, truth: BenchmarkData | None) -> None:
    """Raises the InputErrors that later stages would raise only after images were labelled or a model was trained.

    truth: the data that evaluate the rounds, if there are any.
    """
    if source.images.resolve() == config.train.work_dir.resolve():
        what = "is the folder of the images"
        raise InputError(config.train.work_dir, what, "expected another train.work_dir: curves.png would be an image")
    for view in config.labelling.views:
        config.labelling.with_model(config.start.source, config.start.text_encoder, view)  # which checks the settings
    names = None if source.label_map is None else read_label_map(source.label_map)
    if source.label_map is not None and names is not None:
        check_policy_names([*names.values(), *config.policy.distractors], config.policy)
        check_prompt(source.label_map, config.policy.distractors)
        if config.labelled is not None:
            check_known_labels(config.labelled.annotations, source.images, tuple(names.values()), source.annotations)
        if config.distill is not None:
            check_student(config.distill.start, tuple(names.values()), config.distill.onnx)
    _check_corrections(config.policy, source.annotations, names)
    if truth is not None:
        classes = config.distill and names and tuple(names.values())
        check_truth(truth, config.evaluated_categories, classes or None)
    _check_training(config.train, mixes=config.labelled is not None or bool(config.rounds and config.ratio))
    if config.labelling.workers.runner == "threads":
        for device in config.labelling.workers.devices:
            choose_device(device)


def _check_training(train: TrainConfig, mixes: bool) -> None:
    """mixes: whether a training uses the pretraining data."""
    if train.data is not None:
        raise InputError("train.data", "is set", "expected pretraining data as [[train.datasets]]")
    choose_device(train.device)
    check_devices(train.processes, train.device)
    if train.datasets and mixes:
        check_data(train)


def _check_corrections(policy: Policy, annotations: Path, names: Mapping[int, str] | None) -> None:
    """Raises InputError if a person's corrections do not belong to these images and categories."""
    label_map = None if names is None else {str(label): name for label, name in names.items()}
    check = partial(check_lines, annotations, label_map)
    reviewed_truth(policy, corrections_for(reviewed_path(annotations), 1, check), 1, check)
