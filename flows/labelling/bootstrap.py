"""The first stage: makes an unlabelled ODVG file from a folder of images and categories, or from captions."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from formats.candidates import ImageProblem
from formats.dataset_names import Task, annotation_path, label_map_beside
from formats.images import image_size, list_images, safe_join, with_slashes
from formats.io.errors import InputError
from formats.io.files import load_json, write_whole
from formats.io.notebook import html_table
from formats.io.plurals import many
from formats.io.progress import show_progress
from formats.io.storage import as_path
from formats.io.values import describe_value
from formats.label_map import warn_of_names, write_label_map
from formats.odvg import read_odvg, record_to_line
from formats.overwrite import refuse_to_lose_labels
from formats.phrases import find_phrase
from formats.quarantine import quarantined_line, reason_of
from formats.record import Record, Region
from grounding_model.inputs.noun_phrases import noun_phrases

Captions = str | Path | Mapping[str, str | Sequence[str]]
Phrases = str | Path | Mapping[str, Sequence[str]]
FILENAME_COLUMNS = ("filename", "image", "file_name", "image_name")
CAPTION_COLUMNS = ("caption", "text", "comment")
_TABLES = ("metadata.jsonl", "metadata.csv")  # in an image folder of Hugging Face
EXPECTED_PHRASES = 'expected a JSON file such as {"a cat on a mat": ["a cat", "a mat"]}'


class Bootstrapped(NamedTuple):
    """The result of a bootstrap. annotations: the ODVG file. label_map: None for captions. lines: number of lines.

    quarantined: the lines that cannot be labelled. images: the folder to which file names are relative.
    """

    annotations: Path
    label_map: Path | None
    lines: int
    quarantined: tuple[ImageProblem, ...]
    images: Path

    def _repr_html_(self) -> str:
        rows = [("annotations", self.annotations), ("label map", self.label_map), ("images", self.images)]
        title = f"{many(self.lines, 'line')}, {len(self.quarantined)} of them quarantined"
        return html_table(title, (), [row for row in rows if row[1] is not None])


def bootstrap_od(
    images: str | Path,
    categories: Sequence[str],
    out: str | Path | None = None,
    label_map: str | Path | None = None,
    without: str | Path | None = None,
    overwrite: bool = False,
) -> Bootstrapped:
    """Writes `X_od.json` (out) and `X_label_map.json` beside it (or label_map) for images and category names.

    out: by default beside the folder `X`. without: an ODVG file with labelled images, which are left out.
    Sizes come from the file headers, after EXIF rotation. An image that cannot be read becomes a quarantined line.
    Raises InputError if the folder is missing or has no images, for an empty or repeated category, if `out` contains
    labels, or if other labels use a different label map there; overwrite: replace these files.
    """
    names = check_categories(categories)
    warn_of_names(dict(enumerate(names)), "categories")
    filenames = _list(images)
    if without is not None:
        filenames = _not_labelled(filenames, without)
    out = _beside(images, "od") if out is None else as_path(out)
    label_map = label_map_beside(out) if label_map is None else as_path(label_map)
    if not overwrite:
        refuse_to_lose_labels(out, dict(enumerate(names)) if label_map == label_map_beside(out) else None)
    lines, quarantined = _write(out, images, ((filename, None) for filename in filenames))
    write_label_map(label_map, dict(enumerate(names)))
    return Bootstrapped(out, label_map, lines, quarantined, as_path(images))


def _not_labelled(filenames: Sequence[str], labelled: str | Path) -> list[str]:
    done = {record.filename for record in read_odvg(labelled)}
    if not (left := [filename for filename in filenames if filename not in done]):
        raise InputError(labelled, "labels every image of the folder", "expected images without labels too")
    return left


def bootstrap_vg(
    images: str | Path,
    captions: Captions,
    out: str | Path | None = None,
    phrases: Phrases | None = None,
    overwrite: bool = False,
) -> Bootstrapped:
    """Writes `X_vg.json` (out) for captions: a line per caption, with its noun phrases and the placeholder box.

    out: by default beside the folder of images `X`.
    captions: CSV with a filename and a caption column; JSON (a mapping, objects with filename and caption, Hugging
    Face's metadata.jsonl, or COCO captions); a folder with metadata.jsonl or metadata.csv, or with .txt files named
    like the images (one caption per line); or a mapping of file names to one or several captions.
    phrases: caption -> phrases to detect instead of NLTK's noun phrases; a mapping or its JSON file. Captions that are
    not in it keep their noun phrases.
    Raises InputError if the captions cannot be read or belong to no image, or if `out` contains labels; overwrite:
    replace it.
    """
    pairs = list(read_captions(captions, images))
    if not pairs:
        raise InputError(_named(captions), "contains no captions", "expected a caption for each image to label")
    known = {} if phrases is None else read_phrases(phrases)
    if unlisted := next((caption for _, caption in pairs if caption and caption not in known), None):
        placeholder_regions(unlisted)  # reports a missing tagger before anything is written
    out = _beside(images, "vg") if out is None else as_path(out)
    if not overwrite:
        refuse_to_lose_labels(out)
    lines, quarantined = _write(out, images, pairs, lambda caption: placeholder_regions(caption, known.get(caption)))
    return Bootstrapped(out, None, lines, quarantined, as_path(images))


def placeholder_regions(caption: str, phrases: Sequence[str] | None = None) -> tuple[Region, ...]:
    """The phrases of a caption as regions without boxes. phrases: None for NLTK's noun phrases."""
    if phrases is None:
        spans = noun_phrases(caption)
    else:
        spans = [find_phrase(caption, phrase) for phrase in phrases]
    return tuple(Region((), (caption[start:end],), ((start, end),)) for start, end in spans)


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
    for filename in _list(images):
        text = folder / PurePosixPath(filename).with_suffix(".txt").as_posix()
        if text.is_file():
            lines = text.read_text(encoding="utf-8-sig").splitlines()
            yield from _flatten([(filename, [line for line in lines if line.strip()])], text)


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
    try:
        try:
            entries = json.loads(text)
        except (ValueError, RecursionError):  # one object per line
            entries = [json.loads(line) for line in text.splitlines() if line.strip()]
    except (ValueError, RecursionError) as error:  # RecursionError: nested too deeply
        raise InputError(
            path, f"not JSON ({error})", "expected a mapping, a list of objects, or one object per line"
        ) from None
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
        yield from ((filenames[each["image_id"]], each["caption"]) for each in content["annotations"])
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


def check_categories(categories: Sequence[str]) -> list[str]:
    """The names without surrounding white space. Raises InputError for an empty or repeated one."""
    names = categories.split(",") if isinstance(categories, str) else list(categories)
    names = [name.strip() for name in names]
    if not names or not all(names):
        raise InputError(
            "categories", f"{categories!r} has an empty name or none", 'expected names such as "cat", "dog"'
        )
    if repeated := {name for name in names if names.count(name) > 1}:
        raise InputError("categories", f"{', '.join(sorted(repeated))} is listed twice", "expected unique names")
    return names


def _list(images: str | Path) -> list[str]:
    filenames = list_images(images)
    if not filenames:
        raise InputError(images, "no images in this folder", "expected .jpg, .png or other image files")
    return filenames


def _beside(images: str | Path, kind: Task) -> Path:
    folder = as_path(images)
    return annotation_path(folder.parent, folder.name, kind)


def _write(
    out: Path,
    images: str | Path,
    entries: Iterable[tuple[str, str | None]],
    regions_of: Callable[[str], tuple[Region, ...]] = placeholder_regions,
) -> tuple[int, tuple[ImageProblem, ...]]:
    """Writes a line per entry (file name, caption or None), a quarantined one on errors; (lines, quarantined)."""
    number, problems, readable = -1, [], 0
    with write_whole(out) as file:
        for number, (filename, caption) in enumerate(show_progress(entries, desc="read", unit="image", leave=False)):
            height = width = None
            try:
                _check_writable(filename)
                height, width = image_size(safe_join(images, filename))
                readable += 1
                if caption == "":
                    raise InputError(filename, "the caption is empty", "expected some words")
                regions = None if caption is None else regions_of(caption)
                line = record_to_line(
                    Record(filename, height, width, caption=caption, regions=regions), placeholder=True
                )
            except InputError as error:
                problems.append(ImageProblem(number, _printable(filename), _printable(reason_of(error, images))))
                line = quarantined_line(problems[-1].reason, problems[-1].filename, height, width, caption)
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
        if problems and not readable:
            first = f"first {problems[0].filename}: {problems[0].reason}"
            what = f"not one of {many(len(problems), 'image')} could be read; {first}"
            raise InputError(images, what, "expected the folder of the images")
    return number + 1, tuple(problems)


def _check_writable(filename: str) -> None:
    """Raises InputError for a name that is not valid UTF-8 on disk, since a data file cannot contain it."""
    if _printable(filename) != filename:
        raise InputError(_printable(filename), "the file name is not UTF-8", "rename the file")


def _printable(text: str) -> str:
    """The text with escapes for bytes that are not valid UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _named(captions: Captions) -> str:
    return "captions" if isinstance(captions, Mapping) else str(captions)
