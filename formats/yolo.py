"""YOLO text labels: one .txt an image, one object a line, in fractions of the image.

class cx cy w h            a box
class cx cy w h score      a prediction's box
class x1 y1 x2 y2 x3 y3 …  a polygon, read as the box round it
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from formats.images import image_size, list_images, safe_join
from formats.io.errors import InputError, handed_to, refused
from formats.io.files import read_text, write_whole_folder
from formats.label_map import read_category_names
from formats.omissions import Omissions, check_category, count_omissions, refuse_caption
from formats.record import Box, Instance, Record

_log = logging.getLogger(__name__)

# Fractions may leave 0..1 by what rounding and boxes at the border bring; beyond this they are pixels by mistake.
_SLACK = 0.05
_NOT_LABELS = frozenset({"classes.txt"})  # labelling tools put the category names beside the labels


def read_yolo(
    label_dir: str | Path,
    image_dir: str | Path,
    categories: Sequence[str] | str | Path,
    on_problem: Callable[[InputError], None] | None = None,
    omissions: Omissions | None = None,
) -> Iterator[Record]:
    """One record for each image, in the order of their names; size from the image, after its EXIF turn.

    categories: the names in the order of the classes, or a file: data set YAML with `names`, or a text file with one
    name a line. An image without a label file has no objects, as YOLO means it; label files without an
    image are counted in a warning. Raises InputError for an unknown class and for lines that are neither a box nor a
    polygon; on_problem takes the first of each file instead, which is passed over. omissions: takes the polygons.
    """
    names = read_category_names(categories) if isinstance(categories, (str, Path)) else tuple(categories)
    labels = Path(label_dir)
    if not labels.is_dir():
        raise InputError(
            labels, "is not a folder" if labels.exists() else "does not exist", "expected the folder of labels"
        )
    filenames = list_images(image_dir)
    _warn_of_labels_without_image(labels, filenames, image_dir)
    for filename in filenames:
        with handed_to(on_problem):
            height, width = image_size(Path(image_dir) / filename)
            path = (labels / filename).with_suffix(".txt")
            instances = tuple(_instances(path, names, height, width, omissions)) if path.is_file() else ()
            yield Record(filename, height, width, instances)


def _warn_of_labels_without_image(labels: Path, filenames: Sequence[str], image_dir: str | Path) -> None:
    stems = {PurePosixPath(filename).with_suffix("") for filename in filenames}
    alone = [
        path
        for path in sorted(labels.rglob("*.txt"))
        if path.name not in _NOT_LABELS and PurePosixPath(path.relative_to(labels).with_suffix("")) not in stems
    ]
    if alone:  # no error: the COCO128 that everybody has is so
        _log.warning("%s: %d label files have no image in %s, the first is %s", labels, len(alone), image_dir, alone[0])


def _instances(
    path: Path, names: Sequence[str], height: int, width: int, omissions: Omissions | None
) -> Iterator[Instance]:
    for number, line in enumerate(read_text(path, "expected lines of class cx cy w h").splitlines(), start=1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        label, *numbers = _numbers(line, place)
        if not label.is_integer() or not 0 <= label < len(names):
            raise InputError(place, f"class {label:g} is unknown", f"expected 0..{len(names) - 1}")
        (x1, y1, x2, y2), score = _box_and_score(numbers, place)
        if omissions is not None and len(numbers) > 5:
            omissions["polygons, now the boxes round them"] += 1
        try:
            box = (x1 * width, y1 * height, x2 * width, y2 * height)
            yield Instance(box, int(label), names[int(label)], score)
        except ValueError as error:
            raise refused(place, error) from error


def _numbers(line: str, place: str) -> list[float]:
    try:
        numbers = [float(text) for text in line.split()]
    except ValueError:
        raise InputError(place, f"{line.strip()!r} is not all numbers", "expected class cx cy w h") from None
    if not all(map(math.isfinite, numbers)):
        raise InputError(place, f"{line.strip()!r} is not all finite", "expected class cx cy w h")
    return numbers


def _box_and_score(numbers: Sequence[float], place: str) -> tuple[Box, float | None]:
    """The box in fractions of the image, and the score where there is one."""
    if any(not -_SLACK <= number <= 1 + _SLACK for number in numbers):
        raise InputError(
            place, f"{max(numbers, key=abs):g} is no fraction of the image", "expected numbers in 0..1, not pixels"
        )
    if len(numbers) in (4, 5):
        cx, cy, w, h = numbers[:4]
        return (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), (numbers[4] if len(numbers) == 5 else None)
    if len(numbers) >= 6 and len(numbers) % 2 == 0:
        xs, ys = numbers[0::2], numbers[1::2]
        return (min(xs), min(ys), max(xs), max(ys)), None
    raise InputError(
        place,
        f"{len(numbers)} numbers after the class",
        "expected cx cy w h, cx cy w h score, or the x y of 3 or more points",
    )


# Writing


def write_yolo(folder: str | Path, records: Iterable[Record], categories: Sequence[str]) -> Omissions:
    """Writes labels/NAME.txt for each record and data.yaml into a new folder, whole or not at all.

    Gives what YOLO has no place for. Scores become a sixth number, as predictions have it; ignored boxes are left
    out, since every YOLO box is an object; boxes are clipped to the image. data.yaml looks for the images in
    images/ beside labels/. Raises InputError for captions, for two images of one stem, for labels that are not in
    `categories`, and where the folder is there already.
    """
    omissions = Omissions()
    with write_whole_folder(folder) as root:
        for record in records:
            refuse_caption(record, "YOLO")
            count_omissions(omissions, record, ("score",))
            path = safe_join(root / "labels", record.filename).with_suffix(".txt")
            if path.exists():
                raise InputError(record.filename, "has the stem of another image", "expected one image a stem")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(_lines(record, categories, omissions)), encoding="utf-8")
        (root / "labels").mkdir(exist_ok=True)
        (root / "data.yaml").write_text(_data_yaml(categories), encoding="utf-8")
    return omissions


def _lines(record: Record, categories: Sequence[str], omissions: Omissions) -> Iterator[str]:
    for instance in record.instances or ():
        check_category(instance, categories, record.filename)
        if instance.ignore:
            continue
        x1, y1, x2, y2 = instance.box
        left, right = (min(max(x, 0.0), record.width) / record.width for x in (x1, x2))
        top, bottom = (min(max(y, 0.0), record.height) / record.height for y in (y1, y2))
        if not 0 <= x1 <= x2 <= record.width or not 0 <= y1 <= y2 <= record.height:
            omissions["boxes beyond the image, clipped"] += 1
        numbers = [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
        numbers += [] if instance.score is None else [instance.score]
        yield " ".join([str(instance.label), *(f"{number:.8f}" for number in numbers)]) + "\n"


def _data_yaml(categories: Sequence[str]) -> str:
    """JSON texts are YAML texts, whatever signs a name has."""
    names = "".join(f"  {label}: {json.dumps(name)}\n" for label, name in enumerate(categories))
    return f"path: .\ntrain: images\nval: images\nnames:\n{names}" if names else "path: .\nnames: []\n"
