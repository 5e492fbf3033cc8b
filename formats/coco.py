"""COCO detection JSON: {"images": [...], "annotations": [...], "categories": [...]}, boxes as x, y, width, height.


A record's label is the position of the category in the file's list, from 0, not its id. iscrowd becomes ignore, as does
the "ignore" of some tools. Files are read item by item; in memory are the image entries and, as bytes, the annotations
without their outlines.
"""

from __future__ import annotations

import logging
import math
import re
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from sys import intern
from typing import Any, NamedTuple
from urllib.parse import unquote

from formats.images import check_folder, find_below, image_size, safe_join, with_slashes
from formats.io.errors import InputError, expected_one_of, handed_to, refused
from formats.io.files import write_json
from formats.io.json_stream import JsonItem, PackedItems, stream_json
from formats.io.plurals import many, verb
from formats.omissions import Omissions, check_category, count_omissions, count_unread, refuse_caption
from formats.record import LARGEST, Box, Instance, Record, Region, check_box, checked_instance

_log = logging.getLogger(__name__)

_EXPECTED_RESULTS = 'expected a COCO results file: [{"image_id": 1, "category_id": 1, "bbox": [...], "score": 0.5}]'
_DECIMALS = 4  # of a written box: hides the rounding error of x2 - x1


# The keys that are read; some dialects read more.
_IMAGE_KEYS = frozenset({"id", "file_name", "height", "width"})
_ANNOTATION_KEYS = frozenset({"id", "image_id", "category_id", "bbox", "area", "iscrowd", "ignore", "score"})
_CATEGORY_KEYS = frozenset({"id", "name"})
_OUTLINES = ("segmentation", "keypoints")  # most of a file's size
_DROPPED_KEYS = frozenset({"license", "flickr_url", "date_captured"})  # of an image


class CocoContent(NamedTuple):
    """A COCO file with its entries indexed by their ids.

    images, category_entries: id -> entry. categories: id -> (label, name). annotations: in file order, without
    outlines; None if the file has no such key. images_left_out, categories_left_out: ids whose annotations are
    skipped.
    """

    path: str | Path
    images: dict[Any, dict]
    categories: dict[Any, tuple[int, str]]
    annotations: PackedItems | None
    category_entries: dict[Any, dict]
    images_left_out: Collection[Any] = frozenset()
    categories_left_out: Collection[Any] = frozenset()
    ids_ascend: bool = False  # whether annotation ids are known to ascend, hence to be unique
    by_image: Mapping[Any, Sequence[int]] | None = None  # image id -> its annotations; None: some id is not an integer


def read_coco(
    ann_file: str | Path,
    on_problem: Callable[[InputError], None] | None = None,
    omissions: Omissions | None = None,
    image_dir: str | Path | None = None,
) -> Iterator[Record]:
    """Yields a record for each image, in file order; an image without annotations has instances ().

    In a file without the key "annotations" (a test set) instances is None. Annotations keep their order, and their
    "score" if they have one. Raises InputError for ids that refer to nothing, duplicate ids, and invalid boxes;
    on_problem receives the errors of single entries instead, which are then skipped. omissions: counts what a record
    has no field for, such as outlines. image_dir: the images, to look up sizes that the file lacks.
    """
    content = load_coco(ann_file, omissions)
    repeated = _repeated_ids(content)
    for error in repeated:
        with handed_to(on_problem):
            raise error
    yield from coco_records(content, on_problem=on_problem, image_dir=image_dir)


def _repeated_ids(content: CocoContent) -> Iterator[InputError]:
    """Errors for duplicate annotation ids: pycocotools keeps only one of them, so its results would differ from ours.

    While the ids ascend, nothing is stored; from the first that does not, ids are compared with all ids before.
    """
    if content.ids_ascend:
        return
    last: Any = None
    seen: set[Any] | None = None
    for index, entry in enumerate(content.annotations or ()):
        annotation_id = entry.get("id")
        if type(annotation_id) not in (int, str):
            continue
        if seen is None and (last is None or (type(last) is type(annotation_id) and annotation_id > last)):
            last = annotation_id
            continue
        if seen is None:
            before = (each.get("id") for each, _ in zip(content.annotations or (), range(index)))
            seen = {each for each in before if type(each) in (int, str)}
        if annotation_id in seen:
            location = f"{content.path}: annotation {index}"
            yield InputError(location, f"id {annotation_id!r} is listed twice", "expected unique ids")
        seen.add(annotation_id)


def read_coco_results_categories(path: str | Path, truth: str | Path) -> tuple[str, ...]:
    """The category names, which are in the annotation file and not in the results."""
    return read_coco_categories(truth)


def read_coco_categories(path: str | Path) -> tuple[str, ...]:
    """The category names in file order, which are the names of the labels of read_coco."""
    return tuple(name for _, name in load_coco(path, annotated=False).categories.values())


_kept: ContextVar[dict[tuple[str, frozenset[str]], tuple[CocoContent, Omissions]] | None]
_kept = ContextVar("kept", default=None)


@contextmanager
def loaded_once() -> Iterator[None]:
    """Inside the block each file is parsed once, even if both its categories and its records are read."""
    token = _kept.set({})
    try:
        yield
    finally:
        _kept.reset(token)


def load_coco(
    path: str | Path, omissions: Omissions | None = None, also_read: Collection[str] = (), annotated: bool = True
) -> CocoContent:
    """Loads a whole file. Raises InputError if it is not a COCO file, or has a duplicate image or category id.

    also_read: keys of images and annotations that are read besides COCO's own, and so not counted in `omissions`.
    annotated: False skips the annotations.
    """
    kept = _kept.get()
    if kept is None:
        return _load(path, omissions, also_read, annotated)
    key = str(path), frozenset(also_read)
    if key not in kept:
        counted = Omissions()
        kept[key] = _load(path, counted, also_read), counted
    content, counted = kept[key]
    if omissions is not None:
        omissions.update(counted)
    return content


def _load(
    path: str | Path, omissions: Omissions | None, also_read: Collection[str], annotated: bool = True
) -> CocoContent:
    tables: dict[str, dict[Any, dict]] = {}
    annotations: PackedItems | None = None
    read = {"images": _IMAGE_KEYS.union(also_read), "categories": _CATEGORY_KEYS}
    annotation_keys = _ANNOTATION_KEYS.union(also_read)
    ids_ascend = True
    last: Any = -1
    by_image: dict[Any, array] = {}
    numbered = 0
    for key, position, entry in _items(path, dict):
        if key not in ("images", "annotations", "categories"):
            continue
        if position is None and isinstance(entry, list):
            if key in tables:
                raise InputError(path, f"{key!r} is listed twice", "expected each list once")
            tables[key] = {}
            if key == "annotations":
                annotations, by_image, numbered = PackedItems(), {}, 0
        elif position is None or not isinstance(entry, dict):
            raise InputError(path, f"{key!r} is not a list of objects", "expected a COCO annotation file")
        elif key != "annotations":
            count_unread(omissions, entry, read[key], key)
            _add_by_id(tables[key], entry, f"{path}: {key} {position}")
        elif annotated and annotations is not None:
            count_unread(omissions, entry, annotation_keys, key)
            annotation_id, image_id = entry.get("id"), entry.get("image_id")
            ids_ascend = ids_ascend and type(annotation_id) is int and annotation_id > last
            last = annotation_id
            if type(image_id) is int:
                by_image.setdefault(image_id, array("L")).append(len(annotations))
                numbered += 1
            annotations.append(_without_outlines(entry))
    images, category_entries = (needed(tables, key, str(path)) for key in ("images", "categories"))
    names = _categories(category_entries, path)
    known = by_image if annotations is not None and numbered == len(annotations) else None
    return CocoContent(path, images, names, annotations, category_entries, ids_ascend=ids_ascend, by_image=known)


def _without_outlines(entry: dict) -> dict:
    for key in _OUTLINES:
        entry.pop(key, None)
    return entry


def file_name_of(image: Mapping, location: str) -> str:
    """The file name in an image's entry. Raises InputError if it is not a string."""
    return with_slashes(_text(image, "file_name", location))


def coco_records(
    content: CocoContent,
    filename_of: Callable[[Mapping, str], str] = file_name_of,
    on_problem: Callable[[InputError], None] | None = None,
    image_dir: str | Path | None = None,
) -> Iterator[Record]:
    """Yields the records of a loaded file. filename_of: (image entry, location) -> file name.

    image_dir: where the sizes are looked up that the file does not give, and names of images that lead elsewhere; the
    images that are not there are counted in a warning.
    """
    if image_dir is not None:
        check_folder(image_dir)
    found = annotations_by_image(content, on_problem)
    missing: list[str] = []
    for image_id, image in content.images.items():
        instances = None if content.annotations is None else _instances(content, found.get(image_id, ()), on_problem)
        location = f"{content.path}: image {image_id!r}"
        with handed_to(on_problem):
            filename = filename_of(image, location)
            if image_dir is not None:
                below = _name_below(image_dir, filename)
                if below is None:
                    missing.append(filename)
                filename = below or filename
            if image_dir is not None and not (image.get("height") and image.get("width")):
                height, width = image_size(safe_join(image_dir, filename))
                image = {**image, "height": height, "width": width}
            yield record_of(image, location, filename, instances)
    if missing:
        what = f"{many(len(missing), 'image')} {verb(len(missing), 'is', 'are')} not in {image_dir}"
        _log.warning("%s: %s; the first is %s", content.path, what, missing[0])


def _name_below(image_dir: str | Path, filename: str) -> str | None:
    """The name of an image in image_dir: as it stands, decoded ("a%20b.jpg"), or without folders of the machine that
    wrote the file: "../upload/a.jpg", "C:/photos/a.jpg". None where there is none.
    """
    inside = not (filename.startswith(("/", "../")) or filename[1:3] == ":/" or "://" in filename)
    if inside and safe_join(image_dir, filename).is_file():
        return filename
    names = (re.sub(r"^(\w+:/+|(\.\./)+)", "", name) for name in (filename, unquote(filename)))
    return next((found for name in names if (found := find_below(image_dir, name)) is not None), None)


def annotations_by_image(
    content: CocoContent, on_problem: Callable[[InputError], None] | None = None
) -> Mapping[Any, Sequence[int]]:
    """Image id -> indices of its annotations in content.annotations, without those of images left out.

    Raises InputError for an annotation whose image is missing; on_problem receives it instead.
    """
    images, images_left_out = content.images, content.images_left_out
    if content.by_image is not None and all(each in images or each in images_left_out for each in content.by_image):
        return {each: indices for each, indices in content.by_image.items() if each not in images_left_out}
    found: dict[Any, array] = {}
    for index, entry in enumerate(content.annotations or ()):
        image_id = entry.get("image_id")
        if type(image_id) is int and image_id in images and image_id not in images_left_out:
            found.setdefault(image_id, array("L")).append(index)
            continue
        location = f"{content.path}: annotation {index}"  # rarely needed, so it is not formatted in the fast path above
        with handed_to(on_problem):
            image_id = _needed_id(entry, "image_id", location)
            if image_id in images_left_out:
                continue
            if image_id not in images:
                raise InputError(location, f"image_id {image_id!r} is not the id of an image", "expected one of them")
            found.setdefault(image_id, array("L")).append(index)
    return found


def _instances(
    content: CocoContent, indices: Iterable[int], on_problem: Callable[[InputError], None] | None
) -> tuple[Instance, ...]:
    instances: list[Instance] = []
    for index in indices:
        entry = content.annotations[index]  # type: ignore[index]
        if (plain := _plain_instance(entry, content)) is not None:
            instances.append(plain)
            continue
        location = f"{content.path}: annotation {index}"
        with handed_to(on_problem):
            if _needed_id(entry, "category_id", location) not in content.categories_left_out:
                instances.append(_instance(entry, content.categories, location))
    return tuple(instances)


def record_of(
    image: Mapping,
    location: str,
    filename: str,
    instances: tuple[Instance, ...] | None = None,
    caption: str | None = None,
    regions: tuple[Region, ...] | None = None,
) -> Record:
    """The record of an image's entry, which has its size. Raises InputError at `location` if it is invalid."""
    height, width = size_of(image, location)
    try:
        return Record(filename, height, width, instances, caption, regions)
    except ValueError as error:
        raise refused(location, error) from error


def size_of(image: Mapping, location: str) -> tuple[int, int]:
    """(height, width) in pixels of an image's entry."""
    if not image.get("height") or not image.get("width"):
        remedy = "expected height and width in pixels, or the image folder (--images) to look them up in"
        raise InputError(location, "lacks the image's size", remedy)
    try:
        height, width = int(needed(image, "height", location)), int(needed(image, "width", location))
        if (height, width) != (float(image["height"]), float(image["width"])):
            raise ValueError("pixels are counted")
        return height, width
    except (TypeError, ValueError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            location, f"size {image['width']!r} x {image['height']!r} is not a size", "expected pixels"
        ) from error


def read_coco_results(path: str | Path, truth: str | Path) -> Iterator[Record]:
    """Yields the predictions of a COCO results file: a record for each image of the annotation file `truth`.

    The results use the image and category ids of `truth`. An image without predictions has instances (). Raises
    InputError for an id that is not in `truth`.
    """
    content = load_coco(truth)
    entries = PackedItems()
    for index, entry in enumerate(item.value for item in _items(path, list) if item.position is not None):
        if not isinstance(entry, dict):
            raise InputError(path, f"entry {index} is not an object", _EXPECTED_RESULTS)
        needed(entry, "score", f"{path}: annotation {index}")
        entries.append(_without_outlines(entry))
    yield from coco_records(content._replace(path=path, annotations=entries, by_image=None))


def write_coco_results(path: str | Path, records: Iterable[Record], truth: str | Path) -> Omissions:
    """Writes predictions as COCO results: [{"image_id", "category_id", "bbox", "score"}, ...], atomically.

    truth: the COCO annotation file with the image ids (by file name) and category ids (by name). Raises InputError for
    a box without a score, an unknown file name or an unknown category.
    """
    content = load_coco(truth)
    image_ids = {with_slashes(str(image.get("file_name"))): image_id for image_id, image in content.images.items()}
    category_ids = {name: category_id for category_id, (_, name) in content.categories.items()}
    omissions = Omissions()
    results: list[dict] = []
    for record in records:
        refuse_caption(record, "a results file")
        count_omissions(omissions, record, ("score",))
        if record.filename not in image_ids:
            raise InputError(
                record.filename, f"is not an image of {truth}", "expected predictions for the images of the truth"
            )
        for instance in record.instances or ():
            if not instance.ignore:
                results.append(_result(instance, image_ids[record.filename], category_ids, record.filename))
    write_json(path, results, indent=None)
    return omissions


def _result(instance: Instance, image_id: Any, category_ids: Mapping[str, Any], location: str) -> dict[str, Any]:
    if instance.score is None:
        raise InputError(location, f"the box {instance.box} has no score", "expected predictions; write labels as coco")
    if instance.category not in category_ids:
        remedy = expected_one_of(category_ids, instance.category)
        raise InputError(location, f"{instance.category!r} is not a category of the truth", remedy)
    return {
        "image_id": image_id,
        "category_id": category_ids[instance.category],
        "bbox": xywh(instance.box),
        "score": instance.score,
    }


def write_coco(path: str | Path, records: Iterable[Record], categories: Sequence[str]) -> Omissions:
    """Writes detection records as COCO JSON, atomically; returns counts of what COCO cannot store.

    Image, annotation and category ids count from 1; category ids follow the order of `categories`, whose indices are
    the records' labels. Scores are kept; ignore becomes iscrowd. If every image is unlabelled, the file has no
    "annotations", like that of a test set. Raises InputError for a caption record, and for a label whose name in
    `categories` is not the instance's category.
    """
    images: list[dict] = []
    annotations: list[dict] = []
    omissions = Omissions()
    labelled = False
    for record in records:
        refuse_caption(record, "COCO")
        count_omissions(omissions, record, ("score", "ignore"))
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
        omissions.clear()  # without the key, the images are still marked as unlabelled
    content["categories"] = [{"id": label + 1, "name": name} for label, name in enumerate(categories)]
    write_json(path, content, indent=None, ensure_ascii=False)
    return omissions


def _plain_instance(entry: Any, content: CocoContent) -> Instance | None:
    """Fast path: the instance of a common, valid entry; None for anything else.

    Invalid and uncommon entries go to _instance, which checks one field after another.
    """
    try:
        x, y, width, height = entry["bbox"]
        category_id, score = entry["category_id"], entry.get("score")
        x1, y1 = float(x), float(y)
        x2, y2 = x1 + width, y1 + height
        if (
            type(category_id) is int
            and category_id not in content.categories_left_out
            and {type(x), type(y), type(width), type(height)} <= _NUMBERS
            and width >= 0 <= height
            and x1 >= -LARGEST
            and x2 <= LARGEST
            and y1 >= -LARGEST
            and y2 <= LARGEST
            and (score is None or (type(score) is float and 0 <= score <= 1))
            and not _ignored(entry)
        ):
            label, name = content.categories[category_id]
            return checked_instance((x1, y1, float(x2), float(y2)), label, name, score)
    except (TypeError, KeyError, ValueError, OverflowError, AttributeError):
        pass
    return None


_NUMBERS = {int, float}


def _instance(entry: Mapping, categories: Mapping[Any, tuple[int, str]], location: str) -> Instance:
    category_id = _needed_id(entry, "category_id", location)
    if category_id not in categories:
        raise InputError(
            location, f"category_id {category_id!r} is not the id of a category", f"expected one of {list(categories)}"
        )
    label, name = categories[category_id]
    box = box_of(needed(entry, "bbox", location), location)
    score = entry.get("score")
    if score is not None and type(score) not in (int, float):
        raise InputError(location, f"score is {score!r}", "expected a number in 0..1")
    try:
        return Instance(box, label, name, score, ignore=_ignored(entry))
    except (TypeError, ValueError) as error:
        raise refused(location, error) from error


def _ignored(entry: Mapping) -> bool:
    return bool(entry.get("iscrowd") or entry.get("ignore"))


def box_of(value: Any, location: str) -> Box:
    try:
        x, y, width, height = map(float, value)
        if not math.isfinite(x + y + width + height):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise InputError(location, f"bbox {value} is not four numbers", "expected [x, y, width, height]") from None
    if width < 0 or height < 0:
        raise InputError(location, f"bbox {value} has a negative side", "expected [x, y, width, height]")
    box = x, y, x + width, y + height
    try:
        check_box(box)
    except ValueError as error:
        raise refused(location, error) from error
    return box


def xywh(box: Box) -> list[float]:
    """x, y, width, height, as in COCO."""
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


def _items(path: str | Path, kind: type) -> Iterator[JsonItem]:
    """The items of a file whose top-level value is an object (kind: dict) or an array (list)."""
    want = "expected a COCO annotation file" if kind is dict else _EXPECTED_RESULTS
    items = stream_json(path, want)
    top = next(items).value
    if not isinstance(top, kind):
        remedy = 'expected {"images": [...], "annotations": [...], ...}' if kind is dict else want
        raise InputError(path, f"contains a JSON {type(top).__name__}", remedy)
    yield from items


def _add_by_id(table: dict[Any, dict], entry: dict, location: str) -> None:
    entry_id = _needed_id(entry, "id", location)
    if entry_id in table:
        raise InputError(location, f"id {entry_id!r} is listed twice", "expected unique ids")
    # Interned: otherwise each entry has its own copy of every key.
    table[entry_id] = {intern(key): value for key, value in entry.items() if key not in _DROPPED_KEYS}


def _categories(entries: Mapping[Any, dict], path: str | Path) -> dict[Any, tuple[int, str]]:
    """Category id -> (label, name)."""
    return {
        category_id: (label, _text(entry, "name", f"{path}: category {category_id!r}"))
        for label, (category_id, entry) in enumerate(entries.items())
    }


def needed(table: Mapping, key: str, location: str) -> Any:
    """table[key]; raises InputError at `location` if the key is missing."""
    if key not in table:
        raise InputError(location, f"{key!r} is missing", "expected a COCO annotation file")
    return table[key]


def _text(table: Mapping, key: str, location: str) -> str:
    value = needed(table, key, location)
    if not isinstance(value, str):
        raise InputError(location, f"{key} is {value!r}", "expected a string")
    return value


def _needed_id(table: Mapping, key: str, location: str) -> Any:
    value = needed(table, key, location)
    if not isinstance(value, (int, float, str)):
        raise InputError(location, f"{key} is {value!r}", "expected a number or a string")
    return value
