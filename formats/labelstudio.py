"""Label Studio's JSON tasks: boxes as rectanglelabels, in percent of the image.

Boxes with a score are written as predictions, which Label Studio shows for review; boxes of a person as annotations.
The labelling interface needs <Image name="image" value="$image"/> and <RectangleLabels name="label" toName="image">.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from formats.io.errors import InputError, refused, want_one_of
from formats.io.files import load_json, write_whole
from formats.omissions import Omissions, count_omissions, refuse_caption
from formats.record import Instance, Record

_LOCAL_FILES = "/data/local-files/?d="  # Label Studio's address of a file below its local storage
_WANT = "expected a JSON list of Label Studio's tasks"
_BOX = "rectanglelabels"
_DECIMALS = 6  # of a percent: a thousandth of a pixel


def read_labelstudio(
    path: str | Path, categories: Sequence[str] | None = None, omissions: Omissions | None = None
) -> Iterator[Record]:
    """One record for each task; the last annotation that was not cancelled, else the first prediction.

    A task with neither is unlabelled. categories: the names in the order of the labels; by default all that occur,
    sorted. omissions: takes what else a task holds: other shapes, choices, and answers beside the one. Raises
    InputError for turned boxes, unknown categories, and tasks that do not tell the image's size.
    """
    tasks = load_json(path, _WANT)
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise InputError(path, "is no list of tasks", _WANT)
    places = [f"{path}: task {index}" for index in range(len(tasks))]
    results = [_result(task, place, omissions) for task, place in zip(tasks, places)]
    names = categories if categories is not None else sorted(set(_names(results, places)))
    labels = {name: label for label, name in enumerate(names)}
    for task, place, result in zip(tasks, places, results):
        yield _record(task, result, labels, place)


def _names(results: Sequence[list[dict] | None], places: Sequence[str]) -> Iterator[str]:
    for result, place in zip(results, places):
        yield from (_name(entry, place) for entry in result or ())


def _result(task: Mapping, place: str, omissions: Omissions | None) -> list[dict] | None:
    """The rectangles that count; None where nobody has labelled the task."""
    try:
        done = [each for each in task.get("annotations") or [] if not each.get("was_cancelled")]
        answers = [*(task.get("predictions") or [])[::-1], *done]
        if not answers:
            return None
        if omissions is not None:
            omissions["annotations and predictions beside the one"] += len(answers) - 1
            omissions.update(
                f"results of type {each['type']}" for each in answers[-1]["result"] if each["type"] != _BOX
            )
        return [each for each in answers[-1]["result"] if each["type"] == _BOX]
    except (TypeError, KeyError, AttributeError) as error:
        raise InputError(place, f"its annotations or predictions are broken ({error!r})", _WANT) from error


def _name(entry: Mapping, place: str) -> str:
    try:
        (name,) = entry["value"]["rectanglelabels"]
        return str(name)
    except (TypeError, KeyError, ValueError) as error:
        raise InputError(place, f"a rectangle has no single label ({error!r})", "expected one label a box") from error


def _record(task: Mapping, result: list[dict] | None, labels: Mapping[str, int], place: str) -> Record:
    data = task.get("data")
    address = data.get("image") if isinstance(data, dict) else None
    if not isinstance(data, dict) or not isinstance(address, str):
        raise InputError(place, "has no image", 'expected "data": {"image": "..."}')
    first = result[0] if result else {}
    height = first.get("original_height", data.get("height"))
    width = first.get("original_width", data.get("width"))
    if not isinstance(height, int) or not isinstance(width, int):
        raise InputError(place, "does not tell its image's size", 'expected a box, or "height" and "width" in its data')
    filename = address.partition("?d=")[2] or address.lstrip("/")
    instances = None if result is None else tuple(_instance(each, labels, height, width, place) for each in result)
    try:
        return Record(filename, height, width, instances)
    except ValueError as error:
        raise refused(place, error) from error


def _instance(entry: Mapping, labels: Mapping[str, int], height: int, width: int, place: str) -> Instance:
    name, value = _name(entry, place), entry["value"]
    if name not in labels:
        raise InputError(place, f"{name!r} is no category", want_one_of(labels, name))
    if value.get("rotation") or entry.get("image_rotation"):
        raise InputError(place, f"a box of {name!r} is turned", "expected upright boxes")
    try:
        x, y, w, h = (float(value[side]) / 100 for side in ("x", "y", "width", "height"))
        return Instance(
            (x * width, y * height, (x + w) * width, (y + h) * height), labels[name], name, entry.get("score")
        )
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        raise InputError(
            place, f"a box of {name!r} is broken ({error})", "expected x, y, width, height in percent"
        ) from error


def write_labelstudio(path: str | Path, records: Iterable[Record]) -> Omissions:
    """Writes detection records as a JSON list of tasks, whole or not at all; gives what has no place there.

    The image's address is that of a file below Label Studio's local storage. Ignored boxes are left out: a reviewer
    would take them for objects.
    """
    omissions = Omissions()
    with write_whole(path) as stream:
        stream.write("[")
        for index, record in enumerate(records):
            refuse_caption(record, "our Label Studio task")
            count_omissions(omissions, record, ("score", "unlabelled"))
            stream.write((",\n" if index else "\n") + json.dumps(_task(record), ensure_ascii=False))
        stream.write("\n]\n")
    return omissions


def _task(record: Record) -> dict[str, Any]:
    kept = [instance for instance in record.instances or () if not instance.ignore]
    drawn = [instance for instance in kept if instance.score is None]
    scored = [instance for instance in kept if instance.score is not None]
    image = {"image": _LOCAL_FILES + record.filename, "height": record.height, "width": record.width}
    task: dict[str, Any] = {"data": image}
    if drawn:
        task["annotations"] = [{"result": [_rectangle(each, index, record) for index, each in enumerate(drawn)]}]
    if scored or (record.instances is not None and not drawn):
        task["predictions"] = [{"result": [_rectangle(each, index, record) for index, each in enumerate(scored)]}]
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
