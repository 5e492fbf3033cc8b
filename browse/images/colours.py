"""The colours of labels, the same wherever they are drawn, and the text colours that are legible on them."""

from __future__ import annotations

import colorsys

Colour = tuple[int, int, int]

# Chosen to be distinct in hue and lightness, above all the first ones; further hues are spaced by the golden ratio.
FIRST_COLOURS: tuple[Colour, ...] = (
    (0, 200, 120),
    (255, 92, 56),
    (40, 130, 255),
    (255, 200, 0),
    (220, 60, 200),
    (0, 205, 225),
    (150, 100, 255),
    (170, 220, 40),
    (255, 120, 170),
    (190, 110, 40),
    (0, 140, 130),
    (255, 160, 60),
)
GOLDEN_RATIO = 0.618034


def colour_of(index: int) -> Colour:
    """The colour of the label or phrase with this number; always the same, and distinct from its neighbours."""
    if 0 <= index < len(FIRST_COLOURS):
        return FIRST_COLOURS[index]
    hue, lightness = (index * GOLDEN_RATIO) % 1.0, (0.5, 0.62, 0.4)[index % 3]
    red, green, blue = colorsys.hls_to_rgb(hue, lightness, 0.85)
    return round(red * 255), round(green * 255), round(blue * 255)


def ink_on(paper: Colour) -> Colour:
    """Black or white, whichever has more contrast (relative luminance, WCAG 2.1)."""
    linear = [(c / 255 / 12.92) if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in paper]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (0, 0, 0) if (luminance + 0.05) ** 2 > 1.05 * 0.05 else (255, 255, 255)


def css_of(colour: Colour) -> str:
    """The colour as "#rrggbb"."""
    return "#{:02x}{:02x}{:02x}".format(*colour)
