"""Reads exports of labelling tools, before their images are matched with those of the data set.

Image names are as the tool has them: a URL, a path on another machine, or a file stem. Boxes stay in the tool's units,
since some formats do not have image sizes. Nothing is dropped silently: a shape that is not an axis-aligned box is
reported as a problem of its image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from formats.coco import coco_records, load_coco
from formats.cvat import read_cvat
from formats.export_tools import TITLES
from formats.fiftyone import read_labels_json
from formats.images import IMAGE_SUFFIXES, with_slashes
from formats.io.errors import InputError, handed_to, refused
from formats.io.files import read_text
from formats.label_map import read_category_names
from formats.labelstudio import read_submissions
from formats.omissions import Omissions
from formats.record import Box, Record, check_box
from formats.voc import read_voc
from formats.yolo import find_label_files
from formats.yolo_rows import read_rows

Problem = Callable[[InputError], None]


@dataclass(frozen=True, slots=True)
class ExportedBox:
    """One object. box: x1, y1, x2, y2 in pixels, or in fractions of the image where the image's `relative` is set."""

    category: str
    box: Box
    ignore: bool = False


@dataclass(frozen=True, slots=True)
class ExportedImage:
    """One image of an export.

    name: its path or stem, with "/" between the parts. size: height, width in pixels; None if unknown. boxes: None if
    nobody has finished it. is_stem: the name has no suffix. relative: boxes are in fractions of the image.
    finished: whether a person has finished it; None if the tool does not record that.
    """

    location: str
    name: str
    size: tuple[int, int] | None
    boxes: tuple[ExportedBox, ...] | None
    is_stem: bool = False
    relative: bool = False
    finished: bool | None = None


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """Options of some formats. image_dir: images to look up sizes. categories: YOLO's names, or the file with them."""

    image_dir: Path | None = None
    categories: Sequence[str] | Path | None = None


def read_exported(
    tool: str, path: str | Path, on_problem: Problem, options: ExportOptions = ExportOptions()
) -> Iterator[ExportedImage]:
    """Yields every image of an export. tool: a key of TOOLS.

    on_problem: receives the problems of single images, which are then skipped. Raises InputError if the export as a
    whole cannot be read.
    """
    if not Path(path).exists():
        raise InputError(path, "does not exist", f"expected an export of {TOOLS[tool].title}")
    return TOOLS[tool].read(Path(path), on_problem, options)


def _labelstudio(path: Path, on_problem: Problem, options: ExportOptions) -> Iterator[ExportedImage]:
    for submission in read_submissions(path, on_problem):
        boxes = None if submission.boxes is None else tuple(ExportedBox(name, box) for name, box in submission.boxes)
        finished = submission.boxes is not None
        yield ExportedImage(
            submission.location, submission.path, submission.size, boxes, relative=True, finished=finished
        )


def _cvat(path: Path, on_problem: Problem, options: ExportOptions) -> Iterator[ExportedImage]:
    omissions = Omissions()
    for record in read_cvat(path, omissions=omissions):
        location = f"{path}: {record.filename}"
        lost = {what: count for what, count in omissions.items() if what.endswith("left out")}
        omissions.clear()
        with handed_to(on_problem):
            _refuse_lost(lost, location)
            yield _of_record(record, location)


def _refuse_lost(lost: dict[str, int], location: str) -> None:
    if lost:
        what = ", ".join(f"{what.removesuffix(', left out')} ({count})" for what, count in lost.items())
        raise InputError(location, f"contains {what}", "expected upright boxes")


def _coco(path: Path, on_problem: Problem, options: ExportOptions) -> Iterator[ExportedImage]:
    content = load_coco(path, also_read=("attributes",))
    rotated = set()
    for entry in content.annotations or ():
        attributes = entry.get("attributes")
        if isinstance(attributes, dict) and _is_turn(attributes.get("rotation")):
            rotated.add(entry.get("image_id"))
    for image_id, record in zip(content.images, coco_records(content, image_dir=options.image_dir), strict=True):
        location = f"{path}: {record.filename}"
        with handed_to(on_problem):
            if image_id in rotated:
                raise InputError(location, "contains rotated boxes", "expected upright boxes")
            yield _of_record(record, location)


def _is_turn(value: object) -> bool:
    return isinstance(value, (int, float)) and value % 360 != 0


def _voc(path: Path, on_problem: Problem, options: ExportOptions) -> Iterator[ExportedImage]:
    for record in read_voc(path, image_dir=options.image_dir, on_problem=on_problem):
        yield _of_record(record, f"{path}: {record.filename}")


def _of_record(record: Record, location: str) -> ExportedImage:
    instances = record.instances
    boxes = (
        None if instances is None else tuple(ExportedBox(each.category, each.box, each.ignore) for each in instances)
    )
    return ExportedImage(location, record.filename, (record.height, record.width), boxes)


def _fiftyone(path: Path, on_problem: Problem, options: ExportOptions) -> Iterator[ExportedImage]:
    file = path / "labels.json" if path.is_dir() else path
    for location, key, entries in read_labels_json(file, on_problem):
        with handed_to(on_problem):
            boxes = None if entries is None else tuple(ExportedBox(*entry) for entry in entries)
            yield ExportedImage(location, with_slashes(key), None, boxes, is_stem=True, relative=True)


def _checked(box: Box, location: str) -> Box:
    try:
        check_box(box)
    except ValueError as error:
        raise refused(location, error) from error
    return box


_NAMES_FILES = ("data.yaml", "data.yml", "dataset.yaml", "obj.names", "classes.txt")


def _yolo(path: Path, on_problem: Problem, options: ExportOptions) -> Iterator[ExportedImage]:
    names = _yolo_names(path, options.categories)
    for stem, file in find_label_files(path).items():
        if _is_list(file):
            continue
        with handed_to(on_problem):
            rows = read_rows(file, len(names), None)
            if odd := [row for row in rows if row.unread]:
                raise InputError(odd[0].location, f"contains {odd[0].unread}", "expected plain boxes: class cx cy w h")
            boxes = tuple(ExportedBox(names[row.label], _checked(row.box, row.location)) for row in rows)
            yield ExportedImage(str(file), stem.as_posix(), None, boxes, is_stem=True, relative=True)


def _is_list(file: Path) -> bool:
    """Whether it is a list of images, as CVAT, datumaro and Darknet write beside the labels."""
    lines = read_text(file, "save it as UTF-8").split("\n", 1)
    return PurePosixPath(lines[0].strip()).suffix.lower() in IMAGE_SUFFIXES


def _yolo_names(path: Path, categories: Sequence[str] | Path | None) -> Sequence[str]:
    if isinstance(categories, Path):
        return read_category_names(categories)
    if categories is not None:
        return categories
    for folder in (path, path.parent):
        for name in _NAMES_FILES:
            if (folder / name).is_file():
                return read_category_names(folder / name)
    raise InputError(path, f"has none of {', '.join(_NAMES_FILES)}", "expected --categories with YOLO's names")


@dataclass(frozen=True)
class Tool:
    """How a tool's export is read. holds_ignored: whether its format can represent boxes marked `ignore`."""

    title: str
    read: Callable[[Path, Problem, ExportOptions], Iterator[ExportedImage]]
    holds_ignored: bool


TOOLS = {
    "labelstudio": Tool(TITLES["labelstudio"], _labelstudio, holds_ignored=False),
    "cvat": Tool(TITLES["cvat"], _cvat, holds_ignored=False),
    "fiftyone": Tool(TITLES["fiftyone"], _fiftyone, holds_ignored=True),
    "coco": Tool(TITLES["coco"], _coco, holds_ignored=True),
    "yolo": Tool(TITLES["yolo"], _yolo, holds_ignored=False),
    "voc": Tool(TITLES["voc"], _voc, holds_ignored=True),
}
