"""Plots as PNG, drawn without pyplot: no window system is needed, and the state of a notebook is not touched."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from formats.io.errors import InputError
from formats.io.files import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WRITER, _HEAD = b"Matplotlib", 512  # what the first bytes of its PNG files say
DPI = 120  # pixels an inch of a file; text of 8 points can be read


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, whose parts will make room for one another. width, height: inches."""
    from matplotlib.figure import Figure  # only here: `import formats` stays light

    return Figure(figsize=(width, height), layout="constrained")


def png_of(figure: Figure, dpi: int = DPI) -> bytes:
    """A figure as the content of a PNG file. dpi: pixels an inch."""
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
