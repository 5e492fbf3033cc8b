"""The configuration of a self-training run: the data, how they are labelled, how many rounds, and when to go on."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from flows.distillation.defaults import STEPS, TRUST, Trust
from flows.evaluation.benchmarks import BenchmarkData
from flows.labelling.settings import DetectionSettings, Execution, View
from flows.policies.policy import Policy
from flows.self_training.gate import Gate
from flows.self_training.labelled import KnownLabels
from formats.io.errors import InputError
from formats.io.ranges import Count, CountOrZero, Factor, Name, PositiveShare, Seed, check_ranges
from formats.io.toml_config import read_config
from grounding_model.students.config import FromStudent
from grounding_model.training.config import FromWeights, TrainConfig


@dataclass(frozen=True)
class ImageFolder:
    """Images and the categories to look for. annotations: the file to label; bootstrapped if it does not exist.

    label_map: None: the one beside the annotations. how_to_get: the remedy in the error about missing images.
    """

    images: Path
    annotations: Path
    categories: tuple[str, ...]
    label_map: Path | None = None
    how_to_get: str = "expected a folder of images"
    kind: Literal["images"] = "images"


@dataclass(frozen=True)
class CaptionedImages:
    """Images with captions, in any form that bootstrap_vg takes. annotations: bootstrapped if it does not exist.

    phrases: a JSON file, caption -> phrases to look for, in place of NLTK's noun phrases.
    """

    images: Path
    captions: Path
    annotations: Path
    phrases: Path | None = None
    how_to_get: str = "expected a folder of images and their captions"
    kind: Literal["captions"] = "captions"


@dataclass(frozen=True)
class GlyphScenes:
    """Unlabelled scenes of the glyph world, drawn into the work_dir; needs no other files.

    task: "captions" writes one caption per scene, whose noun phrases are looked for in place of the categories.
    """

    domain: str = "cats"
    count: Count = 144
    seed: Seed = 0
    categories: tuple[str, ...] = ("cat",)
    task: Literal["od", "captions"] = "od"
    kind: Literal["glyphs"] = "glyphs"


@dataclass(frozen=True)
class Labelling(DetectionSettings, Execution):
    """How a round labels. workers: on train.device if they name no devices.

    views: further views of every image, whose boxes are merged; each takes as long as another labelling.
    """

    views: tuple[View, ...] = ()

    def __post_init__(self) -> None:
        DetectionSettings.__post_init__(self)
        Execution.__post_init__(self)


@dataclass(frozen=True)
class StudentStage:
    """The last stage: a small detector trained on the last labels that passed the gate, in WORK_DIR/student.

    Other settings are those of `groundhog distill`. licence: of the first round's weights; "" if unknown.
    """

    start: FromStudent = field(default_factory=FromStudent)
    steps: Count = STEPS
    trust: Trust = TRUST
    licence: str = ""
    onnx: bool = True


@dataclass(frozen=True)
class SelfTrainConfig:
    """The configuration of one run of the loop.

    train: how a round trains. Its work_dir contains all rounds, its start is the first round's model, and its datasets
    are the pretraining data to mix in, if any.
    """

    name: Name
    data: ImageFolder | CaptionedImages | GlyphScenes
    train: TrainConfig
    rounds: CountOrZero = 1  # number of trainings; the images are labelled once more than that
    ratio: Factor = 1.0  # pretraining images for each pseudo-labelled one; 0 leaves the pretraining data out
    student: PositiveShare = (
        1.0  # weight of a trained model in the mean with the first round's (WiSE-FT); 1 uses it unchanged
    )
    policy: Policy = field(default_factory=Policy)
    labelling: Labelling = field(default_factory=Labelling)
    labelled: KnownLabels | None = None  # existing labels; the first model is trained on them
    evaluation: BenchmarkData | None = None  # labelled images or captions that no round trains on
    evaluated_categories: tuple[str, ...] | None = None  # None: all categories of the evaluation data
    gate: Gate = field(default_factory=Gate)
    review: bool | tuple[CountOrZero, ...] = False  # rounds after which the loop waits for a review; true: all
    distill: StudentStage | None = None  # after the last round

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.labelled is not None and not isinstance(self.data, ImageFolder):
            raise InputError("labelled", f"is set for {self.data.kind}", 'expected data of kind = "images"')
        if self.distill is not None and "captions" in (self.data.kind, getattr(self.data, "task", "")):
            raise InputError("distill", "is set for captions", "expected data with categories: a student has classes")
        if not isinstance(self.train.start, FromWeights):
            raise InputError("train.start", "random weights cannot label", 'expected kind = "weights"')

    def waits_after(self, number: int) -> bool:
        """Whether the loop waits for a person before it trains on the labels of this round."""
        return self.review if isinstance(self.review, bool) else number in self.review

    @property
    def start(self) -> FromWeights:
        """The first round's model."""
        assert isinstance(self.train.start, FromWeights)
        return self.train.start


def read_self_train(path: str | Path, overrides: tuple[str, ...] = ()) -> SelfTrainConfig:
    """Reads the configuration from a TOML file. Raises InputError if it is not valid."""
    return read_config(path, SelfTrainConfig, overrides)
