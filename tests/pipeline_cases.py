"""What the tests of the pipeline share: a folder of small images, and a detector whose boxes follow from the file."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from flows.labelling.manifest import Manifest
from flows.labelling.plan import plan
from formats.images import image_size
from formats.io.errors import InputError
from formats.record import Instance, Record, Region
from grounding_model.inputs.prompt import Prompt


class Failure(NamedTuple):
    """As grounding_model.detector has it, without its torch."""

    filename: str
    error: InputError


class FakeDetector:
    """Deterministic boxes from the bytes of the image, for every label of the prompt. Counts the images it saw."""

    def __init__(self, boxes: int = 6) -> None:
        self.boxes, self.seen = boxes, 0

    def predict_each(
        self, images: Sequence[Path], prompt: Prompt | Sequence[Prompt], **settings: object
    ) -> Iterator[Record | Failure]:
        prompts = repeat(prompt) if isinstance(prompt, Prompt) else prompt
        for path, asked in zip(images, prompts):
            try:
                record = self._record(path, asked)
                self.seen += 1
                yield record
            except InputError as error:
                yield Failure(str(path), error)

    def _record(self, path: Path, prompt: Prompt) -> Record:
        height, width = image_size(path)
        try:
            Image.open(io.BytesIO(path.read_bytes())).load()
        except OSError as error:
            raise InputError(path, f"cannot be decoded ({error})", "expected a whole image") from error
        random = np.random.default_rng(list(hashlib.sha256(path.read_bytes()).digest()[:8]))
        found = []
        for label, name in enumerate(prompt.labels):
            corners = np.sort(random.uniform(0, 1, (self.boxes, 2, 2)), axis=1) * [width, height]
            scores = np.sort(random.uniform(0, 1, self.boxes))[::-1]
            found.append((label, name, [tuple(map(float, box.reshape(4))) for box in corners], scores.tolist()))
        if prompt.kind == "categories":
            instances = [
                Instance(box, label, name, score)
                for label, name, boxes, scores in found
                for box, score in zip(boxes, scores)
            ]
            return Record(path.name, height, width, instances=tuple(instances))
        regions = [
            Region(
                tuple(boxes),
                tuple(prompt.text[start:end] for start, end in prompt.spans[label]),
                prompt.spans[label],
                tuple(scores),
            )
            for label, _, boxes, scores in found
        ]
        return Record(path.name, height, width, caption=prompt.text, regions=tuple(regions))


def make_images(folder: Path, count: int, seed: int = 0) -> list[str]:
    """Writes `count` images of noise, 40 x 30 pixels; their names in order."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    names = [f"image-{index:03d}.png" for index in range(count)]
    for name in names:
        Image.fromarray(random.integers(0, 255, (30, 40, 3), dtype=np.uint8)).save(folder / name)
    return names


def make_weights(folder: Path) -> Path:
    """A file that stands for a checkpoint: plans only take its digest."""
    path = folder / "weights.safetensors"
    path.write_bytes(b"weights")
    return path


def plan_images(
    folder: Path, annotations: Path, label_map: Path | None, work_dir: Path, shard_size: int = 4, **settings: Any
) -> Manifest:
    """A plan over folder/images with the stand-in weights."""
    return plan(
        annotations,
        folder / "images",
        folder / "weights.safetensors",
        work_dir,
        label_map=label_map,
        shard_size=shard_size,
        **settings,
    )
