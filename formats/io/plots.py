"""Plots as PNG files, without pyplot: needs no display, and does not change the state of a notebook."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from formats.io.errors import InputError
from formats.io.files import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WRITER, _HEAD = b"Matplotlib", 512  # what the first bytes of its PNG files say
DPI = 120  # pixels per inch of a file, so that text of 8 points is legible


def new_figure(width: float, height: float) -> Figure:
    """An empty figure with constrained layout. width, height: inches."""
    from matplotlib.figure import Figure  # imported here to keep `import formats` fast

    return Figure(figsize=(width, height), layout="constrained")


def png_of(figure: Figure, dpi: int = DPI) -> bytes:
    """A figure as the content of a PNG file. dpi: pixels per inch."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=dpi)
    return stream.getvalue()


def write_figure(path: str | Path, figure: Figure) -> None:
    """Writes a figure as a PNG file, whole or not at all.

    Raises InputError where another file than a plot is there already, and OSError where nothing may be written.
    """
    if Path(path).is_file():
        with open(path, "rb") as file:
            if _WRITER not in file.read(_HEAD):
                raise InputError(path, "exists and is not a plot", "expected another name")
    with write_whole(path, "wb") as file:
        file.write(png_of(figure))
