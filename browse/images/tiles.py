"""Pictures too large to be kept in memory, cut into tiles on disk to read any part at full resolution.

A picture is decoded once and cut into JPEG files, from which parts are assembled.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from browse.images.pictures import jpeg_of
from formats.images import decode_strips, stored_box, turned

TILE = 1024  # pixels along a side
QUALITY = 92  # of the JPEG files; a part is encoded again for the page
MAX_PICTURES = 4  # whose tiles are kept; each takes up to a few hundred megabytes


class TiledPicture(NamedTuple):
    """A picture cut into tiles. height, width: as stored, in pixels. orientation: EXIF's."""

    folder: Path
    height: int
    width: int
    orientation: int


class Tiles:
    """The tiles of the most recently used pictures, in a temporary folder. Thread-safe."""

    def __init__(self) -> None:
        self._root: tempfile.TemporaryDirectory[str] | None = None
        self._pictures: OrderedDict[tuple[Path, int], TiledPicture] = OrderedDict()
        self._made = 0
        self._lock = threading.Lock()

    def region(self, path: Path, box: tuple[int, int, int, int], size: tuple[int, int]) -> np.ndarray:
        """(h, w, 3) uint8 RGB of a part of the upright picture.

        box: x1, y1, x2, y2 in pixels of the upright picture. size: its height and width.
        Raises InputError for a picture that cannot be decoded.
        """
        with self._lock:  # large pictures are decoded one at a time anyway
            picture = self._picture(path)
            stored = stored_box(box, *size, picture.orientation)
            return turned(_assembled(picture, stored), picture.orientation)

    def _picture(self, path: Path) -> TiledPicture:
        key = (path, path.stat().st_mtime_ns)
        if key not in self._pictures:
            self._root = self._root or tempfile.TemporaryDirectory(prefix="groundhog-tiles-")
            self._made += 1
            folder = Path(self._root.name) / str(self._made)
            folder.mkdir()
            try:
                size = decode_strips(path, TILE, lambda top, strip: _write_row(folder, top, strip))
            except Exception:
                shutil.rmtree(folder)
                raise
            self._pictures[key] = TiledPicture(folder, *size)
            if len(self._pictures) > MAX_PICTURES:
                shutil.rmtree(self._pictures.popitem(last=False)[1].folder)
        self._pictures.move_to_end(key)
        return self._pictures[key]


def _write_row(folder: Path, top: int, strip: np.ndarray) -> None:
    for left in range(0, strip.shape[1], TILE):
        tile = np.ascontiguousarray(strip[:, left : left + TILE])
        (folder / f"{left // TILE}-{top // TILE}.jpg").write_bytes(jpeg_of(tile, QUALITY))


def _assembled(picture: TiledPicture, box: tuple[int, int, int, int]) -> np.ndarray:
    """A part of the stored picture."""
    x1, y1, x2, y2 = max(0, box[0]), max(0, box[1]), min(picture.width, box[2]), min(picture.height, box[3])
    part = np.zeros((y2 - y1, x2 - x1, 3), np.uint8)
    for row in range(y1 // TILE, (y2 - 1) // TILE + 1):
        for column in range(x1 // TILE, (x2 - 1) // TILE + 1):
            left, top = column * TILE, row * TILE
            with Image.open(picture.folder / f"{column}-{row}.jpg") as image:
                tile = np.asarray(image)
            right, bottom = min(left + tile.shape[1], x2), min(top + tile.shape[0], y2)
            inside = tile[max(y1, top) - top : bottom - top, max(x1, left) - left : right - left]
            part[max(y1, top) - y1 : bottom - y1, max(x1, left) - x1 : right - x1] = inside
    return part
