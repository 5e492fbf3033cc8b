"""Reads and writes YOLO text labels: one .txt per image, one object per line, in fractions of the image.

class cx cy w h            a box
class cx cy w h score      a predicted box
class cx cy w h score 7    a tracked box
class cx cy w h x y 2 …    a pose, read as its box
class x1 y1 x2 y2 x3 y3 …  a polygon, read as its bounding box
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from unicodedata import normalize

from formats.images import image_size, list_images, safe_join
from formats.io.errors import InputError, handed_to, refused
from formats.io.files import check_is_folder, write_whole_folder
from formats.io.plurals import many, verb
from formats.label_map import keypoint_shape, read_category_names
from formats.omissions import Omissions, check_category, count_omissions, refuse_caption
from formats.record import Instance, Record
from formats.yolo_rows import Keypoints, read_rows

_log = logging.getLogger(__name__)

_LONGEST_PLAIN = 1000  # characters of a file name that needs no safe_join
_NOT_LABELS = frozenset({"classes.txt"})  # labelling tools put the category names beside the labels
_EXPECTED_FOLDER = "expected the folder of labels"
_DATA_YAML = ("data.yaml", "data.yml", "dataset.yaml")


def read_yolo(
    label_dir: str | Path,
    image_dir: str | Path,
    categories: Sequence[str] | str | Path | None = None,
    on_problem: Callable[[InputError], None] | None = None,
    omissions: Omissions | None = None,
    labelled_only: bool = False,
) -> Iterator[Record]:
    """Yields a record for each image, sorted by name; its size is read from the image, after EXIF rotation.

    label_dir: the label files, or a folder whose subfolder labels/ contains them. categories: the names in the order of
    the classes, or a file: the data set's YAML with `names`, or a text file with one name per line; by default those of
    read_yolo_categories. As in YOLO, an image without a label file has no objects; a warning counts label files without
    an image. labelled_only: leave out images without a label file, as not labelled yet. kpt_shape is read from the
    file `categories`, else from a data.yaml in the folders above.
    Raises InputError if no label file belongs to an image, for a label file of two images (a.jpg, a.png), an unknown
    class, and invalid lines; on_problem receives the errors of single files instead, which are then skipped.
    omissions: counts polygons, keypoints and track numbers.
    """
    check_is_folder(label_dir, _EXPECTED_FOLDER)
    if categories is None:
        categories = read_yolo_categories(label_dir)
    names = read_category_names(categories) if isinstance(categories, (str, Path)) else tuple(categories)
    filenames = list_images(image_dir)
    labels = _label_folder(Path(label_dir), set(map(_stem, filenames)))
    label_files = find_label_files(labels)
    if labelled_only:
        filenames = [name for name in filenames if _stem(name) in label_files] or filenames
    _check_images(labels, label_files, filenames, image_dir)
    keypoints = _keypoints(labels, categories)
    images = Counter(map(_stem, filenames))
    for filename in filenames:
        with handed_to(on_problem):
            path = label_files.get(_stem(filename))
            if path is not None and images[_stem(filename)] > 1:
                remedy = "expected one image per file stem: rename one and give it its own label file, or remove it"
                raise InputError(path, f"belongs to {filename} and to another image with the same stem", remedy)
            height, width = image_size(Path(image_dir) / filename)
            found = () if path is None else tuple(_instances(path, names, height, width, keypoints, omissions))
            yield Record(filename, height, width, found)


def read_yolo_categories(label_dir: str | Path) -> tuple[str, ...]:
    """The names in the data set's YAML, in the folder of labels or the two above it. Raises InputError without one."""
    check_is_folder(label_dir, _EXPECTED_FOLDER)
    path = data_yaml_of(Path(label_dir))
    if path is None:
        raise InputError(label_dir, "has no data.yaml, nor have the folders above", "expected --categories")
    return read_category_names(path)


def _label_folder(folder: Path, images: Collection[PurePosixPath]) -> Path:
    """The folder, or its labels/ as in a whole data set, unless the folder has label files of images itself.

    images: their stems.
    """
    below = folder / "labels"
    if below.is_dir() and not any(_stem(path.name) in images for path in folder.glob("*.[tT][xX][tT]")):
        return below
    return folder


def _stem(filename: str | PurePosixPath) -> PurePosixPath:
    """Accents as one character: an archive that was packed on a Mac has them as two, in some of its names."""
    return PurePosixPath(normalize("NFC", str(filename))).with_suffix("")


def find_label_files(labels: Path) -> dict[PurePosixPath, Path]:
    """Stem of an image -> its label file; .txt may be in any case."""
    found: dict[PurePosixPath, Path] = {}
    for path in sorted(labels.rglob("*")):
        if path.suffix.lower() == ".txt" and path.name not in _NOT_LABELS and path.is_file():
            other = found.setdefault(_stem(PurePosixPath(path.relative_to(labels))), path)
            if other != path:
                raise InputError(path, f"labels the same image as {other.name}", "expected one label file per image")
    return found


def _check_images(
    labels: Path, label_files: Mapping[PurePosixPath, Path], filenames: Sequence[str], image_dir: str | Path
) -> None:
    """Checks that labels and images belong together; otherwise every image would be read as having no objects."""
    stems = set(map(_stem, filenames))
    alone = [path for stem, path in label_files.items() if stem not in stems]
    if filenames and not label_files:
        raise InputError(labels, "contains no label file", "expected a .txt for each image with objects")
    if label_files and len(alone) == len(label_files):
        what = (
            f"{len(alone)} of {many(len(alone), 'label file')} without an image in {image_dir}; the first is {alone[0]}"
        )
        raise InputError(labels, what, "expected the folder with the images of these labels, with the same subfolders")
    if alone:  # only a warning, since the published COCO128 has such files
        what = f"{many(len(alone), 'label file')} without an image in {image_dir}"
        _log.warning("%s: %s; the first is %s", labels, what, alone[0])
    if (bare := len(stems.difference(label_files))) * 2 > len(stems):
        have = verb(bare, "has", "have")
        _log.warning("%s: %d of %s %s no label file, hence no objects", labels, bare, many(len(stems), "image"), have)


def data_yaml_of(labels: Path) -> Path | None:
    """The data set's YAML in the folder of labels or the two above it."""
    above = (folder / name for folder in (labels, *labels.absolute().parents[:2]) for name in _DATA_YAML)
    return next((path for path in above if path.is_file()), None)


def _keypoints(labels: Path, categories: Sequence[str] | str | Path) -> Keypoints | None:
    """kpt_shape from the YAML `categories`, or from a data.yaml in the folder of the labels or the two above it."""
    beside = data_yaml_of(labels)
    above = [] if beside is None else [beside]
    files = [Path(categories)] if isinstance(categories, (str, Path)) else []
    path = next((path for path in files + above if path.suffix.lower() in (".yaml", ".yml") and path.is_file()), None)
    shape = None if path is None else keypoint_shape(path)
    return None if shape is None else Keypoints(*shape)


def _instances(
    path: Path, names: Sequence[str], height: int, width: int, keypoints: Keypoints | None, omissions: Omissions | None
) -> Iterator[Instance]:
    for row in read_rows(path, len(names), keypoints):
        if omissions is not None and row.unread:
            omissions[row.unread] += 1
        x1, y1, x2, y2 = row.box
        try:
            box = (x1 * width, y1 * height, x2 * width, y2 * height)
            yield Instance(box, row.label, names[row.label], row.score)
        except ValueError as error:
            raise refused(row.location, error) from error


# Writing


def write_yolo(
    folder: str | Path,
    records: Iterable[Record],
    categories: Sequence[str],
    with_scores: bool = False,
    overwrite: bool = False,
) -> Omissions:
    """Writes labels/NAME.txt for each record, and data.yaml, into a new folder, atomically.

    Returns counts of what YOLO cannot store. with_scores: write the score as a sixth number, as for predictions; the
    training of Ultralytics skips images with such labels. Ignored boxes are left out, since every YOLO box is an
    object; boxes are clipped to the image. data.yaml expects the images in images/ beside labels/. Raises InputError
    for captions, for two images with the same stem, for labels that are not in `categories`, and if the folder exists.
    overwrite: replace a folder that contains only labels.
    """
    omissions = Omissions()
    with write_whole_folder(folder, {".txt", ".yaml"} if overwrite else ()) as root:
        labels = _LabelFolder(root / "labels")
        for record in records:
            refuse_caption(record, "YOLO")
            count_omissions(omissions, record, ("score",) if with_scores else ())
            text = "".join(_lines(record, categories, omissions, with_scores))
            try:
                _write_new(labels.path_of(record.filename), text.encode())
            except FileExistsError:
                what = "has the file stem of another image"
                raise InputError(record.filename, what, "expected one image per file stem") from None
        (root / "data.yaml").write_text(_data_yaml(categories), encoding="utf-8")
    return omissions


class _LabelFolder:
    """Paths of the label files; creates folders when they are first needed."""

    # Fast path for nearly every name, since Path objects are slow to create.
    _PLAIN = re.compile(r"((?:\w[\w -]{0,199}/)*)(\w[\w -]{0,199})\.[A-Za-z0-9]{1,5}", re.ASCII)

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder, self._inside = folder, f"{folder}{os.sep}"
        self._made = {""}

    def path_of(self, filename: str) -> str:
        plain = self._PLAIN.fullmatch(filename)
        if plain is None or len(filename) > _LONGEST_PLAIN:
            below = safe_join(self._folder, filename).with_suffix(".txt")
            below.parent.mkdir(parents=True, exist_ok=True)
            return str(below)
        if plain[1] not in self._made:
            (self._folder / plain[1]).mkdir(parents=True, exist_ok=True)
            self._made.add(plain[1])
        return f"{self._inside}{plain[1]}{plain[2]}.txt"


def _write_new(path: str, content: bytes) -> None:
    """Writes a new file with the calls of the operating system, in half the time that a Python stream takes."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    finally:
        os.close(descriptor)


def _lines(record: Record, categories: Sequence[str], omissions: Omissions, with_scores: bool) -> Iterator[str]:
    width, height = record.width, record.height
    for instance in record.instances or ():
        check_category(instance, categories, record.filename)
        if instance.ignore:
            continue
        x1, y1, x2, y2 = instance.box
        if not 0 <= x1 <= x2 <= width or not 0 <= y1 <= y2 <= height:
            omissions["boxes beyond the image, clipped"] += 1
            x1, x2 = min(max(x1, 0.0), width), min(max(x2, 0.0), width)
            y1, y2 = min(max(y1, 0.0), height), min(max(y2, 0.0), height)
        left, right, top, bottom = x1 / width, x2 / width, y1 / height, y2 / height
        center = f"{(left + right) / 2:.8f} {(top + bottom) / 2:.8f}"
        score = f" {instance.score:.8f}" if with_scores and instance.score is not None else ""
        yield f"{instance.label} {center} {right - left:.8f} {bottom - top:.8f}{score}\n"


def _data_yaml(categories: Sequence[str]) -> str:
    """The content of data.yaml. Names are written as JSON strings, which are also valid YAML.

    Without the key `path`, Ultralytics uses the folder of the YAML; a relative one would depend on the working folder.
    """
    names = "".join(f"  {label}: {json.dumps(name)}\n" for label, name in enumerate(categories))
    return f"train: images\nval: images\nnames:\n{names}" if names else "names: []\n"
