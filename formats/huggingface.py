"""Hugging Face's image folder with objects: a row per image, in metadata.jsonl beside the images or in Parquet.

{"file_name": "images/a.jpg", "width": 640, "height": 480,
 "objects": {"bbox": [[x, y, width, height], ...], "categories": [0, ...]}}

Boxes are in pixels. Categories are numbers, with names declared in a README.md above or in the Parquet file, or they
are names. `datasets.load_dataset` can load what is written here. Older data sets have a list of objects, each with its
bbox and category.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from formats.coco import box_of, xywh
from formats.huggingface_files import METADATA, HubSplit, TableRow
from formats.images import image_size, safe_join
from formats.io.errors import InputError, handed_to, located, refused
from formats.io.files import read_text, write_whole
from formats.io.plurals import many
from formats.label_map import check_yaml_depth
from formats.omissions import Omissions, check_category, count_omissions, count_unread, refuse_caption
from formats.record import Box, Instance, Record, check_box

BOX_FORMATS = ("xywh", "xyxy")
_CATEGORY_KEYS = ("categories", "category", "category_id", "labels", "label")  # names in public data sets
_SCORE_KEYS = ("score", "scores")
_LINE_KEYS = ("file_name", "image", "width", "height", "objects", "image_id")
# Keys that are read, or redundant with the boxes and their order, are not counted as left out.
_OBJECT_KEYS = frozenset({"bbox", *_CATEGORY_KEYS, *_SCORE_KEYS, "iscrowd", "id", "bbox_id", "area"})
_EXPECTED = 'expected "objects" with "bbox" and "categories" of equal length'


def read_huggingface(
    path: str | Path,
    image_dir: str | Path | None = None,
    categories: Sequence[str] | None = None,
    split: str | None = None,
    box_format: str = "xywh",
    on_problem: Callable[[InputError], None] | None = None,
    omissions: Omissions | None = None,
) -> Iterator[Record]:
    """Yields a record for each row of a file (metadata.jsonl, Parquet), or of a split in a folder.

    File names are relative to the folder of metadata.jsonl. Images inside Parquet have the names under which
    `save_images` writes them. image_dir: the images, for rows without sizes (default: beside the file). categories: the
    names in the order of their numbers, if they are not declared. box_format: "xywh", or "xyxy" for data sets with two
    corners. iscrowd becomes ignore.
    Raises InputError for a row that is not of this layout; on_problem receives it instead, and the row is skipped.
    """
    if box_format not in BOX_FORMATS:
        raise InputError("box_format", f"{box_format!r}", f"expected {' or '.join(BOX_FORMATS)}")
    source = HubSplit(path, split)
    names = list(categories) if categories is not None else list(_declared(source))
    objects = _Objects(names, fixed=bool(names), corners=box_format == "xyxy", omissions=omissions)
    for row in source.rows(omissions):
        with handed_to(on_problem):
            columns = row.columns()
            if isinstance(row.values, str):
                count_unread(omissions, columns, _LINE_KEYS, "lines")
            yield _record(source, row, columns, row.folder if image_dir is None else Path(image_dir), objects)


def read_huggingface_categories(path: str | Path, split: str | None = None) -> tuple[str, ...]:
    """The declared category names in the order of their numbers; else those of the rows, in order of appearance."""
    source = HubSplit(path, split)
    if names := _declared(source):
        return names
    objects = _Objects([], fixed=False, corners=False)
    for row in source.rows():
        with handed_to(lambda problem: None):  # reported when the records are read
            objects.note_names(row.columns().get("objects"))
    return tuple(objects.names)


def save_images(
    path: str | Path, folder: str | Path, split: str | None = None, only: Iterable[str] | None = None
) -> int:
    """Writes the images inside Parquet files to a folder, with the file names of their records; returns their number.

    only: write only these file names. Raises InputError if the images are separate files already.
    """
    return HubSplit(path, split).save_images(folder, None if only is None else frozenset(only))


def _declared(source: HubSplit) -> tuple[str, ...]:
    """The category names declared in the Parquet file, else in a README.md above it."""
    found = _class_names(source.features())
    return tuple(map(str, found)) if found else declared_names(source.first)


def declared_names(metadata: Path) -> tuple[str, ...]:
    """The category names in a README.md in the folder of metadata.jsonl, or the two above, as splits have folders."""
    for folder in list(metadata.absolute().parents)[:3]:
        card = folder / "README.md"
        if card.is_file():
            return _names_of_card(card)
    return ()


def _names_of_card(card: Path) -> tuple[str, ...]:
    text = read_text(card, "expected UTF-8 text")
    if not text.startswith("---"):
        return ()
    header = text[3:].split("\n---", 1)[0]
    if "&" in header and "*" in header:  # nested aliases can grow exponentially
        raise InputError(card, "its YAML header has anchors", "expected a header without them")
    try:
        check_yaml_depth(header)
        # As text: a name may be `no`, `null` or `07`.
        found = _class_names(yaml.load(header, yaml.CBaseLoader if hasattr(yaml, "CBaseLoader") else yaml.BaseLoader))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise InputError(card, f"its header is not YAML ({error})", "expected the header of a data card") from None
    return tuple(str(name) for name in found)


def _class_names(value: Any) -> list[str]:
    """The names of the first class label in the declared columns; of the column "objects" if there is one.

    A README.md has {"class_label": {"names": {"0": "cat"}}}, Parquet {"_type": "ClassLabel", "names": ["cat"]}.
    """
    if isinstance(value, dict):
        if "objects" in value:
            return _class_names(value["objects"])
        label = value if value.get("_type") == "ClassLabel" else value.get("class_label")
        names = label.get("names") if isinstance(label, dict) else None
        if isinstance(names, dict) and all(str(key).isdecimal() for key in names):
            return [names[key] for key in sorted(names, key=lambda key: int(str(key)))]
        if isinstance(names, list):
            return names
    if isinstance(value, list):
        objects = [each for each in value if isinstance(each, dict) and each.get("name") == "objects"]
        return next((names for child in objects or value if (names := _class_names(child))), [])
    children = value.values() if isinstance(value, dict) else ()
    return next((names for child in children if (names := _class_names(child))), [])


def _record(source: HubSplit, row: TableRow, columns: Mapping[str, Any], images: Path, objects: _Objects) -> Record:
    filename = source.filename(row, columns)
    height, width = columns.get("height"), columns.get("width")
    if not (type(height) is int and type(width) is int and height > 0 and width > 0):
        if source.embedded:
            height, width, _ = source.header(row, columns)
        else:
            height, width = image_size(safe_join(images, filename))
    found = columns.get("objects")
    instances = None if found is None else tuple(objects.instances(found, row.location))
    with located(row.location):
        return Record(filename, height, width, instances)


class _Objects:
    """Reads the values of the column "objects". names: new names are appended as they occur, unless `fixed`."""

    def __init__(self, names: list[str], fixed: bool, corners: bool, omissions: Omissions | None = None) -> None:
        self.names, self._fixed, self._corners, self._omissions = names, fixed, corners, omissions

    def instances(self, found: Any, location: str) -> Iterator[Instance]:
        columns = _as_columns(found, location)
        boxes = _list(columns, "bbox", location)
        if self._omissions is not None:
            self._omissions.update(
                {f"{key} of objects": len(boxes) for key in columns if key not in _OBJECT_KEYS and boxes}
            )
        labels = next((columns[key] for key in _CATEGORY_KEYS if key in columns), None)
        if labels is None and not boxes:
            labels = []
        if not isinstance(labels, list) or len(labels) != len(boxes):
            what = f"has {many(len(boxes), 'box')}, and not as many categories"
            raise InputError(location, what, _EXPECTED)
        scores = _beside(boxes, next((columns[key] for key in _SCORE_KEYS if key in columns), None))
        crowds = _beside(boxes, columns.get("iscrowd"))
        for box, label, score, crowd in zip(boxes, labels, scores, crowds):
            index, name = self._label(label, location)
            try:
                yield Instance(self._box(box, location), index, name, score, ignore=crowd in (True, 1))
            except InputError:
                raise
            except (ValueError, TypeError) as error:
                raise refused(location, error) from error

    def note_names(self, found: Any) -> None:
        """Adds the categories that are strings to the names; instances() reports anything invalid."""
        columns = _as_columns(found, "") if found is not None else {}
        labels = next((columns[key] for key in _CATEGORY_KEYS if key in columns), None)
        for label in labels if isinstance(labels, list) else ():
            if isinstance(label, str):
                self._label(label, "")

    def _box(self, value: Any, location: str) -> Box:
        if not self._corners:
            return box_of(value, location)
        try:
            x1, y1, x2, y2 = map(float, value)
        except (TypeError, ValueError, OverflowError):
            raise InputError(location, f"bbox {value} is not four numbers", "expected [x1, y1, x2, y2]") from None
        check_box((x1, y1, x2, y2))
        return x1, y1, x2, y2

    def _label(self, label: Any, location: str) -> tuple[int, str]:
        names = self.names
        if isinstance(label, str):
            if label not in names:
                if self._fixed:
                    remedy = f"expected one of {', '.join(names)}"
                    raise InputError(location, f"category {label!r} is not declared", remedy)
                names.append(label)
            return names.index(label), label
        if type(label) is int and 0 <= label < len(names):
            return label, names[label]
        if names:
            raise InputError(location, f"category {label!r} has no name", f"expected 0..{len(names) - 1}")
        remedy = "name them by --categories A,B,C, or in the README.md above"
        raise InputError(location, f"category {label!r} has no name", remedy)


def _as_columns(found: Any, location: str) -> Mapping[str, Any]:
    """Objects as {key: list}, from that layout or from a list of objects."""
    if isinstance(found, dict):
        return found
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise InputError(location, '"objects" is neither {key: list} nor a list of objects', _EXPECTED)
    keys = dict.fromkeys(key for each in found for key in each)
    return {key: [each.get(key) for each in found] for key in keys} or {"bbox": []}


def _list(columns: Mapping[str, Any], key: str, location: str) -> list[Any]:
    """The list under a key; empty for a null in Parquet."""
    value = columns.get(key, columns)
    if value is None:
        return []
    if not isinstance(value, list):
        raise InputError(location, '"objects" has no list of boxes', _EXPECTED)
    return value


def _beside(boxes: list[Any], values: Any) -> list[Any]:
    return values if isinstance(values, list) and len(values) == len(boxes) else [None] * len(boxes)


def write_huggingface(
    path: str | Path,
    records: Iterable[Record],
    categories: Sequence[str],
    folder: str = "",
    overwrite: bool = True,
    scored: bool | None = None,
) -> Omissions:
    """Writes metadata.jsonl into the folder `path`, atomically; returns counts of what the layout cannot store.

    folder: of the images, relative to `path`. All records are held in memory. scored: whether boxes get a score (1 for
    a box of a person); None: if any box has one. All splits must agree, since `load_dataset` requires equal columns.
    Ignored boxes are left out, since every box is an object here. Unlabelled images have no "objects".
    Raises InputError for captions, for labels that are not in `categories`, and, without overwrite, if the file exists.
    """
    if not overwrite and (Path(path) / METADATA).exists():
        raise InputError(Path(path) / METADATA, "already exists", "expected another folder, or overwrite=True")
    records = list(records)
    scored = has_scores(records) if scored is None else scored
    omissions = Omissions()
    Path(path).mkdir(parents=True, exist_ok=True)
    with write_whole(Path(path) / METADATA) as stream:
        for record in records:
            refuse_caption(record, "this layout")
            count_omissions(omissions, record, ("score", "unlabelled"))
            stream.write(json.dumps(metadata_line(record, categories, folder, scored), ensure_ascii=False) + "\n")
    return omissions


def has_scores(records: Iterable[Record]) -> bool:
    """Whether any box has a score. Then all get one (1 from a person), as Arrow cannot type a column of nulls."""
    return any(instance.score is not None for record in records for instance in record.instances or ())


def metadata_line(record: Record, categories: Sequence[str], folder: str = "", scored: bool = True) -> dict[str, Any]:
    """The JSON object of a record's line. folder: of the images, relative to metadata.jsonl."""
    name = str(PurePosixPath(folder, record.filename))
    line: dict[str, Any] = {"file_name": name, "width": record.width, "height": record.height}
    if record.instances is not None:
        kept = [instance for instance in record.instances if not instance.ignore]
        for instance in kept:
            check_category(instance, categories, record.filename)
        line["objects"] = {
            "bbox": [xywh(instance.box) for instance in kept],
            "categories": [instance.label for instance in kept],
        }
        if scored:
            line["objects"]["score"] = [1.0 if instance.score is None else instance.score for instance in kept]
    return line
