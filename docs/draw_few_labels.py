"""Draws docs/images/few_labels.jpg: test photos 31 to 34 as they come, with the truth and with what models find.

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

from browse.changes import CORRECTNESS, box_changes, draw_changes
from browse.draw import draw_record
from formats.odvg import read_odvg
from grounding_model import load_detector
from grounding_model.inputs.image import read_image

FIRST, COUNT, THRESHOLD = 30, 4, 0.3  # photos that are passed over; photos; score
WIDTH, HEIGHT = 480, 360  # pixels of a photo, at most
GAP, MARGIN, SIDE = 10, 150, 1500  # pixels between photos, at the left for the names of the rows, of the sheet


def fitted(picture: np.ndarray) -> Image.Image:
    """Centred on white."""
    image = Image.fromarray(picture)
    image.thumbnail((WIDTH, HEIGHT))
    canvas = Image.new("RGB", (WIDTH, HEIGHT), "white")
    canvas.paste(image, ((WIDTH - image.width) // 2, (HEIGHT - image.height) // 2))
    return canvas


def sheet_of(rows: Sequence[tuple[str, Sequence[np.ndarray]]]) -> Image.Image:
    """A row for each name, a column for each photo."""
    sheet = Image.new("RGB", (MARGIN + COUNT * (WIDTH + GAP), len(rows) * (HEIGHT + GAP)), "white")
    write, font = ImageDraw.Draw(sheet), ImageFont.load_default(30)
    for row, (name, pictures) in enumerate(rows):
        top = row * (HEIGHT + GAP)
        write.text((4, top + HEIGHT // 2), name, fill="black", font=font, anchor="lm")
        for column, picture in enumerate(pictures):
            sheet.paste(fitted(picture), (MARGIN + column * (WIDTH + GAP), top))
    sheet.thumbnail((SIDE, SIDE))
    return sheet


def main(truth: str, images: str, *models: str) -> None:
    records = list(islice(read_odvg(truth), FIRST, FIRST + COUNT))
    photos = [read_image(Path(images) / record.filename) for record in records]
    names = sorted({one.category for record in records for one in record.instances or ()})
    rows = [("truth", [draw_record(photo, record) for photo, record in zip(photos, records)])]
    for model in models:
        name, _, weights = model.partition("=")
        found = load_detector(weights).predict(photos, names, score_threshold=THRESHOLD)
        drawn = [
            draw_changes(photo, ours, box_changes(ours, truth).ours, CORRECTNESS)
            for photo, ours, truth in zip(photos, found, records)
        ]
        rows.append((name, drawn))
    sheet_of(rows).save(Path(__file__).parent / "images" / "few_labels.jpg", quality=85)


if __name__ == "__main__":
    main(*sys.argv[1:])
