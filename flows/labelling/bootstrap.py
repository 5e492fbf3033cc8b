"""The first stage: makes an unlabelled ODVG file from a folder of images and categories, or from captions."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from flows.labelling.captions import Captions, Phrases, read_captions, read_phrases
from formats.candidates import ImageProblem
from formats.dataset_names import Task, annotation_path, label_map_beside
from formats.images import image_size, images_of_folder, safe_join
from formats.io.errors import InputError
from formats.io.files import write_whole
from formats.io.notebook import html_table
from formats.io.plurals import many
from formats.io.progress import show_progress
from formats.io.storage import as_path
from formats.label_map import warn_of_names, write_label_map
from formats.odvg import read_odvg, record_to_line
from formats.overwrite import refuse_to_lose_labels
from formats.phrases import find_phrase
from formats.quarantine import quarantined_line, reason_of
from formats.record import Record, Region
from grounding_model.inputs.noun_phrases import noun_phrases


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
    filenames = images_of_folder(images)
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
    done = {record.filename for record in read_odvg(labelled) if record.instances is not None}
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
        raise InputError(
            "captions" if isinstance(captions, Mapping) else captions,
            "no captions in there",
            "expected a caption for each image to label",
        )
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
