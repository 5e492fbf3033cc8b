"""Training a closed-set detector: its batches, its losses and its folder.

Shapes: B images of a batch, G boxes of one image, C classes, S side of the square that the model sees.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from formats.io.errors import InputError
from grounding_model.data.class_samples import ClassSample, ClassSamples
from grounding_model.data.sources import LabelledImages
from grounding_model.detector import choose_device
from grounding_model.inputs.prompt import Prompt
from grounding_model.model.boxes import xyxy_to_cxcywh
from grounding_model.model.targets import PaddedTargets, Target, pad_targets
from grounding_model.students.config import FromStudent
from grounding_model.students.detector import StudentDetector
from grounding_model.students.edge_losses import edge_losses
from grounding_model.students.files import save_student
from grounding_model.students.network import ClassPredictions, Student
from grounding_model.training.config import TrainConfig
from grounding_model.training.losses import QuerySet, divisors_of, matched_sets, set_losses
from grounding_model.training.memory import (
    MAX_BOXES,
    LiveStorages,
    MemoryEstimate,
    bytes_of,
    check_memory,
    describe_estimate,
)
from grounding_model.training.optimizer import freeze
from grounding_model.training.settings import LossSettings
from grounding_model.training.state import AUTOCAST

COUNTED = 2  # images of the step whose memory is counted; batch norm needs more than one


class ClassBatch(NamedTuple):
    """pixels: (B, 3, S, S), the model's input. known: (B, C) bool, the classes that each image was labelled for."""

    pixels: Tensor
    targets: list[Target]
    known: Tensor
    problems: list[str]

    def to(self, device: torch.device | str) -> ClassBatch:
        """A copy with its tensors on `device`, and the images in channels-last format."""
        pixels = self.pixels.to(device).contiguous(memory_format=torch.channels_last)
        targets = [target.to(device) for target in self.targets]
        return self._replace(pixels=pixels, targets=targets, known=self.known.to(device))


class ClassCollate:
    """Samples -> ClassBatch; an object, so that it can be passed to worker processes."""

    def __init__(self, student: Student) -> None:
        # Not the student itself, whose weights would be copied into every worker's memory.
        self._square = Student(nn.Identity(), student.names, student.image_size, student.mean, student.std)

    def __call__(self, samples: Sequence[ClassSample]) -> ClassBatch:
        pixels = [self._square.prepare(torch.from_numpy(sample.image.copy())[None]) for sample in samples]
        return ClassBatch(
            torch.cat(pixels),
            [_target(sample) for sample in samples],
            torch.from_numpy(np.stack([sample.known for sample in samples])),
            [problem for sample in samples for problem in sample.problems],
        )


def _target(sample: ClassSample) -> Target:
    """The target of a sample. Stretching the image changes neither fractions nor ratios of areas."""
    height, width = sample.image.shape[:2]
    classes = torch.from_numpy(sample.classes)
    corners = torch.from_numpy(sample.boxes) / torch.tensor([width, height, width, height], dtype=torch.float32)
    return Target(
        boxes=xyxy_to_cxcywh(corners),
        tokens=nn.functional.one_hot(classes, len(sample.known)).bool(),
        labels=classes,
        weights=torch.from_numpy(sample.weights),
        ignore=torch.from_numpy(sample.ignore),
        size=(height, width),
    )


class StudentObjective(nn.Module):
    """A student and the losses of its outputs: the teacher's, with classes in place of tokens, and D-FINE's own."""

    def __init__(self, model: Student, losses: LossSettings, autocast: torch.dtype | None = None) -> None:
        super().__init__()
        self.model = model
        self._losses, self._autocast = losses, autocast

    def forward(self, batch: ClassBatch, step: int = 0) -> dict[str, Tensor]:
        """The weighted parts of the loss of a batch, which is on the model's device.

        Raises FloatingPointError where an output is not finite.
        """
        with torch.autocast(batch.pixels.device.type, self._autocast, enabled=self._autocast is not None):
            predictions = self.model.predict_for_training(batch.pixels, batch.targets, batch.known)
        padded = pad_targets(batch.targets)
        sets = matched_sets(predictions, padded, self._losses)
        losses = set_losses(sets, padded, predictions.token_mask, self._losses)
        return losses | _losses_of_edges(predictions, padded, sets)


def _losses_of_edges(
    predictions: ClassPredictions, padded: PaddedTargets, sets: Sequence[QuerySet]
) -> dict[str, Tensor]:
    """D-FINE's own by the names of the others, `d1.loss_fgl`; the first answer has no distributions. None of others."""
    by_prefix = dict(zip((queries.prefix for queries in sets), zip(sets, divisors_of(sets, padded.boxes.device))))
    last = len(predictions.logits) - 1
    losses: dict[str, Tensor] = {}
    for kind, answers in (("", predictions), ("dn_", predictions.denoising)):
        if answers is None or answers.edges is None:
            continue
        prefixes = [("" if layer == last else f"d{layer}.") + kind for layer in range(1, last + 1)]
        matchings, divisors = zip(*((by_prefix[each][0].matching, by_prefix[each][1]) for each in prefixes))
        scores = answers.logits[-1].detach().float().sigmoid().amax(-1)
        found = edge_losses(answers.edges, answers.boxes[1:], scores, padded, matchings, divisors)
        losses |= {f"{prefix}{name}": value for prefix, each in zip(prefixes, found) for name, value in each.items()}
    return losses


class StudentLearner:
    """A closed-set detector of transformers, on the categories of its data sets."""

    weights_name = "student"
    best_name = "best-student"
    skips_parameters = True  # without a box in the batch nothing is denoised

    def __init__(self, config: TrainConfig, datasets: Sequence[LabelledImages]) -> None:
        assert isinstance(config.start, FromStudent)
        self._config = config
        from grounding_model.students.build import start_student

        self.model = start_student(config.start, config.start.names or names_of(datasets))

    def check_memory(self, device: torch.device) -> None:
        if self._config.check_memory:
            check_memory(estimate_student(self._config, self.model), device)

    def check_categories(self, datasets: Sequence[LabelledImages]) -> None:
        for index, dataset in enumerate(datasets):
            try:
                StudentDetector(self.model).classes_of(Prompt.categories(list(dataset.categories.values())))
            except InputError as error:
                raise InputError(
                    f"validate.{index}", str(error), "expected categories that it is trained for"
                ) from None

    def objective(self) -> StudentObjective:
        return StudentObjective(self.model, self._config.losses, AUTOCAST[self._config.precision])

    def samples(self, datasets: Sequence[LabelledImages]) -> ClassSamples:
        side = self.model.image_size
        augment = self._config.augment.fitted_to((side, side))
        return ClassSamples(datasets, augment, self.model.names, self._config.seed, side)

    def collate(self) -> ClassCollate:
        return ClassCollate(self.model)

    def detector(self, device: torch.device) -> StudentDetector:
        return StudentDetector(self.model, device)

    def save(self, path: Path, provenance: Mapping[str, str]) -> None:
        save_student(path, self.model, provenance, half=self._config.half)


def names_of(datasets: Sequence[LabelledImages]) -> tuple[str, ...]:
    """The classes of a student that names none: the first data set's. Raises InputError where it has none."""
    names = tuple(datasets[0].categories.values())
    if not names:
        remedy = "expected a label map, or start.names"
        raise InputError("datasets.0", "has no categories", remedy)
    return names


def describe_student_memory(config: TrainConfig) -> str:
    """Like describe_memory, for a student. The number of classes hardly matters, so one class is assumed."""
    assert isinstance(config.start, FromStudent)
    from grounding_model.students.build import start_student

    model = start_student(config.start, config.start.names or ("object",))
    freeze(model, config.frozen)
    return describe_estimate(estimate_student(config, model), choose_device(config.device))


def estimate_student(config: TrainConfig, model: Student) -> MemoryEstimate:
    """The memory of a step with MAX_BOXES boxes per image.

    A step of two images is run on a copy of the model on the CPU, and what it allocates is counted: transformers reads
    values on the way, which tensors without content do not have. Neither the model nor PyTorch's generator changes.
    """
    with torch.random.fork_rng(devices=[]):
        activations = _peak_of_a_step(config, copy.deepcopy(model).cpu().train()) * config.batch_size // COUNTED
    trained = bytes_of(parameter for parameter in model.parameters() if parameter.requires_grad)
    weights = bytes_of(model.state_dict().values())
    return MemoryEstimate(
        weights=weights,
        gradients=trained * (2 if config.processes > 1 else 1),  # reduced in buckets
        optimizer=2 * trained,
        average=weights if config.moving_average else 0,
        activations=activations,
        batch_size=config.batch_size,
        image_size=(model.image_size, model.image_size),
        precision=config.precision,
        recompute=False,
    )


def _peak_of_a_step(config: TrainConfig, model: Student) -> int:
    """Peak bytes of COUNTED images during forward and backward pass, without gradients."""
    side, classes = model.image_size, len(model.names)
    boxes = torch.cat([torch.rand(MAX_BOXES, 2), torch.full((MAX_BOXES, 2), 0.1)], dim=1)
    named, each = torch.ones(MAX_BOXES, classes).bool(), torch.ones(MAX_BOXES)
    target = Target(boxes, named, torch.zeros(MAX_BOXES, dtype=torch.int64), each, ~each.bool(), (side, side))
    batch = ClassBatch(torch.rand(COUNTED, 3, side, side), [target] * COUNTED, named[:COUNTED], [])
    objective = StudentObjective(model, config.losses, AUTOCAST[config.precision])
    with LiveStorages(fake=False) as live:
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(live.exclude_gradient)
        torch.stack(list(objective(batch).values())).sum().backward()
    return live.peak
