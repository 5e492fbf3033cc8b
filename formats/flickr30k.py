"""Reads Flickr30k Entities: Sentences/ID.txt, five captions per image, and Annotations/ID.xml, the boxes of phrases.

[/EN#283585/people A young girl] sleeps in [/EN#283586/vehicles a car] .

An entity has the same number in all five captions. Entity 0 is not visible in the image. An entity may have several
boxes, and a box several entities; scenes, and things that nobody could box, have no box.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

from formats.images import safe_join
from formats.io.errors import InputError, refused
from formats.omissions import Omissions
from formats.record import Box, Record, Region, Span
from formats.voc import size_in, voc_box, voc_text, xml_root

_PHRASE = re.compile(r"\[/EN#(?P<entity>\d+)/[^\s\[\]]+ (?P<words>[^\[\]]*)\]")
_NOT_VISUAL = "0"


def read_flickr30k(
    root: str | Path, split: str | Path | None = None, omissions: Omissions | None = None
) -> Iterator[Record]:
    """Yields a record for each caption, image by image; the file name is ID.jpg.

    root: the folder with Sentences/ and Annotations/. split: a text file with one image ID per line; by default all
    images. A phrase without a box becomes a region without boxes. omissions counts the phrases of invisible things,
    which are left out, and the entity numbers. Raises InputError for broken markup, invalid XML, and IDs without files.
    """
    sentences, annotations = (_folder(Path(root), name) for name in ("Sentences", "Annotations"))
    for image_id in _image_ids(sentences, split):
        boxes, height, width = _boxes(annotations / f"{image_id}.xml")
        path = sentences / f"{image_id}.txt"
        for number, line in enumerate(_read_lines(path), start=1):
            caption, phrases = _parse(line, f"{path}:{number}")
            if omissions is not None:
                omissions["phrases of invisible things"] += len(_PHRASE.findall(line)) - len(phrases)
                omissions["numbers of entities"] += len(phrases)
            regions = tuple(
                Region(boxes.get(entity, ()), (caption[slice(*span)],), (span,)) for entity, span in phrases
            )
            try:
                yield Record(f"{image_id}.jpg", height, width, caption=caption, regions=regions)
            except ValueError as error:
                raise refused(f"{path}:{number}", error) from error


def _folder(root: Path, name: str) -> Path:
    if not (root / name).is_dir():
        raise InputError(
            root / name, "does not exist", "expected the folder of Flickr30k Entities: Sentences, Annotations"
        )
    return root / name


def _image_ids(sentences: Path, split: str | Path | None) -> Sequence[str]:
    if split is None:
        return sorted(path.stem for path in sentences.glob("*.txt"))
    ids = [line.strip() for line in _read_lines(Path(split)) if line.strip()]
    for image_id in ids:
        safe_join(sentences, image_id)
    return ids


def _read_lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(path, f"cannot be read ({error})", "expected a text file of Flickr30k Entities") from error


def _parse(line: str, location: str) -> tuple[str, list[tuple[str, Span]]]:
    """The caption without its markup, and (entity, span) of each phrase that is visible."""
    caption, phrases, done = "", [], 0
    for match in _PHRASE.finditer(line):
        caption += line[done : match.start()]
        start = len(caption)
        caption += match["words"]
        if match["entity"] != _NOT_VISUAL and match["words"]:
            phrases.append((match["entity"], (start, len(caption))))
        done = match.end()
    caption += line[done:]
    if "/EN#" in caption:
        raise InputError(location, "has broken markup", "expected [/EN#number/type words]")
    return caption, phrases


def _boxes(path: Path) -> tuple[dict[str, tuple[Box, ...]], int, int]:
    """Entity -> boxes; then height and width of the image."""
    root = xml_root(path)
    boxes: dict[str, list[Box]] = {}
    for index, entry in enumerate(root.iterfind("object")):
        if entry.find("bndbox") is None:
            continue  # a scene, or something that nobody could box
        location = f"{path}: object {index}"
        box = voc_box(entry, location)
        for name in _names(entry, location):
            boxes.setdefault(name, []).append(box)
    height, width = size_in(root, path)
    return {entity: tuple(found) for entity, found in boxes.items()}, height, width


def _names(entry: ElementTree.Element, location: str) -> list[str]:
    voc_text(entry, "name", location)
    return [(name.text or "").strip() for name in entry.iterfind("name")]
