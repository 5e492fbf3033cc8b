"""How many copies of photos are detected, and how many other pairs are mistaken for copies.

    python benchmarks/image_copies.py data/raccoon/images data/coco128/images/train2017

Every photo is changed in twelve ways (re-encoded, resized, cropped, mirrored, …) and compared with all photos; pairs of
unchanged photos show false positives, and true duplicates in the data set. The second table is about quality: how many
degraded and unchanged photos are reported as blurred, dark or empty.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from flows.curation.duplicates import find_duplicates
from flows.curation.fingerprints import Fingerprint, fingerprint, fingerprint_images
from flows.curation.image_quality import image_findings
from formats.images import list_images

Spoil = Callable[[Image.Image], Image.Image]


def encoded(image: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream).convert("RGB")


def scaled(image: Image.Image, factor: float) -> Image.Image:
    return image.resize([max(1, round(side * factor)) for side in image.size], Image.Resampling.BICUBIC)


def cropped(image: Image.Image, share: float, corner: bool = False) -> Image.Image:
    """share: of each side that is cut away, half of it at each end, or all of it at the right and bottom."""
    width, height = image.size
    left, top = (0, 0) if corner else (width * share / 2, height * share / 2)
    return image.crop((round(left), round(top), round(left + width * (1 - share)), round(top + height * (1 - share))))


COPIES: dict[str, Spoil] = {
    "JPEG quality 20": lambda image: encoded(image, 20),
    "half size": lambda image: scaled(image, 0.5),
    "quarter size, JPEG quality 10": lambda image: encoded(scaled(image, 0.25), 10),
    "30 % brighter": lambda image: image.point(lambda value: min(255, int(value * 1.3))),
    "mirrored": ImageOps.mirror,
    "turned by 90 degrees": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "5 % cropped": lambda image: cropped(image, 0.05),
    "10 % cropped": lambda image: cropped(image, 0.1),
    "20 % cropped": lambda image: cropped(image, 0.2),
    "20 % cropped at a corner": lambda image: cropped(image, 0.2, corner=True),
    "30 % cropped": lambda image: cropped(image, 0.3),
    "20 % cropped, half size, JPEG quality 20": lambda image: encoded(scaled(cropped(image, 0.2), 0.5), 20),
}
FAULTS: dict[str, Spoil] = {
    "untouched": lambda image: image,
    "blurred, 1 % of the long side": lambda image: image.filter(ImageFilter.GaussianBlur(max(image.size) * 0.01)),
    "blurred, 0.5 % of the long side": lambda image: image.filter(ImageFilter.GaussianBlur(max(image.size) * 0.005)),
    "a tenth of the light": lambda image: image.point(lambda value: value // 10),
    "a quarter of the light": lambda image: image.point(lambda value: value // 4),
}


def looked_at(images: list[Image.Image], spoil: Spoil, folder: Path) -> list[Fingerprint]:
    found = []
    for index, image in enumerate(images):
        path = folder / f"{index}.bmp"  # without loss, and quicker to write than PNG
        spoil(image).save(path)
        found.append(fingerprint(path, f"copy {index}"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    folders = parser.parse_args().folders
    paths = [folder / name for folder in folders for name in list_images(folder)]
    started = time.process_time()
    originals = [each for folder in folders for each in fingerprint_images(folder, list_images(folder), False)]
    per_image = (time.process_time() - started) / len(paths)
    photos = [each for each in originals if isinstance(each, Fingerprint)]
    started = time.process_time()
    pairs = find_duplicates(photos)
    print(
        f"{len(photos)} photos, {per_image * 1e3:.1f} CPU ms each; comparing all {time.process_time() - started:.1f} s"
    )
    print(f"pairs among the untouched photos: {len(pairs)}")
    for pair in pairs:
        print(f"  {pair.kind}, {pair.similarity:.0%}: {photos[pair.first].filename}, {photos[pair.second].filename}")
    images = [ImageOps.exif_transpose(Image.open(path)).convert("RGB") for path in paths]
    known = {(pair.first, pair.second) for pair in pairs}
    print("\n| copy | found | other pairs |\n|---|---:|---:|")
    with tempfile.TemporaryDirectory() as name:
        for kind, spoil in COPIES.items():
            copies = looked_at(images, spoil, Path(name))
            between = [
                (pair.first, pair.second - len(photos))
                for pair in find_duplicates([*photos, *copies])
                if pair.first < len(photos) <= pair.second
            ]
            right = {first for first, second in between if first == second}
            other = [pair for pair in between if pair[0] != pair[1] and (min(pair), max(pair)) not in known]
            print(f"| {kind} | {len(right) / len(photos):.1%} | {len(other)} |", flush=True)
        print("\n| photos | reported | as |\n|---|---:|---|")
        for kind, spoil in FAULTS.items():
            kinds = [finding.kind for each in looked_at(images, spoil, Path(name)) for finding in image_findings(each)]
            counts = ", ".join(f"{count} {what}" for what, count in zip(*np.unique(kinds, return_counts=True)))
            print(f"| {kind} | {len(kinds) / len(images):.1%} | {counts} |", flush=True)


if __name__ == "__main__":
    main()
