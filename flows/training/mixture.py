"""Mixes pseudo-labels with pretraining data at a given ratio, by weighting data sets; nothing is copied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from flows.labelling.manifest import read_lines
from formats.io.errors import InputError
from formats.io.files import write_json
from formats.odvg_lines import is_quarantined
from formats.record import shortened
from grounding_model.data.sources import CocoData, GlyphData, OdvgData, TrainingData, open_dataset


def merge(
    pseudo: OdvgData | Sequence[OdvgData],
    pretraining: Sequence[TrainingData] = (),
    ratio: float = 1.0,
    out: str | Path | None = None,
) -> tuple[TrainingData, ...]:
    """The data sets of a training: pseudo-labels, and pretraining data weighted relative to them.

    pseudo: one data set, or several with their weights.
    ratio: pretraining images per pseudo-labelled image in an epoch; 0 omits the pretraining data. The proportions among
    pretraining data sets follow from their sizes and weights. out: JSON file that records the mixture.
    Raises InputError if there is nothing to mix, and for an argument that is not a data set, such as a path.
    """
    if not isinstance(pseudo, OdvgData | list | tuple):
        _check_data_set(pseudo)
    labelled: tuple[OdvgData, ...] = (pseudo,) if isinstance(pseudo, OdvgData) else tuple(pseudo)
    if not labelled:
        raise InputError("pseudo", "is empty", "expected OdvgData(annotations, image_root, label_map)")
    for data in (*labelled, *pretraining):
        _check_data_set(data)
    if ratio < 0:
        raise InputError(
            "ratio", f"{ratio} is negative", "expected 0 or more pretraining images per pseudo-labelled one"
        )
    for data in labelled:
        if not count_images(data):
            raise InputError(data.annotations, "has no line to train on", "expected labels")
    mixture: tuple[TrainingData, ...] = labelled
    if ratio and pretraining:
        offered = sum(data.weight * count_images(data) for data in pretraining)
        if not offered:
            raise InputError("pretraining", "its weights leave no image", "expected larger weights, or ratio 0")
        share = ratio * sum(data.weight * count_images(data) for data in labelled) / offered
        mixture += tuple(replace(data, weight=data.weight * share) for data in pretraining)
    if out is not None:
        recorded = [asdict(data) | {"images": count_images(data)} for data in mixture]
        write_json(out, {"ratio": ratio, "datasets": recorded}, default=str)
    return mixture


def _check_data_set(data: object) -> None:
    if not isinstance(data, OdvgData | CocoData | GlyphData):
        what = f"{shortened(data)} is not a data set"
        raise InputError("merge", what, "expected OdvgData(annotations, image_root, label_map)")


def count_images(data: TrainingData) -> int:
    """The number of images for training: lines that are not quarantined, or scenes."""
    if isinstance(data, GlyphData):
        return data.count
    if isinstance(data, CocoData):
        return len(open_dataset(data))
    if not data.annotations.is_file():
        raise InputError(data.annotations, "no such file", "expected an ODVG file")
    return sum(not is_quarantined(line.text) for line in read_lines(data.annotations))
