"""Data sets with variants of COCO JSON: LVIS, Objects365, V3Det, ODinW.

Labels follow the order of the category ids, as in the reference's converters (mmdet 3.3.0,
tools/dataset_converters).
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from formats.coco import CocoContent, coco_records, load_coco, needed
from formats.io.errors import InputError
from formats.io.plurals import many
from formats.omissions import Omissions
from formats.record import Record

_log = logging.getLogger(__name__)

_COCO_HOST = "images.cocodataset.org/"

# Ids of images that are missing in the published archives (mmdet 3.3.0, coco2odvg.py).
_MISSING_IN_OBJECTS365_V1 = frozenset({6, 19, 23})
_MISSING_IN_OBJECTS365_V2 = frozenset({908726, 320532, 320534})

# Misspelt categories of Objects365 v2 as the reference corrects them (objects365_v2_names_fix.csv). "Ballon" and
# "Noddles" are not corrected there, and the checkpoints were trained with those spellings.
_OBJECTS365_V2_NAMES = {
    "Moniter/TV": "Monitor/TV",
    "Bakset": "Basket",
    "Dinning Table": "Dining Table",
    "Tea pot": "Teapot",
    "Extention Cord": "Extension Cord",
    "Hotair ballon": "Hot air balloon",
    "Hamimelon": "Hami melon",
    "Mushroon": "Mushroom",
    "Tape Measur/ Ruler": "Tape Measure/ Ruler",
    "Campel": "Camel",
    "Meat ball": "Meatball",
    "Buttefly": "Butterfly",
    "Table Teniis paddle": "Table Tennis paddle",
}


# LVIS

_FREQUENCIES = ("r", "c", "f")


class LvisDetails(NamedTuple):
    """What the LVIS metric needs and a Record has no field for.

    frequency: "r", "c" or "f" for each label. absent: file name -> labels verified to be absent; of all other labels
    without a box it is unknown. not_exhaustive: file name -> labels with more objects than boxes.
    """

    frequency: tuple[str, ...]
    absent: dict[str, frozenset[int]]
    not_exhaustive: dict[str, frozenset[int]]


def read_lvis(
    ann_file: str | Path, frequencies: str | None = None, omissions: Omissions | None = None
) -> Iterator[Record]:
    """Yields the records of LVIS v1 (or v0.5); file names are like "train2017/000000391895.jpg".

    frequencies: "f,c" keeps only frequent and common categories, so that rare ones can serve as unseen ones (the
    reference's lvis2ovd.py); every image stays. None keeps all.
    read_lvis_details returns which labels are not exhaustive; omissions counts them.
    """
    content = _of_frequencies(_by_category_id(load_coco(ann_file, omissions, ("coco_url",))), frequencies)
    yield from coco_records(content, _lvis_filename)


def read_lvis_categories(ann_file: str | Path, frequencies: str | None = None) -> tuple[str, ...]:
    """The category names in the order of read_lvis's labels."""
    return _names(_of_frequencies(_by_category_id(load_coco(ann_file, annotated=False)), frequencies))


def _of_frequencies(content: CocoContent, frequencies: str | None) -> CocoContent:
    if frequencies is None:
        return content
    wanted = frequencies.split(",")
    if not set(wanted) <= set(_FREQUENCIES):
        raise InputError("frequencies", repr(frequencies), "expected some of r, c and f, such as f,c")
    kept = [each for each in content.categories if _frequency(content, each) in wanted]
    left_out = set(content.categories) - set(kept)
    categories = {each: (label, content.categories[each][1]) for label, each in enumerate(kept)}
    return content._replace(categories=categories, categories_left_out=left_out)


def _frequency(content: CocoContent, category_id: Any) -> str:
    location = f"{content.path}: category {category_id!r}"
    frequency = needed(content.category_entries[category_id], "frequency", location)
    if frequency not in _FREQUENCIES:
        raise InputError(location, f"frequency is {frequency!r}", "expected r, c or f")
    return frequency


def read_lvis_details(ann_file: str | Path) -> LvisDetails:
    """Frequencies of the categories, and for each image the absent and the not exhaustively labelled ones."""
    content = _by_category_id(load_coco(ann_file, annotated=False))
    frequency = tuple(_frequency(content, category_id) for category_id in content.categories)
    absent: dict[str, frozenset[int]] = {}
    not_exhaustive: dict[str, frozenset[int]] = {}
    for image_id, image in content.images.items():
        location = f"{ann_file}: image {image_id!r}"
        filename = _lvis_filename(image, location)
        absent[filename] = _labels(image, "neg_category_ids", content, location)
        not_exhaustive[filename] = _labels(image, "not_exhaustive_category_ids", content, location)
    return LvisDetails(frequency, absent, not_exhaustive)


def _labels(image: Mapping, key: str, content: CocoContent, location: str) -> frozenset[int]:
    ids = needed(image, key, location)
    if not isinstance(ids, list) or not all(type(each) is int and each in content.categories for each in ids):
        raise InputError(location, f"{key} {ids!r} is not a list of category ids", "expected ids of this file")
    return frozenset(content.categories[each][0] for each in ids)


def _lvis_filename(image: Mapping, location: str) -> str:
    """v1 identifies images only by URL; v0.5 by COCO_val2014_000000000042.jpg, which 2017 calls 000000000042.jpg."""
    if "coco_url" in image:
        return str(image["coco_url"]).rpartition(_COCO_HOST)[2]
    name = str(needed(image, "file_name", location))
    return name[-16:] if name.startswith("COCO") else name


# Objects365


def read_objects365v1(ann_file: str | Path, omissions: Omissions | None = None) -> Iterator[Record]:
    """Yields the records of Objects365 v1, without the three images that are missing in its archives."""
    content = _by_category_id(load_coco(ann_file, omissions))
    yield from coco_records(_without_images(content, _MISSING_IN_OBJECTS365_V1))


def read_objects365v2(ann_file: str | Path, omissions: Omissions | None = None) -> Iterator[Record]:
    """Yields the records of Objects365 v2 with corrected names; file names "patch8/objects365_v1_00420917.jpg".

    The three images that are missing in its archives are left out.
    """
    content = _without_images(_objects365v2(load_coco(ann_file, omissions)), _MISSING_IN_OBJECTS365_V2)
    yield from coco_records(content, _objects365v2_filename)


def read_objects365v2_categories(ann_file: str | Path) -> tuple[str, ...]:
    """The category names in the order of the labels, with corrected spelling."""
    return _names(_objects365v2(load_coco(ann_file, annotated=False)))


def _objects365v2(content: CocoContent) -> CocoContent:
    content = _by_category_id(content)
    fixed = {
        category_id: (label, _OBJECTS365_V2_NAMES.get(name, name))
        for category_id, (label, name) in content.categories.items()
    }
    return content._replace(categories=fixed)


def _objects365v2_filename(image: Mapping, location: str) -> str:
    return "/".join(PurePosixPath(str(needed(image, "file_name", location))).parts[-2:])


def _without_images(content: CocoContent, missing: Collection[int]) -> CocoContent:
    kept = {image_id: image for image_id, image in content.images.items() if image_id not in missing}
    if len(kept) == len(content.images):
        return content
    left_out = many(len(content.images) - len(kept), "image")
    _log.warning("%s: %s left out, missing in the published archives", content.path, left_out)
    return content._replace(images=kept, images_left_out=missing)


# V3Det


def read_v3det(ann_file: str | Path, omissions: Omissions | None = None) -> Iterator[Record]:
    """Yields the records of V3Det; file names are like "images/a00000066/0_380_….jpg"."""
    yield from read_coco_by_category_id(ann_file, omissions)


# ODinW

_ODINW_FILES = ("annotations_without_background.json", "_annotations.coco.json")


def read_odinw(split: str | Path, omissions: Omissions | None = None) -> Iterator[Record]:
    """Yields the records of one split of one ODinW data set: a folder such as odinw/pothole/valid, or its JSON.

    Roboflow's category 0, a placeholder before the data set's own categories, is left out if no box uses it.
    """
    yield from coco_records(_odinw(split, omissions))


def read_odinw_categories(split: str | Path) -> tuple[str, ...]:
    """The category names in the order of the labels, without Roboflow's unused category 0."""
    return _names(_odinw(split))


def _odinw(split: str | Path, omissions: Omissions | None = None) -> CocoContent:
    path = Path(split)
    if path.is_dir():
        files = [path / name for name in _ODINW_FILES if (path / name).is_file()]
        if not files:
            raise InputError(path, "contains no ODinW annotations", f"expected {' or '.join(_ODINW_FILES)} in it")
        path = files[0]
    content = _by_category_id(load_coco(path, omissions))
    used = any(entry.get("category_id") == 0 for entry in content.annotations or ())
    if 0 in content.categories and not used and len(content.categories) > 1:
        names = [(category_id, name) for category_id, (_, name) in content.categories.items() if category_id != 0]
        content = content._replace(categories={each: (label, name) for label, (each, name) in enumerate(names)})
    return content


# Shared


def read_coco_by_category_id(ann_file: str | Path, omissions: Omissions | None = None) -> Iterator[Record]:
    """Like read_coco, with labels in the order of the category ids."""
    yield from coco_records(_by_category_id(load_coco(ann_file, omissions)))


def read_categories_by_id(ann_file: str | Path) -> tuple[str, ...]:
    """The category names in the order of their ids, for Objects365 v1, V3Det, D3 and all of LVIS."""
    return _names(_by_category_id(load_coco(ann_file, annotated=False)))


def _by_category_id(content: CocoContent) -> CocoContent:
    """The content with labels in the order of the category ids."""
    try:
        ordered = sorted(content.categories.items())
    except TypeError:
        raise InputError(content.path, "category ids are of several kinds", "expected whole numbers") from None
    categories: dict[Any, tuple[int, str]] = {
        category_id: (label, name) for label, (category_id, (_, name)) in enumerate(ordered)
    }
    return content._replace(categories=categories)


def _names(content: CocoContent) -> tuple[str, ...]:
    return tuple(name for _, name in content.categories.values())
