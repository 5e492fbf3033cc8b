"""A user's own COCO-format folder: where its annotations and images lie, in the layouts that tools write."""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

from formats.io.errors import InputError
from grounding_model.data.sources import CocoData

# What a split is called, by tool: ours, Roboflow's, COCO's own.
_SPLITS = {"train": ("train", "train2017"), "validation": ("val", "valid", "validation", "val2017")}
_LAYOUT = """expected for example
  {root}/annotations/train.json, {root}/annotations/val.json, and the images in {root}/train and {root}/val
or what Roboflow exports as COCO ({root}/train/_annotations.coco.json, {root}/valid/…), or COCO's own folders, or
data.{split}_annotations and data.{split}_images set"""

# An image folder is one in which one of so many images lies; some may be missing.
_EXAMPLES = 100


@dataclass(frozen=True)
class CocoFolder:
    """A folder of images with COCO annotations, one file to train on and one to validate on.

    root: the folder. train_annotations, train_images, validation_annotations, validation_images: below root, where they
    lie elsewhere than tools put them. categories: as CocoData has them.
    """

    root: Path
    categories: tuple[str, ...] | None = None
    train_annotations: Path | None = None
    train_images: Path | None = None
    validation_annotations: Path | None = None
    validation_images: Path | None = None
    kind: Literal["coco_folder"] = "coco_folder"

    def train(self) -> CocoData:
        """What to train on. Raises InputError, saying where it looked, when it is not there."""
        return self._split("train", self.train_annotations, self.train_images)

    def validation(self) -> CocoData:
        """What to validate on. Raises InputError, saying where it looked, when it is not there."""
        return self._split("validation", self.validation_annotations, self.validation_images)

    def _split(self, split: str, annotations: Path | None, images: Path | None) -> CocoData:
        if not self.root.is_dir():
            raise InputError(self.root, "no such folder", "expected data.root = the folder of your data set")
        files = [annotations] if annotations else list(_annotation_files(split))
        found = self._first(files, split, lambda file: (self.root / file).is_file())
        named = _first_images(self.root / found)
        folders = [images] if images else _image_folders(split, found)
        folder = self._first(
            folders,
            split,
            lambda folder: any((self.root / folder / name).is_file() for name in named),
            f" ({found} names {named[0]!r})",
        )
        return CocoData(self.root / found, self.root / folder, self.categories)

    def _first(self, places: Sequence[Path], split: str, fits: Callable[[Path], bool], why: str = "") -> Path:
        for place in places:
            if fits(place):
                return place
        what = "images" if why else "annotations"
        looked = ", ".join(str(place) for place in places)
        remedy = _LAYOUT.format(root=self.root, split=split)
        raise InputError(self.root, f"holds no {what} for {split}{why}; looked at {looked}", remedy)


def _annotation_files(split: str) -> Iterator[Path]:
    for name in _SPLITS[split]:
        yield Path("annotations", f"{name}.json")
        yield Path("annotations", f"instances_{name}.json")
        yield Path(name, "_annotations.coco.json")
        yield Path(name, "annotations.json")
        yield Path(f"{name}.json")


def _image_folders(split: str, annotations: Path) -> list[Path]:
    """Beside the annotations, in a folder with the split's name, or all together."""
    named = [Path(folder, name) for name in _SPLITS[split] for folder in ("", "images")]
    return list(dict.fromkeys([*named, Path("images"), Path(), annotations.parent]))


def _first_images(annotations: Path) -> list[str]:
    """The first file names in a COCO file, which is not decoded for them: it may be of half a gigabyte."""
    names: list[str] = []
    with open(annotations, "rb") as stream:
        if annotations.stat().st_size:  # an empty file cannot be mapped
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
                found = islice(re.finditer(rb'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")', content), _EXAMPLES)
                names = [json.loads(one[1]) for one in found]
    if not names:
        raise InputError(annotations, "names no image", 'expected COCO\'s {"images": [{"file_name": ...}], ...}')
    return names
