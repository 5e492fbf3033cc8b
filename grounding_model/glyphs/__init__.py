"""Glyph scenes: synthetic images of pictograms with exact labels (categories, captions, expressions).

Only `tokenizer.py` imports torch. A scene is a pure function of domain, seed and index.
"""

from grounding_model.glyphs.pictograms import COLOURS, HELD_OUT_PAIRS, NOUNS
from grounding_model.glyphs.records import categories_of, draw_scene, write_scenes
from grounding_model.glyphs.scenes import DOMAINS, SIDE

__all__ = [
    "COLOURS",
    "DOMAINS",
    "HELD_OUT_PAIRS",
    "NOUNS",
    "SIDE",
    "categories_of",
    "draw_scene",
    "write_scenes",
]
