"""Speed and memory of loading training data: `python benchmarks/training_data.py`.

Opening: seconds, and resident memory per line, for an ODVG file of --lines random lines with a label map beside it.
Loading: images per second of JPEG files of 640 x 480 with the reference's augmentation at 800 x 1333, by workers.
An epoch: private memory of the loading process and its worker, at every fifth of an epoch of --items small images.
Linux only, since memory is read from /proc.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from read_odvg import draw
from torch.utils.data import DataLoader

from formats.label_map import write_label_map
from formats.odvg import write_odvg
from formats.record import Instance, Record
from grounding_model.data.augment import AugmentConfig, RandomCrop
from grounding_model.data.sampler import MixedOrder
from grounding_model.data.samples import Collate, TrainingBatch, TrainingSamples
from grounding_model.data.sources import LabelledImages, OdvgData, OdvgDataset, open_for_training
from grounding_model.glyphs import draw_scene
from grounding_model.glyphs.tokenizer import glyph_tokenizer

BATCH_SIZE = 4
IMAGES = 64  # different ones


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lines", type=int, default=300_000, metavar="N", help="of the file opened (default 300000)")
    parser.add_argument("--images", type=int, default=200, metavar="N", help="loaded a measurement (default 200)")
    parser.add_argument("--items", type=int, default=5000, metavar="N", help="of the epoch (default 5000)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as folder:
        measure_opening(Path(folder), options.lines)
        measure_loading(Path(folder), options.images)
        measure_epoch(Path(folder), options.items)


def measure_opening(folder: Path, lines: int) -> None:
    path = folder / "drawn_od.json"
    draw(path, lines, boxes=7, captions=False)
    write_label_map(folder / "drawn_label_map.json", {label: f"category {label}" for label in range(80)})
    OdvgDataset(OdvgData(path, folder))  # the first time also loads what all share
    gc.collect()
    before, began = held_alone(os.getpid()), time.perf_counter()
    dataset = OdvgDataset(OdvgData(path, folder))
    seconds, held = time.perf_counter() - began, held_alone(os.getpid()) - before
    size = path.stat().st_size / 2**20
    print(f"opening {len(dataset):,} lines ({size:.0f} MiB): {seconds:.2f} s, {held / lines:.1f} bytes per line")


def measure_loading(folder: Path, images: int) -> None:
    settings = AugmentConfig(crop=RandomCrop()).fitted_to((800, 1333))
    data = write_scenes(folder / "large", (640, 480), IMAGES)
    for workers in (0, 1, 2):
        batches = load(open_for_training(data), settings, workers, steps=images // BATCH_SIZE + 8)
        next(batches)  # workers have started, and fetched ahead
        began = time.perf_counter()
        count = sum(len(batch.targets) for batch in islice(batches, images // BATCH_SIZE))
        print(f"loading with {workers} workers: {count / (time.perf_counter() - began):.1f} images a second")


def measure_epoch(folder: Path, items: int) -> None:
    data = write_scenes(folder / "small", (160, 160), items)
    steps = items // BATCH_SIZE
    memory = []
    for step, _ in enumerate(load(open_for_training(data), AugmentConfig(short_sides=()), 1, steps), start=1):
        if step % (steps // 5) == 0:
            (worker,) = multiprocessing.active_children()
            memory.append(" + ".join(f"{held_alone(pid) / 2**20:.1f}" for pid in (os.getpid(), worker.pid or 0)))
    print(f"memory over {items} images (MiB, this process + its worker): {', '.join(memory)}")


def load(dataset: LabelledImages, settings: AugmentConfig, workers: int, steps: int) -> Iterator[TrainingBatch]:
    tokenizer = glyph_tokenizer()
    order = MixedOrder([len(dataset)], [1.0], BATCH_SIZE, steps, seed=0, portrait=[dataset.portrait])
    samples = TrainingSamples([dataset], settings, tokenizer, 256, seed=0)
    context = "fork" if workers else None
    return iter(
        DataLoader(
            samples,
            batch_sampler=order,
            num_workers=workers,
            collate_fn=Collate(tokenizer, 256),
            multiprocessing_context=context,
        )
    )


def write_scenes(folder: Path, size: tuple[int, int], lines: int) -> OdvgData:
    """Scenes of the glyph world as JPEG files of this width and height; IMAGES of them, named again and again."""
    (folder / "images").mkdir(parents=True)
    records = []
    for index in range(IMAGES):
        image, record = draw_scene("source", 0, index)
        scale = np.array([size[0] / record.width, size[1] / record.height] * 2)
        name = f"{index:03}.jpg"
        Image.fromarray(cv2.resize(image, size)).save(folder / "images" / name, quality=90)
        instances = tuple(
            Instance(tuple((np.array(one.box) * scale).tolist()), one.label, one.category)
            for one in record.instances or ()
        )
        records.append(Record(name, size[1], size[0], instances))
    write_odvg(folder / "scenes_od.json", (records[index % IMAGES] for index in range(lines)))
    return OdvgData(folder / "scenes_od.json", folder / "images")


def held_alone(pid: int) -> int:
    """Bytes of memory that no other process has a part in."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    return sum(int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Private_"))


if __name__ == "__main__":
    main()
