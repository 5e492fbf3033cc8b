"""Draws docs/images/few_labels.jpg: the first test photos as they come, with the truth and with what models find.

    PYTHONPATH=. python docs/draw_few_labels.py data/raccoon/raccoon_test_od.json data/raccoon/images \\
        '10 labels=WEIGHTS' '30 labels=WEIGHTS' …

The photos are of github.com/datitran/raccoon_dataset (MIT licence).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from browse.draw import draw_record
from formats.odvg import read_odvg
from formats.record import Record
from grounding_model import load_detector
from grounding_model.inputs.image import read_image

SIDE, COUNT, THRESHOLD = 200, 5, 0.4  # pixels; photos; score
GAP, MARGIN = 6, 96  # pixels between photos, and at the left for the names of the rows


def fitted(picture: np.ndarray) -> Image.Image:
    """On a white square."""
    image = Image.fromarray(picture)
    image.thumbnail((SIDE, SIDE))
    canvas = Image.new("RGB", (SIDE, SIDE), "white")
    canvas.paste(image, ((SIDE - image.width) // 2, (SIDE - image.height) // 2))
    return canvas


def sheet_of(photos: Sequence[np.ndarray], rows: Sequence[tuple[str, Sequence[Record]]]) -> Image.Image:
    """A row for each name, a column for each photo."""
    sheet = Image.new("RGB", (MARGIN + COUNT * (SIDE + GAP), len(rows) * (SIDE + GAP)), "white")
    write, font = ImageDraw.Draw(sheet), ImageFont.load_default(17)
    for row, (name, records) in enumerate(rows):
        top = row * (SIDE + GAP)
        write.text((4, top + SIDE // 2), name, fill="black", font=font, anchor="lm")
        for column, (photo, record) in enumerate(zip(photos, records)):
            sheet.paste(fitted(draw_record(photo, record)), (MARGIN + column * (SIDE + GAP), top))
    return sheet


def main(truth: str, images: str, *models: str) -> None:
    records = list(islice(read_odvg(truth), COUNT))
    photos = [read_image(Path(images) / record.filename) for record in records]
    names = sorted({one.category for record in records for one in record.instances or ()})
    rows: list[tuple[str, Sequence[Record]]] = [("truth", records)]
    for model in models:
        name, _, weights = model.partition("=")
        rows.append((name, load_detector(weights).predict(photos, names, score_threshold=THRESHOLD)))
    sheet_of(photos, rows).save(Path(__file__).parent / "images" / "few_labels.jpg", quality=85)


if __name__ == "__main__":
    main(*sys.argv[1:])
