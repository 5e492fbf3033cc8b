"""Captions of images, from the files in which people keep them: CSV, JSON, or a text file beside each image."""

from __future__ import annotations

import json
import logging
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from formats.images import images_of_folder, with_slashes
from formats.io.errors import InputError
from formats.io.files import load_json
from formats.io.plurals import many
from formats.io.storage import as_path, is_address
from formats.io.values import describe_value

_log = logging.getLogger(__name__)

Captions = str | Path | Mapping[str, str | Sequence[str]]
Phrases = str | Path | Mapping[str, Sequence[str]]
FILENAME_COLUMNS = ("filename", "image", "file_name", "image_name")
CAPTION_COLUMNS = ("caption", "text", "comment")
_TABLES = ("metadata.jsonl", "metadata.csv")  # in an image folder of Hugging Face
EXPECTED_PHRASES = 'expected a JSON file such as {"a cat on a mat": ["a cat", "a mat"]}'


def read_phrases(phrases: Phrases) -> Mapping[str, Sequence[str]]:
    """Caption -> phrases. Raises InputError for a file that is not JSON of this form."""
    if isinstance(phrases, Mapping):
        return phrases
    entries = load_json(phrases, EXPECTED_PHRASES)
    if not isinstance(entries, dict):
        raise InputError(phrases, "not a mapping", EXPECTED_PHRASES)
    for caption, listed in entries.items():
        if not (isinstance(listed, list) and all(isinstance(phrase, str) for phrase in listed)):
            raise InputError(f"{phrases}[{caption!r}]", f"{listed!r}", EXPECTED_PHRASES)
    return entries


def read_captions(captions: Captions, images: str | Path) -> Iterator[tuple[str, str]]:
    """Yields (file name, caption) from any form that bootstrap_vg accepts, in a fixed order."""
    if isinstance(captions, Mapping):
        yield from _flatten(captions.items(), "captions")
        return
    path = as_path(captions)
    try:
        yield from _captions_of_files(path, images)
    except UnicodeDecodeError as error:
        raise InputError(path, f"is not UTF-8 ({error})", "save it as UTF-8") from None


def _captions_of_files(path: Path, images: str | Path) -> Iterator[tuple[str, str]]:
    if path.is_dir() and (tables := [path / name for name in _TABLES if (path / name).is_file()]):
        path = tables[0]
    if path.is_dir():
        yield from _captions_beside(path, images)
    elif not path.is_file():
        raise InputError(path, "no such file or folder", "expected a CSV, a JSON or a folder of .txt files")
    elif path.suffix.lower() in {".csv", ".tsv"}:
        yield from _captions_csv(path)
    elif path.suffix.lower() in {".json", ".jsonl"}:
        yield from _captions_json(path)
    else:
        raise InputError(
            path, f"captions in a {path.suffix or 'nameless'} file", "expected .csv, .tsv, .json or .jsonl"
        )


def _captions_beside(folder: Path, images: str | Path) -> Iterator[tuple[str, str]]:
    filenames = images_of_folder(images)
    stems = [PurePosixPath(filename).with_suffix("").as_posix() for filename in filenames]
    texts = _texts_of(folder, stems)
    for filename, stem in zip(filenames, stems):
        if stem in texts:
            lines = texts[stem].read_text(encoding="utf-8-sig").splitlines()
            yield from _flatten([(filename, [line for line in lines if line.strip()])], texts[stem])
    if alone := sorted(set(texts).difference(stems)):
        what = f"{many(len(alone), 'text file')} without an image in {images}"
        _log.warning("%s: %s; the first is %s", folder, what, texts[alone[0]].name)


def _texts_of(folder: Path, stems: Sequence[str]) -> dict[str, Path]:
    """Stem -> its .txt file, with a suffix in any case; in an object store, only for the stems of the images."""
    if is_address(folder):
        found = ((stem, folder / f"{stem}.txt") for stem in dict.fromkeys(stems))
        return {stem: path for stem, path in found if path.is_file()}
    paths = sorted(path for path in folder.rglob("*.[tT][xX][tT]") if path.is_file())
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths}


def _captions_csv(path: Path) -> Iterator[tuple[str, str]]:
    import pandas as pd  # imported here, since it is slow to import

    with path.open(encoding="utf-8-sig") as file:
        head = file.readline()
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # a row with more fields than columns
            table = pd.read_csv(
                file,
                sep=max(",;|\t", key=head.count),
                dtype=str,
                index_col=False,
                keep_default_na=False,  # "null" and "NA" are valid captions
                skipinitialspace=True,
                encoding="utf-8-sig",
            ).fillna("")  # rows with too few fields
    except pd.errors.EmptyDataError:
        table = pd.DataFrame()
    except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
        reason = " ".join(str(error).split())
        raise InputError(path, f"is not a table ({reason})", "expected captions with commas in quotes") from None
    table.columns = table.columns.astype(str).str.strip()
    columns = list(table.columns)
    filename, caption = _column(path, columns, FILENAME_COLUMNS), _column(path, columns, CAPTION_COLUMNS)
    yield from _flatten(zip(table[filename], table[caption]), path)


def _column(path: Path, columns: Sequence[str], wanted: Sequence[str]) -> str:
    for name in columns:
        if name.lower() in wanted:
            return name
    raise InputError(f"{path}:1", f"columns {', '.join(columns) or 'none'}", f"expected one of {', '.join(wanted)}")


def _captions_json(path: Path) -> Iterator[tuple[str, str]]:
    text = path.read_text(encoding="utf-8-sig")
    twice: list[str] = []

    def table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice.extend(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        return found

    try:
        try:
            entries = json.loads(text, object_pairs_hook=table)
        except (ValueError, RecursionError):  # one object per line
            entries = [json.loads(line) for line in text.splitlines() if line.strip()]
    except (ValueError, RecursionError) as error:  # RecursionError: nested too deeply
        raise InputError(
            path, f"not JSON ({error})", "expected a mapping, a list of objects, or one object per line"
        ) from None
    if twice:
        raise InputError(path, f"{twice[0]!r} is listed twice", "expected a list of all its captions")
    if isinstance(entries, dict) and {"images", "annotations"} <= set(entries):
        yield from _flatten(_captions_coco(path, entries), path)
        return
    if isinstance(entries, dict) and not set(entries).intersection(FILENAME_COLUMNS):
        yield from _flatten(entries.items(), path)
        return
    for number, entry in enumerate(entries if isinstance(entries, list) else [entries]):
        if not _is_object(entry):
            raise InputError(f"{path}[{number}]", "no filename and caption", 'expected {"filename": …, "caption": …}')
        yield from _flatten([(_first(entry, FILENAME_COLUMNS), _first(entry, (*CAPTION_COLUMNS, "captions")))], path)


def _captions_coco(path: Path, content: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yields COCO captions in the order of the file; an image has several."""
    try:
        filenames = {image["id"]: image["file_name"] for image in content["images"]}
        for each in content["annotations"]:
            if each["image_id"] not in filenames:
                raise InputError(path, f"has a caption of image {each['image_id']!r}", "expected one that it lists")
            yield filenames[each["image_id"]], each["caption"]
    except (KeyError, TypeError) as error:
        remedy = 'expected {"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}'
        raise InputError(path, f"is not a file of COCO captions ({error!r})", remedy) from None


def _is_object(entry: Any) -> bool:
    """Whether an entry is an object with a file name and a caption under one of their usual keys."""
    columns = (FILENAME_COLUMNS, (*CAPTION_COLUMNS, "captions"))
    return isinstance(entry, dict) and all(any(name in entry for name in names) for names in columns)


def _first(entry: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next(entry[name] for name in names if name in entry)


def _flatten(entries: Iterable[tuple[str, Any]], location: object) -> Iterator[tuple[str, str]]:
    """Yields (file name, caption), with "/" between folders. A null caption counts as empty and is quarantined."""
    for filename, value in entries:
        captions = [value or ""] if value is None or isinstance(value, str) else value
        texts = isinstance(captions, Sequence) and all(isinstance(caption, str) for caption in captions)
        if not isinstance(filename, str) or not texts:
            raise InputError(
                f"{location}: captions of {filename!r}",
                f"are {describe_value(value)}",
                "expected a string or a list of strings for a filename",
            )
        yield from ((with_slashes(filename.strip()), caption.strip()) for caption in captions)
