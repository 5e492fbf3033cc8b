"""Prepares the file that a loop labels, an ODVG file of images with categories or captions, or of drawn scenes."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from flows.evaluation.benchmarks import paths_of
from flows.labelling import bootstrap as bootstrapping
from flows.self_training.config import CaptionedImages, GlyphScenes, SelfTrainConfig
from formats.dataset_names import annotation_path, label_map_beside, label_map_path
from formats.io.errors import InputError
from formats.io.files import load_json, write_json, write_whole
from formats.label_map import read_label_map, write_label_map
from formats.odvg import read_odvg
from grounding_model.glyphs import write_scenes


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
