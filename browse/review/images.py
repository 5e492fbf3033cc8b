"""Pictures for the page: reduced, thumbnails, or a part at full resolution, with limited memory.

Many windows may request pictures at once: results are cached, and formats.images limits how many are decoded at a time.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from PIL import Image

from browse.images.pictures import jpeg_of, reduced_picture
from browse.images.tiles import Tiles
from formats.images import DecodedImage, decode_image, safe_join

KEPT_BYTES = 64 << 20  # cache of JPEG files
KEPT_PIXELS = 150_000_000  # cache of decoded pictures, for their parts
WHOLE_PIXELS = 60_000_000  # larger pictures are cached reduced
WHOLE_SIDE = 6000  # pixels; a reduced picture has at least this longer side
MAX_REGION_SIDE = 2048  # pixels of a part
SHARP_ENOUGH = 1.15  # tiles are read for a part if they have this many times the pixels; the same as in the page
CROP_MARGIN = 0.2  # of a crop's longer side, to show some context

Value = TypeVar("Value")


class Kept(Generic[Value]):
    """A cache of the most recently used values, up to a total cost."""

    def __init__(self, max_cost: int) -> None:
        self._most, self._cost = max_cost, 0
        self._values: OrderedDict[Hashable, tuple[Value, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Value | None:
        """The value of a key; marks it as used now."""
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key][0]

    def put(self, key: Hashable, value: Value, cost: int) -> None:
        """Adds a value and drops the least recently used ones."""
        with self._lock:
            if key not in self._values and cost <= self._most:
                self._values[key] = (value, cost)
                self._cost += cost
            while self._cost > self._most:
                self._cost -= self._values.popitem(last=False)[1][1]


class Pictures:
    """The pictures of a review. Thread-safe.

    filename_of: returns the file name of a line, which comes from the labels, never from the network.
    Methods raise OSError or InputError for a file that is not a picture.
    """

    def __init__(self, root: Path, filename_of: Callable[[int], str]) -> None:
        self._root, self._filename_of = root, filename_of
        self._made: Kept[bytes] = Kept(KEPT_BYTES)
        self._whole: Kept[DecodedImage] = Kept(KEPT_PIXELS)
        self._tiles = Tiles()
        self._decoders = threading.BoundedSemaphore(max(2, os.cpu_count() or 2))

    def reduced(self, number: int, longest: int) -> bytes:
        """A JPEG file of the whole picture, its longer side at most `longest` pixels."""
        path = self._path(number)
        key = (path, path.stat().st_mtime_ns, longest)
        made = self._made.get(key)
        if made is None:
            with self._decoders:
                made = self._made.get(key) or jpeg_of(reduced_picture(path, longest))
            self._made.put(key, made, len(made))
        return made

    def region(self, number: int, box: tuple[float, float, float, float], longest: int) -> bytes:
        """A JPEG file of a part. box: pixels of the upright picture. longest: maximum longer side of the result.

        At full resolution if it fits in `longest`; for a picture of more than WHOLE_PIXELS this takes tiles.
        """
        path = self._path(number)
        picture = self._read(path)
        longest = min(longest, MAX_REGION_SIDE)
        height, width = picture.pixels.shape[:2]
        scale = width / picture.width
        if longest > scale * SHARP_ENOUGH * max(box[2] - box[0], box[3] - box[1]) and scale < 1:
            return self._tiled(path, box, picture, longest)
        x1, y1 = max(0, int(box[0] * scale)), max(0, int(box[1] * scale))
        x2, y2 = min(width, int(np.ceil(box[2] * scale))), min(height, int(np.ceil(box[3] * scale)))
        part = Image.fromarray(picture.pixels[y1 : max(y2, y1 + 1), x1 : max(x2, x1 + 1)])
        part.thumbnail((longest, longest))
        return jpeg_of(np.asarray(part))

    def _tiled(self, path: Path, box: tuple[float, float, float, float], whole: DecodedImage, longest: int) -> bytes:
        """Whether a part has to be read from tiles, because the reduced picture has too few pixels for it."""
        x1, y1 = max(0, min(int(box[0]), whole.width - 1)), max(0, min(int(box[1]), whole.height - 1))
        x2, y2 = min(whole.width, int(np.ceil(box[2]))), min(whole.height, int(np.ceil(box[3])))
        sides = (x1, y1, max(x2, x1 + 1), max(y2, y1 + 1))
        part = Image.fromarray(self._tiles.region(path, sides, (whole.height, whole.width)))
        part.thumbnail((longest, longest))
        return jpeg_of(np.asarray(part))

    def crop(self, number: int, box: tuple[float, float, float, float], longest: int) -> bytes:
        """A JPEG file of an object with some context."""
        margin = CROP_MARGIN * max(box[2] - box[0], box[3] - box[1])
        return self.region(number, (box[0] - margin, box[1] - margin, box[2] + margin, box[3] + margin), longest)

    def _path(self, number: int) -> Path:
        return safe_join(self._root, self._filename_of(number))

    def _read(self, path: Path) -> DecodedImage:
        key = (path, path.stat().st_mtime_ns)
        picture = self._whole.get(key)
        if picture is None:
            with self._decoders:
                picture = self._whole.get(key) or decode_image(path, WHOLE_SIDE, whole_below=WHOLE_PIXELS)
            self._whole.put(key, picture, picture.pixels.shape[0] * picture.pixels.shape[1])
        return picture
