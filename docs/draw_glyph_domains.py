"""Draws docs/images/glyph-domains.png: five scenes of each domain of the glyph world with their true boxes.

python docs/draw_glyph_domains.py
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from browse.contact_sheet import contact_sheet
from browse.draw import draw_record
from formats.io.files import write_whole
from grounding_model.glyphs import DOMAINS, draw_scene

TARGET = Path(__file__).parent / "images" / "glyph-domains.png"
SCENES = 5
SIDE = 200  # pixels of a picture on the sheet
SEED = 2026


def main() -> None:
    drawn, titles = [], []
    for domain in DOMAINS:
        for index in range(SCENES):
            drawn.append(draw_record(*draw_scene(domain, SEED, index)))
            titles.append(f"{domain} {index}")
    sheet = Image.fromarray(contact_sheet(drawn, SCENES, (SIDE, SIDE), titles))
    with write_whole(TARGET, "wb") as file:
        sheet.quantize(256, Image.Quantize.MAXCOVERAGE).save(file, format="PNG", optimize=True)


if __name__ == "__main__":
    main()
