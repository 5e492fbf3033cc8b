"""Draws a record on its picture: boxes, names, scores, and the caption with its phrases in colour.

H, W  height and width of the picture in pixels; arrays are (H, W, 3) uint8 RGB
box   x1, y1, x2, y2 in pixels of the drawn picture (the record's box times the zoom)
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont, ImageOps

from browse.images.colours import Colour, colour_of, ink_on
from browse.images.pictures import read_picture
from formats.io.errors import InputError
from formats.record import PLACEHOLDER_BOX, Box, Record, Region

IGNORE_COLOUR: Colour = (150, 150, 150)
LEGIBLE_SIDE = 480  # pixels; a picture with a shorter longest side is enlarged, so that its names are legible
CAPTION_PAPER: Colour = (250, 250, 248)
CAPTION_INK: Colour = (35, 35, 40)
UNFOUND_PAPER: Colour = (222, 222, 222)
LONGEST_TAG = 28  # characters


@dataclass(frozen=True)
class Mark:
    """One box to draw: its text, its colour, and whether training ignores it."""

    box: Box
    text: str
    colour: Colour
    ignore: bool = False


class Note(NamedTuple):
    """An annotation of a box: a word after its name, and a colour that replaces the label's."""

    word: str
    colour: Colour


@dataclass(frozen=True)
class CaptionPiece:
    """A part of the caption in one style. paper: background colour of a phrase; None: not part of a phrase."""

    text: str
    paper: Colour | None


def draw_record(
    image: np.ndarray, record: Record, palette: str = "category", notes: Sequence[Note] | None = None
) -> np.ndarray:
    """(H, W, 3) uint8 RGB of the record's image -> (H', W', 3) uint8 RGB with the record drawn on it.

    Small pictures are enlarged by a whole factor; a caption adds a strip below. If H, W differ from the record's size
    (a reduced copy), the boxes are scaled too. Boxes that training ignores are grey and dashed.
    palette: "category", one colour per label, the same in every picture; "random", one per box; or a CSS colour for
    all boxes, "#ff8800" or "red". Raises InputError for any other palette.
    notes: one per box, in the record's order; their colours override the palette.
    """
    picture = Image.fromarray(np.ascontiguousarray(image))
    zoom = max(1, -(-LEGIBLE_SIDE // max(picture.size)))
    if zoom > 1:
        picture = picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.LANCZOS)
    colours = _box_colours(palette, record)
    marks = _marks(record, colours, picture.width / record.width, picture.height / record.height)
    if notes is not None:
        marks = [_noted(mark, note) for mark, note in zip(marks, notes, strict=True)]
    _draw_marks(picture, marks)
    if record.caption is not None:
        picture = _with_caption(picture, _caption_pieces(record.caption, record.regions or (), colours))
    return np.asarray(picture)


def draw_image(
    record: Record, image: str | Path | np.ndarray | Image.Image | None = None, palette: str = "category"
) -> Image.Image:
    """Draws a record on its picture, for display in a notebook.

    image: the picture, its path, or the folder that contains record.filename; None: record.filename is a path, as
    returned by Detector.predict. palette: as in draw_record. Raises InputError for a picture that cannot be read.
    """
    if isinstance(image, Image.Image):
        image = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    if not isinstance(image, np.ndarray):
        path = Path(record.filename if image is None else image)
        image = read_picture(path / record.filename if path.is_dir() else path)
    return Image.fromarray(draw_record(image, record, palette))


def _noted(mark: Mark, note: Note) -> Mark:
    return replace(mark, text=f"{mark.text} {note.word}".rstrip(), colour=note.colour)


def _box_colours(palette: str, record: Record) -> Callable[[int, int], Colour]:
    """Returns (label or phrase number, box number) -> colour."""
    if palette == "category":
        return lambda label, _box: colour_of(label)
    if palette == "random":
        order = list(range(64))
        random.Random(record.filename).shuffle(order)
        return lambda _label, box: colour_of(order[box % len(order)])
    try:
        one = ImageColor.getrgb(palette)[:3]
    except ValueError as error:
        raise InputError(
            "palette", repr(palette), 'expected "category", "random" or a colour such as "#ff8800"'
        ) from error
    return lambda _label, _box: (one[0], one[1], one[2])


def _marks(record: Record, colours: Callable[[int, int], Colour], across: float, down: float) -> list[Mark]:
    """One mark per box; across, down: horizontal and vertical scale from the record's pixels to those drawn."""

    def mark(box: Box, name: str, score: float | None, colour: Colour, ignore: bool) -> Mark:
        scaled = (box[0] * across, box[1] * down, box[2] * across, box[3] * down)
        name = name if len(name) <= LONGEST_TAG else name[: LONGEST_TAG - 1] + "…"
        text = name if score is None else f"{name} {score:.2f}"
        return Mark(scaled, text, IGNORE_COLOUR if ignore else colour, ignore)

    marks: list[Mark] = []
    for instance in record.instances or ():
        colour = colours(instance.label, len(marks))
        marks.append(mark(instance.box, instance.category, instance.score, colour, instance.ignore))
    for number, region in enumerate(record.regions or ()):
        scores = region.scores or (None,) * len(region.boxes)
        for box, score in zip(region.boxes, scores):
            if tuple(box) != PLACEHOLDER_BOX:
                colour = colours(number, len(marks))
                marks.append(mark(box, " … ".join(region.phrase), score, colour, region.ignore))
    return marks


def _draw_marks(picture: Image.Image, marks: Sequence[Mark]) -> None:
    """Draws the outlines, the largest first; then the tags, each where it covers least of the others."""
    line = max(2, round(min(picture.size) / 240))
    canvas = ImageDraw.Draw(picture, "RGBA")
    for mark in sorted(marks, key=lambda mark: -_area(mark.box)):
        _draw_outline(canvas, mark, line, picture.size)
    size = max(13, round(min(picture.size) / (32 if len(marks) <= 30 else 42)))
    placed: list[Box] = []
    for mark in sorted(marks, key=lambda mark: _area(mark.box)):
        if mark.text:
            placed.append(_draw_tag(canvas, mark, line, size, placed, picture.size))


def _draw_outline(canvas: ImageDraw.ImageDraw, mark: Mark, line: int, size: tuple[int, int]) -> None:
    """A coloured frame with a faint dark rim, to be visible on any background; dashed if the box is ignored."""
    x1, y1 = max(0, round(mark.box[0])), max(0, round(mark.box[1]))
    x2, y2 = min(size[0], round(mark.box[2])) - 1, min(size[1], round(mark.box[3])) - 1
    if x2 < x1 or y2 < y1:
        return
    if mark.ignore:
        _draw_dashes(canvas, (x1, y1, x2, y2), line, mark.colour)
        return
    rim = max(1, line // 3)
    canvas.rectangle((x1 - rim, y1 - rim, x2 + rim, y2 + rim), outline=(0, 0, 0, 110), width=line + 2 * rim)
    canvas.rectangle((x1, y1, x2, y2), outline=mark.colour, width=line)


def _draw_dashes(canvas: ImageDraw.ImageDraw, box: tuple[int, int, int, int], line: int, colour: Colour) -> None:
    x1, y1, x2, y2 = box
    dash = 4 * line
    for x in range(x1, x2 + 1, 2 * dash):
        for y in (y1, max(y1, y2 - line + 1)):
            canvas.rectangle((x, y, min(x + dash, x2), min(y + line - 1, y2)), fill=colour)
    for y in range(y1, y2 + 1, 2 * dash):
        for x in (x1, max(x1, x2 - line + 1)):
            canvas.rectangle((x, y, min(x + line - 1, x2), min(y + dash, y2)), fill=colour)


def _draw_tag(
    canvas: ImageDraw.ImageDraw, mark: Mark, line: int, size: int, placed: Sequence[Box], picture: tuple[int, int]
) -> Box:
    """Draws the tag and returns the box that it covers."""
    font = load_font(size, bold=True)
    pad = max(2, size // 4)
    left, _, right, _ = font.getbbox(mark.text)
    ascent, descent = font.getmetrics()
    width, height = right - left + 2 * pad, ascent + descent + pad // 2
    x, y = _tag_corner(mark.box, round(width), height, placed, picture)
    canvas.rounded_rectangle((x, y, x + width - 1, y + height - 1), radius=line, fill=(*mark.colour, 235))
    canvas.text((x + pad - left, y + pad // 4), mark.text, font=font, fill=ink_on(mark.colour))
    return (x, y, x + width, y + height)


def _tag_corner(
    box: Box, width: int, height: int, placed: Sequence[Box], picture: tuple[int, int]
) -> tuple[float, float]:
    """Upper left corner for a tag, inside the picture: the position around the box where it covers least."""
    x1, y1, x2, y2 = box
    corners = (
        (x1, y1 - height),
        (x1, y2),
        (x2 - width, y1 - height),
        (x2 - width, y2),
        (x1, y1),
        (x1, y2 - height),
        (x2, y1),
        (x1 - width, y1),
    )
    best, lowest_cost = (0.0, 0.0), float("inf")
    for rank, (x, y) in enumerate(corners):
        x = round(min(max(x, 0), max(0, picture[0] - width)))
        y = round(min(max(y, 0), max(0, picture[1] - height)))
        tag = (x, y, x + width, y + height)
        # A tag inside its own box covers part of the object: worse than beside it, better than on another tag.
        cost = sum(_overlap(tag, other) for other in placed) + 0.15 * _overlap(tag, box) + rank * 1e-3
        if cost < lowest_cost:
            best, lowest_cost = (x, y), cost
    return best


def _caption_pieces(
    caption: str, regions: Sequence[Region], colours: Callable[[int, int], Colour]
) -> list[list[CaptionPiece]]:
    """Lines of pieces: the caption, then the phrases whose position in the caption is unknown."""
    owner: list[int | None] = [None] * len(caption)
    # Long phrases first, so that a phrase within a phrase keeps its own colour.
    for number in sorted(range(len(regions)), key=lambda number: -sum(b - a for a, b in regions[number].spans)):
        for start, end in regions[number].spans:
            owner[start:end] = [number] * (end - start)

    def paper(number: int) -> Colour:
        boxes = [box for box in regions[number].boxes if tuple(box) != PLACEHOLDER_BOX]
        first_box = sum(len(region.boxes) for region in regions[:number])
        return colours(number, first_box) if boxes else UNFOUND_PAPER

    line: list[CaptionPiece] = []
    start = 0
    for end in range(1, len(caption) + 1):
        if end == len(caption) or owner[end] != owner[start]:
            region_there = owner[start]
            line.append(CaptionPiece(caption[start:end], None if region_there is None else paper(region_there)))
            start = end
    unplaced: list[CaptionPiece] = []
    for number, region in enumerate(regions):
        if not region.spans:
            unplaced += [CaptionPiece(" … ".join(region.phrase), paper(number)), CaptionPiece("  ", None)]
    return [line, unplaced] if unplaced else [line]


def _with_caption(picture: Image.Image, lines: Sequence[Sequence[CaptionPiece]]) -> Image.Image:
    """The picture with the caption in a strip below it."""
    size = max(15, round(min(picture.size) / 26))
    font = load_font(size)
    margin, row_height = round(size * 0.8), round(size * 1.75)
    rows = [row for line in lines for row in _wrap(line, font, picture.width - 2 * margin)]
    strip = len(rows) * row_height + round(margin * 1.2)
    whole = Image.new("RGB", (picture.width, picture.height + strip), CAPTION_PAPER)
    whole.paste(picture, (0, 0))
    canvas = ImageDraw.Draw(whole)
    ascent, descent = font.getmetrics()
    pad = round(size * 0.18)
    for number, row in enumerate(rows):
        x = float(margin)
        y = picture.height + round(margin * 0.6) + number * row_height + (row_height - ascent - descent) // 2
        for piece in row:
            width = font.getlength(piece.text)
            if piece.paper is not None:
                chip = (x - pad, y - pad, x + width + pad, y + ascent + descent + pad)
                canvas.rounded_rectangle(chip, radius=size // 4, fill=piece.paper)
            ink = CAPTION_INK if piece.paper is None else ink_on(piece.paper)
            canvas.text((x, y), piece.text, font=font, fill=ink)
            x += width
    return whole


def _wrap(line: Sequence[CaptionPiece], font: ImageFont.FreeTypeFont, width: float) -> list[list[CaptionPiece]]:
    """Breaks a line of pieces at spaces into rows of at most `width` pixels; a longer word is split."""
    rows: list[list[CaptionPiece]] = [[]]
    used = 0.0
    for piece in line:
        for word in _words(piece.text):
            while word:
                length = font.getlength(word)
                if used + font.getlength(word.rstrip()) <= width:
                    break
                if used > 0:
                    rows.append([])
                    used = 0.0
                    word = word.lstrip()
                else:
                    head = _head_that_fits(word, font, width)
                    rows[-1].append(CaptionPiece(head, piece.paper))
                    rows.append([])
                    word = word[len(head) :]
            if word:
                _append_joined(rows[-1], CaptionPiece(word, piece.paper))
                used += length
    return [_without_trailing_space(row) for row in rows if row]


def _words(text: str) -> list[str]:
    """Splits after every run of spaces; line breaks and tabs count as spaces."""
    words, start = [], 0
    text = text.replace("\r", " ").replace("\n", " ").replace("\t", " ")
    for end in range(1, len(text) + 1):
        if end == len(text) or (text[end - 1] == " " and text[end] != " "):
            words.append(text[start:end])
            start = end
    return words


def _head_that_fits(word: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    end = 1
    while end < len(word) and font.getlength(word[: end + 1]) <= width:
        end += 1
    return word[:end]


def _append_joined(row: list[CaptionPiece], piece: CaptionPiece) -> None:
    """Appends a piece, joined to the last one if both are of the same phrase."""
    if row and row[-1].paper == piece.paper:
        row[-1] = CaptionPiece(row[-1].text + piece.text, piece.paper)
    else:
        row.append(piece)


def _without_trailing_space(row: list[CaptionPiece]) -> list[CaptionPiece]:
    return [*row[:-1], CaptionPiece(row[-1].text.rstrip(), row[-1].paper)]


@lru_cache(maxsize=64)
def load_font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans in `size` pixels, from the fonts of matplotlib."""
    return ImageFont.truetype(_font_folder() / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"), size)


@cache
def _font_folder() -> Path:
    found = find_spec("matplotlib")  # not imported, which would take half a second
    beside = Path((found and found.origin) or "").parent / "mpl-data" / "fonts" / "ttf"
    if beside.is_dir():
        return beside
    import matplotlib  # some systems install its data elsewhere

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf"


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _overlap(one: Box, other: Box) -> float:
    """Area of the intersection of two boxes in square pixels."""
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    return across * down if across > 0 and down > 0 else 0.0
