"""Time and memory of reading a large file in COCO format: `python benchmarks/read_coco.py [FILE]`.

Without FILE it generates one like LVIS's in a temporary folder: --images images with 13 annotations and their outlines
(20,000: 276 MB). Seconds are CPU time; peak memory is that of the reading process alone.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from read_odvg import peak_megabytes

from formats import read_lvis

CATEGORIES = 1203


def main() -> None:
    """Generates the file if none is given, and measures in a separate process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--images", type=int, default=20_000, metavar="N", help="default 20000")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        measure(options.file)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = options.file or Path(folder) / "drawn.json"
        if options.file is None:
            draw(path, options.images)
        subprocess.run([sys.executable, __file__, str(path), "--here"], check=True)


def draw(path: Path, images: int) -> None:
    """Writes a file whose annotations are not in the order of their images, and whose categories come last."""
    chance = random.Random(0)
    with open(path, "w", encoding="utf-8") as stream:
        stream.write('{"images": [')
        stream.write(", ".join(json.dumps(_image(index)) for index in range(images)))
        stream.write('], "annotations": [')
        for index in range(13 * images):
            stream.write((", " if index else "") + json.dumps(_annotation(index, chance, images)))
        names = [{"id": each, "name": f"thing {each}", "frequency": "f"} for each in range(1, CATEGORIES + 1)]
        stream.write(f'], "categories": {json.dumps(names)}}}')


def _image(index: int) -> dict:
    address = f"http://images.cocodataset.org/train2017/{index:012}.jpg"
    lists = {"neg_category_ids": [1, 2, 3], "not_exhaustive_category_ids": [4]}
    return {"id": index, "height": 480, "width": 640, "coco_url": address, "license": 3, **lists}


def _annotation(index: int, chance: random.Random, images: int) -> dict:
    outline = [round(chance.uniform(0, 480), 2) for _ in range(124)]
    box = [round(chance.uniform(1, 200), 2) for _ in range(4)]
    category = chance.randrange(1, CATEGORIES + 1)
    image = chance.randrange(images)
    return {"id": index + 1, "image_id": image, "category_id": category, "bbox": box, "segmentation": [outline]}


def measure(path: Path) -> None:
    """Reads the file once and prints what it took."""
    start = time.process_time()
    records = boxes = 0
    for record in read_lvis(path):
        records += 1
        boxes += len(record.instances or ())
    seconds = time.process_time() - start
    size = path.stat().st_size / 2**20
    print(f"{records} images, {boxes} boxes, {size:.0f} MB: {seconds:.1f} s, peak memory {peak_megabytes():.0f} MB")


if __name__ == "__main__":
    main()
