"""Reads and writes FiftyOneImageDetectionDataset: labels.json, boxes as x, y, width, height in image fractions.

{"classes": ["cat"], "labels": {"sub/a": [{"label": 0, "bounding_box": [...], "confidence": 0.5}], "b": null}}

The images are in data/ beside it, data/sub/a.jpg. null is an unlabelled image. In FiftyOne's own exports the classes
can also be null; then the label of a box is its class name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from formats.images import image_size, list_images
from formats.io.errors import InputError, handed_to
from formats.io.files import load_json, write_whole_folder
from formats.omissions import Omissions, check_category, count_unread, refuse_caption
from formats.record import Box, Instance, Record

_READ = frozenset({"label", "bounding_box", "confidence", "attributes"})
_ATTRIBUTES = frozenset({"weight", "ignore"})
_EXPECTED = 'expected FiftyOne\'s {"classes": [...], "labels": {...}}'
_LARGEST_FRACTION = 2.0  # of an image; a model's boxes may leave it, but not by far


def read_fiftyone(
    folder: str | Path, image_dir: str | Path | None = None, omissions: Omissions | None = None
) -> Iterator[Record]:
    """Yields a record for each image of `image_dir` (by default data/ in the folder) that labels.json lists.

    omissions: counts attributes other than weight and ignore. Raises InputError for labels without an image, unknown
    classes and invalid boxes.
    """
    path = Path(folder) / "labels.json"
    content = load_json(path, _EXPECTED)
    classes = _classes(content, path)
    class_index = {name: index for index, name in enumerate(classes)}
    labels = content.get("labels")
    if not isinstance(labels, dict):
        raise InputError(path, "has no labels", _EXPECTED)
    root = Path(folder) / "data" if image_dir is None else Path(image_dir)
    names: dict[str, list[str]] = {}
    for name in list_images(root):
        names.setdefault(PurePosixPath(name).with_suffix("").as_posix(), []).append(name)
    for key, entries in labels.items():
        location = f"{path}: {key!r}"
        if key not in names:
            raise InputError(location, f"has no image in {root}", "expected data/ with the images, or image_dir=FOLDER")
        if len(names[key]) > 1:
            what = f"may be {' or '.join(names[key])}"
            raise InputError(location, what, "expected one image per file stem: rename or remove the other")
        (filename,) = names[key]
        height, width = image_size(root / filename)
        if entries is not None and not isinstance(entries, list):
            raise InputError(location, f"contains a JSON {type(entries).__name__}", "expected a list or null")
        instances = (
            None
            if entries is None
            else tuple(_instance(each, classes, class_index, height, width, location) for each in entries)
        )
        for entry in entries or ():
            count_unread(omissions, entry, _READ, "boxes")
            count_unread(omissions, entry.get("attributes") or {}, _ATTRIBUTES, "boxes' attributes")
        yield Record(filename, height, width, instances)


def read_labels_json(
    path: Path, on_problem: Callable[[InputError], None] | None = None
) -> Iterator[tuple[str, str, list[tuple[str, Box, bool]] | None]]:
    """Yields (location, key, boxes) for every entry of a labels.json, without needing its images.

    boxes: (class, corners in fractions of the image, ignore) for each; None for an unlabelled image. Raises InputError
    for unknown classes and invalid boxes; on_problem receives those of an entry instead, which is then skipped.
    """
    content = load_json(path, _EXPECTED)
    classes = _classes(content, path)
    class_index = {name: index for index, name in enumerate(classes)}
    if not isinstance(content.get("labels"), dict):
        raise InputError(path, "has no labels", _EXPECTED)
    for key, entries in content["labels"].items():
        location = f"{path}: {key!r}"
        with handed_to(on_problem):
            if entries is not None and not isinstance(entries, list):
                raise InputError(location, f"contains a JSON {type(entries).__name__}", "expected a list or null")
            if entries is None:
                yield location, key, None
                continue
            found = [_instance(each, classes, class_index, 1, 1, location) for each in entries]
            yield location, key, [(each.category, each.box, each.ignore) for each in found]


def read_fiftyone_categories(folder: str | Path) -> tuple[str, ...]:
    """The classes; if the file lists none, the names of its boxes, sorted."""
    path = Path(folder) / "labels.json"
    return _classes(load_json(path, _EXPECTED), path)


def _classes(content: Any, path: Path) -> tuple[str, ...]:
    content = content if isinstance(content, dict) else {}
    classes = content.get("classes")
    if classes is None and isinstance(content.get("labels"), dict):
        classes = sorted(_names_in(content["labels"]))
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise InputError(path, "has no classes", _EXPECTED)
    return tuple(classes)


def _names_in(labels: Mapping[str, Any]) -> set[str]:
    boxes = (each for entries in labels.values() if isinstance(entries, list) for each in entries)
    names = (each.get("label") for each in boxes if isinstance(each, dict))
    return {name for name in names if isinstance(name, str)}


def _instance(
    entry: Any, classes: Sequence[str], class_index: Mapping[str, int], height: int, width: int, location: str
) -> Instance:
    """The instance of a box. height, width: of the image in pixels; 1, 1 keeps the box in fractions."""
    label = entry.get("label") if isinstance(entry, dict) else None
    if isinstance(label, str):
        label = class_index.get(label, label)
    if not isinstance(label, int) or not 0 <= label < len(classes):
        raise InputError(location, f"label {label!r} is unknown", f"expected 0..{len(classes) - 1}, or a class by name")
    attributes: Mapping = entry.get("attributes") or {}
    try:
        x, y, w, h = map(float, entry["bounding_box"])
        if max(map(abs, (x, y, w, h))) > _LARGEST_FRACTION:
            raise ValueError(f"{[x, y, w, h]} are pixels, not fractions of the image")
        box = (x * width, y * height, (x + w) * width, (y + h) * height)
        weight, ignore = float(attributes.get("weight", 1.0)), bool(attributes.get("ignore", False))
        return Instance(box, label, classes[label], entry.get("confidence"), weight, ignore)
    except (TypeError, KeyError, ValueError, OverflowError, AttributeError) as error:
        raise InputError(
            location, f"has a broken box ({error})", "expected bounding_box: [x, y, width, height]"
        ) from error


def write_fiftyone(
    folder: str | Path, records: Iterable[Record], categories: Sequence[str], overwrite: bool = False
) -> Omissions:
    """Writes labels.json into a new folder, atomically; ignore and weight become attributes.

    Put the images, or a link to their folder, beside it as data/. Raises InputError for captions, for two images with
    the same stem, for labels that are not in `categories`, and if the folder exists. overwrite: replace a folder that
    contains only labels.
    """
    labels: dict[str, list[dict] | None] = {}
    for record in records:
        refuse_caption(record, "FiftyOne's detection data set")
        key = PurePosixPath(record.filename).with_suffix("").as_posix()
        if key in labels:
            raise InputError(record.filename, "has the file stem of another image", "expected one image per file stem")
        for instance in record.instances or ():
            check_category(instance, categories, record.filename)
        labels[key] = None if record.instances is None else [_entry(each, record) for each in record.instances]
    with write_whole_folder(folder, {".json"} if overwrite else ()) as root:
        text = json.dumps({"classes": list(categories), "labels": labels}, ensure_ascii=False)
        (root / "labels.json").write_text(text, encoding="utf-8")
    return Omissions()


def _entry(instance: Instance, record: Record) -> dict[str, Any]:
    x1, y1, x2, y2 = instance.box
    sides = x1 / record.width, y1 / record.height, (x2 - x1) / record.width, (y2 - y1) / record.height
    entry: dict[str, Any] = {"label": instance.label, "bounding_box": [round(side, 8) for side in sides]}
    if instance.score is not None:
        entry["confidence"] = instance.score
    attributes: dict[str, Any] = {} if instance.weight == 1 else {"weight": instance.weight}
    if instance.ignore:
        attributes["ignore"] = True
    return {**entry, "attributes": attributes} if attributes else entry
