"""Draws docs/images/few_labels.jpg: the first test photos as they come, with the truth and with what a model finds.

    PYTHONPATH=. python docs/draw_few_labels.py WEIGHTS data/raccoon/raccoon_test_od.json data/raccoon/images

The photos are of github.com/datitran/raccoon_dataset (MIT licence).
"""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from browse.draw import draw_record
from formats.odvg import read_odvg
from grounding_model import load_detector
from grounding_model.inputs.image import read_image

SIDE, COUNT, THRESHOLD = 240, 4, 0.4  # pixels; photos; score


def fitted(picture: np.ndarray) -> Image.Image:
    """On a white square."""
    image = Image.fromarray(picture)
    image.thumbnail((SIDE, SIDE))
    canvas = Image.new("RGB", (SIDE, SIDE), "white")
    canvas.paste(image, ((SIDE - image.width) // 2, (SIDE - image.height) // 2))
    return canvas


def main(weights: str, truth: str, images: str) -> None:
    detector = load_detector(weights)
    sheet = Image.new("RGB", (COUNT * (SIDE + 6), 2 * (SIDE + 6)), "white")
    for column, record in enumerate(islice(read_odvg(truth), COUNT)):
        pixels = read_image(Path(images) / record.filename)
        names = sorted({one.category for one in record.instances or ()})
        [found] = detector.predict([pixels], names, score_threshold=THRESHOLD)
        for row, shown in enumerate((record, found)):
            sheet.paste(fitted(draw_record(pixels, shown)), (column * (SIDE + 6), row * (SIDE + 6)))
    sheet.save(Path(__file__).parent / "images" / "few_labels.jpg", quality=85)


if __name__ == "__main__":
    main(*sys.argv[1:])
