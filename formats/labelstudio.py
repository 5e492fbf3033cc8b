"""Reads and writes Label Studio's JSON tasks: boxes as rectanglelabels, in percent of the image.

Boxes with a score are written as predictions, which Label Studio shows for review; boxes without one, drawn by a
person, as annotations. The labelling interface needs <Image name="image" value="$image"/> and
<RectangleLabels name="label" toName="image">.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, urlsplit

from formats.images import IMAGE_SUFFIXES, find_below, image_size, safe_join, with_slashes
from formats.io.errors import InputError, expected_one_of, handed_to, refused
from formats.io.files import load_json, write_whole
from formats.io.values import describe_value
from formats.omissions import Omissions, count_omissions, refuse_caption
from formats.record import Box, Instance, Record

_LOCAL_FILES = "/data/local-files/?d="  # prefix of Label Studio's URL of a file in its local storage
MODEL_VERSION = "groundhog"
_EXPECTED = "expected a JSON list of Label Studio's tasks"
_BOX = "rectanglelabels"
_ROTATED = "rotated boxes, left out"
# Results that mark an object in the image, unlike choices and texts about the whole image.
_SHAPES = {_ROTATED: "rotated boxes"} | {
    f"results of type {kind}": noun
    for kind, noun in (
        ("polygonlabels", "polygons"),
        ("brushlabels", "masks"),
        ("ellipselabels", "ellipses"),
        ("keypointlabels", "points"),
        ("rectangle", "rectangles without a label"),
        ("polygon", "polygons without a label"),
    )
}
_OUTLINES = {"polygon": "polygons", "ellipse": "ellipses"}
_ONLY_BOX = ", only the bounding box is read"
_SHAPES |= {noun + _ONLY_BOX: noun for noun in _OUTLINES.values()}
_DECIMALS = 6  # of a percent: a thousandth of a pixel


def read_labelstudio(
    path: str | Path,
    categories: Sequence[str] | None = None,
    omissions: Omissions | None = None,
    image_dir: str | Path | None = None,
    on_problem: Callable[[InputError], None] | None = None,
) -> Iterator[Record]:
    """Yields a record for each task: its last annotation that was not cancelled, else its first prediction.

    A task with neither is unlabelled. A box with several labels becomes a box for each. categories: the names in the
    order of the labels; by default all that occur, sorted. image_dir: the folder in which to find a task's image, by
    the longest possible tail of its URL, and to look up its size if the task does not have it. omissions: counts what
    else a task contains (other shapes, rotated boxes, boxes without a label, choices, further annotations), and the
    tasks that are left out: without an image, with one that is not in image_dir, or of unknown size. Raises InputError
    for unknown categories, invalid tasks, and if no task can be used; on_problem receives the problems of single tasks
    instead, which are then skipped.
    """
    tasks = load_json(path, _EXPECTED)
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise InputError(path, "is not a list of tasks", _EXPECTED)
    locations = [f"{path}: task {index}" for index in range(len(tasks))]
    omissions = Omissions() if omissions is None else omissions
    read: list[tuple[str, Mapping, list[dict] | None]] = []
    for task, location in zip(tasks, locations):
        with handed_to(on_problem):
            if not _has_address(task):
                omissions["tasks without the URL of an image, left out"] += 1
            else:
                read.append((location, task, _labelled(_result(task, location, omissions), omissions)))
    if tasks and not read:
        with handed_to(on_problem):
            _address(tasks[0], locations[0])
    names = categories if categories is not None else _all_names(read, on_problem)
    labels = {name: label for label, name in enumerate(names)}
    uploads = Counter(_without_upload_key(_address(task, "")) for _, task, _ in read if _has_address(task))
    sized = any(_size(task, result) for _, task, result in read)
    first_missing: InputError | None = None
    for location, task, result in read:
        with handed_to(on_problem):
            filename = _filename(_address(task, location), image_dir, uploads)
            size = _size(task, result)
            if size is None and image_dir is not None:
                path = safe_join(image_dir, filename)
                if not path.exists():
                    first_missing = first_missing or InputError(path, "does not exist", "expected the tasks' images")
                    omissions["tasks whose image is not in the folder, left out"] += 1
                    continue
                size, sized = image_size(path), True
            if size is None and not sized:
                remedy = 'expected a box, "height" and "width" in its data, or the image folder to look it up in'
                raise InputError(location, "lacks the size of its image", remedy)
            if size is None:
                omissions["tasks without an image size, left out; --images would provide it"] += 1
                continue
            yield _record(filename, size, result, labels, location)
    if first_missing is not None and not sized:
        with handed_to(on_problem):
            raise first_missing


def _all_names(
    read: Sequence[tuple[str, Mapping, list[dict] | None]], on_problem: Callable[[InputError], None] | None
) -> list[str]:
    names: set[str] = set()
    for location, _, result in read:
        # With on_problem, it is reported when the task is read.
        with handed_to(None if on_problem is None else lambda error: None):
            names.update(_name(entry, location) for entry in result or ())
    return sorted(names)


def _result(task: Mapping, location: str, omissions: Omissions) -> list[dict] | None:
    """The upright rectangles of the annotation or prediction to read; None for an unlabelled task."""
    try:
        done = [each for each in task.get("annotations") or [] if not each.get("was_cancelled")]
        # A prediction may be exported as its id alone.
        predicted = [each for each in (task.get("predictions") or [])[::-1] if not isinstance(each, int)]
        readable = [*predicted, *done]
        if not readable:
            return None
        omissions["annotations or predictions other than the one that is read"] += len(readable) - 1
        boxes = list(_rectangles(readable[-1]["result"] or [], omissions))
        upright = [each for each in boxes if not (each["value"].get("rotation") or each.get("image_rotation"))]
        omissions[_ROTATED] += len(boxes) - len(upright)
        return upright
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise InputError(location, f"its annotations or predictions are broken ({error!r})", _EXPECTED) from error


def _rectangles(results: Sequence[dict], omissions: Omissions) -> Iterator[dict]:
    """The shapes with a label, each as a rectangle with labels; other results are counted.

    A labelling interface with <Rectangle> and <Labels> has two results of one id, the shape and its labels.
    """
    named = {each["id"]: each["value"]["labels"] for each in results if each["type"] == "labels" and "id" in each}
    shapes = {each.get("id") for each in results if each["type"] in ("rectangle", *_OUTLINES)}
    for each in results:
        kind, shape = each["type"], each["type"].removesuffix("labels")
        names = each["value"].get(kind) if kind != shape else named.get(each.get("id"))
        if kind == _BOX:
            yield each
        elif shape in ("rectangle", *_OUTLINES) and names is not None:
            if shape in _OUTLINES:
                omissions[_OUTLINES[shape] + _ONLY_BOX] += 1
            yield {**each, "value": {**each["value"], **_SIDES[shape](each["value"]), _BOX: names}}
        elif kind != "labels" or each.get("id") not in shapes:
            omissions[f"results of type {kind}"] += 1


def _polygon_sides(value: Mapping) -> dict[str, float]:
    xs, ys = zip(*value["points"], strict=True)
    return {"x": min(xs), "y": min(ys), "width": max(xs) - min(xs), "height": max(ys) - min(ys)}


def _ellipse_sides(value: Mapping) -> dict[str, float]:
    rx, ry = value["radiusX"], value["radiusY"]
    return {"x": value["x"] - rx, "y": value["y"] - ry, "width": 2 * rx, "height": 2 * ry}


# Of a shape's value: x, y, width, height in percent.
_SIDES: Mapping[str, Callable[[Mapping], dict[str, float]]] = {
    "rectangle": lambda value: {},
    "polygon": _polygon_sides,
    "ellipse": _ellipse_sides,
}


def _labelled(result: list[dict] | None, omissions: Omissions) -> list[dict] | None:
    """The boxes with one label each: one with several labels is repeated, one without a label is only counted."""
    if result is None:
        return None
    found: list[dict] = []
    for entry in result:
        names = entry["value"].get(_BOX)
        if not names:
            omissions["boxes without a label, left out"] += 1
        elif isinstance(names, list) and len(names) > 1:
            omissions["boxes with several labels, now one box per label"] += 1
            found += [{**entry, "value": {**entry["value"], _BOX: [name]}} for name in names]
        else:
            found.append(entry)
    return found


def _name(entry: Mapping, location: str) -> str:
    try:
        (name,) = entry["value"]["rectanglelabels"]
        return str(name)
    except (TypeError, KeyError, ValueError) as error:
        raise InputError(
            location, f"a rectangle has no single label ({error!r})", "expected one label per box"
        ) from error


class Submission(NamedTuple):
    """The annotation that a person submitted for a task.

    path: of its image, relative to the local storage, bucket or server. size: height, width; None if the task does not
    have it. boxes: (name, corners in fractions of the image); None without a submitted annotation.
    """

    location: str
    path: str
    size: tuple[int, int] | None
    boxes: tuple[tuple[str, Box], ...] | None


def read_submissions(path: str | Path, on_problem: Callable[[InputError], None] | None = None) -> Iterator[Submission]:
    """Yields every task with the annotation that a person submitted; predictions are not read.

    Of several annotations, the last one counts, or the last one marked as ground truth; cancelled ones (skipped tasks)
    do not count. Raises InputError for an invalid task, and for one with shapes other than upright rectangles;
    on_problem receives it instead, and the task is skipped.
    """
    tasks = load_json(path, _EXPECTED)
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise InputError(path, "is not a list of tasks", _EXPECTED)
    for index, task in enumerate(tasks):
        location = f"{path}: task {task.get('id', index)}"
        with handed_to(on_problem):
            result = _submitted(task, location)
            yield Submission(
                location, _path_of(_address(task, location)), _size(task, result), _fractions(result, location)
            )


def _submitted(task: Mapping, location: str) -> list[dict] | None:
    omissions = Omissions()
    annotations = task.get("annotations")
    if isinstance(annotations, list) and any(
        isinstance(each, dict) and each.get("ground_truth") for each in annotations
    ):
        annotations = [each for each in annotations if each.get("ground_truth")]
    result = _result({"annotations": annotations}, location, omissions)
    lost = {what: count for what, count in omissions.items() if count and what in _SHAPES}
    if lost:
        what = ", ".join(f"{_SHAPES[what]} ({count})" for what, count in lost.items())
        raise InputError(location, f"contains {what}", "expected upright rectangles")
    return result


def _fractions(result: list[dict] | None, location: str) -> tuple[tuple[str, Box], ...] | None:
    if result is None:
        return None
    labels = {_name(entry, location): 0 for entry in result}
    instances = [_instance(entry, labels, 1, 1, location) for entry in result]
    return tuple((each.category, each.box) for each in instances)


def _has_address(task: Mapping) -> bool:
    try:
        return bool(_address(task, ""))
    except InputError:
        return False


def _address(task: Mapping, location: str) -> str:
    """The URL of the image, under any key that the labelling interface may use."""
    data = task.get("data")
    texts = {key: value for key, value in data.items() if isinstance(value, str)} if isinstance(data, dict) else {}
    if "image" in texts and not texts["image"].startswith("data:"):
        return texts["image"]
    suffixes = tuple(IMAGE_SUFFIXES)
    found = [
        each
        for each in texts.values()
        if urlsplit(each.lower().partition("?d=")[2] or each.lower()).path.endswith(suffixes)
    ]
    if len(found) != 1:
        if data is None and isinstance(task.get("image"), str):
            raise InputError(location, "is in the export format JSON-MIN", "expected Label Studio's JSON export")
        raise InputError(location, "has no image", 'expected "data": {"image": "..."}')
    return found[0]


_STORED = re.compile(r"(?:^|&)fileuri=([\w%+/=-]+)")


def _decoded(text: str) -> str:
    """The URL that is encoded in Base64; "" if the text is not Base64."""
    try:
        return base64.b64decode(text, altchars=b"-_", validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        return ""


_UPLOAD_KEY = re.compile(r"[0-9a-f]{8}-(?=.)")  # prefix of the names of files uploaded in the browser


def _path_of(address: str) -> str:
    """The path of a file from its URL, relative to the local storage, bucket or server."""
    local = address.partition("?d=")[2]
    if local:
        return with_slashes(unquote(local)).lstrip("/")
    try:
        parts = urlsplit(address)
    except ValueError:  # brackets that urlsplit takes for an IPv6 address
        return address
    if stored := _STORED.search(parts.query):  # the server's address of a file in a bucket
        return _path_of(_decoded(unquote(stored[1]))) or unquote(parts.path).lstrip("/")
    if not parts.scheme or len(parts.scheme) == 1:  # a path; one letter is a drive
        return with_slashes(unquote(address)).lstrip("/")
    return unquote(parts.path).lstrip("/")


def _without_upload_key(address: str) -> str:
    path = _path_of(address)
    if "upload/" not in path:
        return path
    return _UPLOAD_KEY.sub("", PurePosixPath(path).name, count=1)


def _filename(address: str, image_dir: str | Path | None, uploads: Mapping[str, int]) -> str:
    path, short = _path_of(address), _without_upload_key(address)
    if image_dir is not None:
        found = find_below(image_dir, path) or find_below(image_dir, short)
        if found is not None:
            return found
    return short if uploads[short] == 1 else PurePosixPath(path).name if short != path else path


def _size(task: Mapping, result: list[dict] | None) -> tuple[int, int] | None:
    """(height, width) from the first box, the task's data, or a box of another annotation or prediction."""
    data = task.get("data")
    task_data = data if isinstance(data, dict) else {}
    first = result[0] if result else {}
    height, width = (
        first.get("original_height", task_data.get("height")),
        first.get("original_width", task_data.get("width")),
    )
    if (size := _whole(height, width)) is not None:
        return size
    others = [*(task.get("annotations") or ()), *(task.get("predictions") or ())]
    boxes = (box for each in others if isinstance(each, dict) for box in each.get("result") or ())
    sizes = ((box.get("original_height"), box.get("original_width")) for box in boxes if isinstance(box, dict))
    return next((size for h, w in sizes if (size := _whole(h, w)) is not None), None)


def _whole(height: Any, width: Any) -> tuple[int, int] | None:
    """Two numbers of pixels, also where a program wrote 64.0."""
    if not all(_is_number(side) and math.isfinite(side) and side == int(side) for side in (height, width)):
        return None
    return int(height), int(width)


def _record(
    filename: str, size: tuple[int, int], result: list[dict] | None, labels: Mapping[str, int], location: str
) -> Record:
    instances = None if result is None else tuple(_instance(each, labels, *size, location) for each in result)
    try:
        return Record(filename, *size, instances)
    except ValueError as error:
        raise refused(location, error) from error


def _instance(entry: Mapping, labels: Mapping[str, int], height: int, width: int, location: str) -> Instance:
    name, value = _name(entry, location), entry["value"]
    if name not in labels:
        raise InputError(location, f"{name!r} is not a category", expected_one_of(labels, name))
    score, sides = entry.get("score"), [value.get(side) for side in ("x", "y", "width", "height")]
    if not all(map(_is_number, sides)) or not (score is None or _is_number(score)):
        values = f"{', '.join(map(describe_value, sides))}, its score {describe_value(score)}"
        remedy = "expected x, y, width, height in percent, and a score in 0..1 or none"
        raise InputError(location, f"a box of {name!r} is invalid: it is {values}", remedy)
    try:
        x, y, w, h = (float(side) / 100 for side in sides)
        box = (x * width, y * height, (x + w) * width, (y + h) * height)
        return Instance(box, labels[name], name, score)
    except (ValueError, OverflowError) as error:
        raise refused(location, error) from error


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def write_labelstudio(
    path: str | Path,
    records: Iterable[Record],
    image_dir: str | Path | None = None,
    image_prefix: str | None = None,
    model_version: str = MODEL_VERSION,
) -> Omissions:
    """Writes detection records as a JSON list of tasks, atomically; returns counts of what it cannot store.

    By default the image's URL is that of a file below Label Studio's LOCAL_FILES_DOCUMENT_ROOT. image_dir: the image
    folder, whose name is put before the file name, since Label Studio only serves files in a folder of that root.
    image_prefix: put before the file name instead: a folder of that root ("photos"), a URL
    ("https://images.test/cat"), or a bucket ("s3://bucket/cat"). model_version: of the predictions. The score of a
    prediction is the lowest of its boxes, so that Label Studio can sort tasks by it. Ignored boxes are left out, since
    a reviewer would take them for objects.
    """
    omissions = Omissions()
    folder = "" if image_dir is None else Path(image_dir).resolve().name
    prefix = folder if image_prefix is None else image_prefix
    with write_whole(path) as stream:
        stream.write("[")
        for index, record in enumerate(records):
            refuse_caption(record, "our Label Studio task")
            count_omissions(omissions, record, ("score", "unlabelled"))
            task = _task(record, _address_below(prefix, record.filename), model_version)
            stream.write((",\n" if index else "\n") + json.dumps(task, ensure_ascii=False))
        stream.write("\n]\n")
    return omissions


def _address_below(prefix: str, filename: str) -> str:
    """The URL of an image. It is percent-encoded except in buckets, whose keys Label Studio uses verbatim."""
    below = prefix if prefix.endswith(("/", "=")) or not prefix else f"{prefix}/"
    if re.match(r"(s3|gs|azure-blob)://", below):
        return below + filename
    if "://" in below or below.startswith("/"):
        return below + quote(filename)
    return _LOCAL_FILES + quote(below + filename)


def _task(record: Record, address: str, model_version: str) -> dict[str, Any]:
    kept = [instance for instance in record.instances or () if not instance.ignore]
    drawn = [instance for instance in kept if instance.score is None]
    scored = [instance for instance in kept if instance.score is not None]
    task: dict[str, Any] = {"data": {"image": address, "height": record.height, "width": record.width}}
    if drawn:
        task["annotations"] = [{"result": [_rectangle(each, index, record) for index, each in enumerate(drawn)]}]
    if scored or (record.instances is not None and not drawn):
        prediction: dict[str, Any] = {"model_version": model_version}
        if scored:
            prediction["score"] = min(each.score for each in scored if each.score is not None)
        result = [_rectangle(each, index, record) for index, each in enumerate(scored)]
        task["predictions"] = [{**prediction, "result": result}]
    return task


def _rectangle(instance: Instance, index: int, record: Record) -> dict[str, Any]:
    x1, y1, x2, y2 = instance.box
    sides = {
        "x": 100 * x1 / record.width,
        "y": 100 * y1 / record.height,
        "width": 100 * (x2 - x1) / record.width,
        "height": 100 * (y2 - y1) / record.height,
    }
    rectangle = {
        "id": f"box{index}",
        "type": "rectanglelabels",
        "from_name": "label",
        "to_name": "image",
        "original_width": record.width,
        "original_height": record.height,
        "image_rotation": 0,
        "value": {
            **{side: round(percent, _DECIMALS) for side, percent in sides.items()},
            "rotation": 0,
            "rectanglelabels": [instance.category],
        },
    }
    return rectangle if instance.score is None else {**rectangle, "score": instance.score}
