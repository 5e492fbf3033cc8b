"""Finds images that should be inspected before labelling: dark, bright, empty, blurred, tiny, elongated."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from flows.curation.fingerprints import Fingerprint

# Limits measured on photos and on degraded copies of them; docs/curation.md has the table.
MIN_SHARPNESS = 30.0  # variance of the Laplacian at 512 pixels
MIN_BRIGHTNESS = 25.0  # mean of grey, 0..255
MAX_BRIGHTNESS = 245.0
MIN_CONTRAST = 6.0  # standard deviation of grey
MIN_SIDE = 32  # pixels
MAX_ASPECT = 5.0  # long side over short side


class ImageFinding(NamedTuple):
    """kind: short, for counting. detail: the measured value and the limit. set_name: the set of the image."""

    filename: str
    kind: str
    detail: str
    set_name: str = ""


def image_findings(image: Fingerprint) -> Iterator[ImageFinding]:
    """Yields what is unusual about an image."""
    if image.brightness < MIN_BRIGHTNESS:
        yield ImageFinding(image.filename, "dark", f"brightness {image.brightness:.0f} (limit {MIN_BRIGHTNESS:g})")
    elif image.brightness > MAX_BRIGHTNESS:
        yield ImageFinding(image.filename, "bright", f"brightness {image.brightness:.0f} (limit {MAX_BRIGHTNESS:g})")
    elif image.contrast < MIN_CONTRAST:
        yield ImageFinding(image.filename, "empty", f"contrast {image.contrast:.1f} (limit {MIN_CONTRAST:g})")
    elif image.sharpness < MIN_SHARPNESS:
        yield ImageFinding(image.filename, "blurred", f"sharpness {image.sharpness:.0f} (limit {MIN_SHARPNESS:g})")
    short, long = sorted((image.height, image.width))
    size = f"{image.width}x{image.height} pixels"
    if short < MIN_SIDE:
        yield ImageFinding(image.filename, "tiny", f"{size} (limit {MIN_SIDE} a side)")
    if long > MAX_ASPECT * short:
        yield ImageFinding(image.filename, "elongated", f"{size} (limit {MAX_ASPECT:g} to 1)")
