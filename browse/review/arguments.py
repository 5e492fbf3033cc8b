"""The command-line arguments for the labels and their pictures, common to drawing and reviewing."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

from formats.io.errors import InputError

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8765  # of the review page; reports link to it


class DataPaths(NamedTuple):
    """annotations: the ODVG file. images: the folder of its pictures. label_map: its file; None if not given."""

    annotations: Path
    images: Path
    label_map: Path | None


def add_data_paths(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data_root", metavar="DATA_ROOT", type=Path, help="folder of the data set")
    parser.add_argument("ann_file", metavar="ANN_FILE", help="labels, relative to DATA_ROOT")
    parser.add_argument(
        "img_prefix",
        metavar="IMG_PREFIX",
        help="folder of the pictures; relative to DATA_ROOT, or to the current folder",
    )
    parser.add_argument(
        "-m",
        "--label-map-file",
        metavar="LABEL_MAP",
        help="label map with the category names; relative to DATA_ROOT, or to the current folder",
    )


def read_data_paths(options: argparse.Namespace) -> DataPaths:
    """The paths that add_data_paths declares. Raises InputError for one that does not exist."""
    annotations = options.data_root / options.ann_file
    images = options.data_root / options.img_prefix
    if not images.is_dir() and Path(options.img_prefix).is_dir():
        images = Path(options.img_prefix)
    if not annotations.is_file():
        raise InputError(annotations, "does not exist", "expected an ODVG file; ANN_FILE is relative to DATA_ROOT")
    if not images.is_dir():
        raise InputError(images, "does not exist", "expected the folder of the pictures")
    if options.label_map_file is None:
        return DataPaths(annotations, images, None)
    inside = options.data_root / options.label_map_file
    return DataPaths(annotations, images, inside if inside.is_file() else Path(options.label_map_file))
