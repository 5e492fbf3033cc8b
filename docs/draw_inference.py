"""Makes docs/images/inference-*.png: runs the commands of docs/inference.md that draw a picture.

    python docs/draw_inference.py

Needs the embedded model, and NLTK's data for the caption (say where it is with NLTK_DATA).
"""

from __future__ import annotations

import os
import re
import shlex
import tempfile
from pathlib import Path

from PIL import Image

from flows.cli.command import main

DOCS = Path(__file__).parent.resolve()


def draw() -> None:
    page = (DOCS / "inference.md").read_text(encoding="utf-8")
    commands = re.findall(r"^groundhog ((?:glyphs|detect) outputs/.+)$", page, re.MULTILINE)
    pictures = set(re.findall(r"\(images/inference-(\w+)\.png\)", page))
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for command in commands:
            arguments = shlex.split(command)
            name = Path(arguments[-1]).name
            if arguments[0] == "detect" and name not in pictures:
                continue
            if main(arguments) != 0:
                raise SystemExit(f"failed: groundhog {command}")
            if name in pictures:
                (picture,) = Path(arguments[-1], "vis").iterdir()
                # 256 colours, for a repository's sake.
                Image.open(picture).quantize(256).save(DOCS / "images" / f"inference-{name}.png", optimize=True)


if __name__ == "__main__":
    draw()
