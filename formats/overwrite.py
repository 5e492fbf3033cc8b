"""Prevents overwriting files that contain labels, label maps that are in use, and folders with images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from formats.dataset_names import annotations_beside, label_map_beside
from formats.io.errors import InputError
from formats.io.storage import as_path
from formats.label_map import read_label_map
from formats.odvg import read_odvg

REMEDY = "expected another name, or overwrite=True"


def refuse_to_lose_labels(out: str | Path, label_map: Mapping[int, str] | None = None) -> None:
    """Raises InputError if `out` exists and contains more than unlabelled lines.

    label_map: the map to be written beside it. Also raises if a different map is there that other labels use.
    """
    path = as_path(out)
    if contains_labels(path):
        raise InputError(path, "exists and contains labels", REMEDY)
    if label_map is None:
        return
    beside = label_map_beside(path)
    if beside.is_file() and _read(beside) != dict(label_map):
        for labels in annotations_beside(beside):
            if contains_labels(labels):
                raise InputError(beside, f"is a different label map, which {labels.name} uses", REMEDY)


def refuse_to_lose_images(folder: str | Path) -> None:
    """Raises InputError if the folder contains any files already."""
    path = as_path(folder)
    if path.is_dir() and next(path.iterdir(), None) is not None:
        raise InputError(path, "exists and contains files", REMEDY)


def contains_labels(path: Path) -> bool:
    """Whether a file is anything but unlabelled ODVG lines. An image without objects counts as labelled."""
    if not path.is_file() or path.stat().st_size == 0:
        return False
    try:
        return any(
            record.instances is not None or any(region.boxes for region in record.regions or ())
            for record in read_odvg(path)
        )
    except InputError:  # another format, or ODVG that somebody is editing
        return True


def _read(path: Path) -> dict[int, str] | None:
    try:
        return read_label_map(path)
    except InputError:
        return None
