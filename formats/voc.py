"""Reads and writes Pascal VOC: one XML file per image.

VOC counts pixels from 1 and includes both corners in the box, so xmin..xmax becomes xmin - 1 .. xmax with an exclusive
end, which covers the same pixels. Some tools count from 0; their xmin of 0 stays 0.

VOC itself has 20 classes. labelmap.txt beside Annotations/ declares others, with a line `name:color:parts:actions` for
each, as CVAT and datumaro write and expect it; color, parts and actions may be empty.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from urllib.parse import unquote
from xml.etree import ElementTree

from formats.images import IMAGE_SUFFIXES, image_size, list_images, safe_join, with_slashes
from formats.io.errors import InputError, expected_one_of, handed_to, located
from formats.io.files import check_is_folder, refuse_packed, write_whole_folder
from formats.io.plurals import many
from formats.omissions import Omissions, check_category, count_omissions, refuse_caption
from formats.record import Box, Instance, Record, check_box

_log = logging.getLogger(__name__)

LABEL_MAP_NAME = "labelmap.txt"
_BACKGROUND = "background"  # for segmentation; CVAT and datumaro declare it beside the classes of objects
_DEFAULTS = ("", "0", "Unspecified")  # of truncated, occluded and pose, which need not be counted
_OF_IMAGES = frozenset(("folder", "filename", "path", "source", "owner", "size", "segmented", "object"))
_DIFFICULT = {"true": "1", "false": "0", "unspecified": "0"}  # as some tools write it


def read_voc(
    ann_dir: str | Path,
    categories: Sequence[str] | None = None,
    image_dir: str | Path | None = None,
    on_problem: Callable[[InputError], None] | None = None,
    omissions: Omissions | None = None,
) -> Iterator[Record]:
    """Yields a record for each XML file under `ann_dir`, sorted by name; difficult objects have ignore set.

    If <filename> has another stem than the XML file, an image with the stem of the XML file is preferred, since the two
    may have been renamed together. Otherwise <filename> is looked up in the image folder: in the subfolder of the XML
    file or of <folder>, or with another suffix. A warning counts files whose image is not found. categories: the names
    in the order of the labels; by default read_voc_categories. image_dir: the images, also to look up sizes that a file
    lacks; by default JPEGImages/ or images/ beside the folder of the XML files, or that folder. Raises InputError for
    broken XML, a missing field, an image that two files label, or a name that is not in `categories`; on_problem
    receives the first error of a file instead, and the file is skipped.
    omissions: counts what a record has no field for, such as truncated, and objects without a <bndbox>.
    """
    paths = _paths(ann_dir)
    ignore = None if on_problem is None else lambda error: None  # _record reports the same errors
    names = list(categories) if categories is not None else _names_in(ann_dir, paths, ignore)
    labels = {name: label for label, name in enumerate(names)}
    images = _ImageNames(Path(ann_dir), image_dir)
    for path in paths:
        with handed_to(on_problem):
            yield _record(path, labels, images, omissions)
    images.warn_of_unknown()


def read_voc_categories(ann_dir: str | Path) -> tuple[str, ...]:
    """The names in labelmap.txt, in the folder or beside it, then any others that occur, sorted."""
    return tuple(_names_in(ann_dir, _paths(ann_dir)))


def _paths(ann_dir: str | Path) -> list[Path]:
    folder = Path(ann_dir)
    check_is_folder(folder, "expected a folder of VOC XML files")
    paths = sorted(path for path in folder.rglob("*.[xX][mM][lL]") if path.is_file())
    if not paths:
        raise InputError(folder, "contains no XML file", "expected a folder of VOC XML files")
    return paths


def _names_in(
    ann_dir: str | Path, paths: Sequence[Path], on_problem: Callable[[InputError], None] | None = None
) -> list[str]:
    names: set[str] = set()
    for path in paths:
        with handed_to(on_problem):
            names.update(voc_text(entry, "name", path) for entry in xml_root(path).iterfind("object"))
    declared = [name for name in _declared_names(Path(ann_dir)) if name != _BACKGROUND or name in names]
    return declared + sorted(names.difference(declared))


def _declared_names(ann_dir: Path) -> list[str]:
    for path in (ann_dir / LABEL_MAP_NAME, ann_dir.parent / LABEL_MAP_NAME):
        if path.is_file():
            lines = (line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines())
            names = (line.split(":")[0].strip() for line in lines if not line.startswith("#"))
            return list(dict.fromkeys(name for name in names if name))
    return []


def xml_root(path: str | Path, remedy: str = "expected a VOC annotation") -> ElementTree.Element:
    """The root of an XML file. Raises InputError with `remedy` if it is not XML."""
    try:
        return ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError, LookupError, ValueError) as error:  # the last two: unknown encodings
        refuse_packed(path)
        raise InputError(path, f"is not XML ({error})", remedy) from error


class _ImageNames:
    """Finds the file name of the image of each XML file, relative to the image folder if that is known."""

    def __init__(self, ann_dir: Path, image_dir: str | Path | None) -> None:
        inner = ann_dir / "Annotations"
        self._root = inner if inner.is_dir() else ann_dir
        self.image_dir = image_dir
        folders = [self._root.absolute().parent / name for name in ("JPEGImages", "images")] + [self._root]
        self._folder = image_dir if image_dir is not None else next(filter(Path.is_dir, folders), None)
        self._labelled: dict[str, Path] = {}
        self._unknown: list[str] = []

    def name_of(self, path: Path, filename: str, folder: str) -> str:
        """The image of an XML file. filename: its <filename>, "" if it has none. folder: its <folder>.

        Raises InputError if another file labels the same image.
        """
        name = self._name_of(path, filename, folder)
        if (other := self._labelled.setdefault(name, path)) != path:
            raise InputError(path, f"labels {name}, as {other.name} does", "expected one XML file per image")
        return name

    def warn_of_unknown(self) -> None:
        """Logs how many files have no image, if the folder of the images is known."""
        if self._unknown and self._listed[0]:
            count, first = len(self._unknown), self._unknown[0]
            what = f"{many(count, 'file')} without an image in {self._folder}"
            _log.warning("%s: %s; the first is %s", self._root, what, first)

    def _name_of(self, path: Path, filename: str, folder: str) -> str:
        """As name_of. Absolute paths are those of another machine, so only their last part is used."""
        name = with_slashes(filename)
        windows = PureWindowsPath(filename)
        if PurePosixPath(name).is_absolute() or windows.drive or windows.root:
            name = windows.name
        if ".." in PurePosixPath(name).parts:
            raise InputError(path, f"<filename> {filename[:80]!r} leaves its folder by '..'", "expected an image in it")
        folders = path.relative_to(self._root).parts[:-1] if path.is_relative_to(self._root) else ()
        below = PurePosixPath(*(part for part in folders if part.lower() != "annotations"))
        same_stem = (below / path.stem).as_posix()
        base = PurePosixPath(name).name
        names = [] if not name else [name] if "/" in name else [(below / name).as_posix(), name]
        names += [unquote(name)] if "%" in name and ".." not in unquote(name) else []
        names += [(PurePosixPath(with_slashes(folder)) / base).as_posix()] if folder and name else []
        names += [(below / base).as_posix()] if "/" in name else []
        # An XML file that was renamed together with its image still has the old name inside, which another image may
        # have by now.
        if base and _without_image_suffix(base) != path.stem and (found := self._found([same_stem])):
            return found
        if (found := self._found([*names, same_stem])) is None:
            self._unknown.append(path.name)
        if not (found or names):
            raise InputError(path, "has no <filename>, and no image has the same stem", "expected one of the two")
        return found or names[0]

    def _found(self, names: Sequence[str]) -> str | None:
        """The first name that is an image, exactly or with another suffix."""
        by_name, by_stem = self._listed
        whole = next((name for name in names if name in by_name), None)
        stems = (_without_image_suffix(name) for name in names)
        return whole or next((by_stem[stem] for stem in stems if stem in by_stem), None)

    @cached_property
    def _listed(self) -> tuple[frozenset[str], dict[str, str]]:
        """All images, and stem -> image for the unique stems."""
        names = [] if self._folder is None else list_images(self._folder)
        stems = Counter(map(_without_image_suffix, names))
        by_stem = {_without_image_suffix(name): name for name in names}
        return frozenset(names), {stem: name for stem, name in by_stem.items() if stems[stem] == 1}


def _without_image_suffix(name: str) -> str:
    path = PurePosixPath(name)
    return path.with_suffix("").as_posix() if path.suffix.lower() in IMAGE_SUFFIXES else name


def _record(path: Path, labels: dict[str, int], images: _ImageNames, omissions: Omissions | None) -> Record:
    root = xml_root(path)
    if omissions is not None:
        _count_unread(root, omissions)
    filename = images.name_of(path, *((root.findtext(tag) or "").strip() for tag in ("filename", "folder")))
    instances = tuple(
        _instance(entry, labels, f"{path}: object {index}")
        for index, entry in enumerate(root.iterfind("object"))
        if entry.find("bndbox") is not None
    )
    height, width = _size(root, path, filename, images.image_dir)
    with located(path):
        return Record(filename, height, width, instances)


def _count_unread(root: ElementTree.Element, omissions: Omissions) -> None:
    omissions.update(f"<{entry.tag}> of images" for entry in root if entry.tag not in _OF_IMAGES)
    for entry in root.iterfind("object"):
        if entry.find("bndbox") is None:
            omissions["objects without <bndbox>, left out"] += 1
            continue
        omissions["more <bndbox> of one object"] += len(entry.findall("bndbox")) - 1
        for field in entry:
            has_text = len(field) or (field.text or "").strip() not in _DEFAULTS
            if has_text and field.tag not in ("name", "difficult", "bndbox"):
                omissions[f"{field.tag} of objects"] += 1


def _size(root: ElementTree.Element, path: Path, filename: str, image_dir: str | Path | None) -> tuple[int, int]:
    if image_dir is not None and not _has_size(root, path):
        return image_size(safe_join(image_dir, filename))
    return size_in(root, path)


def size_in(root: ElementTree.Element, path: Path) -> tuple[int, int]:
    """(height, width) in <size>. Raises InputError if it is missing or 0, as some labelling tools write it."""
    if not _has_size(root, path):
        raise InputError(path, "has no image size", "expected <size>, or the image folder to look it up in")
    return int(_number(root, "size/height", path)), int(_number(root, "size/width", path))


def _has_size(root: ElementTree.Element, path: Path) -> bool:
    return all(_number(root, f"size/{side}", path, default=0.0) > 0 for side in ("height", "width"))


def _instance(entry: ElementTree.Element, labels: dict[str, int], location: str) -> Instance:
    name = voc_text(entry, "name", location)
    if name not in labels:
        raise InputError(location, f"{name!r} is not a category", expected_one_of(labels, name))
    said = (entry.findtext("difficult") or "0").strip().lower()
    ignore = _DIFFICULT[said] == "1" if said in _DIFFICULT else _number(entry, "difficult", location, default=0.0) != 0
    return Instance(voc_box(entry, location), labels[name], name, ignore=ignore)


def voc_box(entry: ElementTree.Element, location: str) -> Box:
    """The box in <bndbox>, counted from 0 and with an exclusive end."""
    x1, y1, x2, y2 = (_number(entry, f"bndbox/{side}", location) for side in ("xmin", "ymin", "xmax", "ymax"))
    box = max(x1 - 1, 0.0), max(y1 - 1, 0.0), x2, y2
    with located(location):
        check_box(box)
    return box


def voc_text(element: ElementTree.Element, tag: str, location: object) -> str:
    """The text of a tag, without surrounding white space. Raises InputError if it is missing or empty."""
    text = (element.findtext(tag) or "").strip()
    if not text:
        raise InputError(location, f"<{tag}> is missing or empty", "expected it as in VOC")
    return text


def _number(element: ElementTree.Element, tag: str, location: object, default: float | None = None) -> float:
    if default is not None and not (element.findtext(tag) or "").strip():
        return default
    text = voc_text(element, tag, location)
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(location, f"<{tag}> is {text!r}", "expected a number")
    return number


# Writing


def write_voc(
    folder: str | Path, records: Iterable[Record], categories: Sequence[str], overwrite: bool = False
) -> Omissions:
    """Writes Annotations/, ImageSets/Main/default.txt and labelmap.txt into a new folder, atomically.

    Returns counts of what VOC cannot store. Put the images beside them as JPEGImages/. `sub/a.jpg` becomes
    `Annotations/sub/a.xml`. ignore becomes difficult. Boxes are rounded to 2 decimals and clipped at the left and top
    edges, since VOC has no negative coordinates. Raises InputError for captions, for two images with the same stem, for
    labels that are not in `categories`, and if the folder exists. overwrite: replace a folder with nothing but labels.
    """
    omissions = Omissions()
    with write_whole_folder(folder, {".xml", ".txt"} if overwrite else ()) as root:
        annotations, images = root / "Annotations", root / "ImageSets" / "Main" / "default.txt"
        for made in (annotations, images.parent):
            made.mkdir(parents=True)
        with open(images, "w", encoding="utf-8") as stems:
            for record in records:
                path = _write_annotation(annotations, record, categories, omissions)
                stems.write(path.relative_to(annotations).with_suffix("").as_posix() + "\n")
        (root / LABEL_MAP_NAME).write_text(_label_map(categories, omissions), encoding="utf-8")
    return omissions


def _write_annotation(folder: Path, record: Record, categories: Sequence[str], omissions: Omissions) -> Path:
    refuse_caption(record, "VOC")
    count_omissions(omissions, record, ("ignore",))
    path = safe_join(folder, record.filename).with_suffix(".xml")
    if path.exists():
        raise InputError(
            record.filename, "has the file stem of another image", "expected one image per file stem, as VOC does"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    tree = ElementTree.ElementTree(_annotation_element(record, categories, omissions))
    ElementTree.indent(tree)
    tree.write(path, encoding="utf-8")
    return path


def _label_map(categories: Sequence[str], omissions: Omissions) -> str:
    """The content of labelmap.txt. Names that its readers would misread are left out and counted."""
    writable = [name for name in categories if ":" not in name and name == name.strip() and name[:1] not in ("", "#")]
    if len(writable) < len(categories):
        omissions["names that labelmap.txt cannot store"] += len(categories) - len(writable)
    return "".join(f"{name}:::\n" for name in writable)


def _annotation_element(record: Record, categories: Sequence[str], omissions: Omissions) -> ElementTree.Element:
    root = ElementTree.Element("annotation")
    ElementTree.SubElement(root, "filename").text = record.filename
    size = ElementTree.SubElement(root, "size")
    for side, pixels in (("width", record.width), ("height", record.height), ("depth", 3)):
        ElementTree.SubElement(size, side).text = str(pixels)
    for instance in record.instances or ():
        check_category(instance, categories, record.filename)
        if min(instance.box[:2]) < 0:
            omissions["boxes beyond the left or top edge, clipped"] += 1
        root.append(_object_element(instance))
    return root


def _object_element(instance: Instance) -> ElementTree.Element:
    entry = ElementTree.Element("object")
    ElementTree.SubElement(entry, "name").text = instance.category
    ElementTree.SubElement(entry, "difficult").text = str(int(instance.ignore))
    box = ElementTree.SubElement(entry, "bndbox")
    x1, y1, x2, y2 = (max(side, 0.0) for side in instance.box)
    for tag, value in (("xmin", x1 + 1), ("ymin", y1 + 1), ("xmax", x2), ("ymax", y2)):
        ElementTree.SubElement(box, tag).text = f"{value:.2f}".rstrip("0").rstrip(".")
    return entry
