"""The files that Groundhog reads and writes, and the record that travels. Imports nothing else of ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from formats.cityscapes import read_cityscapes, read_cityscapes_categories
from formats.coco import read_coco, read_coco_categories, read_coco_results, write_coco, write_coco_results
from formats.coco_dialects import (
    LvisDetails,
    read_categories_by_id,
    read_lvis,
    read_lvis_categories,
    read_lvis_details,
    read_objects365v1,
    read_objects365v2,
    read_objects365v2_categories,
    read_odinw,
    read_odinw_categories,
    read_v3det,
)
from formats.cvat import read_cvat, read_cvat_categories, write_cvat
from formats.dod import DodDetails, read_dod, read_dod_details
from formats.fiftyone import read_fiftyone, read_fiftyone_categories, write_fiftyone
from formats.flickr30k import read_flickr30k
from formats.grit import read_grit
from formats.huggingface import read_huggingface, read_huggingface_categories, write_huggingface
from formats.images import IMAGE_SUFFIXES, image_size, list_images, read_images, safe_join
from formats.io.errors import InputError
from formats.io.files import sha256_of, write_whole, write_whole_folder
from formats.io.plain_pickle import read_plain_pickle
from formats.io.toml_config import read_config
from formats.label_map import merge_label_maps, read_label_map, relabelled, write_label_map
from formats.labelstudio import read_labelstudio, write_labelstudio
from formats.mdetr import read_mdetr
from formats.odvg import (
    LineProblem,
    read_odvg,
    read_odvg_entries,
    record_to_line,
    write_odvg,
    write_open_groundingdino,
)
from formats.odvg_lines import record_from_line
from formats.omissions import Omissions, describe_omissions
from formats.openimages import read_openimages, read_openimages_categories
from formats.record import Box, Instance, Record, Region, Span
from formats.refcoco import read_refcoco
from formats.selection import image_key, only_part, part_of, sample, without_images
from formats.voc import read_voc, read_voc_categories, write_voc
from formats.yolo import read_yolo, write_yolo

if TYPE_CHECKING:
    from formats.candidates import (
        Candidates,
        ImageCandidates,
        ImageProblem,
        candidates_key,
        read_candidates,
        write_candidates,
    )

# Each streams Records; what else it needs beside a path, its signature says.
READERS: dict[str, Callable[..., Iterator[Record]]] = {
    "odvg": read_odvg,
    "open-groundingdino": read_odvg,
    "coco": read_coco,
    "coco-results": read_coco_results,
    "voc": read_voc,
    "yolo": read_yolo,
    "images": read_images,
    "labelstudio": read_labelstudio,
    "cvat": read_cvat,
    "fiftyone": read_fiftyone,
    "huggingface": read_huggingface,
    "lvis": read_lvis,
    "objects365v1": read_objects365v1,
    "objects365v2": read_objects365v2,
    "v3det": read_v3det,
    "odinw": read_odinw,
    "openimages": read_openimages,
    "cityscapes": read_cityscapes,
    "mdetr": read_mdetr,
    "flickr30k": read_flickr30k,
    "grit": read_grit,
    "refcoco": read_refcoco,
    "d3": read_dod,
}

# The names of a source's labels, in their order; where a format is not here, its records tell them.
CATEGORIES: dict[str, Callable[..., tuple[str, ...]]] = {
    "coco": read_coco_categories,
    "coco-results": lambda path, truth: read_coco_categories(truth),
    "voc": read_voc_categories,
    "lvis": read_lvis_categories,
    "objects365v1": read_categories_by_id,
    "objects365v2": read_objects365v2_categories,
    "v3det": read_categories_by_id,
    "odinw": read_odinw_categories,
    "openimages": read_openimages_categories,
    "cityscapes": read_cityscapes_categories,
    "d3": read_categories_by_id,
    "cvat": read_cvat_categories,
    "fiftyone": read_fiftyone_categories,
    "huggingface": read_huggingface_categories,
}

# Each takes a path, records, and the other parameters of its signature; it returns what the format cannot hold.
WRITERS: dict[str, Callable[..., Omissions]] = {
    "odvg": write_odvg,
    "open-groundingdino": write_open_groundingdino,
    "coco": write_coco,
    "coco-results": write_coco_results,
    "voc": write_voc,
    "yolo": write_yolo,
    "labelstudio": write_labelstudio,
    "cvat": write_cvat,
    "fiftyone": write_fiftyone,
    "huggingface": write_huggingface,
}

_IN_CANDIDATES = (
    "Candidates",
    "ImageCandidates",
    "ImageProblem",
    "candidates_key",
    "read_candidates",
    "write_candidates",
)

__all__ = [
    "CATEGORIES",
    "IMAGE_SUFFIXES",
    "READERS",
    "WRITERS",
    "Box",
    "Candidates",
    "DodDetails",
    "ImageCandidates",
    "ImageProblem",
    "InputError",
    "Instance",
    "LineProblem",
    "LvisDetails",
    "Omissions",
    "Record",
    "Region",
    "Span",
    "candidates_key",
    "describe_omissions",
    "image_key",
    "image_size",
    "list_images",
    "merge_label_maps",
    "only_part",
    "part_of",
    "read_candidates",
    "read_categories_by_id",
    "read_cityscapes",
    "read_coco",
    "read_coco_categories",
    "read_coco_results",
    "read_config",
    "read_cvat",
    "read_dod",
    "read_dod_details",
    "read_fiftyone",
    "read_flickr30k",
    "read_grit",
    "read_huggingface",
    "read_images",
    "read_label_map",
    "read_labelstudio",
    "read_lvis",
    "read_lvis_categories",
    "read_lvis_details",
    "read_mdetr",
    "read_objects365v1",
    "read_objects365v2",
    "read_objects365v2_categories",
    "read_odinw",
    "read_odinw_categories",
    "read_odvg",
    "read_odvg_entries",
    "read_openimages",
    "read_plain_pickle",
    "read_refcoco",
    "read_v3det",
    "read_voc",
    "read_voc_categories",
    "read_yolo",
    "record_from_line",
    "record_to_line",
    "relabelled",
    "safe_join",
    "sample",
    "sha256_of",
    "without_images",
    "write_candidates",
    "write_coco",
    "write_coco_results",
    "write_cvat",
    "write_fiftyone",
    "write_huggingface",
    "write_label_map",
    "write_labelstudio",
    "write_odvg",
    "write_open_groundingdino",
    "write_voc",
    "write_whole",
    "write_whole_folder",
    "write_yolo",
]


def __getattr__(name: str) -> Any:
    """Loads the candidates, and pyarrow with them, when they are first used."""
    if name not in _IN_CANDIDATES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from formats import candidates

    return getattr(candidates, name)
