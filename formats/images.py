"""Image files: listing them, their sizes, decoding, and safe joining of file names from data files."""

from __future__ import annotations

import logging
import os
import re
import struct
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path, PurePosixPath, PureWindowsPath
from threading import Condition
from typing import IO, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from formats.io.errors import InputError, handed_to
from formats.io.files import check_is_folder
from formats.io.plurals import many, verb
from formats.io.storage import as_path, is_address
from formats.record import Record

_log = logging.getLogger(__name__)

# Raster image formats that Pillow opens, without plots, movies and documents.
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".avif", ".avifs"})
IMAGE_SUFFIXES |= {".tif", ".tiff", ".gif", ".bmp", ".dib", ".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c"}
IMAGE_SUFFIXES |= {".tga", ".icb", ".vda", ".vst", ".ppm", ".pgm", ".pbm", ".pnm", ".pcx", ".qoi", ".sgi"}
_HEIF_SUFFIXES = frozenset({".heic", ".heics", ".heif", ".heifs", ".hif"})
_READS_HEIF = find_spec("pillow_heif") is not None  # groundhog[heic]
if _READS_HEIF:
    IMAGE_SUFFIXES |= _HEIF_SUFFIXES

# Files often found beside images, which are skipped without a warning.
_COMPANIONS = frozenset({".txt", ".xml", ".json", ".jsonl", ".csv", ".tsv", ".yaml", ".yml", ".toml", ".md", ".html"})
_COMPANIONS |= {".parquet", ".npy", ".npz", ".pt", ".pth", ".py", ".sh", ".log", ".zip", ".db", ".ini"}

_ORIENTATION_TAG = 0x0112
_SIDEWAYS = frozenset({5, 6, 7, 8})  # EXIF orientations that swap height and width

# What Pillow raises for malformed images.
_BROKEN_IMAGE = (OSError, SyntaxError, ValueError, TypeError, EOFError, struct.error, Image.DecompressionBombError)


# A file of half a megabyte can decode to gigabytes. Pillow raises above this many pixels, and warns above half of it.
MAX_PIXELS = 178_956_970
MAX_PIXELS_VARIABLE = "GROUNDHOG_MAX_IMAGE_PIXELS"  # in the environment, so that every worker process has it
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # our own limit applies
DECODED_AT_ONCE = 1 << 26  # pixels that all threads of a process decode at once; a larger image is decoded alone
_STRIP = 1 << 22  # pixels that are converted to RGB at once
# The background that the reference puts behind transparent greyscale images (close to ImageNet's mean).
TRANSPARENT = (124, 117, 104)

_LONGEST_NAME = 255  # bytes of one part of a path, the limit of most file systems

SIZE_REMEDY = "expected the size after EXIF rotation"


def list_images(folder: str | Path) -> list[str]:
    """The images under `folder`, as sorted paths relative to it, with "/" between the parts.

    Images are recognised by their suffix; files without a suffix by their first bytes. A warning counts other files,
    except those that usually lie beside images, such as labels and tables. Hidden files and folders are skipped;
    symbolic links to folders are followed, visiting each real folder once. Raises InputError if `folder` is not a
    folder, or a folder below it cannot be read.
    """
    root = as_path(folder)
    if is_address(root):
        return _list_address(root)
    check_folder(root)
    visited: set[str] = set()
    found: list[str] = []
    for directory, subfolders, names in os.walk(root, onerror=_refuse_folder, followlinks=True):
        real = os.path.realpath(directory)
        if real in visited:  # a symbolic link to a folder that was listed already
            subfolders.clear()
            continue
        visited.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        relative = Path(directory).relative_to(root)
        found += [(relative / name).as_posix() for name in names if not name.startswith(".")]
    return _images_among(root, sorted(found))


def images_of_folder(folder: str | Path) -> list[str]:
    """The same. Raises InputError where there is no image."""
    filenames = list_images(folder)
    if not filenames:
        raise InputError(folder, "contains no images", "expected .jpg, .png or other image files")
    return filenames


def check_folder(folder: str | Path) -> None:
    """Raises InputError where there is no such folder of images. An address is taken as it is: stores have none."""
    root = as_path(folder)
    if not is_address(root):
        check_is_folder(root, "expected a folder of images")


def _images_among(root: Path, names: Sequence[str]) -> list[str]:
    images: list[str] = []
    skipped: Counter[str] = Counter()
    for name in names:
        suffix = PurePosixPath(name).suffix.lower()
        if suffix in IMAGE_SUFFIXES or (not suffix and _opens_as_image(root / name)):
            images.append(name)
        elif suffix not in _COMPANIONS:
            skipped[suffix or "without suffix"] += 1
    if skipped and (str(root), str(skipped)) not in _warned:
        _warned.add((str(root), str(skipped)))
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(skipped.items()))
        remedy = "; groundhog[heic] reads HEIC" if _HEIF_SUFFIXES.intersection(skipped) else ""
        count = skipped.total()
        what = f"{many(count, 'file')} {verb(count, 'is', 'are')} not read as images"
        _log.warning("%s: %s: %s%s", root, what, kinds, remedy)
    return images


_warned: set[tuple[str, str]] = set()  # every stage lists its folder, but each warning is logged once


def _opens_as_image(path: Path) -> bool:
    _read_heif()
    try:
        with _open_file(path) as stream, Image.open(stream):
            return True
    except Image.DecompressionBombError:
        return True  # reported when it is read
    except (InputError, *_BROKEN_IMAGE):
        return False


def _open_file(path: str | Path) -> IO[bytes]:
    """The stream of a file. Raises InputError for a pipe, a socket or a folder: who opens a pipe waits for ever."""
    path = as_path(path)
    if not is_address(path) and path.exists() and not path.is_file():
        raise InputError(path, "is not a file", "expected an image file")
    return path.open("rb")


@cache
def _read_heif() -> None:
    """Makes Pillow read HEIC if groundhog[heic] is installed; before the first image, not when a command starts."""
    if _READS_HEIF:
        import pillow_heif

        pillow_heif.register_heif_opener()


def _list_address(root: Path) -> list[str]:
    """list_images for a URL; object stores have no links."""
    below = root.path.rstrip("/") + "/"  # type: ignore[attr-defined]  # of UPath
    names = [found.removeprefix(below) for found in root.fs.find(root.path)]  # type: ignore[attr-defined]
    if not names:
        raise InputError(root, "does not exist", "expected a folder of images")
    shown = [name for name in names if not any(part.startswith(".") for part in PurePosixPath(name).parts)]
    return _images_among(root, sorted(shown))


def _refuse_folder(error: OSError) -> None:
    """Raised because its images would otherwise be missing silently."""
    what = f"cannot be listed ({error.strerror})"
    raise InputError(error.filename, what, "expected a folder that can be read") from error


def read_images(folder: str | Path, on_problem: Callable[[InputError], None] | None = None) -> Iterator[Record]:
    """Yields an unlabelled record for each image under `folder`, sorted by name.

    Raises InputError for a folder without images, and for an image whose header cannot be read; on_problem receives
    the latter instead, and the image is skipped.
    """
    filenames = list_images(folder)
    if not filenames:
        raise InputError(folder, "contains no images", "expected a folder of .jpg, .png or other images")
    for filename in filenames:
        with handed_to(on_problem):
            yield Record(filename, *image_size(as_path(folder) / filename))


def image_size(path: str | Path) -> tuple[int, int]:
    """(height, width) in pixels after EXIF rotation, from the file's header, without decoding pixels.

    Raises InputError if the file is missing, empty or not an image, or has more than max_pixels() pixels.
    """
    path = as_path(path)
    if not path.is_file():
        raise InputError(path, "is not a file" if path.exists() else "does not exist", "expected an image file")
    if path.stat().st_size == 0:
        raise InputError(path, "is empty (0 bytes)", "expected an image file")
    try:
        with path.open("rb") as stream:
            header = image_header(stream, path)
    except OSError as error:
        raise InputError(path, f"cannot be read ({error})", "expected a JPEG, PNG or other image file") from error
    return header.height, header.width


class ImageHeader(NamedTuple):
    """height, width: in pixels after EXIF rotation. format: Pillow's name of it, such as "JPEG"."""

    height: int
    width: int
    format: str


def image_header(stream: IO[bytes], location: object) -> ImageHeader:
    """Reads the header of an image file, without decoding pixels. Raises InputError as image_size does."""
    try:
        with _opened(str(location), stream) as image:
            width, height = image.size
            kind = image.format or ""
            # getexif of the base class: that of the PNG plugin would decode the whole image to find
            # metadata after the pixels.
            turned = not _turns_on_load(image) and Image.Image.getexif(image).get(_ORIENTATION_TAG) in _SIDEWAYS
    except UnidentifiedImageError as error:  # its message contains the repr of the open file, which varies
        raise InputError(
            location, "cannot be read as an image (no known format)", "expected a JPEG, PNG or other image file"
        ) from error
    except InputError:
        raise
    except _BROKEN_IMAGE as error:
        raise InputError(
            location, f"cannot be read as an image ({error})", "expected a JPEG, PNG or other image file"
        ) from error
    return ImageHeader(width, height, kind) if turned else ImageHeader(height, width, kind)


class DecodedImage(NamedTuple):
    """pixels: (h, w, 3) uint8 RGB, upright, possibly reduced. height, width: of the full image, upright."""

    pixels: np.ndarray
    height: int
    width: int


def decode_image(path: str | Path, longest: int | None = None, whole_below: int = 0) -> DecodedImage:
    """Decodes the first frame of a file: EXIF rotation applied, scaled to 8 bits, the alpha channel of RGBA dropped.

    longest: pixels that the caller needs along the longer side; a larger image is decoded at a half, a third, …, to
    save time and memory, with at least as many left. whole_below: images of up to this many pixels are decoded at full
    size in any case. Threads share a limit, DECODED_AT_ONCE, on what they decode at once.
    Raises InputError, naming the file, if it is missing, is not an image, cannot be decoded completely, or has more
    than max_pixels() pixels.
    """
    with _named_errors(path), _open_file(path) as stream, _opened(path, stream) as image:
        width, height = image.size
        longest = longest if width * height > whole_below else None
        enough = 1.0 if longest is None else min(longest / max(width, height), 1.0)
        if enough <= 0.5:  # a JPEG decodes at a half, a quarter or an eighth
            image.draft(image.mode, (max(1, int(width * enough)), max(1, int(height * enough))))
        with _turn_to_decode(image.width * image.height):
            pixels = _rgb_of(image, max(1, int(max(image.size) / longest)) if longest else 1)
            orientation = image.getexif().get(_ORIENTATION_TAG, 1)  # 1 for a TIFF, which Pillow rotates on loading
            pixels = turned(pixels, orientation)
    return DecodedImage(pixels, *((width, height) if orientation in _SIDEWAYS else (height, width)))


def decode_strips(path: str | Path, rows: int, take: Callable[[int, np.ndarray], None]) -> tuple[int, int, int]:
    """Decodes an image at full size and passes it on strip by strip, which avoids a second full-size copy.

    take: called with the first row of each strip and its pixels, (at most rows, W, 3) uint8 RGB, as stored, without
    EXIF rotation. Returns the stored height and width and the EXIF orientation, for `turned`. Raises InputError as
    decode_image does.
    """
    with _named_errors(path), _open_file(path) as stream, _opened(path, stream) as image:
        with _turn_to_decode(image.width * image.height):
            image.load()
            extremes = _extremes(image) if image.mode == "F" else (0.0, 1.0)
            for top in range(0, image.height, rows):
                strip = image.crop((0, top, image.width, min(top + rows, image.height)))
                take(top, np.asarray(_to_rgb(strip, extremes)))
        return image.height, image.width, image.getexif().get(_ORIENTATION_TAG, 1)


@contextmanager
def _named_errors(path: str | Path) -> Iterator[None]:
    """Turns errors of decoders into InputErrors that name the file."""
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(path, "no such file", "expected an image file") from error
    except UnidentifiedImageError as error:
        raise InputError(path, "cannot be decoded (unknown image format)", "expected an image file") from error
    except InputError:
        raise
    except Exception as error:  # decoders raise all kinds of exceptions on malformed bytes
        raise InputError(path, f"cannot be decoded ({error})", "expected a complete image file") from error


def max_pixels() -> int | None:
    """The pixels that an image may have: GROUNDHOG_MAX_IMAGE_PIXELS, else MAX_PIXELS; None for no limit."""
    text = os.environ.get(MAX_PIXELS_VARIABLE, "").strip()
    if not text:
        return MAX_PIXELS
    if not (text.isascii() and text.isdecimal()) or len(text) > 18:
        raise InputError(MAX_PIXELS_VARIABLE, f"is {text[:40]!r}", "expected a number of pixels; 0 for no limit")
    return int(text) or None


def _opened(path: str | Path, stream: IO[bytes]) -> Image.Image:
    """Image.open with our limit and our message instead of Pillow's, which does not say what to do."""
    _read_heif()
    limit = max_pixels()
    if limit != MAX_PIXELS:
        Image.MAX_IMAGE_PIXELS = limit
    try:
        image = Image.open(stream)
    except Image.DecompressionBombError as error:
        raise _too_large(path, str(error).partition("(")[2].partition(" ")[0] or "too many", limit) from error
    if limit is not None and image.width * image.height > limit:
        raise _too_large(path, f"{image.width}x{image.height}", limit)
    return image


def _too_large(path: str | Path, pixels: str, limit: int | None) -> InputError:
    remedy = "set that variable to more pixels, or to 0 for no limit, if you trust it"
    return InputError(path, f"has {pixels} pixels, {MAX_PIXELS_VARIABLE} is {limit}", remedy)


_decoding = 0  # pixels
_decoded = Condition()


@contextmanager
def _turn_to_decode(pixels: int) -> Iterator[None]:
    global _decoding
    with _decoded:
        _decoded.wait_for(lambda: not _decoding or _decoding + pixels <= DECODED_AT_ONCE)
        _decoding += pixels
    try:
        yield
    finally:
        with _decoded:
            _decoding -= pixels
            _decoded.notify_all()


def _decode_anew() -> None:
    """Resets the state in a forked child, where the parent's decoding threads do not exist."""
    global _decoding, _decoded
    _decoding, _decoded = 0, Condition()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_decode_anew)


def _rgb_of(image: Image.Image, factor: int) -> np.ndarray:
    """(h, w, 3) uint8 RGB as stored, each side divided by `factor`; by strips, without a second whole picture.

    It may be read-only."""
    image.load()
    extremes = _extremes(image) if image.mode == "F" else (0.0, 1.0)
    rows = max(1, _STRIP // (image.width * factor)) * factor
    if factor == 1 and rows >= image.height:
        return np.asarray(_to_rgb(image, extremes))  # the usual photo: no copy more than Pillow's own
    height, width = -(-image.height // factor), -(-image.width // factor)
    pixels = np.empty((height, width, 3), np.uint8)
    for top in range(0, image.height, rows):
        whole = rows >= image.height
        strip = image if whole else image.crop((0, top, image.width, min(top + rows, image.height)))
        rgb = _to_rgb(strip, extremes)
        reduced = rgb.reduce(factor) if factor > 1 else rgb
        pixels[top // factor : top // factor + reduced.height] = np.asarray(reduced)
    return pixels


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Stored pixels -> upright. orientation: of EXIF, 1 to 8."""
    if orientation in _SIDEWAYS:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _to_rgb(image: Image.Image, extremes: tuple[float, float]) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return _grey(image, extremes).convert("RGB")
    if image.mode == "RGB":
        return image  # convert would copy it
    if image.mode != "LA":
        return image.convert("RGB")
    with_alpha = image.convert("RGBA")
    canvas = Image.new("RGB", image.size, TRANSPARENT)
    canvas.paste(with_alpha, mask=with_alpha.getchannel("A"))
    return canvas


def _grey(image: Image.Image, extremes: tuple[float, float]) -> Image.Image:
    """Scales grey values of more than 8 bits linearly to 8 bits; Pillow would clip them at 255.

    Integers are taken as 16 bits, the only range found in practice. Floating-point images ("F") have no fixed range;
    `extremes` is theirs.
    """
    values = np.asarray(image)
    if image.mode.startswith("I"):
        return Image.fromarray((values.clip(0, 65535) / 257).round().astype(np.uint8))
    low, high = extremes
    scaled = (np.where(np.isfinite(values), values, low) - low) / max(high - low, float(np.finfo(np.float32).tiny))
    return Image.fromarray((scaled * 255).round().astype(np.uint8))


def _extremes(image: Image.Image) -> tuple[float, float]:
    """The smallest and the largest finite value of a floating-point image; 0, 0 if it has none."""
    values = np.asarray(image)
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)


def check_size(
    filename: str, actual: tuple[int, int], recorded: tuple[int, int], whose: str, remedy: str = SIZE_REMEDY
) -> None:
    """Raises InputError if an image does not have the recorded size, since its boxes would then be wrong.

    Typically it was replaced or resized, or its size was recorded before EXIF rotation. actual, recorded: height,
    width. whose: where the recorded size comes from, "labels say" or "record says".
    """
    if actual != recorded:
        what = f"the image is {actual[1]}x{actual[0]}, its {whose} {recorded[1]}x{recorded[0]}"
        raise InputError(filename, what, remedy)


def stored_box(box: Sequence[int], height: int, width: int, orientation: int) -> tuple[int, int, int, int]:
    """A box of the upright image, x1, y1, x2, y2, in the image as stored. height, width: of the upright image."""
    x1, y1, x2, y2 = box
    if orientation in (2, 3, 6, 7):
        x1, x2 = width - x2, width - x1
    if orientation in (3, 4, 7, 8):
        y1, y2 = height - y2, height - y1
    return (y1, x1, y2, x2) if orientation in _SIDEWAYS else (x1, y1, x2, y2)


def _turns_on_load(image: Image.Image) -> bool:
    """Whether Pillow applies the EXIF rotation itself and reports the rotated size, as it does for TIFF."""
    return image.format == "TIFF"


def with_slashes(filename: str) -> str:
    """A file name with "/" instead of Windows' backslashes, as list_images returns it."""
    return filename.replace("\\", "/")


def find_below(folder: str | Path, filename: str) -> str | None:
    """The longest tail of a path that is a file below `folder`; None if there is none.

    For URLs of a server whose root is not the image folder.
    """
    parts = PurePosixPath(with_slashes(filename).lstrip("/")).parts
    if ".." in parts or "\0" in filename:
        return None
    tails = ("/".join(parts[start:]) for start in range(len(parts)))
    return next((tail for tail in tails if safe_join(folder, tail).is_file()), None)


# What safe_join may refuse; other names need no closer look.
_MAY_LEAD_OUT = re.compile(r"[/\\]|\s*$|.:|.*(\.\.|//|::|\0)", re.DOTALL)


def leads_out(filename: str) -> bool:
    """Whether a file name is none of an image below a folder: an absolute path, an address, or one with "..": no stage
    takes it.
    """
    if not _MAY_LEAD_OUT.match(filename):
        return False
    try:
        safe_join("images", filename)
    except InputError:
        return True
    return False


def check_images_exist(root: str | Path, filenames: Sequence[str], source: object, remedy: str) -> None:
    """Raises InputError for files that are not in the folder. source: what names them, for the message."""
    if missing := [filename for filename in filenames if not safe_join(root, filename).is_file()]:
        what = f"does not contain {len(missing)} of {many(len(filenames), 'image')} of {source}, such as {missing[0]}"
        raise InputError(root, what, remedy)


def safe_join(root: str | Path, filename: str) -> Path:
    """root / filename, for file names from data files, which are not trusted.

    Raises InputError for an empty name, an absolute path or one with "..". Only the name is checked: symbolic links
    inside the root may lead elsewhere, since image folders are often links to another disk, and someone who can create
    a link in the root could as well put the file there.
    """
    name = os.fspath(filename)
    windows = PureWindowsPath(name)
    if not name.strip() or "\0" in name:
        raise InputError(
            root, f"file name {name!r} is empty or holds a NUL", "expected a path relative to the image folder"
        )
    if PurePosixPath(name).is_absolute() or windows.drive or windows.root:
        raise InputError(root, f"file name {name!r} is absolute", "expected a path relative to the image folder")
    if "://" in name or ("::" in name and is_address(root)):  # fsspec would take it for another URL
        raise InputError(root, f"file name {name!r} is an address", "expected a path relative to the image folder")
    if any(len(part.encode("utf-8", "surrogatepass")) > _LONGEST_NAME for part in windows.parts) or len(name) > 4000:
        raise InputError(root, f"file name {name[:40]!r}… is too long", "expected a path relative to the image folder")
    if ".." in windows.parts:  # Windows paths split at both kinds of slash
        raise InputError(
            root, f"file name {name!r} leaves its folder by '..'", "expected a path inside the image folder"
        )
    return as_path(root) / name
