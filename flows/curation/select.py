"""Selecting images of a folder or an ODVG file by what they look like."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from flows.curation.fingerprints import Fingerprint, fingerprint, fingerprint_images
from flows.curation.selection import most_similar, select_diverse
from formats.images import list_images, read_images
from formats.io.errors import InputError, did_you_mean
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
    """The records of `count` images: those most like an example, else a diverse set; in the order of selection.

    source: image folder, whose records are unlabelled, or an ODVG file; `images` is its image folder then. like: an
    image file, or a filename of the source. beside: an ODVG file whose images of the source are selected already.
    Images that cannot be read are passed over. Raises InputError where fewer than `count` images can be chosen.
    """
    records, folder = _records(Path(source), images)
    outcomes = fingerprint_images(folder, list(records), progress)
    seen = [outcome for outcome in outcomes if isinstance(outcome, Fingerprint)]
    features = np.stack([image.appearance for image in seen]) if seen else np.zeros((0, 1), np.float32)
    names = [image.filename for image in seen]
    if like is not None:
        chosen = _like(names, features, folder, str(like), count)
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


def _like(names: list[str], features: np.ndarray, folder: Path, like: str, count: int) -> list[int]:
    if like in names:
        example = features[names.index(like)]
    elif Path(like).is_file():
        example = fingerprint(Path(like)).appearance
    else:
        meant = did_you_mean(list_images(folder), like)
        raise InputError(like, "is not an image of the source, and no file", meant or "expected one of them")
    _check_count(count, len(names), folder)
    return most_similar(features, example, count)


def _check_count(count: int, left: int, source: str | Path) -> None:
    if count > left:
        raise InputError(source, f"{count} images wanted, {left} can be chosen", f"expected at most {left}")
