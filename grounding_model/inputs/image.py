"""Images as RGB arrays: read from files, resized. No torch. h, w: height and width of an image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from formats.io.errors import InputError
from formats.io.storage import as_path

# The background that the reference puts behind transparent greyscale images (close to the mean above).
TRANSPARENT = (124, 117, 104)


def read_image(path: str | Path) -> np.ndarray:
    """(h, w, 3) uint8 RGB of a file, EXIF orientation applied, first frame of an animation.

    Raises InputError, naming the file, when it is missing, is not an image or cannot be decoded completely.
    """
    try:
        with as_path(path).open("rb") as stream, Image.open(stream) as image:
            return np.asarray(_to_rgb(ImageOps.exif_transpose(image)))
    except FileNotFoundError as error:
        raise InputError(path, "no such file", "expected an image file") from error
    except UnidentifiedImageError as error:
        raise InputError(path, "cannot be decoded (unknown image format)", "expected an image file") from error
    except Exception as error:  # decoders raise all kinds of exceptions on malformed bytes
        raise InputError(path, f"cannot be decoded ({error})", "expected a complete image file") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(_to_bytes(np.asarray(image), image.mode)).convert("RGB")
    if image.mode != "LA":
        return image.convert("RGB")
    with_alpha = image.convert("RGBA")
    canvas = Image.new("RGB", image.size, TRANSPARENT)
    canvas.paste(with_alpha, mask=with_alpha.getchannel("A"))
    return canvas


def _to_bytes(values: np.ndarray, mode: str) -> np.ndarray:
    """(h, w) grey values of more than 8 bits -> uint8, scaled linearly; Pillow itself would clip them at 255.

    Integers span 16 bits, the only range that such files have in practice. Floating-point images
    ("F") have no fixed range: theirs is from the minimum to the maximum finite value.
    """
    if mode.startswith("I"):
        return (values.clip(0, 65535) / 257).round().astype(np.uint8)
    finite = np.isfinite(values)
    low, high = (values[finite].min(), values[finite].max()) if finite.any() else (0.0, 0.0)
    scaled = (np.where(finite, values, low) - low) / max(high - low, np.finfo(np.float32).tiny)
    return (scaled * 255).round().astype(np.uint8)


def size_for_test(height: int, width: int, scale: tuple[int, int] = (800, 1333)) -> tuple[int, int]:
    """Height, width that fit into scale (short and long side, either order), aspect ratio kept, rounded down.

    The reference rounds down at test time and to the nearest in training, and its numbers depend on it.
    """
    factor = min(max(scale) / max(height, width), min(scale) / min(height, width))
    return max(1, int(height * factor)), max(1, int(width * factor))


def resize_for_test(image: np.ndarray, scale: tuple[int, int] = (800, 1333)) -> np.ndarray:
    """(h, w, 3) uint8 -> (h', w', 3) uint8 of size_for_test, antialiased bilinear."""
    height, width = size_for_test(image.shape[0], image.shape[1], scale)
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def check_image(image: np.ndarray, location: object) -> np.ndarray:
    """Returns the image. Raises InputError unless it is (h, w, 3) uint8 with h, w > 0."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        what = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise InputError(location, what, "expected an RGB array of uint8 with shape (height, width, 3)")
    if 0 in image.shape:
        raise InputError(location, f"shape {image.shape} has no pixels", "expected at least one")
    return image
