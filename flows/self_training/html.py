"""Words, numbers and pictures as HTML: what pages with everything inside are made of."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from browse.images.pictures import jpeg_of
from browse.page_style import page_of
from formats.io.plots import png_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHEET_QUALITY = 82  # JPEG; a report stays under some megabytes
PLOT_DPI = 150  # pixels an inch: sharp on screens of twice the density


def page(title: str, body: str, software: str) -> str:
    """body: HTML already."""
    return page_of(title, body, f"Written by {html.escape(software)}.")


def number(value: object) -> str:
    """With separators of thousands; a dash for what is no whole number."""
    return f"{value:,}" if isinstance(value, int) else "–"


def fraction(value: object) -> str:
    """Three decimals; a dash for what is not a number."""
    return f"{value:.3f}" if isinstance(value, int | float) else "–"


def section(title: str, content: str) -> str:
    """content: HTML already."""
    return f"<section><h2>{html.escape(title)}</h2>{content}</section>"


def paragraph(content: str) -> str:
    """content: HTML already."""
    return f"<p>{content}</p>"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: bool = True, spread: bool = False) -> str:
    """numbers: all columns but the first stand to the right. spread: a row's single value goes over all columns."""
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    lines = []
    for first, *rest in rows:
        over = f' colspan="{len(head) - 1}"' if spread and len(rest) == 1 else ""
        cells = "".join(f"<td{over}>{html.escape(cell)}</td>" for cell in rest)
        lines.append(f'<tr><th scope="row">{html.escape(first)}</th>{cells}</tr>')
    kind = "numbers" if numbers else "words"
    table = f'<table class="{kind}"><thead><tr>{top}</tr></thead><tbody>{"".join(lines)}</tbody></table>'
    return f'<div class="wide">{table}</div>'


def plot(figure: Figure, alternative: str) -> str:
    """A figure as an HTML image. alternative: text for readers who cannot see it."""
    return inline(png_of(figure, PLOT_DPI), "png", alternative, "plot")


def picture(picture: np.ndarray, alternative: str) -> str:
    """Pixels as an HTML image. picture: (H, W, 3) uint8 RGB. alternative: text for readers who cannot see it."""
    return inline(jpeg_of(picture, SHEET_QUALITY), "jpeg", alternative, "sheet")


def inline(content: bytes, kind: str, alternative: str, role: str) -> str:
    """An HTML image that carries its own file. kind: "png" or "jpeg". role: its class in the page's style."""
    encoded = base64.b64encode(content).decode("ascii")
    return f'<img class="{role}" alt="{html.escape(alternative)}" src="data:image/{kind};base64,{encoded}">'
