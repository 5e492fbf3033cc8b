"""A student with the interface of grounding_model.detector: takes images and categories, returns records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from formats.io.errors import InputError, expected_one_of
from formats.io.plurals import first_of
from formats.record import Instance, Record
from grounding_model.inputs.image import pixels_of
from grounding_model.inputs.predict import (
    Failure,
    ImageSource,
    PredictSettings,
    ScoredRecord,
    image_list,
    records_of,
)
from grounding_model.inputs.prompt import Prompt, clean_name, prompts_of
from grounding_model.inputs.read_ahead import READERS, in_batches, read_ahead
from grounding_model.students.network import Student

STRIDE = 32  # pixels; of the coarsest map


class Loaded(NamedTuple):
    """A loaded image. pixels: (1, 3, S, S), the model's input. classes: the student's classes for each label."""

    filename: str
    height: int
    width: int
    pixels: Tensor
    prompt: Prompt
    classes: list[list[int]]


class ClosedSetDetector:
    """A detector of fixed classes, with the interface of grounding_model.detector.Detector."""

    names: tuple[str, ...]

    def predict(self, images: Any, prompt: Any = None, **settings: Any) -> list[Record]:
        """Returns one record per image; raises InputError at the first unusable image, as Detector.predict does.

        prompt: None means all classes.
        """
        images = image_list(images)
        wanted = Prompt.categories(self.names) if prompt is None else prompts_of(prompt, len(images))
        return records_of(self.predict_each(images, wanted, **settings))

    def predict_each(
        self, images: Iterable[ImageSource], prompt: Prompt | Iterable[Prompt], **settings: Any
    ) -> Iterator[Record | Failure]:
        """Yields one outcome per image, in order; see Detector.predict_each."""
        raise NotImplementedError

    def classes_of(self, prompt: Prompt) -> list[list[int]]:
        """The detector's classes for each label of a prompt. Raises InputError for classes it was not trained on."""
        return classes_of(self.names, prompt)

    def _pairs(
        self, images: Iterable[ImageSource], prompt: Prompt | Iterable[Prompt]
    ) -> Iterable[tuple[ImageSource, Prompt]]:
        """Each image with its prompt. Raises InputError for a shared prompt with other classes."""
        if not isinstance(prompt, Prompt):
            return zip(images, prompt, strict=True)
        self.classes_of(prompt)
        return ((image, prompt) for image in images)


class StudentDetector(ClosedSetDetector):
    """A student on a device, with the interface of grounding_model.detector.Detector.

    It detects only the classes it was trained on, matched by name in any case: a prompt with other names, phrases or an
    expression raises InputError. Images are stretched to the square used in training, or to the short side of `scale`.
    """

    def __init__(self, student: Student, device: torch.device | str = "cpu") -> None:
        self.student = student.to(device).eval()
        self.device = torch.device(device)
        self.provenance = student.provenance
        self.names = student.names

    def predict_each(
        self, images: Iterable[ImageSource], prompt: Prompt | Iterable[Prompt], **settings: Any
    ) -> Iterator[Record | Failure]:
        """Yields one outcome per image, in order; see Detector.predict_each. chunk_size and mixed_sizes are ignored."""
        chosen = PredictSettings(**settings)
        read = partial(self._read, side=side_for(chosen.scale, self.student.image_size))
        loaded = read_ahead(self._pairs(images, prompt), read, self._with_classes, ahead=READERS + chosen.batch_size)
        label = partial(self._label, settings=chosen)
        return in_batches(loaded, chosen.batch_size, lambda batch: partial(label, batch), ahead=0)

    def _read(self, image: ImageSource, filename: str, side: int) -> tuple[int, int, Tensor]:
        """Height and width of the stored image, and its pixels as Loaded has them."""
        array = pixels_of(image, filename)
        pixels = self.student.prepare(torch.from_numpy(np.array(array))[None], side)
        height, width = array.shape[:2]
        return height, width, pixels

    def _with_classes(self, filename: str, picture: tuple[int, int, Tensor], prompt: Prompt) -> Loaded:
        return Loaded(filename, *picture, prompt, self.classes_of(prompt))

    @torch.no_grad()
    def _label(self, images: Sequence[Loaded], settings: PredictSettings) -> list[Record]:
        if not images:
            return []
        scores, boxes = self.student.score(torch.cat([image.pixels for image in images]).to(self.device))
        if scores.isnan().any() or not boxes.isfinite().all():
            remedy = "expected weights from a training that did not diverge"
            raise InputError("weights", "the model's output contains NaN or infinite values", remedy)
        return [_record(*each, settings) for each in zip(images, scores.cpu(), boxes.cpu())]


def classes_of(names: Sequence[str], prompt: Prompt) -> list[list[int]]:
    """The classes that each label of a prompt stands for, as indices into the student's class names.

    Raises InputError for an unknown name, and for a prompt that is not a list of categories.
    """
    known = first_of(names, 10)
    if prompt.kind != "categories":
        what = f"'{prompt.text}' is {'an expression' if prompt.kind == 'expression' else 'a caption'}"
        raise InputError("prompt", what, f"expected names of this detector's classes: {known}")
    class_of = {_words(name): label for label, name in enumerate(names)}
    classes: list[list[int]] = [[] for _ in prompt.labels]
    for entry in prompt.entries:
        if (label := class_of.get(_words(entry.name))) is not None:
            classes[entry.label].append(label)
    for name, matching in zip(prompt.labels, classes):
        if not matching:
            remedy = expected_one_of(names, name)
            raise InputError(f"prompt '{name}'", "is not one of this detector's fixed classes", remedy)
    return classes


def side_for(scale: tuple[int, int] | None, image_size: int) -> int:
    """Side of the input square for a scale (short, long side): the short side, rounded to a multiple of the stride."""
    return image_size if scale is None else max(STRIDE, round(min(scale) / STRIDE) * STRIDE)


def _record(image: Loaded, scores: Tensor, boxes: Tensor, settings: PredictSettings) -> Record:
    """scores (Q, C), boxes (Q, 4) in fractions -> the best (query, label) pairs in pixels of the stored image."""
    by_label = torch.stack([scores[:, classes].amax(1) for classes in image.classes], dim=1)
    best, position = by_label.flatten().topk(min(settings.max_per_image, by_label.numel()))
    kept = int((best >= settings.score_threshold).sum())
    query, label = position[:kept] // by_label.shape[1], position[:kept] % by_label.shape[1]
    pixels = boxes[query] * boxes.new_tensor([image.width, image.height] * 2)
    rows = zip(pixels.tolist(), label.tolist(), best.tolist())
    instances = tuple(Instance(tuple(box), n, image.prompt.labels[n], score) for box, n, score in rows)
    size = (image.filename, image.height, image.width)
    if settings.return_all_scores:
        return ScoredRecord(*size, instances=instances, all_scores=by_label[query].numpy())
    return Record(*size, instances=instances)


def _words(name: str) -> str:
    """A name as prompts spell it, in lower case."""
    return " ".join(clean_name(name).casefold().split())
