"""Reads and writes "CVAT for images 1.1": one XML file, a box as xtl, ytl, xbr, ybr in pixels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import escape, quoteattr

from formats.images import with_slashes
from formats.io.errors import InputError, expected_one_of, refused
from formats.io.files import write_whole
from formats.io.plurals import many
from formats.omissions import Omissions, check_category, count_omissions, refuse_caption
from formats.record import Box, Instance, Record
from formats.voc import xml_root

_EXPECTED = "expected CVAT for images 1.1"
_OUTLINES = {"polygon": "polygons", "mask": "masks", "ellipse": "ellipses"}  # read as boxes
_WITHOUT_BOX = {"polyline": "polylines", "points": "points", "cuboid": "cuboids", "skeleton": "skeletons"}


def read_cvat(
    path: str | Path, categories: Sequence[str] | None = None, omissions: Omissions | None = None
) -> Iterator[Record]:
    """Yields a record for each image; polygons, masks and ellipses become their bounding boxes.

    categories: the names in the order of the labels; by default those that the file's <meta> lists, then any others
    that occur. omissions: counts outlines, shapes that are left out (rotated boxes, polylines, points, cuboids,
    skeletons), tags of whole images, attributes, occlusion and groups. Raises InputError for broken XML, missing
    attributes, unknown categories, and videos, whose frames have no file names.
    """
    root = xml_root(path, _EXPECTED)
    if root.tag != "annotations":
        raise InputError(path, f"is <{root.tag}>", _EXPECTED)
    if root.find("image") is None and (tracks := len(root.findall("track"))):
        remedy = "expected CVAT for images 1.1: export the task in that format"
        raise InputError(path, f"contains {many(tracks, 'track')} of a video, and no image with a name", remedy)
    if omissions is not None and (tracks := len(root.findall("track"))):
        omissions["tracks of a video, left out"] += tracks
    names = categories if categories is not None else _names(root)
    labels = {name: label for label, name in enumerate(names)}
    for index, image in enumerate(root.iterfind("image")):
        if omissions is not None:
            _count_unread(image, omissions)
        yield _record(image, labels, f"{path}: image {index}")


def _count_unread(image: ElementTree.Element, omissions: Omissions) -> None:
    for shape in image:
        if _is_turned(shape):
            omissions[f"rotated {_OUTLINES.get(shape.tag, 'boxes')}, left out"] += 1
        elif shape.tag in _OUTLINES:
            omissions[f"{_OUTLINES[shape.tag]}, only the bounding box is read"] += 1
        elif shape.tag == "tag":
            omissions["tags of whole images"] += 1
        elif shape.tag != "box":
            omissions[f"{_WITHOUT_BOX.get(shape.tag, shape.tag)}, left out"] += 1
        omissions["attributes of shapes"] += sum(1 for each in shape if each.tag == "attribute")
        omissions.update(f"{key} of shapes" for key in ("occluded", "group_id") if shape.get(key, "0") != "0")


def _is_turned(shape: ElementTree.Element) -> bool:
    """Whether a box or an ellipse lies at an angle; its box would hold more than the object. Upside down is upright."""
    try:
        return shape.tag in ("box", "ellipse") and float(shape.get("rotation", "0")) % 180 != 0
    except ValueError:
        return False  # _box reports it


def read_cvat_categories(path: str | Path) -> tuple[str, ...]:
    """The category names in the order of the labels: those that <meta> lists, then any others that occur."""
    return tuple(_names(xml_root(path, _EXPECTED)))


def _names(root: ElementTree.Element) -> list[str]:
    listed = [name.text or "" for name in root.iterfind("meta//labels/label/name")]
    drawn = sorted({shape.get("label", "") for image in root.iterfind("image") for shape in image})
    return [name for name in dict.fromkeys([*listed, *drawn]) if name]


def _record(image: ElementTree.Element, labels: Mapping[str, int], location: str) -> Record:
    instances: list[Instance] = []
    for index, shape in enumerate(image):
        where = f"{location}, shape {index}"
        if (shape.tag != "box" and shape.tag not in _OUTLINES) or _is_turned(shape):
            continue  # counted in omissions
        name = _attribute(shape, "label", where)
        if name not in labels:
            raise InputError(where, f"{name!r} is not a category", expected_one_of(labels, name))
        box = _BOXES[shape.tag](shape, where)
        try:
            instances.append(Instance(box, labels[name], name))
        except ValueError as error:
            raise refused(where, error) from error
    height, width = (_number(_attribute(image, side, location), location) for side in ("height", "width"))
    try:
        return Record(with_slashes(_attribute(image, "name", location)), int(height), int(width), tuple(instances))
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise refused(location, error) from error


def _box(shape: ElementTree.Element, location: str) -> Box:
    _number(shape.get("rotation", "0"), location)
    x1, y1, x2, y2 = (_number(_attribute(shape, side, location), location) for side in ("xtl", "ytl", "xbr", "ybr"))
    return x1, y1, x2, y2


def _mask_box(shape: ElementTree.Element, location: str) -> Box:
    x, y, w, h = (_number(_attribute(shape, side, location), location) for side in ("left", "top", "width", "height"))
    return x, y, x + w, y + h


def _ellipse_box(shape: ElementTree.Element, location: str) -> Box:
    cx, cy, rx, ry = (_number(_attribute(shape, side, location), location) for side in ("cx", "cy", "rx", "ry"))
    return cx - rx, cy - ry, cx + rx, cy + ry


def _polygon_box(shape: ElementTree.Element, location: str) -> Box:
    points = [point.split(",") for point in _attribute(shape, "points", location).split(";")]
    if any(len(point) != 2 for point in points):
        raise InputError(location, "has broken points", 'expected points="x,y;x,y;..."')
    xs, ys = ([_number(point[axis], location) for point in points] for axis in (0, 1))
    return min(xs), min(ys), max(xs), max(ys)


_BOXES = {"box": _box, "polygon": _polygon_box, "mask": _mask_box, "ellipse": _ellipse_box}


def _attribute(element: ElementTree.Element, name: str, location: str) -> str:
    value = element.get(name)
    if value is None:
        raise InputError(location, f"<{element.tag}> has no {name}", _EXPECTED)
    return value


def _number(text: str, location: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(location, f"{text!r} is not a number", _EXPECTED)
    return number


def write_cvat(path: str | Path, records: Iterable[Record], categories: Sequence[str]) -> Omissions:
    """Writes detection records as CVAT's XML, atomically and one at a time; returns counts of what it cannot store.

    Ignored boxes are left out, since a reviewer would take them for objects. Raises InputError for captions, and for
    labels whose name in `categories` is not the instance's category.
    """
    omissions = Omissions()
    labels = "".join(f"<label><name>{escape(name)}</name></label>" for name in categories)
    with write_whole(path) as stream:
        stream.write('<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n')
        stream.write(f"<meta><task><labels>{labels}</labels></task></meta>\n")
        for index, record in enumerate(records):
            refuse_caption(record, "CVAT")
            count_omissions(omissions, record)
            name = quoteattr(record.filename)
            stream.write(f'<image id="{index}" name={name} width="{record.width}" height="{record.height}">\n')
            for instance in record.instances or ():
                check_category(instance, categories, record.filename)
                if not instance.ignore:
                    stream.write(_box_element(instance))
            stream.write("</image>\n")
        stream.write("</annotations>\n")
    return omissions


def _box_element(instance: Instance) -> str:
    sides = " ".join(f'{side}="{value:.2f}"' for side, value in zip(("xtl", "ytl", "xbr", "ybr"), instance.box))
    source = "manual" if instance.score is None else "auto"
    return f'  <box label={quoteattr(instance.category)} source="{source}" occluded="0" {sides} z_order="0"></box>\n'
