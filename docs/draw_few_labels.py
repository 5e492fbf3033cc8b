"""Draws docs/images/few_labels.jpg: test photos 31 to 35 as they come, with the truth and with what models find.

    PYTHONPATH=. python docs/draw_few_labels.py data/raccoon/raccoon_test_od.json data/raccoon/images \\
        '10 labels=WEIGHTS' '30 labels=WEIGHTS' …

The photos are of github.com/datitran/raccoon_dataset (MIT licence).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from browse.draw import draw_record
from formats.odvg import read_odvg
from formats.record import Record
from grounding_model import load_detector
from grounding_model.inputs.image import read_image

FIRST, COUNT, THRESHOLD = 30, 5, 0.4  # photos that are passed over; photos; score
WIDTH, HEIGHT = 240, 190  # pixels of a photo, at most
GAP, MARGIN = 6, 100  # pixels between photos, and at the left for the names of the rows


def drawn(photo: np.ndarray, record: Record) -> Image.Image:
    """The photo with its boxes, drawn at its final size so that the text stays legible, centred on white."""
    image = Image.fromarray(photo)
    image.thumbnail((WIDTH, HEIGHT))
    scale = image.width / photo.shape[1]
    instances = tuple(replace(one, box=tuple(scale * value for value in one.box)) for one in record.instances or ())
    small = replace(record, width=image.width, height=image.height, instances=instances)
    canvas = Image.new("RGB", (WIDTH, HEIGHT), "white")
    place = ((WIDTH - image.width) // 2, (HEIGHT - image.height) // 2)
    canvas.paste(Image.fromarray(draw_record(np.asarray(image), small)), place)
    return canvas


def sheet_of(photos: Sequence[np.ndarray], rows: Sequence[tuple[str, Sequence[Record]]]) -> Image.Image:
    """A row for each name, a column for each photo."""
    sheet = Image.new("RGB", (MARGIN + COUNT * (WIDTH + GAP), len(rows) * (HEIGHT + GAP)), "white")
    write, font = ImageDraw.Draw(sheet), ImageFont.load_default(17)
    for row, (name, records) in enumerate(rows):
        top = row * (HEIGHT + GAP)
        write.text((4, top + HEIGHT // 2), name, fill="black", font=font, anchor="lm")
        for column, (photo, record) in enumerate(zip(photos, records)):
            sheet.paste(drawn(photo, record), (MARGIN + column * (WIDTH + GAP), top))
    return sheet


def main(truth: str, images: str, *models: str) -> None:
    records = list(islice(read_odvg(truth), FIRST, FIRST + COUNT))
    photos = [read_image(Path(images) / record.filename) for record in records]
    names = sorted({one.category for record in records for one in record.instances or ()})
    rows: list[tuple[str, Sequence[Record]]] = [("truth", records)]
    for model in models:
        name, _, weights = model.partition("=")
        rows.append((name, load_detector(weights).predict(photos, names, score_threshold=THRESHOLD)))
    sheet_of(photos, rows).save(Path(__file__).parent / "images" / "few_labels.jpg", quality=85)


if __name__ == "__main__":
    main(*sys.argv[1:])
