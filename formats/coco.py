"""COCO detection JSON: {"images": [...], "annotations": [...], "categories": [...]}, boxes as x, y, width, height.

label is the position of the category in the file's list, from 0, whatever its id. iscrowd becomes ignore.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from formats.files import write_whole
from formats.problems import InputError
from formats.record import Box, Instance, Record

_DECIMALS = 4  # of a written box; hides the noise that x2 - x1 leaves, keeps what any tool can see


def read_coco(ann_file: str | Path) -> Iterator[Record]:
    """One record for each image, in file order; an image without annotations has instances ().

    A file without the key "annotations" (a test set's) gives instances None. Annotations keep the order of the file,
    and a "score" where they have one. Raises InputError for ids that nothing has, ids given twice, and broken boxes.
    """
    content = _load(ann_file)
    categories = _categories(content, ann_file)
    images = _by_id(content, "images", ann_file)
    labelled = "annotations" in content
    instances: dict[Any, list[Instance]] = {image_id: [] for image_id in images}
    for index, entry in enumerate(_entries(content, "annotations", ann_file) if labelled else ()):
        place = f"{ann_file}: annotation {index}"
        image_id = _needed(entry, "image_id", place)
        if image_id not in instances:
            raise InputError(place, f"image_id {image_id!r} is no image's id", 'want one of "images"')
        instances[image_id].append(_instance(entry, categories, place))
    for image_id, image in images.items():
        place = f"{ann_file}: image {image_id!r}"
        filename, height, width = (_needed(image, key, place) for key in ("file_name", "height", "width"))
        try:
            yield Record(filename, int(height), int(width), tuple(instances[image_id]) if labelled else None)
        except (TypeError, ValueError) as error:
            raise InputError(place, str(error)) from error


def read_coco_categories(path: str | Path) -> tuple[str, ...]:
    """The category names in file order: the name of each label that read_coco gives."""
    return tuple(name for _, name in _categories(_load(path), path).values())


def write_coco(path: str | Path, records: Iterable[Record], categories: Sequence[str]) -> None:
    """Writes detection records as COCO JSON, whole or not at all.

    Image, annotation and category ids count from 1; the category ids in the order of `categories`, whose positions
    are the records' labels. Scores are kept, ignore becomes iscrowd; COCO has no place for weights, nor for the
    difference between an image nobody labelled and one where nothing was found. Raises InputError for a caption
    record and for a label that `categories` does not have under the instance's category name.
    """
    images: list[dict] = []
    annotations: list[dict] = []
    for record in records:
        if record.caption is not None:
            raise InputError(
                record.filename, "is a caption with phrases", "want detection records; COCO has no captions"
            )
        image_id = len(images) + 1
        images.append({"id": image_id, "file_name": record.filename, "height": record.height, "width": record.width})
        for instance in record.instances or ():
            _check_category(instance, categories, record.filename)
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, **_annotation(instance)})
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": label + 1, "name": name} for label, name in enumerate(categories)],
    }
    with write_whole(path) as stream:
        json.dump(content, stream, ensure_ascii=False)


def _instance(entry: Mapping, categories: Mapping[Any, tuple[int, str]], place: str) -> Instance:
    category_id = _needed(entry, "category_id", place)
    if category_id not in categories:
        raise InputError(place, f"category_id {category_id!r} is no category's id", f"want one of {list(categories)}")
    label, name = categories[category_id]
    box = _box(_needed(entry, "bbox", place), place)
    try:
        return Instance(box, label, name, entry.get("score"), ignore=bool(entry.get("iscrowd", 0)))
    except (TypeError, ValueError) as error:
        raise InputError(place, str(error)) from error


def _box(value: Any, place: str) -> Box:
    try:
        x, y, width, height = map(float, value)
    except (TypeError, ValueError):
        raise InputError(place, f"bbox {value} is not four numbers", "want [x, y, width, height]") from None
    if width < 0 or height < 0:
        raise InputError(place, f"bbox {value} has a negative side", "want [x, y, width, height]")
    return x, y, x + width, y + height


def _annotation(instance: Instance) -> dict[str, Any]:
    x1, y1, x2, y2 = instance.box
    annotation: dict[str, Any] = {
        "category_id": instance.label + 1,
        "bbox": [round(value, _DECIMALS) for value in (x1, y1, x2 - x1, y2 - y1)],
        "area": round((x2 - x1) * (y2 - y1), _DECIMALS),
        "iscrowd": int(instance.ignore),
    }
    if instance.score is not None:
        annotation["score"] = instance.score
    return annotation


def _check_category(instance: Instance, categories: Sequence[str], place: str) -> None:
    known = 0 <= instance.label < len(categories)
    if not known or categories[instance.label] != instance.category:
        there = f"is {categories[instance.label]!r}" if known else "is not there"
        raise InputError(
            place, f"label {instance.label} is {instance.category!r}, in the category list it {there}", "want one order"
        )


# The file


def _load(path: str | Path) -> dict:
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise InputError(path, "does not exist", "want a COCO annotation file") from None
    except IsADirectoryError:
        raise InputError(path, "is a folder", "want a COCO annotation file") from None
    except ValueError as error:
        raise InputError(path, f"is not JSON ({error})", "want a COCO annotation file") from error
    if not isinstance(content, dict):
        raise InputError(
            path, f"holds a JSON {type(content).__name__}", 'want {"images": [...], "annotations": [...], ...}'
        )
    return content


def _categories(content: dict, path: str | Path) -> dict[Any, tuple[int, str]]:
    """category id -> (label, name)."""
    by_id = _by_id(content, "categories", path)
    return {
        category_id: (label, _needed(category, "name", f"{path}: category {category_id!r}"))
        for label, (category_id, category) in enumerate(by_id.items())
    }


def _by_id(content: dict, key: str, path: str | Path) -> dict[Any, dict]:
    by_id: dict[Any, dict] = {}
    for index, entry in enumerate(_entries(content, key, path)):
        place = f"{path}: {key} {index}"
        entry_id = _needed(entry, "id", place)
        if entry_id in by_id:
            raise InputError(place, f"id {entry_id!r} is given twice", "want every id once")
        by_id[entry_id] = entry
    return by_id


def _entries(content: dict, key: str, path: str | Path) -> list[dict]:
    entries = _needed(content, key, str(path))
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InputError(path, f"{key!r} is no list of objects", "want a COCO annotation file")
    return entries


def _needed(table: Mapping, key: str, place: str) -> Any:
    if key not in table:
        raise InputError(place, f"{key!r} is missing", "want it as COCO has it")
    return table[key]
