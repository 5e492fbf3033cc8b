"""Hugging Face's layout of an image folder with objects: metadata.jsonl beside the images, a line an image.

{"file_name": "images/a.jpg", "width": 640, "height": 480,
 "objects": {"bbox": [[x, y, width, height], ...], "categories": [0, ...]}}

Boxes are in pixels. Categories are numbers, whose names the README.md above declares, or are names themselves.
`datasets.load_dataset` reads such a folder as it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from formats.coco import box_of, xywh
from formats.images import image_size, safe_join, with_slashes
from formats.io.errors import InputError, handed_to, located, refused
from formats.io.files import read_text, write_whole
from formats.omissions import Omissions, check_category, count_omissions, count_unread, refuse_caption
from formats.record import Instance, Record

METADATA = "metadata.jsonl"
_CATEGORY_KEYS = ("categories", "category", "labels", "label")  # as public data sets spell it
_LINE_KEYS = ("file_name", "width", "height", "objects", "image_id")


def read_huggingface(
    path: str | Path,
    image_dir: str | Path | None = None,
    categories: Sequence[str] | None = None,
    on_problem: Callable[[InputError], None] | None = None,
    omissions: Omissions | None = None,
) -> Iterator[Record]:
    """One record for each line of a metadata.jsonl, or of the one in a folder; file names relative to its folder.

    image_dir: where the images are, for lines without sizes (default: beside the file). categories: the names in the
    order of their numbers, where no README.md above declares them.
    Raises InputError for a line that is not of this layout; on_problem takes it instead, and the line is passed over.
    """
    path = Path(path)
    path = path / METADATA if path.is_dir() else path
    names = list(categories) if categories is not None else list(declared_names(path))
    fixed = bool(names)
    for number, text in enumerate(read_text(path, "expected JSON Lines").splitlines(), 1):
        if not text.strip():
            continue
        location = f"{path}:{number}"
        with handed_to(on_problem):
            line = _table(text, location)
            count_unread(omissions, line, _LINE_KEYS, "lines")
            yield _record(line, path.parent if image_dir is None else Path(image_dir), names, fixed, location)


def read_huggingface_categories(path: str | Path) -> tuple[str, ...]:
    """The names that the README.md above a metadata.jsonl declares, in the order of their numbers; () without one."""
    path = Path(path)
    return declared_names(path / METADATA if path.is_dir() else path)


def declared_names(metadata: Path) -> tuple[str, ...]:
    """Looks in the folder of a metadata.jsonl and the two above it, since each split may have a folder."""
    for folder in list(metadata.absolute().parents)[:3]:
        card = folder / "README.md"
        if card.is_file():
            return _names_of_card(card)
    return ()


def _names_of_card(card: Path) -> tuple[str, ...]:
    text = read_text(card, "expected a text")
    if not text.startswith("---"):
        return ()
    header = text[3:].split("\n---", 1)[0]
    if "&" in header and "*" in header:  # aliases can double without end
        raise InputError(card, "its YAML header has anchors", "expected a header without them")
    import yaml  # only here: it takes a while to load

    try:
        found = _class_names(yaml.load(header, yaml.CSafeLoader if hasattr(yaml, "CSafeLoader") else yaml.SafeLoader))
    except (yaml.YAMLError, RecursionError) as error:
        raise InputError(card, f"its header is not YAML ({error})", "expected the header of a data card") from None
    return tuple(str(name) for name in found)


def _class_names(value: Any) -> list[str]:
    """The first `class_label: names:` anywhere in a header."""
    if isinstance(value, dict):
        label = value.get("class_label")
        names = label.get("names") if isinstance(label, dict) else None
        if isinstance(names, dict) and all(str(key).isdigit() for key in names):
            return [names[key] for key in sorted(names, key=lambda key: int(str(key)))]
        if isinstance(names, list):
            return names
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next((names for child in children if (names := _class_names(child))), [])


def _table(text: str, location: str) -> dict[str, Any]:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(location, f"is not JSON ({error})", "expected an object a line") from None
    if not isinstance(line, dict) or not isinstance(line.get("file_name"), str) or not line["file_name"]:
        raise InputError(location, "has no file_name", 'expected {"file_name": "a.jpg", "objects": {...}}')
    return line


def _record(line: Mapping[str, Any], images: Path, names: list[str], fixed: bool, location: str) -> Record:
    filename = with_slashes(line["file_name"])
    height, width = line.get("height"), line.get("width")
    if not (type(height) is int and type(width) is int and height > 0 and width > 0):
        height, width = image_size(safe_join(images, filename))
    objects = line.get("objects")
    instances = None if objects is None else tuple(_instances(objects, names, fixed, location))
    with located(location):
        return Record(filename, height, width, instances)


def _instances(objects: Any, names: list[str], fixed: bool, location: str) -> Iterator[Instance]:
    """names: grows by names that are met, unless it is fixed."""
    want = 'expected "objects" with "bbox" and "categories" of one length'
    if not isinstance(objects, dict) or not isinstance(objects.get("bbox"), list):
        raise InputError(location, "its objects have no list of boxes", want)
    boxes = objects["bbox"]
    labels = next((objects[key] for key in _CATEGORY_KEYS if key in objects), None)
    if not isinstance(labels, list) or len(labels) != len(boxes):
        raise InputError(location, f"has {len(boxes)} boxes and other categories", want)
    scores = objects.get("score")
    scores = scores if isinstance(scores, list) and len(scores) == len(boxes) else [None] * len(boxes)
    for box, label, score in zip(boxes, labels, scores):
        index, name = _label(label, names, fixed, location)
        try:
            yield Instance(box_of(box, location), index, name, score)
        except (ValueError, TypeError) as error:
            raise refused(location, error) from error


def _label(label: Any, names: list[str], fixed: bool, location: str) -> tuple[int, str]:
    if isinstance(label, str):
        if label not in names:
            if fixed:
                raise InputError(location, f"category {label!r} is not declared", f"expected one of {', '.join(names)}")
            names.append(label)
        return names.index(label), label
    if type(label) is int and 0 <= label < len(names):
        return label, names[label]
    remedy = "name them by categories=NAMES, or in the README.md" if not names else f"expected 0..{len(names) - 1}"
    raise InputError(location, f"category {label!r} has no name", remedy)


def write_huggingface(
    path: str | Path, records: Iterable[Record], categories: Sequence[str], folder: str = "", overwrite: bool = True
) -> Omissions:
    """Writes metadata.jsonl into the folder `path`, whole or not at all; gives what the layout has no place for.

    folder: of the images, relative to it. All records are in memory at once.
    Ignored boxes are left out, since every box is an object here. Images without labels have no "objects".
    Raises InputError for captions and for labels that are not in `categories`; without overwrite, where the file is
    there already.
    """
    if not overwrite and (Path(path) / METADATA).exists():
        raise InputError(Path(path) / METADATA, "is there already", "expected another folder, or overwrite=True")
    records = list(records)
    scored = has_scores(records)
    omissions = Omissions()
    Path(path).mkdir(parents=True, exist_ok=True)
    with write_whole(Path(path) / METADATA) as stream:
        for record in records:
            refuse_caption(record, "this layout")
            count_omissions(omissions, record, ("score", "unlabelled"))
            stream.write(json.dumps(metadata_line(record, categories, folder, scored), ensure_ascii=False) + "\n")
    return omissions


def has_scores(records: Iterable[Record]) -> bool:
    """Whether any box has one: then all have, a person's 1, since Arrow cannot type a column without values."""
    return any(instance.score is not None for record in records for instance in record.instances or ())


def metadata_line(record: Record, categories: Sequence[str], folder: str = "", scored: bool = True) -> dict[str, Any]:
    """The object of a record's line. folder: of the images, relative to the metadata.jsonl."""
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
