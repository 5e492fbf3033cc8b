"""Contact sheets: many pictures on one; also two side by side, such as truth and prediction.

H, W  height and width in pixels; arrays are (H, W, 3) uint8 RGB
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from browse.draw import load_font

PAPER = (255, 255, 255)
INK = (60, 60, 65)
GAP = 8  # pixels between pictures


def contact_sheet(
    pictures: Sequence[np.ndarray],
    columns: int = 4,
    cell: tuple[int, int] = (320, 320),
    titles: Sequence[str] | None = None,
) -> np.ndarray:
    """Pictures of any size -> one sheet with rows of `columns` pictures.

    cell: maximum width and height in pixels of a picture on the sheet; the aspect ratio is kept. A row is as high as
    its highest picture. titles: a line above each picture. Without pictures, the sheet is one white pixel.
    """
    shown = [_fit(picture, cell) for picture in pictures]
    columns = max(1, min(columns, len(shown)))
    font = load_font(13)
    title_height = 18 if titles else 0
    rows = [shown[start : start + columns] for start in range(0, len(shown), columns)]
    column_width = max((picture.width for picture in shown), default=0)
    heights = [max(picture.height for picture in row) + title_height for row in rows]
    width = columns * column_width + (columns - 1) * GAP
    height = sum(heights) + GAP * (len(rows) - 1)
    sheet = Image.new("RGB", (max(1, width), max(1, height)), PAPER)
    canvas = ImageDraw.Draw(sheet)
    top = 0
    for number, (row, row_height) in enumerate(zip(rows, heights)):
        for column, picture in enumerate(row):
            left = column * (column_width + GAP) + (column_width - picture.width) // 2
            if titles:
                canvas.text((left, top), titles[number * columns + column], font=font, fill=INK)
            sheet.paste(picture, (left, top + title_height))
        top += row_height + GAP
    return np.asarray(sheet)


def side_by_side(left: np.ndarray, right: np.ndarray, titles: tuple[str, str] = ("truth", "prediction")) -> np.ndarray:
    """Two drawn versions of one picture side by side, each with a title; both at the smaller height of the two."""
    height = min(left.shape[0], right.shape[0])
    width = max(left.shape[1], right.shape[1])
    return contact_sheet([left, right], columns=2, cell=(width, height), titles=titles)


def _fit(picture: np.ndarray, cell: tuple[int, int]) -> Image.Image:
    image = Image.fromarray(picture)
    scale = min(cell[0] / image.width, cell[1] / image.height, 1.0)
    if scale == 1.0:
        return image
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS)
