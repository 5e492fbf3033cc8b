"""The candidates of one shard of lines, all boxes that the model scored above the floor, as a Parquet file.

A row is a box. An image that could not be read is a row with a problem and no box; an image in which nothing was found
has no row. Each image may have another row with the model's feature vector of it. The file's metadata contains the
manifest's key, which identifies the model, prompt and settings, and a checksum over every byte. Equal candidates give
equal bytes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from formats.io.errors import InputError, located
from formats.io.files import write_whole
from formats.io.storage import as_path

if TYPE_CHECKING:
    import pandas as pd

_KEY = b"groundhog.key"
# The last entry of the footer is the SHA-256 of the whole file, computed with zeros in place of the digest.
_CHECKSUM_KEY, _CHECKSUM_SIGN = "groundhog.sha256", "of the whole file: "
_NO_CHECKSUM = b"0" * 64
_CHECKSUM = re.compile(rb"groundhog\.sha256.{1,8}of the whole file: ([0-9a-f]{64})", re.DOTALL)
_REMEDY = "delete it and run infer again"
_SIDES = ("x1", "y1", "x2", "y2")
_SCHEMA = pa.schema(
    [
        pa.field("line", pa.int64(), nullable=False),
        pa.field("filename", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("region", pa.int32()),
        *(pa.field(side, pa.float32()) for side in _SIDES),
        pa.field("score", pa.float32()),
        pa.field("problem", pa.string()),
    ]
)
_FEATURE = pa.field("feature", pa.list_(pa.float16()))  # not in every file


class ImageProblem(NamedTuple):
    """An image without candidates, and why. line: in the source file, from 0, counting blank lines."""

    line: int
    filename: str
    reason: str


class ImageFeature(NamedTuple):
    """The model's feature vector of a whole image, used to compare images. line: as in ImageProblem."""

    line: int
    filename: str
    feature: np.ndarray  # (D,) float16


class ImageCandidates(NamedTuple):
    """The candidates of one image. K boxes; fields as in Candidates."""

    line: int
    filename: str
    region: np.ndarray  # (K,) int32
    box: np.ndarray  # (K, 4) float32
    score: np.ndarray  # (K,) float32


@dataclass(frozen=True, eq=False)
class Candidates:
    """The candidates of one shard, as arrays, in the order of their lines. N boxes.

    line      (N,) int64, the image's line in the source file, from 0, counting blank lines
    filename  (N,) object (str), the image's file name; equal names share one object
    region    (N,) int32, index of the category in the prompt, or of the region in the caption
    box       (N, 4) float32, x1, y1, x2, y2 in pixels of the stored image
    score     (N,) float32, 0..1
    problems  images that could not be labelled
    """

    line: np.ndarray
    filename: np.ndarray
    region: np.ndarray
    box: np.ndarray
    score: np.ndarray
    problems: tuple[ImageProblem, ...] = ()

    def __post_init__(self) -> None:
        shapes = {"line": (len(self),), "filename": (len(self),), "region": (len(self),), "score": (len(self),)}
        for name, shape in {**shapes, "box": (len(self), 4)}.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} has shape {getattr(self, name).shape}; expected {shape}")
        if len(self) and (np.diff(self.line) < 0).any():
            raise ValueError("lines go back; expected them in ascending order")

    def __len__(self) -> int:
        """How many boxes."""
        return len(self.line)

    @classmethod
    def of_images(cls, images: Iterable[ImageCandidates], problems: Iterable[ImageProblem] = ()) -> Candidates:
        """Joins the candidates of images in the order of their lines. Fields may be arrays or sequences."""
        ordered = sorted(images, key=lambda image: image.line)
        counts = [len(image.score) for image in ordered]
        filenames = np.empty(len(ordered), dtype=object)
        filenames[:] = [image.filename for image in ordered]
        return cls(
            line=np.repeat(np.array([image.line for image in ordered], dtype=np.int64), counts),
            filename=np.repeat(filenames, counts),
            region=_joined([image.region for image in ordered], np.int32),
            box=_joined(
                [np.reshape(np.asarray(image.box, np.float32), (-1, 4)) for image in ordered], np.float32, (0, 4)
            ),
            score=_joined([image.score for image in ordered], np.float32),
            problems=tuple(sorted(problems)),
        )

    def by_line(self) -> Iterator[ImageCandidates]:
        """The images that have candidates, in the order of their lines; the arrays are views."""
        starts = np.flatnonzero(np.diff(self.line, prepend=-1))
        for start, end in zip(starts, [*starts[1:], len(self)]):
            rows = slice(start, end)
            yield ImageCandidates(
                int(self.line[start]), self.filename[start], self.region[rows], self.box[rows], self.score[rows]
            )

    def to_frame(self) -> pd.DataFrame:
        """One row per box: line, filename, region, x1, y1, x2, y2, score. Problems are not included."""
        import pandas as pd  # imported here, since it is slow to import

        sides = {side: self.box[:, index] for index, side in enumerate(_SIDES)}
        columns = {"line": self.line, "filename": self.filename, "region": self.region, **sides, "score": self.score}
        return pd.DataFrame(columns)


def _joined(parts: Sequence, dtype: type, empty: tuple[int, ...] = (0,)) -> np.ndarray:
    return np.concatenate([np.asarray(part, dtype) for part in parts]) if parts else np.zeros(empty, dtype)


def write_candidates(path: str | Path, candidates: Candidates, key: str, features: Sequence[ImageFeature] = ()) -> None:
    """Writes the candidates of one shard with the manifest's key, atomically. features: of images, in any order."""
    boxes, problems = len(candidates), candidates.problems
    line = np.concatenate([candidates.line, np.array([problem.line for problem in problems], np.int64)])
    columns = [
        _numbers(line, pa.int64()),
        _dictionary([*candidates.filename, *(problem.filename for problem in problems)]),
        _padded(candidates.region, len(problems), pa.int32()),
        *(_padded(candidates.box[:, side], len(problems), pa.float32()) for side in range(4)),
        _padded(candidates.score, len(problems), pa.float32()),
        pa.concat_arrays([pa.nulls(boxes, pa.string()), _texts([problem.reason for problem in problems])]),
    ]
    table = pa.table(columns, schema=_SCHEMA.with_metadata({_KEY: key.encode()}))
    if features:
        table = _with_features(table, sorted(features, key=lambda each: each.line))
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink,
        table.schema,
        compression="zstd",
        use_dictionary=["filename"],  # boxes and scores hardly repeat
        write_page_checksum=True,
    ) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({_CHECKSUM_KEY: _CHECKSUM_SIGN + _NO_CHECKSUM.decode()})
    content = sink.getvalue().to_pybytes()
    with write_whole(path, "wb") as stream:
        stream.write(_with_checksum(content))


def _with_checksum(content: bytes) -> bytes:
    """The bytes of the file with the checksum in place of the zeros."""
    *_, match = _CHECKSUM.finditer(content)
    return content[: match.start(1)] + hashlib.sha256(content).hexdigest().encode() + content[match.end(1) :]


def is_intact(content: bytes) -> bool:
    """Whether the bytes of a file are those that were written. True for shards of versions that wrote no checksum.

    Parquet's page checksums cover neither page headers nor the footer. Two strings mark our checksum, so that damage
    to one of them does not make the file look like one without a checksum.
    """
    matches = list(_CHECKSUM.finditer(content))
    if not matches:
        return not (_CHECKSUM_KEY.encode() in content or _CHECKSUM_SIGN.encode() in content)
    start, end = matches[-1].span(1)
    digest = hashlib.sha256(content[:start])
    digest.update(_NO_CHECKSUM)
    digest.update(content[end:])
    return digest.hexdigest().encode() == matches[-1][1]


def _with_features(table: pa.Table, features: Sequence[ImageFeature]) -> pa.Table:
    """The table, followed by a row for each feature, in which the box columns are null."""
    ends = np.cumsum([0, *(len(each.feature) for each in features)]).astype(np.int32)
    values = np.concatenate([np.asarray(each.feature, np.float16) for each in features])
    known = {
        "line": _numbers(np.array([each.line for each in features]), pa.int64()),
        "filename": _dictionary([each.filename for each in features]),
        _FEATURE.name: pa.ListArray.from_arrays(_numbers(ends, pa.int32()), _numbers(values, pa.float16())),
    }
    schema = table.schema.append(_FEATURE)
    columns = [known[field.name] if field.name in known else pa.nulls(len(features), field.type) for field in schema]
    above = table.append_column(_FEATURE, pa.nulls(len(table), _FEATURE.type))
    return pa.concat_tables([above, pa.table(columns, schema=schema)]).unify_dictionaries()


def _padded(values: np.ndarray, missing: int, arrow_type: pa.DataType) -> pa.Array:
    """The values, followed by a null for each problem."""
    return pa.concat_arrays([_numbers(values, arrow_type), pa.nulls(missing, arrow_type)])


# Arrow's own conversions from and to Python import pandas, half a second; these share or copy the buffers.


def _numbers(values: np.ndarray, arrow_type: pa.DataType) -> pa.Array:
    values = np.ascontiguousarray(values, arrow_type.to_pandas_dtype())
    return pa.Array.from_buffers(arrow_type, len(values), [None, pa.py_buffer(values)])


def _texts(texts: Sequence[str]) -> pa.Array:
    encoded = [text.encode() for text in texts]
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
    return pa.Array.from_buffers(pa.string(), len(texts), [None, pa.py_buffer(ends), pa.py_buffer(b"".join(encoded))])


def _dictionary(texts: Sequence[str]) -> pa.Array:
    """Each distinct text once, in the order of their first places."""
    places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    indices = np.array([places[text] for text in texts], np.int32)
    return pa.DictionaryArray.from_arrays(_numbers(indices, pa.int32()), _texts(list(places)))


def _array_of(column: pa.ChunkedArray) -> np.ndarray:
    """Numbers without nulls, copied."""
    return np.concatenate([np.empty(0, column.type.to_pandas_dtype()), *map(np.from_dlpack, column.chunks)])


def read_candidates(path: str | Path) -> Candidates:
    """Reads what write_candidates wrote. Raises InputError if the file is missing or damaged."""
    table = _read_table(path)
    problem_rows = table.filter(table["problem"].is_valid()).select(["line", "filename", "problem"])
    problems = tuple(map(ImageProblem, *(column.to_pylist() for column in problem_rows.columns)))
    table = table.filter(table["problem"].is_null())
    if _FEATURE.name in table.schema.names:
        table = table.filter(table[_FEATURE.name].is_null()).drop_columns([_FEATURE.name])
    if nulls := [name for name in table.schema.names if name != "problem" and table[name].null_count]:
        raise InputError(path, f"has boxes without {', '.join(nulls)}", _REMEDY)
    with located(path):
        return Candidates(
            line=_array_of(table["line"]),
            filename=_shared_strings(table["filename"]),
            region=_array_of(table["region"]),
            box=np.stack([_array_of(table[side]) for side in _SIDES], axis=1),
            score=_array_of(table["score"]),
            problems=problems,
        )


def read_image_features(path: str | Path) -> list[ImageFeature]:
    """The features of the images of a shard, in the order of their lines; [] if it was written without.

    Raises InputError if the file is missing or damaged.
    """
    table = _read_table(path)
    if _FEATURE.name not in table.schema.names:
        return []
    table = table.filter(table[_FEATURE.name].is_valid()).select(["line", "filename", _FEATURE.name])
    if any(column.null_count for column in table.columns):
        raise InputError(path, "has a feature without an image", _REMEDY)
    values = [np.array(np.from_dlpack(row.values)) for row in table[_FEATURE.name]]
    return list(map(ImageFeature, table["line"].to_pylist(), table["filename"].to_pylist(), values))


def candidates_key(path: str | Path) -> str | None:
    """The manifest's key, if the file is complete; None if it is missing, truncated or damaged.

    The whole file is read and its checksum verified, because a shard with the right key is not labelled again.
    """
    try:
        return (_read_table(path).schema.metadata or {})[_KEY].decode()
    except (InputError, KeyError, UnicodeDecodeError):
        return None


def _read_table(path: str | Path) -> pa.Table:
    try:
        content = as_path(path).read_bytes()
        if not is_intact(content):
            raise InputError(path, "is damaged: its checksum does not match", _REMEDY)
        # Without Arrow's threads: one that still holds a Python buffer at exit aborts the interpreter.
        file = pq.ParquetFile(pa.BufferReader(content), pre_buffer=False, page_checksum_verification=True)
        table = file.read(use_threads=False)
    except FileNotFoundError:
        raise InputError(path, "does not exist", "run infer first") from None
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise InputError(path, f"cannot be read as Parquet ({error})", _REMEDY) from error
    if table.schema.names not in (_SCHEMA.names, [*_SCHEMA.names, _FEATURE.name]):
        raise InputError(path, f"has the columns {table.schema.names}", f"expected {_SCHEMA.names}; {_REMEDY}")
    if other := [field.name for field, ours in zip(table.schema, [*_SCHEMA, _FEATURE]) if field.type != ours.type]:
        raise InputError(path, f"has values of another type in {', '.join(other)}", _REMEDY)
    return table


def _shared_strings(column: pa.ChunkedArray) -> np.ndarray:
    """(N,) object: a dictionary-encoded column with one Python string for each distinct value."""
    parts = [np.empty(0, object)]
    for chunk in column.chunks:
        names = np.empty(len(chunk.dictionary), object)
        names[:] = chunk.dictionary.to_pylist()
        parts.append(names[np.from_dlpack(chunk.indices)])
    return np.concatenate(parts)
