"""Cityscapes: gtFine/SPLIT/CITY/NAME_gtFine_instanceIds.png, a number for each pixel.

1000 * class + count is an object, a bare class number a group of them; other classes have no objects. Boxes are drawn
round what is seen of an object, as the reference draws them (mmdet 3.3.0, tools/dataset_converters/cityscapes.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from formats.io.errors import InputError
from formats.omissions import Omissions
from formats.record import Instance, Record

# Class number -> name, of the classes with objects that are evaluated (cityscapesScripts, labels.py).
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
    """One record for each instanceIds.png under `gt_dir` (gtFine/val), in the order of their names.

    File names are "CITY/NAME_leftImg8bit.png", relative to leftImg8bit/val. Groups are ignored; omissions counts
    the masks. Raises InputError when there is no such file or one that is not a map of 16-bit numbers.
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
            omissions["masks, of which the box is read"] += len(instances)
        yield Record(filename, height, width, instances)


def read_cityscapes_categories(gt_dir: str | Path) -> tuple[str, ...]:
    """The names of the labels."""
    return tuple(_CLASSES.values())


def _read_numbers(path: Path):
    """(H, W) int, the number of each pixel."""
    try:
        with Image.open(path) as image:
            numbers = np.asarray(image).astype(np.int64)
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(path, f"cannot be read as an image ({error})", "expected the published PNG") from error
    if numbers.ndim != 2:
        raise InputError(path, f"has {numbers.shape[-1]} channels", "expected instanceIds, one 16-bit number a pixel")
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
