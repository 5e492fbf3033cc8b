"""A folder in COCO format: finds its annotations and images in the layouts of common tools."""

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

# Names of a split: ours, Roboflow's, COCO's.
_SPLITS = {"train": ("train", "train2017"), "validation": ("val", "valid", "validation", "val2017")}
_LAYOUT = """expected for example
  {root}/annotations/train.json, {root}/annotations/val.json, and the images in {root}/train and {root}/val
or a COCO export of Roboflow ({root}/train/_annotations.coco.json, {root}/valid/…), or the folders of COCO itself, or
data.{split}_annotations and data.{split}_images set"""

# A folder is the image folder if one of this many images is in it; some may be missing.
_EXAMPLES = 100


@dataclass(frozen=True)
class CocoFolder:
    """A folder of images with COCO annotations, one file to train on and one to validate on.

    root: the folder. train_annotations, train_images, validation_annotations, validation_images: below root, if
    they are not in a known layout. categories: as in CocoData.
    """

    root: Path
    categories: tuple[str, ...] | None = None
    train_annotations: Path | None = None
    train_images: Path | None = None
    validation_annotations: Path | None = None
    validation_images: Path | None = None
    kind: Literal["coco_folder"] = "coco_folder"

    def train(self) -> CocoData:
        """The training data. Raises InputError, naming the locations tried, when they are missing."""
        return self._split("train", self.train_annotations, self.train_images)

    def validation(self) -> CocoData:
        """The validation data. Raises InputError, naming the locations tried, when they are missing."""
        return self._split("validation", self.validation_annotations, self.validation_images)

    def _split(self, split: str, annotations: Path | None, images: Path | None) -> CocoData:
        if not self.root.is_dir():
            raise InputError(self.root, "no such folder", "expected data.root = the folder of your data set")
        files = [annotations] if annotations else list(_annotation_files(split))
        annotations = self._first(files, split, lambda file: (self.root / file).is_file())
        examples = _first_images(self.root / annotations)
        folders = [images] if images else _image_folders(split, annotations)
        folder = self._first(
            folders,
            split,
            lambda folder: any((self.root / folder / name).is_file() for name in examples),
            f" ({annotations} lists {examples[0]!r})",
        )
        return CocoData(self.root / annotations, self.root / folder, self.categories)

    def _first(self, candidates: Sequence[Path], split: str, fits: Callable[[Path], bool], why: str = "") -> Path:
        for candidate in candidates:
            if fits(candidate):
                return candidate
        what = "images" if why else "annotations"
        tried = ", ".join(str(candidate) for candidate in candidates)
        remedy = _LAYOUT.format(root=self.root, split=split)
        raise InputError(self.root, f"has no {what} for {split}{why}; looked at {tried}", remedy)


def _annotation_files(split: str) -> Iterator[Path]:
    for name in _SPLITS[split]:
        yield Path("annotations", f"{name}.json")
        yield Path("annotations", f"instances_{name}.json")
        yield Path(name, "_annotations.coco.json")
        yield Path(name, "annotations.json")
        yield Path(f"{name}.json")


def _image_folders(split: str, annotations: Path) -> list[Path]:
    """A folder with the name of the split, a common folder, or that of the annotations."""
    of_split = [Path(folder, name) for name in _SPLITS[split] for folder in ("", "images")]
    return list(dict.fromkeys([*of_split, Path("images"), Path(), annotations.parent]))


def _first_images(annotations: Path) -> list[str]:
    """The first file names in a COCO file, without decoding it: it may be half a gigabyte."""
    names: list[str] = []
    with open(annotations, "rb") as stream:
        if annotations.stat().st_size:  # an empty file cannot be mapped
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
                matches = islice(re.finditer(rb'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")', content), _EXAMPLES)
                names = [json.loads(match[1]) for match in matches]
    if not names:
        raise InputError(annotations, "lists no image", 'expected COCO\'s {"images": [{"file_name": ...}], ...}')
    return names
