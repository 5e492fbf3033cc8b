"""YOLO text labels: one .txt an image, one object per line, in fractions of the image.

class cx cy w h            a box
class cx cy w h score      a prediction's box
class cx cy w h score 7    a track's
class cx cy w h x y 2 …    a pose, read as its box
class x1 y1 x2 y2 x3 y3 …  a polygon, read as the box round it
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from unicodedata import normalize

from formats.images import image_size, list_images, safe_join
from formats.io.errors import InputError, handed_to, refused
from formats.io.files import write_whole_folder
from formats.io.plurals import many, verb
from formats.label_map import keypoint_shape, read_category_names
from formats.omissions import Omissions, check_category, count_omissions, refuse_caption
from formats.record import Instance, Record
from formats.yolo_rows import Keypoints, read_rows

_log = logging.getLogger(__name__)

_LONGEST_PLAIN = 1000  # characters of a name that safe_join need not see
_NOT_LABELS = frozenset({"classes.txt"})  # labelling tools put the category names beside the labels
_DATA_YAML = ("data.yaml", "data.yml", "dataset.yaml")


def read_yolo(
    label_dir: str | Path,
    image_dir: str | Path,
    categories: Sequence[str] | str | Path,
    on_problem: Callable[[InputError], None] | None = None,
    omissions: Omissions | None = None,
    labelled_only: bool = False,
) -> Iterator[Record]:
    """One record for each image, in the order of their names; size from the image, after its EXIF turn.

    categories: the names in the order of the classes, or a file: data set YAML with `names`, or a text file with one
    name a line. An image without a label file has no objects, as YOLO means it; label files without an
    image are counted in a warning. labelled_only: an image without a label file has not been labelled yet, and is left
    out. kpt_shape is looked up in `categories`, else in the data.yaml of the folders above.
    Raises InputError where no label file belongs to an image, for a label file of two images (a.jpg, a.png), an
    unknown class and lines that are none; on_problem takes what is wrong with one file instead, which is passed over.
    omissions: takes polygons, keypoints and track numbers.
    """
    names = read_category_names(categories) if isinstance(categories, (str, Path)) else tuple(categories)
    labels = Path(label_dir)
    if not labels.is_dir():
        raise InputError(
            labels, "is not a folder" if labels.exists() else "does not exist", "expected the folder of labels"
        )
    filenames = list_images(image_dir)
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
                remedy = "expected one image per file stem: rename one with a label file of its own, or remove it"
                raise InputError(path, f"belongs to {filename} and to another image of its stem", remedy)
            height, width = image_size(Path(image_dir) / filename)
            found = () if path is None else tuple(_instances(path, names, height, width, keypoints, omissions))
            yield Record(filename, height, width, found)


def _stem(filename: str | PurePosixPath) -> PurePosixPath:
    """Accents as one character: an archive that was packed on a Mac has them as two, in some of its names."""
    return PurePosixPath(normalize("NFC", str(filename))).with_suffix("")


def find_label_files(labels: Path) -> dict[PurePosixPath, Path]:
    """Stem of an image -> its label file, whichever case .txt has."""
    found: dict[PurePosixPath, Path] = {}
    for path in sorted(labels.rglob("*")):
        if path.suffix.lower() == ".txt" and path.name not in _NOT_LABELS and path.is_file():
            other = found.setdefault(_stem(PurePosixPath(path.relative_to(labels))), path)
            if other != path:
                raise InputError(path, f"labels the same image as {other.name}", "expected one label file an image")
    return found


def _check_images(
    labels: Path, label_files: Mapping[PurePosixPath, Path], filenames: Sequence[str], image_dir: str | Path
) -> None:
    """Every image would come out as one without objects where the two folders do not belong together."""
    stems = set(map(_stem, filenames))
    alone = [path for stem, path in label_files.items() if stem not in stems]
    if filenames and not label_files:
        raise InputError(labels, "contains no label file", "expected a .txt for each image with objects")
    if label_files and len(alone) == len(label_files):
        what = (
            f"{len(alone)} of {many(len(alone), 'label file')} without an image in {image_dir}; the first is {alone[0]}"
        )
        raise InputError(labels, what, "expected the folder of these labels' images, laid out alike")
    if alone:  # no error: the COCO128 that everybody has is so
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
    """The kpt_shape of the data set's YAML: the one given, or data.yaml in the folder of labels or the two above."""
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
    """Writes labels/NAME.txt for each record and data.yaml into a new folder, whole or not at all.

    Gives what YOLO has no place for. with_scores: a sixth number, as predictions have it; Ultralytics' training passes
    over images whose labels have one. Ignored boxes are left out, since every YOLO box is an object; boxes are clipped
    to the image. data.yaml looks for the images in images/ beside labels/. Raises InputError for captions, for two
    images of one stem, for labels that are not in `categories`, and where the folder is there already;
    overwrite: replace one that contains labels alone.
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
    """Where each image's label file is written. Folders are made as they come."""

    # As nearly every name is. Path objects are slow to make.
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
    """A file an image: most of the time is the system's, and a stream takes as long again."""
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
    """JSON texts are YAML texts, whatever signs a name has.

    No `path`: Ultralytics takes the folder of the YAML then, and a relative one from where it is called.
    """
    names = "".join(f"  {label}: {json.dumps(name)}\n" for label, name in enumerate(categories))
    return f"train: images\nval: images\nnames:\n{names}" if names else "names: []\n"
