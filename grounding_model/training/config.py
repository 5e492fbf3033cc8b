"""All settings of a training run. A run is one flat TOML file, read by formats.io.toml_config."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

from formats.io.errors import InputError, expected_one_of
from formats.io.ranges import Amount, Count, CountOrZero, Factor, Pixels, Range, Seed, Share, check_ranges
from grounding_model.data.augment import AugmentConfig
from grounding_model.data.captions import AbsentNames
from grounding_model.data.coco_folder import CocoFolder
from grounding_model.data.sources import TrainingData
from grounding_model.inputs.defaults import WEIGHTS
from grounding_model.model.config import VARIANTS, ModelConfig
from grounding_model.students.config import FromStudent
from grounding_model.training.settings import LossSettings, OptimizerConfig

Precision = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class FromWeights:
    """Start from a trained model, with a new optimizer. source, text_encoder: as in load_checkpoint."""

    source: str = WEIGHTS
    text_encoder: Path | None = None
    kind: Literal["weights"] = "weights"


@dataclass(frozen=True)
class FromScratch:
    """Start from random weights, except for the parts given here.

    tokenizer: "glyphs" for the words of the glyph world, or a folder with BERT's vocabulary.
    backbone, text_encoder: pretrained parts, as in grounding_model.checkpoints.pretrained_parts.
    variant: a name of grounding_model.model.config.VARIANTS; architecture: all dimensions, instead of
    a variant. rest: weights, as in load_checkpoint, for everything but the backbone and the neck, which joins it to
    the rest.
    """

    tokenizer: str
    variant: str | None = None
    architecture: ModelConfig | None = None
    backbone: Path | None = None
    text_encoder: str | None = None
    rest: str | None = field(default=None, repr=False)  # runs without it were recorded before there was one
    kind: Literal["scratch"] = "scratch"

    def __post_init__(self) -> None:
        if (self.variant is None) == (self.architecture is None):
            raise InputError(
                "start", "needs either variant or architecture", "expected variant = 'swin-t', for example"
            )
        if self.variant is not None and self.variant not in VARIANTS:
            raise InputError("start.variant", f"'{self.variant}'", expected_one_of(VARIANTS, self.variant))

    def model_config(self) -> ModelConfig:
        return self.architecture or VARIANTS[self.variant or ""]


@dataclass(frozen=True)
class RegionWords:
    """The auxiliary loss of grounding_model.training.region_words, for training from scratch."""

    weight: Factor = 0.0  # 0 switches it off
    alone_until: CountOrZero = 0  # the first steps train backbone, neck and text encoder with this loss only, fast


# Settings that change the speed or the output of a run, but not its result.
WITHOUT_EFFECT = frozenset(
    (
        "work_dir",
        "device",
        "threads",
        "workers",
        "recompute",
        "check_memory",
        "log_every",
        "tensorboard",
        "checkpoint_every",
        "validate",
        "validate_every",
        "validate_every_epochs",
        "validate_scale",
        "keep_best",
        "get",
    )
)


@dataclass(frozen=True)
class TrainConfig:
    """One run. The settings from `device` on change its speed and output, not its result."""

    work_dir: Path
    datasets: tuple[TrainingData, ...] = ()  # at least one, by the time training begins
    data: CocoFolder | None = None  # a folder in COCO format, instead of datasets and validate
    start: FromWeights | FromScratch | FromStudent = field(default_factory=FromWeights)
    seed: Seed = 0
    steps: Count | None = None  # exactly one of steps and epochs is set
    epochs: Amount | None = None
    batch_size: Count = 4  # images a process and forward pass
    accumulate: Count = 1  # forward passes a step: one step learns from processes x accumulate x batch_size images
    processes: Count = 1  # data-parallel processes, one a device; torchrun starts them
    group_by_aspect: bool = True  # portrait and landscape images in separate forward passes: less padding
    frozen: tuple[str, ...] = ()  # parameters whose name begins with one of these are not trained
    absent_names: AbsentNames = field(default_factory=AbsentNames)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    losses: LossSettings = field(default_factory=LossSettings)
    region_words: RegionWords = field(default_factory=RegionWords)
    # Of encoder and decoder in training; None: the architecture's own, 0 in the reference.
    dropout: Share | None = field(default=None, repr=False)
    moving_average: float = 0.0  # decay a step; the average is saved as the result. 0 switches it off
    precision: Precision = "float32"  # of the forward pass; weights are float32
    half: bool = False  # store the final weights as float16, at half the size
    device: str = "auto"  # "auto": the GPU if there is one
    threads: CountOrZero = 0  # of PyTorch in the training process; 0: PyTorch's default
    workers: Annotated[int, Range(0, 512)] = 1  # processes that prepare batches; 0 prepares them in this one
    recompute: bool = False  # recompute activations in the backward pass: much less memory, a quarter more time
    check_memory: bool = True  # estimate the memory before the first step, and stop if it will not fit
    log_every: Count = 20  # steps
    tensorboard: bool = False  # also write events to work_dir/tensorboard
    checkpoint_every: CountOrZero = 500  # steps between saved states; 0 saves none
    validate: tuple[TrainingData, ...] = ()  # AP of detection data during training
    validate_every: CountOrZero = 0  # steps; 0: never, unless validate_every_epochs is set
    validate_every_epochs: Amount | None = None  # instead of validate_every
    validate_scale: tuple[Pixels, Pixels] | None = (
        None  # short and long side of the images in validation; None: the model's
    )
    keep_best: bool = True  # save the weights with the highest mean AP as best.safetensors
    get: str = ""  # where to get the data and their layout; shown in the error if a file is missing

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise InputError("steps", f"is {self.steps} and epochs is {self.epochs}", "expected exactly one to be set")
        if self.validate_every and self.validate_every_epochs is not None:
            raise InputError("validate_every", "is set, and validate_every_epochs too", "expected one of them")
        check_ranges(self)
        if self.region_words.alone_until and not self.region_words.weight:
            raise InputError(
                "region_words.weight", "is 0, but alone_until is not", "expected a weight above 0, or alone_until = 0"
            )
        if not 0 <= self.moving_average < 1:
            raise InputError("moving_average", f"is {self.moving_average}", "expected 0 <= decay < 1")
        if self.dropout == 1:
            raise InputError("dropout", "is 1", "expected a share below 1")
        if self.dropout is not None and isinstance(self.start, FromStudent):
            raise InputError("dropout", "is set, but a student has its own", "expected it with MM-Grounding-DINO only")

    def with_folder(self) -> TrainConfig:
        """The same configuration with the folder `data`, if set, as data set and validation set.

        Raises InputError when its layout is unknown, or datasets or validate are set too.
        """
        if self.data is None:
            return self
        if self.datasets or self.validate:
            raise InputError("data", "is set, and datasets or validate too", "expected one of them")
        return replace(self, data=None, datasets=(self.data.train(),), validate=(self.data.validation(),))

    @property
    def total_batch_size(self) -> int:
        """Number of images in one step."""
        return self.processes * self.accumulate * self.batch_size

    @property
    def validates(self) -> bool:
        return bool(self.validate_every or self.validate_every_epochs)
