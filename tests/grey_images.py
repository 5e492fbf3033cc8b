"""Grey images on disk for records whose pixels do not matter."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from formats.record import Record


def write_images(folder: Path, records: Iterable[Record]) -> None:
    for record in records:
        path = folder / record.filename
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((record.height, record.width, 3), 128, np.uint8)).save(path)
