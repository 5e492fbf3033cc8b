"""`groundhog convert`: converts annotations between formats, as a stream of records."""

from __future__ import annotations

import inspect
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

import formats
from formats.coco import load_coco, loaded_once
from formats.dataset_names import label_map_beside, part_path
from formats.huggingface_files import holds_split
from formats.images import leads_out
from formats.io.errors import InputError
from formats.io.files import refuse_packed
from formats.io.json_stream import stream_json
from formats.io.plurals import many, verb
from formats.io.progress import show_progress
from formats.label_map import check_names, join_same_names, name_problems, read_label_map, write_label_map
from formats.omissions import describe_omissions
from formats.overwrite import refuse_to_lose_labels
from formats.record import Record
from formats.validate import GeometryNotes

Item = TypeVar("Item")
_MAX_TEXTS = 20  # text files of a folder to inspect, since class names and licences may be beside the labels


@dataclass(frozen=True)
class Selection:
    """Which records are converted, and with which labels.

    without: annotation files whose images are left out. label_map: a file that assigns labels to names; names that
    are not in it get the next free labels. sample: number of images to draw at random. parts: name -> share; each part
    becomes a file. seed: for sample and parts. join_names: give one label to names that a detector cannot distinguish
    ("Cat", "cat").
    """

    without: Sequence[str | Path] = ()
    label_map: str | Path | None = None
    sample: int | None = None
    parts: Mapping[str, float] | None = None
    seed: int = 0
    join_names: bool = False


def convert(
    source_format: str,
    target_format: str,
    source: str | Path,
    out: str | Path,
    categories: Sequence[str] | None = None,
    selection: Selection = Selection(),
    overwrite: bool = False,
    on_record: Callable[[Record], Any] | None = None,
    **options: Any,
) -> str:
    """Converts `source` to `out` (and, for odvg, writes the label map beside it); returns a summary of a few lines.

    categories: names in the order of the labels; by default those of the source. options: other parameters of the
    reader and the writer, by name; None counts as missing. overwrite: whether a file that contains labels, or a label
    map that other labels use, may be replaced. on_record: called with each record that is written.
    Raises InputError for options that neither format has, for missing ones, and for data that cannot be read or
    written.
    """
    options = {name: value for name, value in options.items() if value is not None}
    reader, writer = formats.READERS[source_format], formats.WRITERS[target_format]
    check_known((source_format, target_format), (reader, writer), options)
    excluded = _images_of(selection.without)
    with loaded_once():
        return _converted(
            source_format, target_format, source, out, categories, selection, overwrite, options, excluded, on_record
        )


def _converted(
    source_format: str,
    target_format: str,
    source: str | Path,
    out: str | Path,
    categories: Sequence[str] | None,
    selection: Selection,
    overwrite: bool,
    options: Mapping[str, Any],
    excluded: set[str],
    on_record: Callable[[Record], Any] | None,
) -> str:
    reader = formats.READERS[source_format]
    reader_options = {**options, **({"categories": categories} if categories is not None else {})}
    names = dict(enumerate(read_names(source_format, source, categories, options)))
    merged, move = names, None
    if selection.label_map is not None:
        merged, (_, move) = formats.merge_label_maps([read_label_map(selection.label_map), names])
    if selection.join_names:
        merged, joined = join_same_names(merged)
        move = {label: joined[target] for label, target in (move or dict(zip(names, names))).items()}

    for label, name in merged.items():
        if not name.strip():
            raise InputError(source, f"the category of label {label} has no name", "expected a name for each")
    parts = selection.parts or {}
    outputs: dict[str | None, str | Path] = {part: part_path(out, part) for part in parts} or {None: out}
    if not overwrite:
        for path in outputs.values():
            refuse_to_lose_labels(path, merged if target_format in _WITH_LABEL_MAP and merged else None)

    omissions = formats.Omissions()
    has_own_map = source_format in _WITH_LABEL_MAP and categories is None and label_map_beside(source).is_file()

    def chosen(part: str | None) -> Iterable[Record]:
        omissions.clear()  # the source is read once for each part
        records = call(f"convert {source_format}", reader, {**reader_options, "omissions": omissions}, source)
        stream = with_progress(_as_mapped(records, names, source) if has_own_map else records)
        if excluded:
            stream = formats.without_images(stream, excluded, omissions)
        if move is not None:
            stream = (formats.relabelled(record, move, merged) for record in stream)
        if selection.sample is not None:
            stream = formats.sample(stream, selection.sample, selection.seed)
        stream = stream if part is None else formats.only_part(stream, parts, part, selection.seed)
        return stream if on_record is None else _shown_to(on_record, stream)

    passed = {**options, "overwrite": overwrite}
    lines = [
        write(target_format, path, chosen(part), _in_order(merged), passed, source, may_be_empty=bool(parts))
        for part, path in outputs.items()
    ]
    if lost := formats.describe_omissions(omissions):
        lines.append(f"{source}: left out in reading:\n{lost}")
    lines += map(str, name_problems(merged, source))
    return "\n".join(lines)


def _as_mapped(records: Iterable[Record], names: Mapping[int, str], source: str | Path) -> Iterator[Record]:
    """Checks each record's names against the label map beside the source; otherwise wrong names could be written."""
    for record in records:
        check_names(record, names, source)
        yield record


def _shown_to(on_record: Callable[[Record], Any], records: Iterable[Record]) -> Iterator[Record]:
    for record in records:
        on_record(record)
        yield record


def _images_of(annotations: Sequence[str | Path]) -> set[str]:
    """The image keys of annotation files of any format."""
    keys: set[str] = set()
    for path in annotations:
        source_format = guess_format(path)
        if source_format == "coco":  # includes MDETR's files, which have the same image entries
            images = load_coco(path).images
            keys.update(formats.image_key(str(image.get("file_name", ""))) for image in images.values())
        else:
            keys.update(formats.image_key(record.filename) for record in formats.READERS[source_format](path))
    return keys


_COCO_KEYS = frozenset({"images", "annotations", "categories"})


def guess_format(source: str | Path) -> str:
    """The name of the format of a file or folder, from its content. Raises InputError if it cannot be detected.

    voc for a folder with XML files, yolo for one with rows of numbers in text files, cvat for its XML, coco for an
    object with one of COCO's keys, labelstudio for an array of tasks, huggingface for Parquet, lines with a
    "file_name", and folders of such files; otherwise odvg.
    """
    path = Path(source)
    if path.is_dir():
        if next(path.rglob("*.xml"), None) is not None:
            return "voc"
        if holds_split(path):
            return "huggingface"
        if any(map(_is_yolo, islice(path.rglob("*.txt"), _MAX_TEXTS))):
            return "yolo"
        remedy = "expected VOC's XML, YOLO's text files or Parquet; or name the format"
        raise InputError(path, "is a folder without labels of a format that can be detected", remedy)
    if not path.is_file():
        raise InputError(path, "does not exist", "expected an annotation file")
    refuse_packed(path)
    with open(path, "rb") as stream:
        start = stream.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith(b"PAR1"):
        return "huggingface"
    if start.startswith(b"<"):
        if b"<annotations" in start:
            return "cvat"
        raise InputError(path, "is XML", "expected a folder of VOC files, or CVAT's <annotations>")
    if start.startswith(b"{") and _has_coco_key(path):
        return "coco"
    first = _first_entry(path, is_array=start.startswith(b"["))
    if "filename" in first:
        return "odvg"
    if {"image_id", "bbox"} <= first.keys():
        remedy = "expected an annotation file; for results, use --format coco-results with --truth"
        raise InputError(path, "contains results in COCO's format, not annotations", remedy)
    if isinstance(first.get("data"), dict):
        return "labelstudio"
    return "huggingface" if "file_name" in first else "odvg"


def _is_yolo(path: Path) -> bool:
    """Whether the first line of a text file is a class and at least four numbers."""
    with open(path, encoding="utf-8", errors="replace") as stream:
        first = stream.readline(4096).split()
    return len(first) >= 5 and first[0].isdecimal() and all(map(_is_number, first[1:]))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _first_entry(path: Path, is_array: bool) -> dict[str, Any]:
    """The first object of a JSON array or of JSON Lines; {} if there is none."""
    try:
        if is_array:
            items = stream_json(path, "expected an annotation file")
            first = next((item.value for item in items if item.position is not None), None)
        else:
            with open(path, encoding="utf-8-sig", errors="replace") as stream:
                first = json.loads(next((line for line in stream if line.strip()), ""))
    except (ValueError, RecursionError):  # also InputError: the reader will report what is wrong
        return {}
    return first if isinstance(first, dict) else {}


def _has_coco_key(path: Path) -> bool:
    """Whether the top-level object has one of COCO's keys; in JSON Lines, the object on the first line."""
    try:
        return any(item.key in _COCO_KEYS for item in stream_json(path, "expected an annotation file"))
    except InputError:  # more than one object: JSON Lines
        return False


def with_progress(records: Iterable[Item]) -> Iterable[Item]:
    """The records, showing progress on stderr."""
    return show_progress(records, unit="record", leave=False)


def write(
    target_format: str,
    out: str | Path,
    records: Iterable[Record],
    names: Sequence[str],
    options: Mapping,
    source: str | Path,
    may_be_empty: bool = False,
) -> str:
    """Writes the records; returns a summary with what the format cannot store.

    source: named in messages. Raises InputError if there are no records, unless may_be_empty.
    """
    writer, used, elsewhere = formats.WRITERS[target_format], set[int](), list[str]()
    tally, geometry = Counter[str](), GeometryNotes(options.get("image_dir"))
    first, records = _first_of(geometry.noting(_noting_labels(records, used, tally, elsewhere)))
    if first is None and not may_be_empty:
        raise InputError(source, "contains no image to convert", "expected annotations of at least one image")
    omissions = call(f"convert to {target_format}", writer, {**options, "categories": names}, out, records)
    if target_format in _WITHOUT_CATEGORIES and len(used) < len(names):
        omissions["categories that no box has"] += len(names) - len(used)
    has_captions = first is not None and first.caption is not None
    kinds = "captions" if has_captions else many(len(names), "category")
    message = f"{out}: {many(tally['images'], 'record')}, {kinds}"
    if target_format in _WITH_LABEL_MAP and not has_captions:
        write_label_map(label_map_beside(out), dict(enumerate(names)))
        message += f" in {label_map_beside(out)}"
    if tally["boxes"] and not tally["wide boxes"]:
        message += "\nevery box lies in the first pixel of its image: are these fractions? expected pixels"
    message += "".join(f"\n{remark}" for remark in geometry.remarks())
    if elsewhere:
        message += f"\n{_names_elsewhere(elsewhere)}"
    lost = describe_omissions(omissions)
    return f"{message}\n{target_format} cannot store:\n{lost}" if lost else message


_WITH_LABEL_MAP = ("odvg", "open-groundingdino")  # have a label map in a file beside the labels
_WITHOUT_CATEGORIES = ("labelstudio",)  # have no category list, only the names of their boxes


def _names_elsewhere(names: Sequence[str]) -> str:
    count = len(names)
    what = f"{many(count, 'file name')} {verb(count, 'is', 'are')} not inside an image folder, such as {names[0]!r}: "
    return what + "no stage finds such an image; formats with --images FOLDER look for it there"


def _noting_labels(
    records: Iterable[Record], used: set[int], tally: Counter[str], elsewhere: list[str]
) -> Iterator[Record]:
    """elsewhere: takes the file names that lead out of every image folder."""
    for record in records:
        tally["images"] += 1
        if leads_out(record.filename):
            elsewhere.append(record.filename)
        used.update(instance.label for instance in record.instances or ())
        if record.instances and not tally["wide boxes"]:
            tally["boxes"] += len(record.instances)
            tally["wide boxes"] += any(max(instance.box) > 1 for instance in record.instances)
        yield record


def read_names(
    source_format: str, source: str | Path, categories: Sequence[str] | None = None, options: Mapping | None = None
) -> list[str]:
    """The category names in the order of the labels: `categories`, else the source's, else those of its records."""
    if categories is not None:
        in_source = source_format in formats.CATEGORIES
        if in_source and "categories" not in inspect.signature(formats.READERS[source_format]).parameters:
            raise InputError("categories", f"{source_format} has its own", "leave it out, or use label_map=FILE")
        return list(categories)
    if source_format in formats.CATEGORIES:
        return list(call(f"convert {source_format}", formats.CATEGORIES[source_format], options or {}, source))
    if source_format in _WITH_LABEL_MAP and label_map_beside(source).is_file():
        return _in_order(read_label_map(label_map_beside(source)))
    names: dict[int, str] = {}
    for record in call(f"convert {source_format}", formats.READERS[source_format], options or {}, source):
        names.update((instance.label, instance.category) for instance in record.instances or ())
    return _in_order(names)


def _in_order(names: Mapping[int, str]) -> list[str]:
    return [names.get(label, f"unused {label}") for label in range(max(names, default=-1) + 1)]


def _first_of(records: Iterable[Record]) -> tuple[Record | None, Iterator[Record]]:
    """The first record, and all of them."""
    records = iter(records)
    first = next(records, None)
    return first, chain([] if first is None else [first], records)


# The options of a reader or writer are the parameters of its function. Parameter -> its option, where it differs:
OPTIONS = {"image_dir": "images", "loader": "for"}


def call(location: str, function: Callable, options: Mapping[str, Any], *first: Any) -> Any:
    """Calls function(*first, ...) with those `options` that it has. Raises InputError for a missing required one."""
    parameters = list(inspect.signature(function).parameters.values())[len(first) :]
    missing = [each.name for each in parameters if each.default is each.empty and each.name not in options]
    if missing:
        names = [OPTIONS.get(name, name) for name in missing]
        verb = "is" if len(names) == 1 else "are"
        want = " and ".join(f"--{name.replace('_', '-')}" for name in names)
        raise InputError(location, f"{' or '.join(names)} {verb} missing", f"expected {want}")
    return function(*first, **{each.name: options[each.name] for each in parameters if each.name in options})


def check_known(names: Sequence[str], functions: Sequence[Callable], options: Mapping[str, Any]) -> None:
    """Raises InputError for an option that none of the formats has."""
    known = {name for function in functions for name in inspect.signature(function).parameters}
    for name in options:
        if name not in known:
            option = OPTIONS.get(name, name).replace("_", "-")
            raise InputError(f"--{option}", f"{' and '.join(names)} do not have this option", "leave it out")
