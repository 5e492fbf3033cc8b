"""The objects of glyph scenes: their nouns and colours, and how they are drawn.

They are characters of DejaVu Sans, the font included in matplotlib, so no pictures need to be shipped or downloaded.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

# The characters for each noun; filled and outlined variants share a noun.
CHARACTERS: dict[str, str] = {
    "cat": "\U0001f638\U0001f639\U0001f63a\U0001f63b\U0001f63c\U0001f63d\U0001f63e\U0001f63f\U0001f640",
    "mouse": "\U0001f42d",
    "cow": "\U0001f42e",
    "monkey": "\U0001f435",
    "smiley": "\u263a\u263b\U0001f600\U0001f603\U0001f604",
    "sun": "\u2600\u263c",
    "cloud": "\u2601",
    "umbrella": "\u2602\u2614",
    "snowman": "\u2603",
    "star": "\u2605\u2606",
    "telephone": "\u260e\u260f",
    "cup": "\u2615",
    "shamrock": "\u2618",
    "hand": "\u261a\u261b\u261c\u261e",
    "skull": "\u2620",
    "moon": "\u263d\u263e",
    "king": "\u2654\u265a",
    "rook": "\u2656\u265c",
    "knight": "\u2658\u265e",
    "pawn": "\u2659\u265f",
    "spade": "\u2660\u2664",
    "club": "\u2663\u2667",
    "heart": "\u2665\u2661\u2764",
    "diamond": "\u2666\u2662",
    "note": "\u266a\u266b\u266c",
    "die": "\u2680\u2681\u2682\u2683\u2684\u2685",
    "flag": "\u2690\u2691",
    "anchor": "\u2693",
    "swords": "\u2694",
    "scales": "\u2696",
    "gear": "\u2699",
    "lightning": "\u26a1",
    "scissors": "\u2701\u2702\u2703\u2704",
    "airplane": "\u2708",
    "envelope": "\u2709",
    "pencil": "\u270e\u270f\u2710",
    "check": "\u2713\u2714",
    "cross": "\u2715\u2716\u2717\u2718",
    "flower": "\u273f\u2740\u273e",
    "snowflake": "\u2744\u2745\u2746",
    "arrow": "\u2190\u2191\u27a1\u2794\u27a8",
}
NOUNS = tuple(CHARACTERS)
IRREGULAR_PLURALS = {
    "mouse": "mice",
    "snowman": "snowmen",
    "die": "dice",
    "swords": "swords",
    "scales": "scales",
    "scissors": "scissors",
    "cross": "crosses",
}
PLURALS = {noun: IRREGULAR_PLURALS.get(noun, noun + "s") for noun in NOUNS}

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 39, 40),
    "orange": (255, 140, 0),
    "yellow": (250, 220, 40),
    "green": (40, 150, 50),
    "cyan": (40, 205, 215),
    "blue": (35, 75, 210),
    "purple": (130, 50, 170),
    "pink": (250, 130, 190),
    "white": (250, 250, 250),
    "black": (15, 15, 15),
}

_DRAWN_AT = 96  # font size in pixels, from which pictures are scaled down


def pair_name(colour: str, noun: str) -> str:
    """("red", "cat") -> "red cat"."""
    return f"{colour} {noun}"


# Training shows every noun and every colour, but never these pairs, which test whether the model composes words. It is
# every seventh pair, counted along diagonals to spread them evenly.
HELD_OUT_PAIRS = frozenset(
    (colour, noun)
    for column, colour in enumerate(COLOURS)
    for row, noun in enumerate(NOUNS)
    if (3 * row + column) % 7 == 0
)


def font_path() -> Path:
    package = find_spec("matplotlib")  # importing it would take longer than drawing a scene
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"


@cache
def mask_of(character: str) -> np.ndarray:
    """(h, w) uint8: the character in 255 on 0, cropped to its extent."""
    font = ImageFont.truetype(str(font_path()), _DRAWN_AT)
    left, top, right, bottom = font.getbbox(character)
    canvas = Image.new("L", (int(right - left), int(bottom - top)), 0)
    ImageDraw.Draw(canvas).text((-left, -top), character, font=font, fill=255)
    ink = np.asarray(canvas)
    rows, columns = np.nonzero(ink.max(1))[0], np.nonzero(ink.max(0))[0]
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def placed_mask(character: str, size: float, degrees: float) -> np.ndarray:
    """(h, w) float32 in 0..1: the rotated character, cropped to its visible part. size: longer side before rotation."""
    ink = mask_of(character)
    height, width = ink.shape
    scale = size / max(height, width)
    if scale < 0.5:  # a single step of more than a half would lose thin strokes
        ink = cv2.resize(ink, None, fx=scale * 1.5, fy=scale * 1.5, interpolation=cv2.INTER_AREA)
        height, width = ink.shape
        scale = 1 / 1.5
    side = int(np.hypot(height, width) * scale) + 3
    matrix: np.ndarray = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, scale)
    matrix[:, 2] += side / 2 - np.array([width / 2, height / 2])
    turned = cv2.warpAffine(ink, matrix, (side, side), flags=cv2.INTER_LINEAR).astype(np.float32) / 255
    seen = turned > 0.3
    rows, columns = np.nonzero(seen.any(1))[0], np.nonzero(seen.any(0))[0]
    return turned[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
