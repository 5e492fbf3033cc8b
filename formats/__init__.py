"""The files that Groundhog reads and writes, and the record that travels. Imports nothing else of ours.

A name is loaded when it is first asked for, so that a program that wants one reader pays for one reader.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from formats.candidates import Candidates, ImageCandidates, ImageProblem
    from formats.candidates import candidates_key, read_candidates, write_candidates
    from formats.coco import read_coco, read_coco_categories, write_coco
    from formats.files import sha256_of, write_whole
    from formats.images import IMAGE_SUFFIXES, image_size, list_images, safe_join
    from formats.label_map import read_label_map, write_label_map
    from formats.odvg import LineProblem, read_odvg, record_from_line, record_to_line, write_odvg
    from formats.problems import InputError
    from formats.record import Box, Instance, Record, Region, Span
    from formats.toml_config import read_config
    from formats.voc import read_voc
    from formats.yolo import read_yolo

_NAMES = {
    "candidates": (
        "Candidates",
        "ImageCandidates",
        "ImageProblem",
        "candidates_key",
        "read_candidates",
        "write_candidates",
    ),
    "coco": ("read_coco", "read_coco_categories", "write_coco"),
    "files": ("sha256_of", "write_whole"),
    "images": ("IMAGE_SUFFIXES", "image_size", "list_images", "safe_join"),
    "label_map": ("read_label_map", "write_label_map"),
    "odvg": ("LineProblem", "read_odvg", "record_from_line", "record_to_line", "write_odvg"),
    "problems": ("InputError",),
    "record": ("Box", "Instance", "Record", "Region", "Span"),
    "toml_config": ("read_config",),
    "voc": ("read_voc",),
    "yolo": ("read_yolo",),
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}

# Format name -> the function in this package that streams its records.
READERS = {"odvg": "read_odvg", "coco": "read_coco", "voc": "read_voc", "yolo": "read_yolo"}

__all__ = ["READERS", *sorted(_MODULE_OF)]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
