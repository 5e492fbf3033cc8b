"""Reads Cityscapes: gtFine/SPLIT/CITY/NAME_gtFine_instanceIds.png, a number for each pixel.

1000 * class + count is an object, a class number alone is a group of objects; other classes have no objects. A box
encloses the visible part of an object, as in the reference (mmdet 3.3.0, tools/dataset_converters/cityscapes.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from formats.io.errors import InputError
from formats.omissions import Omissions
from formats.record import Instance, Record

# Class number -> name, for the evaluated classes that have objects (cityscapesScripts, labels.py).
_CLASSES = {
    24: "person",
    25: "rider",
    26: "car",
    27: "truck",
    28: "bus",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
}
_SUFFIX = "_gtFine_instanceIds.png"


def read_cityscapes(gt_dir: str | Path, omissions: Omissions | None = None) -> Iterator[Record]:
    """Yields a record for each instanceIds.png under `gt_dir` (gtFine/val), sorted by name.

    File names are "CITY/NAME_leftImg8bit.png", relative to leftImg8bit/val. Groups have `ignore` set; omissions counts
    the masks. Raises InputError if there is no such file, or one is not a single-channel image.
    """
    root = Path(gt_dir)
    paths = sorted(root.rglob(f"*{_SUFFIX}"))
    if not paths:
        raise InputError(root, f"contains no *{_SUFFIX}", "expected gtFine/train or gtFine/val")
    for path in paths:
        name = path.name.removesuffix(_SUFFIX) + "_leftImg8bit.png"
        numbers = _read_numbers(path)
        height, width = numbers.shape
        filename = (path.relative_to(root).parent / name).as_posix()
        instances = tuple(_instances(numbers))
        if omissions is not None:
            omissions["masks, only the bounding box is read"] += len(instances)
        yield Record(filename, height, width, instances)


def read_cityscapes_categories(gt_dir: str | Path) -> tuple[str, ...]:
    """The category names in the order of the labels."""
    return tuple(_CLASSES.values())


def _read_numbers(path: Path):
    """(H, W) int64, the number of each pixel."""
    try:
        with Image.open(path) as image:
            numbers = np.asarray(image).astype(np.int64)
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(path, f"cannot be read as an image ({error})", "expected the published PNG") from error
    if numbers.ndim != 2:
        raise InputError(path, f"has {numbers.shape[-1]} channels", "expected instanceIds, one number per pixel")
    return numbers


def _instances(numbers) -> Iterator[Instance]:
    labels = {number: label for label, number in enumerate(_CLASSES)}
    for number in np.unique(numbers).tolist():
        group = number < 1000
        class_number = number if group else number // 1000
        if class_number in _CLASSES:
            rows, columns = np.nonzero(numbers == number)
            box = float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1)
            yield Instance(box, labels[class_number], _CLASSES[class_number], ignore=group)
