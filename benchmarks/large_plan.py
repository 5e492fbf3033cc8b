"""CPU seconds of the stages around the model: the numbers in docs/scaling.md.

    python benchmarks/large_plan.py /tmp/large

Plans a million lines as 20,000 shards, then checks and filters one shard of 5,000 images with 30 candidates each.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from flows.labelling.filter import filter_candidates
from flows.labelling.manifest import read_manifest
from flows.labelling.plan import MAX_SHARDS, plan
from flows.labelling.shards import missing_shards
from formats.candidates import Candidates, ImageCandidates, write_candidates
from formats.io.files import write_whole

LINES, IMAGES, BOXES, CATEGORIES = 1_000_000, 5_000, 30, 20


def source_of(folder: Path, lines: int) -> Path:
    """An ODVG file of images that do not exist, since nothing here reads them."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    names = ", ".join(f'"{label}": "thing {label}"' for label in range(CATEGORIES))
    (folder / "x_label_map.json").write_text(f"{{{names}}}")
    with write_whole(folder / "x_od.json") as file:
        file.writelines(f'{{"filename": "ab/cd/{n:012d}.jpg", "height": 480, "width": 640}}\n' for n in range(lines))
    return folder / "x_od.json"


def candidates() -> Candidates:
    draw = np.random.default_rng(0)

    def image(line: int) -> ImageCandidates:
        corners = np.sort(draw.uniform(0, 480, (BOXES, 2, 2)), axis=1).reshape(BOXES, 4)
        labels, scores = draw.integers(0, CATEGORIES, BOXES), draw.beta(1, 6, BOXES)
        return ImageCandidates(line, f"ab/cd/{line:012d}.jpg", labels, corners, scores)

    return Candidates.of_images(map(image, range(IMAGES)))


def timed(step: str, start: float) -> None:
    print(f"{time.process_time() - start:6.1f} s  {step}")


def main(folder: Path) -> None:
    source = source_of(folder / "many", LINES)
    start = time.process_time()
    manifest = plan(source, source.parent / "images", "glyph-tiny", folder / "many/work", shard_size=50, overwrite=True)
    assert len(manifest.shards) == MAX_SHARDS
    size = manifest.path.stat().st_size / 1e6
    timed(f"plan of {LINES:,} lines ({source.stat().st_size / 1e6:.0f} MB), {size:.1f} MB manifest", start)
    start = time.process_time()
    missing_shards(read_manifest(manifest.path))
    timed(f"reading the manifest, and finding that all {MAX_SHARDS:,} shards are missing", start)

    source = source_of(folder / "one", IMAGES)
    manifest = plan(
        source, source.parent / "images", "glyph-tiny", folder / "one/work", shard_size=IMAGES, overwrite=True
    )
    found = candidates()
    start = time.process_time()
    write_candidates(manifest.shard_path(0), found, manifest.key)
    size = manifest.shard_path(0).stat().st_size
    timed(f"writing {len(found):,} candidates of {IMAGES:,} images: {size / len(found):.0f} bytes each", start)
    start = time.process_time()
    assert not missing_shards(manifest)
    timed("checking that file", start)
    start = time.process_time()
    labels = filter_candidates(manifest).labels
    timed(f"filtering it: {labels.stat().st_size / IMAGES:.0f} bytes per line", start)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
