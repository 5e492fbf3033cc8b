"""COCO detection JSON: {"images": [...], "annotations": [...], "categories": [...]}, boxes as x, y, width, height.

label is the position of the category in the file's list, from 0, whatever its id. iscrowd, and an "ignore" where a tool
writes one, becomes ignore.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from formats.files import load_json, write_whole
from formats.losses import Losses, check_category, count_losses, refuse_caption
from formats.problems import InputError, handed_to
from formats.record import Box, Instance, Record

_WANT_RESULTS = 'want a COCO results file: [{"image_id": 1, "category_id": 1, "bbox": [...], "score": 0.5}]'
_DECIMALS = 4  # of a written box; hides the noise that x2 - x1 leaves, keeps what any tool can see


class CocoContent(NamedTuple):
    """A COCO file with its entries found by their ids.

    images, category_entries: id -> entry. categories: id -> (label, name). annotations: None where the file has no
    such key.
    """

    path: str | Path
    images: dict[Any, dict]
    categories: dict[Any, tuple[int, str]]
    annotations: list[dict] | None
    category_entries: dict[Any, dict]


def read_coco(ann_file: str | Path, on_problem: Callable[[InputError], None] | None = None) -> Iterator[Record]:
    """One record for each image, in file order; an image without annotations has instances ().

    A file without the key "annotations" (a test set's) gives instances None. Annotations keep the order of the file,
    and a "score" where they have one. Raises InputError for ids that nothing has, ids given twice, and broken boxes;
    on_problem takes those of single entries instead, which are passed over.
    """
    yield from coco_records(load_coco(ann_file), on_problem=on_problem)


def read_coco_categories(path: str | Path) -> tuple[str, ...]:
    """The category names in file order: the name of each label that read_coco gives."""
    content = _load(path)
    return tuple(name for _, name in _categories(content, path).values())


def load_coco(path: str | Path) -> CocoContent:
    """The whole file. Raises InputError where it is no COCO file or gives an id twice."""
    content = _load(path)
    annotations = _entries(content, "annotations", path) if "annotations" in content else None
    return CocoContent(
        path,
        _by_id(content, "images", path),
        _categories(content, path),
        annotations,
        _by_id(content, "categories", path),
    )


def _file_name(image: Mapping, place: str) -> str:
    return needed(image, "file_name", place)


def coco_records(
    content: CocoContent,
    filename_of: Callable[[Mapping, str], str] = _file_name,
    on_problem: Callable[[InputError], None] | None = None,
) -> Iterator[Record]:
    """The records of a loaded file. filename_of: the file name that an image's entry at a place gives."""
    instances: dict[Any, list[Instance]] = {image_id: [] for image_id in content.images}
    for index, entry in enumerate(content.annotations or ()):
        place = f"{content.path}: annotation {index}"
        with handed_to(on_problem):
            image_id = _needed_id(entry, "image_id", place)
            if image_id not in instances:
                raise InputError(place, f"image_id {image_id!r} is no image's id", 'want one of "images"')
            instances[image_id].append(_instance(entry, content.categories, place))
    for image_id, image in content.images.items():
        place = f"{content.path}: image {image_id!r}"
        found = None if content.annotations is None else tuple(instances[image_id])
        with handed_to(on_problem):
            yield _record(filename_of(image, place), *size_of(image, place), found, place)


def _record(filename: str, height: int, width: int, found: tuple[Instance, ...] | None, place: str) -> Record:
    try:
        return Record(filename, height, width, found)
    except (TypeError, ValueError) as error:
        raise InputError(place, str(error)) from error


def size_of(image: Mapping, place: str) -> tuple[int, int]:
    """(height, width) in pixels of an image's entry."""
    try:
        return int(needed(image, "height", place)), int(needed(image, "width", place))
    except (TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(place, f"size {image['width']!r} x {image['height']!r} is no size", "want pixels") from error


def read_coco_results(path: str | Path, truth: str | Path) -> Iterator[Record]:
    """The predictions of a COCO results file, a record for each image of `truth`, whose ids and categories it uses.

    An image without predictions has instances (). Raises InputError for ids that `truth` does not have.
    """
    content = load_coco(truth)
    entries = _load(path, list)
    if not all(isinstance(entry, dict) for entry in entries):
        raise InputError(path, "holds more than objects", _WANT_RESULTS)
    for index, entry in enumerate(entries):
        needed(entry, "score", f"{path}: annotation {index}")
    yield from coco_records(content._replace(path=path, annotations=entries))


def write_coco_results(path: str | Path, records: Iterable[Record], truth: str | Path) -> Losses:
    """Writes predictions as COCO results: [{"image_id", "category_id", "bbox", "score"}, ...], whole or not at all.

    truth: the COCO file whose image ids (by file name) and category ids (by name) are used. Raises InputError for a
    box without a score, an unknown file name or an unknown category.
    """
    content = load_coco(truth)
    image_ids = {image.get("file_name"): image_id for image_id, image in content.images.items()}
    category_ids = {name: category_id for category_id, (_, name) in content.categories.items()}
    losses = Losses()
    results: list[dict] = []
    for record in records:
        refuse_caption(record, "a results file")
        count_losses(losses, record, ("score",))
        if record.filename not in image_ids:
            raise InputError(record.filename, f"is no image of {truth}", "want predictions for the images of the truth")
        for instance in record.instances or ():
            if not instance.ignore:
                results.append(_result(instance, image_ids[record.filename], category_ids, record.filename))
    with write_whole(path) as stream:
        json.dump(results, stream)
    return losses


def _result(instance: Instance, image_id: Any, category_ids: Mapping[str, Any], place: str) -> dict[str, Any]:
    if instance.score is None:
        raise InputError(place, f"the box {instance.box} has no score", "want a model's predictions, or write coco")
    if instance.category not in category_ids:
        raise InputError(
            place, f"{instance.category!r} is no category of the truth", f"want one of {list(category_ids)}"
        )
    return {
        "image_id": image_id,
        "category_id": category_ids[instance.category],
        "bbox": xywh(instance.box),
        "score": instance.score,
    }


def write_coco(path: str | Path, records: Iterable[Record], categories: Sequence[str]) -> Losses:
    """Writes detection records as COCO JSON, whole or not at all; gives what COCO has no place for.

    Image, annotation and category ids count from 1; the category ids in the order of `categories`, whose positions
    are the records' labels. Scores are kept, ignore becomes iscrowd. Where every image is unlabelled the file has no
    "annotations", as a test set's. Raises InputError for a caption record and for a label that `categories` does not
    have under the instance's category name.
    """
    images: list[dict] = []
    annotations: list[dict] = []
    losses = Losses()
    labelled = False
    for record in records:
        refuse_caption(record, "COCO")
        count_losses(losses, record, ("score", "ignore"))
        labelled |= record.instances is not None
        image_id = len(images) + 1
        images.append({"id": image_id, "file_name": record.filename, "height": record.height, "width": record.width})
        for instance in record.instances or ():
            check_category(instance, categories, record.filename)
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, **_annotation(instance)})
    content: dict[str, list] = {"images": images}
    if labelled or not images:
        content["annotations"] = annotations
    else:
        losses.clear()  # a file without annotations says that nobody has looked
    content["categories"] = [{"id": label + 1, "name": name} for label, name in enumerate(categories)]
    with write_whole(path) as stream:
        json.dump(content, stream, ensure_ascii=False)
    return losses


def _instance(entry: Mapping, categories: Mapping[Any, tuple[int, str]], place: str) -> Instance:
    category_id = _needed_id(entry, "category_id", place)
    if category_id not in categories:
        raise InputError(place, f"category_id {category_id!r} is no category's id", f"want one of {list(categories)}")
    label, name = categories[category_id]
    box = box_of(needed(entry, "bbox", place), place)
    try:
        return Instance(box, label, name, entry.get("score"), ignore=_ignored(entry))
    except (TypeError, ValueError) as error:
        raise InputError(place, str(error)) from error


def _ignored(entry: Mapping) -> bool:
    return bool(entry.get("iscrowd") or entry.get("ignore"))


def box_of(value: Any, place: str) -> Box:
    try:
        x, y, width, height = map(float, value)
    except (TypeError, ValueError):
        raise InputError(place, f"bbox {value} is not four numbers", "want [x, y, width, height]") from None
    if width < 0 or height < 0:
        raise InputError(place, f"bbox {value} has a negative side", "want [x, y, width, height]")
    return x, y, x + width, y + height


def xywh(box: Box) -> list[float]:
    """x, y, width, height, as COCO has them."""
    x1, y1, x2, y2 = box
    return [round(value, _DECIMALS) for value in (x1, y1, x2 - x1, y2 - y1)]


def _annotation(instance: Instance) -> dict[str, Any]:
    x1, y1, x2, y2 = instance.box
    annotation: dict[str, Any] = {
        "category_id": instance.label + 1,
        "bbox": xywh(instance.box),
        "area": round((x2 - x1) * (y2 - y1), _DECIMALS),
        "iscrowd": int(instance.ignore),
    }
    if instance.score is not None:
        annotation["score"] = instance.score
    return annotation


# The file


def _load(path: str | Path, kind: type = dict) -> Any:
    want = "want a COCO annotation file" if kind is dict else _WANT_RESULTS
    content = load_json(path, want)
    if not isinstance(content, kind):
        remedy = 'want {"images": [...], "annotations": [...], ...}' if kind is dict else want
        raise InputError(path, f"holds a JSON {type(content).__name__}", remedy)
    return content


def _categories(content: dict, path: str | Path) -> dict[Any, tuple[int, str]]:
    """category id -> (label, name)."""
    by_id = _by_id(content, "categories", path)
    return {
        category_id: (label, needed(category, "name", f"{path}: category {category_id!r}"))
        for label, (category_id, category) in enumerate(by_id.items())
    }


def _by_id(content: dict, key: str, path: str | Path) -> dict[Any, dict]:
    by_id: dict[Any, dict] = {}
    for index, entry in enumerate(_entries(content, key, path)):
        place = f"{path}: {key} {index}"
        entry_id = _needed_id(entry, "id", place)
        if entry_id in by_id:
            raise InputError(place, f"id {entry_id!r} is given twice", "want every id once")
        by_id[entry_id] = entry
    return by_id


def _entries(content: dict, key: str, path: str | Path) -> list[dict]:
    entries = needed(content, key, str(path))
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InputError(path, f"{key!r} is no list of objects", "want a COCO annotation file")
    return entries


def needed(table: Mapping, key: str, place: str) -> Any:
    """table[key]; raises InputError at `place` when it is not there."""
    if key not in table:
        raise InputError(place, f"{key!r} is missing", "want it as COCO has it")
    return table[key]


def _needed_id(table: Mapping, key: str, place: str) -> Any:
    value = needed(table, key, place)
    if not isinstance(value, (int, float, str)):
        raise InputError(place, f"{key} is {value!r}", "want a number or a text")
    return value
