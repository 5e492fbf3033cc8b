"""Selects images of a folder or an ODVG file by their appearance, or by features of a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from flows.curation.fingerprints import Fingerprint, fingerprint, fingerprint_images
from flows.curation.similarity import most_similar, select_diverse
from flows.labelling.manifest import read_manifest
from formats.candidates import read_image_features
from formats.images import list_images, read_images
from formats.io.errors import InputError, did_you_mean
from formats.io.plurals import many
from formats.odvg import read_odvg
from formats.record import Record


def select_images(
    source: str | Path,
    count: int,
    *,
    images: str | Path | None = None,
    like: str | Path | None = None,
    beside: str | Path | None = None,
    progress: bool = True,
) -> list[Record]:
    """The records of `count` images, in the order of selection: the most similar to an example, or a diverse set.

    source: an image folder, whose records are unlabelled, or an ODVG file with the image folder `images`. like: an
    image file, or a file name of the source, as the example. beside: an ODVG file with images that are already
    selected. Images that cannot be read are skipped. Raises InputError if fewer than `count` images are available.
    """
    records, folder = _records(Path(source), images)
    outcomes = fingerprint_images(folder, list(records), progress)
    seen = [outcome for outcome in outcomes if isinstance(outcome, Fingerprint)]
    features = np.stack([image.appearance for image in seen]) if seen else np.zeros((0, 1), np.float32)
    names = [image.filename for image in seen]
    if like is not None and str(like) not in names:
        example = _example(folder, str(like))
        _check_count(count, len(names), folder)
        return [records[names[index]] for index in most_similar(features, example, count)]
    return _selected(records, names, features, source, count, None if like is None else str(like), beside)


def select_labelled(
    work_dir: str | Path,
    count: int,
    *,
    like: str | None = None,
    beside: str | Path | None = None,
) -> list[Record]:
    """Like select_images, for the images of a labelling, by the features of its model; no image is read.

    work_dir: of `groundhog infer`. like: a file name of its source. Returns records of the source. Also raises
    InputError for a labelling without features, made by an older version or another kind of detector.
    """
    manifest = read_manifest(work_dir)
    shards = [read_image_features(manifest.shard_path(shard.index)) for shard in manifest.shards]
    by_name = {each.filename: each.feature for shard in shards for each in shard}
    records = {record.filename: record for record in read_odvg(manifest.source) if record.filename in by_name}
    if not records:
        remedy = "label it again in another folder, or name SOURCE in place of --work-dir to compare appearance"
        raise InputError(work_dir, "its candidates contain no image features", remedy)
    if len({len(by_name[name]) for name in records}) > 1:
        raise InputError(work_dir, "contains features of several lengths", "label it again in another folder")
    features = _centred(np.stack([by_name[name] for name in records]))
    return _selected(records, list(records), features, work_dir, count, like, beside)


def _centred(features: np.ndarray) -> np.ndarray:
    """(N, D), with the mean subtracted and scaled to length 1, so that distances compare directions."""
    values = np.nan_to_num(features.astype(np.float32))
    values -= values.mean(axis=0)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-6)


def _selected(
    records: Mapping[str, Record],
    names: list[str],
    features: np.ndarray,
    source: str | Path,
    count: int,
    like: str | None,
    beside: str | Path | None,
) -> list[Record]:
    """Selects among the rows of features (N, D), whose file names are `names`."""
    if like is not None:
        if like not in names:
            meant = did_you_mean(names, like)
            raise InputError(like, f"is not an image of {source}", meant or "expected one of its file names")
        _check_count(count, len(names), source)
        chosen = most_similar(features, features[names.index(like)], count)
    else:
        taken = {record.filename for record in read_odvg(beside)} if beside is not None else set()
        start = [index for index, name in enumerate(names) if name in taken]
        _check_count(count, len(names) - len(start), source)
        chosen = select_diverse(features, count, start)
    return [records[names[index]] for index in chosen]


def _records(source: Path, images: str | Path | None) -> tuple[dict[str, Record], Path]:
    if source.is_dir():
        return {record.filename: record for record in read_images(source, lambda problem: None)}, source
    if images is None:
        raise InputError(source, "is a file", "expected the folder of its images: images=FOLDER")
    return {record.filename: record for record in read_odvg(source)}, Path(images)


def _example(folder: Path, like: str) -> np.ndarray:
    """The appearance features of an image file."""
    if not Path(like).is_file():
        meant = did_you_mean(list_images(folder), like)
        raise InputError(like, "is neither an image of the source nor a file", meant or "expected one of them")
    return fingerprint(Path(like)).appearance


def _check_count(count: int, left: int, source: str | Path) -> None:
    if count > left:
        raise InputError(source, f"{many(count, 'image')} requested, {left} available", f"expected at most {left}")
