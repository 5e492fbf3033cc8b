"""Every setting of a distillation: which labels, which student, how it trains, and what it is compared with."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from flows.distillation.defaults import STEPS, TRUST, WORK_DIR, Trust
from formats.io.errors import InputError
from grounding_model.data.augment import AugmentConfig, Photometric
from grounding_model.data.sources import TrainingData
from grounding_model.students.config import DEFAULT_STUDENT, FromStudent
from grounding_model.training.config import TrainConfig
from grounding_model.training.settings import LossSettings, OptimizerConfig


def default_training(work_dir: Path = WORK_DIR) -> TrainConfig:
    """How a student trains unless the configuration says otherwise."""
    return TrainConfig(
        work_dir=work_dir,
        start=FromStudent(),
        steps=STEPS,
        batch_size=16,
        moving_average=0.99,
        augment=AugmentConfig(short_sides=(), photometric=Photometric(0.2, 0.4, blur=1.0, noise=0.06)),
        losses=LossSettings(iou_aware=True),  # as RT-DETR is trained (arXiv 2304.08069)
        optimizer=OptimizerConfig(
            learning_rate=5e-4,
            weight_decay=0.05,
            decay_vectors=False,
            multipliers={},
            clip_norm=1.0,
            schedule="cosine",
            warmup_steps=20,
        ),
    )


@dataclass(frozen=True)
class DistillConfig:
    """A run of `groundhog distill`.

    labels: an ODVG file of detections. images: folder that its filenames are relative to. label_map: None: beside it.
    trust: "labels" trains on weights and `ignore` as the file has them; "scores" also weighs a box by its score, where
    it has one and no weight of its own: a person's boxes have none; "none" takes every label as true, and what is
    marked `ignore` as absent.
    train: its datasets are mixed in; its start says which student. teacher: its weights, for the table; "" without.
    truth: labelled images that neither has seen, for the table. licence: of the teacher's weights; "" where unknown.
    """

    labels: Path
    images: Path
    label_map: Path | None = None
    trust: Trust = TRUST
    train: TrainConfig = field(default_factory=default_training)
    teacher: str = ""
    text_encoder: Path | None = None
    truth: TrainingData | None = None
    licence: str = ""
    onnx: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.train.start, FromStudent):
            raise InputError(
                "train.start", "is not a student", f'expected kind = "student", student = "{DEFAULT_STUDENT}"'
            )

    @property
    def work_dir(self) -> Path:
        return self.train.work_dir

    @property
    def start(self) -> FromStudent:
        assert isinstance(self.train.start, FromStudent)
        return self.train.start
