"""Reads GRIT (the grounded captions of Kosmos-2): lists of {"key", "caption", "height", "width", "ref_exps"}.

A referring expression is [start, end, x1, y1, x2, y2, score]: start and end in characters of the caption, the box in
fractions of the image.
"""

from __future__ import annotations

import json
import math
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from formats.coco import needed, size_of
from formats.io.errors import InputError, refused
from formats.io.json_stream import stream_json
from formats.omissions import Omissions, count_unread
from formats.record import Box, Record, Region, Span

_READ = frozenset({"key", "caption", "height", "width", "ref_exps", "status"})
_FETCHED = "success"
_PATTERNS = ("*.json", "*.parquet", "*.tar")
_EXPECTED = "expected a list of GRIT's samples, or a folder of such files"


def read_grit(source: str | Path, omissions: Omissions | None = None) -> Iterator[Record]:
    """Yields a record for each sample of a file, or of all files of a folder sorted by name.

    A file is a JSON list, or a shard that img2dataset makes from GRIT's published table, as Parquet or tar. If a folder
    has several kinds, only one is read: JSON, else Parquet, else tar. Samples whose image could not be fetched are left
    out and counted in `omissions`.

    File names are "images/00000/000000012.jpg", as in the reference (mmdet 3.3.0, grit2odvg.py). Scores are kept;
    boxes of the same span make one region. The reference also drops captions with non-English characters, with emoji,
    or of 240 tokens or more; here every sample is read.
    """
    path = Path(source)
    kinds = [_shards(path, pattern) for pattern in _PATTERNS] if path.is_dir() else [[path]]
    files = next((files for files in kinds if files), None)
    if files is None:
        raise InputError(path, f"contains none of {', '.join(_PATTERNS)}", _EXPECTED)
    for file in files:
        for sample, location in _samples(file):
            if not isinstance(sample, dict):
                raise InputError(location, f"is a JSON {type(sample).__name__}", "expected an object")
            if sample.get("status", _FETCHED) != _FETCHED:
                if omissions is not None:
                    omissions["samples whose image could not be fetched"] += 1
                continue
            count_unread(omissions, sample, _READ, "samples")
            yield _record(sample, location)


def _shards(folder: Path, pattern: str) -> list[Path]:
    # img2dataset writes *_stats.json beside its shards.
    return sorted(path for path in folder.glob(pattern) if not path.name.endswith("_stats.json"))


def _samples(file: Path) -> Iterator[tuple[Any, str]]:
    """Yields (sample, location) for each sample of a file."""
    if file.suffix == ".parquet":
        yield from _parquet_samples(file)
        return
    if file.suffix == ".tar":
        yield from _tar_samples(file)
        return
    items = stream_json(file, _EXPECTED)
    top = next(items).value
    if not isinstance(top, list):
        raise InputError(file, f"contains a JSON {type(top).__name__}", _EXPECTED)
    yield from ((item.value, f"{file}: sample {item.position}") for item in items)


def _parquet_samples(file: Path) -> Iterator[tuple[Any, str]]:
    try:
        with parquet.ParquetFile(file) as table:
            rows = (row for batch in table.iter_batches(1000) for row in batch.to_pylist())
            yield from ((row, f"{file}: row {index}") for index, row in enumerate(rows))
    except (OSError, pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise InputError(file, f"is not Parquet ({error})", _EXPECTED) from error


def _tar_samples(file: Path) -> Iterator[tuple[Any, str]]:
    """The .json file beside each image in the archive."""
    try:
        with tarfile.open(file) as shard:
            for member in shard:
                if member.isfile() and member.name.endswith(".json"):
                    stream = shard.extractfile(member)
                    yield json.loads(stream.read() if stream else b""), f"{file}: {member.name}"
    except (OSError, EOFError, tarfile.TarError, ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(file, f"cannot be read ({error})", _EXPECTED) from error


def _record(sample: Mapping, location: str) -> Record:
    key, caption = (needed(sample, name, location) for name in ("key", "caption"))
    if not isinstance(key, str) or not key or not isinstance(caption, str):
        raise InputError(location, f"key {key!r} or caption {caption!r} is not text", "expected texts")
    height, width = size_of(sample, location)
    try:
        regions = _regions(sample, caption, height, width, location)
        return Record(f"images/{key[:5]}/{key}.jpg", height, width, caption=caption, regions=regions)
    except InputError:
        raise
    except (ValueError, OverflowError) as error:  # OverflowError: a size that no float can hold
        raise refused(location, error) from error


def _regions(sample: Mapping, caption: str, height: int, width: int, location: str) -> tuple[Region, ...]:
    found: dict[Span, list[tuple[Box, float]]] = {}
    expressions = needed(sample, "ref_exps", location)
    if not isinstance(expressions, list):
        raise InputError(location, f"ref_exps {expressions!r} is not a list", "expected a list of expressions")
    for index, expression in enumerate(expressions):
        span, box, score = _expression(expression, f"{location}, ref_exps {index}")
        x1, y1, x2, y2 = box
        found.setdefault(span, []).append(((x1 * width, y1 * height, x2 * width, y2 * height), score))
    return tuple(
        Region(tuple(box for box, _ in boxes), (caption[slice(*span)],), (span,), tuple(score for _, score in boxes))
        for span, boxes in found.items()
    )


def _expression(value: Any, location: str) -> tuple[Span, Box, float]:
    want = "expected [start, end, x1, y1, x2, y2, score]"
    try:
        start, end, x1, y1, x2, y2, score = map(float, value)
    except (TypeError, ValueError, OverflowError):
        raise InputError(location, f"{value!r} is not seven numbers", want) from None
    if not all(map(math.isfinite, (start, end))) or not (start.is_integer() and end.is_integer()):
        raise InputError(location, f"span {start:g} to {end:g} is not in whole numbers", want)
    return (int(start), int(end)), (x1, y1, x2, y2), score
