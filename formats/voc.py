"""Pascal VOC: one XML file an image.

VOC counts pixels from 1 and both corners of a box belong to it, so xmin..xmax becomes xmin - 1 .. xmax with an
exclusive end: the same pixels. Tools that write VOC files but count from 0 give xmin 0, which stays 0.

VOC knows 20 names. labelmap.txt beside Annotations/ declares others, a line `name:color:parts:actions` each, as CVAT
and datumaro write it and want it; color, parts and actions may be empty.
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
from formats.io.files import refuse_packed, write_whole_folder
from formats.io.plurals import many
from formats.omissions import Omissions, check_category, count_omissions, refuse_caption
from formats.record import Box, Instance, Record, check_box

_log = logging.getLogger(__name__)

LABEL_MAP_NAME = "labelmap.txt"
_BACKGROUND = "background"  # of segmentations; CVAT and datumaro declare it beside the names of objects
_NOTHING_SAID = ("", "0", "Unspecified")  # of truncated, occluded, pose
_OF_IMAGES = frozenset(("folder", "filename", "path", "source", "owner", "size", "segmented", "object"))
_DIFFICULT = {"true": "1", "false": "0", "unspecified": "0"}  # as some tools write it


def read_voc(
    ann_dir: str | Path,
    categories: Sequence[str] | None = None,
    image_dir: str | Path | None = None,
    on_problem: Callable[[InputError], None] | None = None,
    omissions: Omissions | None = None,
) -> Iterator[Record]:
    """One record for each XML file under `ann_dir`, in the order of their names; difficult objects have ignore set.

    The image is the one that is called as the XML is, where there is one; else <filename>, looked up in the image
    folder: below the folder that the XML lies in or that <folder> names, or without its suffix. Files whose image is
    not found there are counted in a warning. categories: the names in the order of the labels; by default
    read_voc_categories. image_dir: the images, where sizes are looked up too when a file gives none; by default
    JPEGImages/ or images/ beside the XML files' folder, or that folder. Raises InputError for broken XML, a missing
    field, an image that two files label, or a name that `categories` does not have; on_problem takes the first of each
    file instead, which is passed over.
    omissions: takes what a record has no field for, such as truncated, and objects without a <bndbox>.
    """
    paths = _paths(ann_dir)
    told_below = None if on_problem is None else lambda error: None
    names = list(categories) if categories is not None else _names_in(ann_dir, paths, told_below)
    labels = {name: label for label, name in enumerate(names)}
    images = _ImageNames(Path(ann_dir), image_dir)
    for path in paths:
        with handed_to(on_problem):
            yield _record(path, labels, images, omissions)
    images.warn_of_unknown()


def read_voc_categories(ann_dir: str | Path) -> tuple[str, ...]:
    """The names of labelmap.txt, where it lies in the folder or beside it, then all others that occur, sorted."""
    return tuple(_names_in(ann_dir, _paths(ann_dir)))


def _paths(ann_dir: str | Path) -> list[Path]:
    folder = Path(ann_dir)
    if not folder.is_dir():
        raise InputError(
            folder, "is not a folder" if folder.exists() else "does not exist", "expected a folder of VOC XML files"
        )
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
    """The root of an XML file. Raises InputError, which `remedy` ends, where it is none."""
    try:
        return ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError, LookupError, ValueError) as error:  # the last two: strange encodings
        refuse_packed(path)
        raise InputError(path, f"is not XML ({error})", remedy) from error


class _ImageNames:
    """The file name of each XML's image: relative to the image folder, where one is known."""

    def __init__(self, ann_dir: Path, image_dir: str | Path | None) -> None:
        inner = ann_dir / "Annotations"
        self._root = inner if inner.is_dir() else ann_dir
        self.image_dir = image_dir
        folders = [self._root.absolute().parent / name for name in ("JPEGImages", "images")] + [self._root]
        self._folder = image_dir if image_dir is not None else next(filter(Path.is_dir, folders), None)
        self._labelled: dict[str, Path] = {}
        self._unknown: list[str] = []

    def name_of(self, path: Path, said: str, folder: str) -> str:
        """The image of an XML file. said: its <filename>, "" where it has none; folder: its <folder>.

        Raises InputError for an image that another file labels already.
        """
        name = self._name_of(path, said, folder)
        if (other := self._labelled.setdefault(name, path)) != path:
            raise InputError(path, f"labels {name}, as {other.name} does", "expected one XML file an image")
        return name

    def warn_of_unknown(self) -> None:
        """Says how many files have no image, where the folder of the images is known."""
        if self._unknown and self._listed[0]:
            count, first = len(self._unknown), self._unknown[0]
            what = f"{many(count, 'file')} without an image in {self._folder}"
            _log.warning("%s: %s; the first is %s", self._root, what, first)

    def _name_of(self, path: Path, said: str, folder: str) -> str:
        """Paths of the machine that drew the boxes lose their folders."""
        name = with_slashes(said)
        windows = PureWindowsPath(said)
        if PurePosixPath(name).is_absolute() or windows.drive or windows.root:
            name = windows.name
        if ".." in PurePosixPath(name).parts:
            raise InputError(path, f"<filename> {said[:80]!r} leaves its folder by '..'", "expected an image in it")
        folders = path.relative_to(self._root).parts[:-1] if path.is_relative_to(self._root) else ()
        below = PurePosixPath(*(part for part in folders if part.lower() != "annotations"))
        same_stem = (below / path.stem).as_posix()
        base = PurePosixPath(name).name
        names = [] if not name else [name] if "/" in name else [(below / name).as_posix(), name]
        names += [unquote(name)] if "%" in name and ".." not in unquote(name) else []
        names += [(PurePosixPath(with_slashes(folder)) / base).as_posix()] if folder and name else []
        names += [(below / base).as_posix()] if "/" in name else []
        # A file that was renamed with its image still says the old name, which may be another image's by now.
        if base and _without_image_suffix(base) != path.stem and (found := self._found([same_stem])):
            return found
        if (found := self._found([*names, same_stem])) is None:
            self._unknown.append(path.name)
        if not (found or names):
            raise InputError(path, "has no <filename>, and no image is called as it is", "expected one of the two")
        return found or names[0]

    def _found(self, names: Sequence[str]) -> str | None:
        """The first that is an image, as it stands or but for its suffix."""
        by_name, by_stem = self._listed
        whole = next((name for name in names if name in by_name), None)
        stems = (_without_image_suffix(name) for name in names)
        return whole or next((by_stem[stem] for stem in stems if stem in by_stem), None)

    @cached_property
    def _listed(self) -> tuple[frozenset[str], dict[str, str]]:
        """Every image, and those whose stem is theirs alone by it."""
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
            has_text = len(field) or (field.text or "").strip() not in _NOTHING_SAID
            if has_text and field.tag not in ("name", "difficult", "bndbox"):
                omissions[f"{field.tag} of objects"] += 1


def _size(root: ElementTree.Element, path: Path, filename: str, image_dir: str | Path | None) -> tuple[int, int]:
    if image_dir is not None and not _has_size(root, path):
        return image_size(safe_join(image_dir, filename))
    return size_in(root, path)


def size_in(root: ElementTree.Element, path: Path) -> tuple[int, int]:
    """(height, width) of <size>. Raises InputError where it gives none; some labelling tools write 0."""
    if not _has_size(root, path):
        raise InputError(path, "gives no image size", "expected <size>, or the image folder to look it up in")
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
    """The box of <bndbox>, from 0 and with an exclusive end."""
    x1, y1, x2, y2 = (_number(entry, f"bndbox/{side}", location) for side in ("xmin", "ymin", "xmax", "ymax"))
    box = max(x1 - 1, 0.0), max(y1 - 1, 0.0), x2, y2
    with located(location):
        check_box(box)
    return box


def voc_text(element: ElementTree.Element, tag: str, location: object) -> str:
    """The text of a tag, without blanks at its ends. Raises InputError where there is none."""
    text = (element.findtext(tag) or "").strip()
    if not text:
        raise InputError(location, f"<{tag}> is missing or empty", "expected it as VOC has it")
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
    """Writes Annotations/, ImageSets/Main/default.txt and labelmap.txt into a new folder, whole or not at all.

    Gives what VOC has no place for. The images belong beside them as JPEGImages/. `sub/a.jpg` becomes
    `Annotations/sub/a.xml`. ignore becomes difficult. Boxes keep 2 decimals and are clipped at the image's left and top
    edge, beyond which VOC cannot count. Raises InputError for captions, for two images of one stem, for labels that are
    not in `categories`, and where the folder is there already; overwrite: replace one that contains labels alone.
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
    """A name that its readers would take for another one is left out and counted."""
    writable = [name for name in categories if ":" not in name and name == name.strip() and name[:1] not in ("", "#")]
    if len(writable) < len(categories):
        omissions["names that labelmap.txt cannot hold"] += len(categories) - len(writable)
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
