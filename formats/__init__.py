"""The file formats that Groundhog reads and writes, and `Record`, the type they share. Imports none of our packages.

Names are loaded on first use, so that importing this package is fast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from formats.registry import Functions

if TYPE_CHECKING:
    from formats.candidates import (
        Candidates,
        ImageCandidates,
        ImageProblem,
        candidates_key,
        read_candidates,
        write_candidates,
    )
    from formats.cityscapes import read_cityscapes
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
    from formats.cvat import read_cvat, write_cvat
    from formats.dod import DodDetails, read_dod, read_dod_details
    from formats.fiftyone import read_fiftyone, write_fiftyone
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
    from formats.openimages import read_openimages
    from formats.record import Box, Instance, Record, Region, Span
    from formats.refcoco import read_refcoco
    from formats.selection import image_key, only_part, part_of, sample, without_images
    from formats.voc import read_voc, read_voc_categories, write_voc
    from formats.yolo import read_yolo, write_yolo

# Each yields Records. What it needs besides a path is in its signature.
READERS: Mapping[str, Callable[..., Iterator[Record]]] = Functions(
    {
        "odvg": "odvg.read_odvg",
        "open-groundingdino": "odvg.read_odvg",
        "coco": "coco.read_coco",
        "coco-results": "coco.read_coco_results",
        "voc": "voc.read_voc",
        "yolo": "yolo.read_yolo",
        "images": "images.read_images",
        "labelstudio": "labelstudio.read_labelstudio",
        "cvat": "cvat.read_cvat",
        "fiftyone": "fiftyone.read_fiftyone",
        "huggingface": "huggingface.read_huggingface",
        "lvis": "coco_dialects.read_lvis",
        "objects365v1": "coco_dialects.read_objects365v1",
        "objects365v2": "coco_dialects.read_objects365v2",
        "v3det": "coco_dialects.read_v3det",
        "odinw": "coco_dialects.read_odinw",
        "openimages": "openimages.read_openimages",
        "cityscapes": "cityscapes.read_cityscapes",
        "mdetr": "mdetr.read_mdetr",
        "flickr30k": "flickr30k.read_flickr30k",
        "grit": "grit.read_grit",
        "refcoco": "refcoco.read_refcoco",
        "d3": "dod.read_dod",
    }
)

# Each returns the category names of a source in the order of its labels. The other formats have them in their records.
CATEGORIES: Mapping[str, Callable[..., tuple[str, ...]]] = Functions(
    {
        "coco": "coco.read_coco_categories",
        "coco-results": "coco.read_coco_results_categories",
        "voc": "voc.read_voc_categories",
        "yolo": "yolo.read_yolo_categories",
        "lvis": "coco_dialects.read_lvis_categories",
        "objects365v1": "coco_dialects.read_categories_by_id",
        "objects365v2": "coco_dialects.read_objects365v2_categories",
        "v3det": "coco_dialects.read_categories_by_id",
        "odinw": "coco_dialects.read_odinw_categories",
        "openimages": "openimages.read_openimages_categories",
        "cityscapes": "cityscapes.read_cityscapes_categories",
        "d3": "coco_dialects.read_categories_by_id",
        "cvat": "cvat.read_cvat_categories",
        "fiftyone": "fiftyone.read_fiftyone_categories",
        "huggingface": "huggingface.read_huggingface_categories",
    }
)

# Each takes a path, records, and the other parameters of its signature; it returns counts of what it could not write.
WRITERS: Mapping[str, Callable[..., Omissions]] = Functions(
    {
        "odvg": "odvg.write_odvg",
        "open-groundingdino": "odvg.write_open_groundingdino",
        "coco": "coco.write_coco",
        "coco-results": "coco.write_coco_results",
        "voc": "voc.write_voc",
        "yolo": "yolo.write_yolo",
        "labelstudio": "labelstudio.write_labelstudio",
        "cvat": "cvat.write_cvat",
        "fiftyone": "fiftyone.write_fiftyone",
        "huggingface": "huggingface.write_huggingface",
    }
)

_MODULE_OF = {
    "Candidates": "candidates",
    "ImageCandidates": "candidates",
    "ImageProblem": "candidates",
    "candidates_key": "candidates",
    "read_candidates": "candidates",
    "write_candidates": "candidates",
    "read_cityscapes": "cityscapes",
    "read_coco": "coco",
    "read_coco_categories": "coco",
    "read_coco_results": "coco",
    "write_coco": "coco",
    "write_coco_results": "coco",
    "LvisDetails": "coco_dialects",
    "read_categories_by_id": "coco_dialects",
    "read_lvis": "coco_dialects",
    "read_lvis_categories": "coco_dialects",
    "read_lvis_details": "coco_dialects",
    "read_objects365v1": "coco_dialects",
    "read_objects365v2": "coco_dialects",
    "read_objects365v2_categories": "coco_dialects",
    "read_odinw": "coco_dialects",
    "read_odinw_categories": "coco_dialects",
    "read_v3det": "coco_dialects",
    "read_cvat": "cvat",
    "write_cvat": "cvat",
    "DodDetails": "dod",
    "read_dod": "dod",
    "read_dod_details": "dod",
    "read_fiftyone": "fiftyone",
    "write_fiftyone": "fiftyone",
    "read_flickr30k": "flickr30k",
    "read_grit": "grit",
    "read_huggingface": "huggingface",
    "read_huggingface_categories": "huggingface",
    "write_huggingface": "huggingface",
    "IMAGE_SUFFIXES": "images",
    "image_size": "images",
    "list_images": "images",
    "read_images": "images",
    "safe_join": "images",
    "InputError": "io.errors",
    "sha256_of": "io.files",
    "write_whole": "io.files",
    "write_whole_folder": "io.files",
    "read_plain_pickle": "io.plain_pickle",
    "read_config": "io.toml_config",
    "merge_label_maps": "label_map",
    "read_label_map": "label_map",
    "relabelled": "label_map",
    "write_label_map": "label_map",
    "read_labelstudio": "labelstudio",
    "write_labelstudio": "labelstudio",
    "read_mdetr": "mdetr",
    "LineProblem": "odvg",
    "read_odvg": "odvg",
    "read_odvg_entries": "odvg",
    "record_to_line": "odvg",
    "write_odvg": "odvg",
    "write_open_groundingdino": "odvg",
    "record_from_line": "odvg_lines",
    "Omissions": "omissions",
    "describe_omissions": "omissions",
    "read_openimages": "openimages",
    "Box": "record",
    "Instance": "record",
    "Record": "record",
    "Region": "record",
    "Span": "record",
    "read_refcoco": "refcoco",
    "image_key": "selection",
    "only_part": "selection",
    "part_of": "selection",
    "sample": "selection",
    "without_images": "selection",
    "read_voc": "voc",
    "read_voc_categories": "voc",
    "write_voc": "voc",
    "read_yolo": "yolo",
    "write_yolo": "yolo",
}

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
    "read_huggingface_categories",
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
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
