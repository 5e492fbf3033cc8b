"""Selects images of a folder or an ODVG file by their appearance, or by features of a model."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from flows.curation.fingerprints import Fingerprint, fingerprint, fingerprint_images
from flows.curation.similarity import most_similar, select_diverse
from flows.labelling.manifest import read_manifest
from formats.candidates import read_image_features
from formats.images import check_folder, list_images, read_images
from formats.io.errors import InputError, did_you_mean
from formats.io.plurals import many, verb
from formats.odvg import read_odvg
from formats.record import Record

_log = logging.getLogger(__name__)


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

    An image with several records, such as captions, is one image, and all of them are returned.
    source: image folder, whose records are unlabelled, or an ODVG file; `images` is its image folder then. like: an
    image file, or a filename of the source. beside: an ODVG file whose images of the source are selected already.
    Images that cannot be read are skipped, and counted in a warning. Raises InputError if fewer than `count` images can
    be selected, and if `beside` has no image of the source.
    """
    records, folder = _records(Path(source), images)
    check_folder(folder)
    outcomes = fingerprint_images(folder, list(records), progress)
    seen = [outcome for outcome in outcomes if isinstance(outcome, Fingerprint)]
    if unread := len(records) - len(seen):
        _log.warning("%s: %s cannot be read, and %s skipped", folder, many(unread, "image"), verb(unread, "is", "are"))
    features = np.stack([image.appearance for image in seen]) if seen else np.zeros((0, 1), np.float32)
    names = [image.filename for image in seen]
    if like is not None and str(like) not in names:
        example = _example(folder, str(like))
        _check_count(count, len(names), folder)
        return _in_order(records, [names[index] for index in most_similar(features, example, count)])
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
    records = _by_name(record for record in read_odvg(manifest.source) if record.filename in by_name)
    if not records:
        remedy = "pass SOURCE instead of --work-dir to compare by appearance, or label it again in another folder"
        what = "its candidates contain no image features, as those of small detectors and of older versions do not"
        raise InputError(work_dir, what, remedy)
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
    records: Mapping[str, Sequence[Record]],
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
        if beside is not None and not start:
            raise InputError(beside, f"has no image of {source}", "expected images of it that are selected already")
        _check_count(count, len(names) - len(start), source)
        chosen = select_diverse(features, count, start)
    return _in_order(records, [names[index] for index in chosen])


def _records(source: Path, images: str | Path | None) -> tuple[dict[str, list[Record]], Path]:
    if source.is_dir():
        return _by_name(read_images(source, _warn)), source
    if not source.exists():
        raise InputError(source, "does not exist", "expected an image folder, or an ODVG file with images=FOLDER")
    if images is None:
        raise InputError(source, "is a file", "expected the folder of its images: images=FOLDER")
    return _by_name(read_odvg(source)), Path(images)


def _warn(problem: InputError) -> None:
    _log.warning("skipped: %s: %s", problem.location, problem.what)


def _by_name(records: Iterable[Record]) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(record.filename, []).append(record)
    return found


def _in_order(records: Mapping[str, Sequence[Record]], names: Iterable[str]) -> list[Record]:
    return [record for name in names for record in records[name]]


def _example(folder: Path, like: str) -> np.ndarray:
    """The appearance features of an image file."""
    if not Path(like).is_file():
        meant = did_you_mean(list_images(folder), like)
        raise InputError(like, "is neither an image of the source nor a file", meant or "expected one of them")
    return fingerprint(Path(like)).appearance


def _check_count(count: int, left: int, source: str | Path) -> None:
    if count > left:
        raise InputError(source, f"{many(count, 'image')} requested, {left} available", f"expected at most {left}")
