"""Finds the files of a split of a Hugging Face data set, and reads their rows and the images inside Parquet.

A split is one metadata.jsonl (or metadata.parquet) beside its images, or Parquet files that may contain the images:
train/metadata.jsonl, data/train-00000-of-00002.parquet, train/0000.parquet.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from formats.images import image_header, safe_join, with_slashes
from formats.io.errors import InputError, expected_one_of
from formats.io.files import read_text, write_whole
from formats.io.values import parse_json
from formats.omissions import Omissions

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

METADATA = "metadata.jsonl"
_METADATA_NAMES = (METADATA, "metadata.parquet")
_SHARD = re.compile(r"(?P<split>.+?)-\d{5}-of-\d{5}(-[0-9a-f]+)?")
_ONLY_SPLIT = "train"  # the name that `datasets` gives to the split of a folder without splits
_BATCH, _IMAGES_AT_ONCE = 1000, 16  # rows in memory, without and with their images
_READ = ("file_name", "width", "height", "objects")
_KNOWN = frozenset({*_READ, "image", "image_id"})
_SUFFIXES = {"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "GIF": ".gif"}
_SUFFIXES |= {"TIFF": ".tif"}
_FEATURES_KEY = b"huggingface"  # in Parquet's own metadata, where `datasets` declares the columns
_EXPECTED = "expected Parquet files or a metadata.jsonl, as `datasets` reads them"


class TableRow(NamedTuple):
    """A row. number: in its split, from 0. values: {column: value}, or the text of a line. folder: of its file."""

    number: int
    values: Mapping[str, Any] | str
    location: str
    folder: Path

    def columns(self) -> Mapping[str, Any]:
        """The values by column. Raises InputError for a line that is not a JSON object."""
        if not isinstance(self.values, str):
            return self.values
        try:
            values = json.loads(self.values)
        except (ValueError, RecursionError) as error:
            raise InputError(self.location, f"is not JSON ({error})", "expected one JSON object per line") from None
        if not isinstance(values, dict):
            raise InputError(self.location, "is not an object", 'expected {"file_name": "a.jpg", "objects": {...}}')
        return values


def holds_split(folder: Path) -> bool:
    """Whether a folder looks like a Hugging Face data set."""
    return any((folder / name).is_file() for name in _METADATA_NAMES) or bool(_splits(folder))


def files_of_split(path: str | Path, split: str | None = None) -> list[Path]:
    """The files of a split of a folder, or [path] for a file. A folder with a single split needs no `split`.

    Raises InputError if there are no files, if there are several splits and none is named, or if the files of the split
    are in several folders.
    """
    path = Path(path)
    if not path.is_dir():
        if split is not None:
            raise InputError("--split", f"is {split!r}, but {path} is a file", "leave it out, or pass the folder")
        return [path]
    splits = _splits(path)
    if not splits:
        raise InputError(path, "has no metadata.jsonl and no Parquet files", _EXPECTED)
    if split is None and len(splits) > 1:
        raise InputError(path, f"has the splits {', '.join(splits)}", "expected one of them: --split NAME")
    name = next(iter(splits)) if split is None else split
    if name not in splits:
        raise InputError(path, f"has no split {name!r}", expected_one_of(splits, name))
    if len(folders := {file.parent for file in splits[name]}) > 1:
        listed = ", ".join(sorted(str(each.relative_to(path)) for each in folders))
        raise InputError(path, f"has split {name} in several folders: {listed}", "pass one of these folders")
    return splits[name]


def _splits(folder: Path) -> dict[str, list[Path]]:
    for name in _METADATA_NAMES:
        if (metadata := folder / name).is_file():
            return {_ONLY_SPLIT: [metadata]}
    found: dict[str, list[Path]] = {}
    for file in sorted([*folder.rglob(METADATA), *folder.rglob("*.parquet")]):
        if not any(part.startswith(".") for part in file.relative_to(folder).parts):
            found.setdefault(_split_of(file, folder), []).append(file)
    return found


def _split_of(file: Path, folder: Path) -> str:
    if (shard := _SHARD.fullmatch(file.stem)) is not None:
        return shard["split"]
    if file.name in _METADATA_NAMES or file.stem.isdigit():
        return _ONLY_SPLIT if file.parent == folder else file.parent.name
    return file.stem


class HubSplit:
    """A split of a data set. Raises InputError if its files cannot be read."""

    def __init__(self, path: str | Path, split: str | None = None) -> None:
        self.files = files_of_split(path, split)
        self.first = self.files[0]
        self.in_tables = self.first.suffix == ".parquet"

    def rows(self, omissions: Omissions | None = None) -> Iterator[TableRow]:
        """Yields every row, including the bytes of its image if only they have its size or format.

        omissions: counts each unread column, once per row.
        """
        number = 0
        for file in self.files:
            for location, values in self._rows_of(file, omissions):
                yield TableRow(number, values, location, file.parent)
                number += 1

    def _rows_of(self, file: Path, omissions: Omissions | None) -> Iterator[tuple[str, Mapping[str, Any] | str]]:
        if not self.in_tables:
            for number, text in enumerate(read_text(file, "expected JSON Lines").split("\n"), 1):
                if text.strip():
                    yield f"{file}:{number}", text
            return
        with _opened(file) as table:
            if omissions is not None:
                unread = [name for name in table.schema_arrow.names if name not in _KNOWN]
                omissions.update({f"{name} of lines": table.metadata.num_rows for name in unread})
            for index, values in enumerate(_table_rows(table, self._needs_bytes)):
                yield f"{file}: row {index}", values

    def filename(self, row: TableRow, columns: Mapping[str, Any]) -> str:
        """The file name of a row's image, relative to the folder of the images.

        An image inside a table keeps its name without folders, preceded by the row's number if the name is not unique;
        one without a name is named after that number.
        """
        image = columns.get("image")
        name = columns.get("file_name") or (image.get("path") if isinstance(image, dict) else image)
        name = with_slashes(name) if isinstance(name, str) else ""
        if not self.embedded:
            if not name:
                raise InputError(row.location, "has no file_name", 'expected {"file_name": "a.jpg", "objects": {...}}')
            return name
        name = PurePosixPath(name).name
        if not name:
            return f"{row.number:06d}{_SUFFIXES.get(self.header(row, columns).format, '')}"
        return f"{row.number:06d}_{name}" if name in self._shared_names else name

    def header(self, row: TableRow, columns: Mapping[str, Any]) -> Any:
        """Size and format of the image inside a row. Raises InputError if the row contains none."""
        return image_header(BytesIO(_content(row, columns)), row.location)

    @cached_property
    def embedded(self) -> bool:
        """Whether the rows contain their images."""
        if not self.in_tables:
            return False
        with _opened(self.first) as table:
            if "image.bytes" not in _columns(table, with_bytes=True):
                return False
            first = next(_table_rows(table, True, 1), None)
        return first is not None and bool(_image_part(first, "bytes"))

    @cached_property
    def _names(self) -> Counter[str]:
        """Counts of the names of images inside the tables, without folders; "" for those without a name."""
        counts: Counter[str] = Counter()
        for file in self.files if self.embedded else ():
            with _opened(file) as table:
                columns = [name for name in _columns(table) if name == "image.path"]
                rows = _table_rows(table, False, columns=columns) if columns else ({} for _ in range(1))
                paths = (_image_part(values, "path") for values in rows)
                counts.update(PurePosixPath(with_slashes(each)).name if isinstance(each, str) else "" for each in paths)
        return counts

    @cached_property
    def _shared_names(self) -> frozenset[str]:
        return frozenset(name for name, count in self._names.items() if count > 1)

    @cached_property
    def _needs_bytes(self) -> bool:
        with _opened(self.first) as table:
            has_size = {"width", "height"}.issubset(table.schema_arrow.names)
        return self.embedded and (not has_size or self._names[""] > 0)

    def features(self) -> Any:
        """The features that `datasets` declares in Parquet's metadata; None if there are none."""
        if not self.in_tables:
            return None
        with _opened(self.first) as table:
            declared = (table.schema_arrow.metadata or {}).get(_FEATURES_KEY)
        value = None if declared is None else parse_json(declared, self.first, "expected the metadata of `datasets`")
        info = value.get("info") if isinstance(value, dict) else None
        return info.get("features") if isinstance(info, dict) else None

    def save_images(self, folder: str | Path, only: Collection[str] | None = None) -> int:
        """Writes the images inside the rows under the names of `filename`; returns their number.

        only: write only these names. Raises InputError if the images are separate files already.
        """
        if not self.embedded:
            raise InputError(self.first, "contains no images", "leave --save-images out: they are files beside it")
        count = number = 0
        for file in self.files:
            with _opened(file) as table:
                for values in _table_rows(table, True, _IMAGES_AT_ONCE):
                    row = TableRow(number, values, f"{file}: row {number}", file.parent)
                    number += 1
                    if only is None or self.filename(row, values) in only:
                        _write_image(safe_join(folder, self.filename(row, values)), _content(row, values))
                        count += 1
        return count


def _write_image(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_whole(path, "wb") as stream:
        stream.write(content)


def _content(row: TableRow, columns: Mapping[str, Any]) -> bytes:
    content = _image_part(columns, "bytes")
    if not isinstance(content, bytes) or not content:
        raise InputError(row.location, "contains no image", "expected its bytes, as in the other rows")
    return content


def _image_part(values: Mapping[str, Any], part: str) -> Any:
    image = values.get("image")
    return image.get(part) if isinstance(image, dict) else None


def _columns(table: ParquetFile, with_bytes: bool = False) -> list[str]:
    """The columns of a table to read, as Parquet column paths."""
    import pyarrow

    schema = table.schema_arrow
    columns = [name for name in _READ if name in schema.names]
    if schema.names.count("image") == 1:
        kind = schema.field("image").type
        parts = ["path", "bytes"] if with_bytes else ["path"]
        if pyarrow.types.is_struct(kind):
            columns += [f"image.{part}" for part in parts if kind.get_field_index(part) >= 0]
        else:
            columns.append("image")
    return columns


def _table_rows(
    table: ParquetFile, with_bytes: bool, batch: int | None = None, columns: Sequence[str] | None = None
) -> Iterator[dict[str, Any]]:
    batch = batch or (_IMAGES_AT_ONCE if with_bytes else _BATCH)
    chosen = _columns(table, with_bytes) if columns is None else list(columns)
    for part in table.iter_batches(batch, columns=chosen, use_threads=False):
        yield from part.to_pylist()


@contextmanager
def _opened(file: Path) -> Iterator[ParquetFile]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file, pre_buffer=False) as table:
            yield table
    except FileNotFoundError:
        raise InputError(file, "does not exist", _EXPECTED) from None
    except (OSError, pyarrow.ArrowException, UnicodeDecodeError, OverflowError) as error:
        raise InputError(file, f"cannot be read as Parquet ({error})", _EXPECTED) from error
