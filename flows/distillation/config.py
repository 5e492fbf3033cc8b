"""The configuration of a distillation: labels, student, training, and what the student is compared with."""

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
    """The default training configuration of a student."""
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
    """The configuration of `groundhog distill`.

    labels: an ODVG file with detections. images: the folder to which its file names are relative. label_map: None for
    the one beside it.
    trust: "labels" uses the weights and `ignore` of the file; "scores" also weights each box by its score, unless it
    has no score (a person's box) or already has a weight; "none" gives all boxes weight 1 and removes those marked
    `ignore`.
    train: its datasets are added to the labels; its start names the student. teacher: weights to compare with; "" for
    none. truth: labelled images for the comparison, not used in training. licence: of the teacher's weights; "" if
    unknown.
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
