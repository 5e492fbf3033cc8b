"""The files that Groundhog reads and writes, and the record that travels. Imports nothing else of ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from formats.coco import read_coco, read_coco_categories, write_coco
from formats.files import sha256_of, write_whole
from formats.images import IMAGE_SUFFIXES, image_size, list_images, safe_join
from formats.label_map import read_label_map, write_label_map
from formats.odvg import LineProblem, read_odvg, read_odvg_entries, record_from_line, record_to_line, write_odvg
from formats.problems import InputError
from formats.record import Box, Instance, Record, Region, Span
from formats.toml_config import read_config
from formats.voc import read_voc
from formats.yolo import read_yolo

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
READERS = {"odvg": read_odvg, "coco": read_coco, "voc": read_voc, "yolo": read_yolo}

_IN_CANDIDATES = (
    "Candidates",
    "ImageCandidates",
    "ImageProblem",
    "candidates_key",
    "read_candidates",
    "write_candidates",
)

__all__ = [
    "IMAGE_SUFFIXES",
    "READERS",
    "Box",
    "Candidates",
    "ImageCandidates",
    "ImageProblem",
    "InputError",
    "Instance",
    "LineProblem",
    "Record",
    "Region",
    "Span",
    "candidates_key",
    "image_size",
    "list_images",
    "read_candidates",
    "read_coco",
    "read_coco_categories",
    "read_config",
    "read_label_map",
    "read_odvg",
    "read_odvg_entries",
    "read_voc",
    "read_yolo",
    "record_from_line",
    "record_to_line",
    "safe_join",
    "sha256_of",
    "write_candidates",
    "write_coco",
    "write_label_map",
    "write_odvg",
    "write_whole",
]


def __getattr__(name: str) -> Any:
    """Loads the candidates, and pyarrow with them, when they are first asked for."""
    if name not in _IN_CANDIDATES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from formats import candidates

    return getattr(candidates, name)
