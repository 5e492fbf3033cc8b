"""The layouts of benchmarks: a dataclass for each, which a configuration selects by its `kind`.

readers.py turns each into a Benchmark: the ground truth, the names to detect, the usual metric.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from formats.images import IMAGE_SUFFIXES
from formats.io.files import sha256_of
from formats.record import Record
from grounding_model.data.sources import TrainingData
from grounding_model.metrics.lvis import Federation

Metric = Literal["coco", "lvis", "phrases", "expressions", "generalized_expressions", "described_objects"]


@dataclass(frozen=True)
class PublishedData:
    """Ground truth in its published form, and its images.

    kind             annotations                                  image_root
    voc              Annotations, a folder of XML files           JPEGImages
    cityscapes       gtFine/val, with *_instanceIds.png           leftImg8bit/val
    objects365v1/v2  the JSON file; misspelt names are corrected  the folder to which file names are relative
    lvis             the JSON file of LVIS v1                     the folder of train2017 and val2017
    flickr30k        MDETR's final_flickr_separateGT_*.json       flickr30k_images
    """

    kind: Literal["voc", "cityscapes", "objects365v1", "objects365v2", "lvis", "flickr30k"]
    annotations: Path
    image_root: Path


@dataclass(frozen=True)
class YoloData:
    """Ground truth in YOLO text files. categories: their names, as "coco", names.txt or a label map (.json)."""

    labels: Path
    image_root: Path
    categories: str
    kind: Literal["yolo"] = "yolo"


@dataclass(frozen=True)
class OdinwData:
    """One data set of Object Detection in the Wild. split: a folder such as odinw/pothole/valid, or its JSON.

    prompts: category -> prefix, name and suffix of its words in the prompt, as for Prompt.categories(enhance=...).
    """

    split: Path
    prompts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    kind: Literal["odinw"] = "odinw"


@dataclass(frozen=True)
class OdinwSuite:
    """Several ODinW data sets, scored separately. sets: name -> split below root. prompts: name -> as in OdinwData."""

    root: Path
    sets: Mapping[str, str]
    prompts: Mapping[str, Mapping[str, Mapping[str, str]]] = field(default_factory=dict)
    kind: Literal["odinw_suite"] = "odinw_suite"


@dataclass(frozen=True)
class ExpressionData:
    """Referring expressions in files of MDETR, such as finetune_refcoco_testA.json or finetune_grefcoco_val.json.

    data_set: only images with this `dataset_name`; final_refexp_val.json contains refcoco, refcoco+ and refcocog.
    """

    annotations: Path
    image_root: Path
    data_set: str | None = None
    kind: Literal["expressions"] = "expressions"


@dataclass(frozen=True)
class RefsData:
    """Referring expressions in the form of RefCOCO: instances.json, and refs(unc).p or grefs(unc).json.

    split: train, val, test, testA or testB.
    """

    instances: Path
    refs: Path
    image_root: Path
    split: str = "val"
    kind: Literal["refs"] = "refs"


@dataclass(frozen=True)
class DescribedData:
    """D3: d3_json/d3_full_annotations.json, and the folder d3_pkl with the descriptions to query in each image."""

    annotations: Path
    scenarios: Path
    image_root: Path
    kind: Literal["described_objects"] = "described_objects"


@dataclass(frozen=True)
class GlyphQuestionData:
    """Glyph scenes with queries like those of gRefCOCO, D3 or LVIS, drawn when needed."""

    family: Literal["generalized_expressions", "described_objects", "lvis"]
    domain: str = "source"
    count: int = 100
    seed: int = 900
    kind: Literal["glyph_questions"] = "glyph_questions"


BenchmarkData = (
    GlyphQuestionData | TrainingData | PublishedData | YoloData | OdinwData | ExpressionData | RefsData | DescribedData
)


class Benchmark(NamedTuple):
    """A benchmark. records: the ground truth. image_root: the folder of their file names. metric: the default one.

    names: categories or descriptions to detect, () for captions. areas: as for evaluate_coco. federation: for LVIS.
    queried: for each record, the names to query in its image; None: all names in every image. absence: descriptions of
    something absent. prompts: other words for some names, as for Prompt.categories(enhance=...).
    """

    records: list[Record]
    image_root: Path
    metric: Metric
    names: tuple[str, ...] = ()
    areas: Mapping[str, Sequence[float]] | None = None
    federation: Federation | None = None
    queried: list[tuple[str, ...]] | None = None
    absence: tuple[str, ...] = ()
    prompts: Mapping[str, Mapping[str, str]] = {}

    def annotated_names(self, record: Record) -> frozenset[str]:
        """The names on which a record is scored: all, or in LVIS those that were annotated for the image."""
        if self.federation is None:
            return frozenset(self.names)
        present = frozenset(each.category for each in record.instances or ())
        return present | self.federation.absent.get(record.filename, frozenset())


def paths_of(data: BenchmarkData | OdinwSuite) -> list[Path]:
    """The files and folders in the settings of a data set, whether they exist or not."""
    return [value for value in vars(data).values() if isinstance(value, Path)]


def file_hashes(data: BenchmarkData | OdinwSuite) -> list[str]:
    """The SHA-256 of each file and folder of annotations in the settings of a data set, in order.

    For images in such a folder, only name and size are hashed. `image_root` is left out: it may be large and remote.
    """
    paths = (value for name, value in vars(data).items() if isinstance(value, Path) and name != "image_root")
    return [_folder_hash(path) if path.is_dir() else sha256_of(path) for path in paths if path.exists()]


def _folder_hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = str(path.stat().st_size) if path.suffix.lower() in IMAGE_SUFFIXES else sha256_of(path)
        digest.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode())
    return digest.hexdigest()
