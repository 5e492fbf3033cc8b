"""A student with the interface of grounding_model.detector: takes images and categories, returns records."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from formats.io.errors import InputError, expected_one_of
from formats.io.plurals import many
from formats.record import Instance, Record
from grounding_model.inputs.image import check_image, read_image
from grounding_model.inputs.predict import (
    Failure,
    ImageSource,
    PredictSettings,
    ScoredRecord,
    as_source,
    image_list,
    records_of,
)
from grounding_model.inputs.prompt import Prompt, clean_name
from grounding_model.students.network import Student

READERS = 4  # threads that decode and resize images
STRIDE = 32  # pixels; of the coarsest map


class Loaded(NamedTuple):
    """A loaded image. pixels: (1, 3, S, S), the model's input. classes: the student's classes for each label."""

    filename: str
    height: int
    width: int
    pixels: Tensor
    prompt: Prompt
    classes: list[list[int]]


class StudentDetector:
    """A student on a device, with the interface of grounding_model.detector.Detector.

    It detects only the classes it was trained on, matched by name in any case: a prompt with other names, phrases or an
    expression raises InputError. Images are stretched to the square used in training, or to the short side of `scale`.
    """

    def __init__(self, student: Student, device: torch.device | str = "cpu") -> None:
        self.student = student.to(device).eval()
        self.device = torch.device(device)
        self.provenance = student.provenance

    def predict(self, images: Any, prompt: Any = None, **settings: Any) -> list[Record]:
        """Returns one record per image; raises InputError at the first unusable image, as Detector.predict does.

        prompt: None means all classes.
        """
        images = image_list(images)
        return records_of(self.predict_each(images, self._prompts(prompt, len(images)), **settings))

    def predict_each(
        self, images: Iterable[ImageSource], prompt: Prompt | Iterable[Prompt], **settings: Any
    ) -> Iterator[Record | Failure]:
        """Yields one outcome per image, in order; see Detector.predict_each. chunk_size and mixed_sizes are ignored."""
        chosen = PredictSettings(**settings)
        if isinstance(prompt, Prompt):
            self.classes_of(prompt)  # raises before the first image
            pairs: Iterable[tuple[ImageSource, Prompt]] = ((image, prompt) for image in images)
        else:
            pairs = zip(images, prompt, strict=True)
        return self._answers(pairs, chosen)

    def classes_of(self, prompt: Prompt) -> list[list[int]]:
        """The student's classes for each label of a prompt. Raises InputError for classes it was not trained on."""
        return classes_of(self.student.names, prompt)

    def _prompts(self, prompt: Any, count: int) -> Prompt | list[Prompt]:
        if prompt is None:
            return Prompt.categories(self.student.names)
        if isinstance(prompt, Prompt):
            return prompt
        entries = list(prompt) if not isinstance(prompt, str) else prompt
        if not entries or isinstance(entries, str) or not all(isinstance(each, Prompt | list) for each in entries):
            return Prompt.categories(entries)
        if len(entries) != count:
            what = f"{many(len(entries), 'prompt')} for {many(count, 'image')}"
            raise InputError("prompt", what, "expected one for all images, or one for each")
        return [each if isinstance(each, Prompt) else Prompt.categories(each) for each in entries]

    def _answers(
        self, pairs: Iterable[tuple[ImageSource, Prompt]], settings: PredictSettings
    ) -> Iterator[Record | Failure]:
        waiting: list[Loaded | Failure] = []
        for outcome in chain(self._read_ahead(pairs, settings), [None]):
            if outcome is not None:
                waiting.append(outcome)
            images = [each for each in waiting if isinstance(each, Loaded)]
            if outcome is None or len(images) == settings.batch_size:
                records = iter(self._label(images, settings) if images else [])
                yield from (each if isinstance(each, Failure) else next(records) for each in waiting)
                waiting = []

    def _read_ahead(
        self, pairs: Iterable[tuple[ImageSource, Prompt]], settings: PredictSettings
    ) -> Iterator[Loaded | Failure]:
        """Loads images in order, decoding a few more than a batch in advance."""
        side = side_for(settings.scale, self.student.image_size)
        waiting: deque[Future[Loaded | Failure]] = deque()
        with ThreadPoolExecutor(READERS, thread_name_prefix="read-image") as readers:
            try:
                for index, (item, prompt) in enumerate(pairs):
                    image = as_source(item)
                    filename = f"image-{index}" if isinstance(image, np.ndarray) else str(image)
                    waiting.append(readers.submit(self._load, image, filename, prompt, side))
                    if len(waiting) >= READERS + settings.batch_size:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def _load(self, image: ImageSource, filename: str, prompt: Prompt, side: int) -> Loaded | Failure:
        try:
            array = check_image(image, filename) if isinstance(image, np.ndarray) else read_image(image)
            pixels = self.student.prepare(torch.from_numpy(np.array(array))[None], side)
            height, width = array.shape[:2]
            return Loaded(filename, height, width, pixels, prompt, self.classes_of(prompt))
        except InputError as error:
            return Failure(filename, error)

    @torch.no_grad()
    def _label(self, images: Sequence[Loaded], settings: PredictSettings) -> list[Record]:
        scores, boxes = self.student.score(torch.cat([image.pixels for image in images]).to(self.device))
        if scores.isnan().any() or not boxes.isfinite().all():
            remedy = "expected weights from a training that did not diverge"
            raise InputError("weights", "the model's output contains NaN or infinite values", remedy)
        return [_record(*each, settings) for each in zip(images, scores.cpu(), boxes.cpu())]


def classes_of(names: Sequence[str], prompt: Prompt) -> list[list[int]]:
    """The classes that each label of a prompt stands for, as indices into the student's class names.

    Raises InputError for an unknown name, and for a prompt that is not a list of categories.
    """
    known = ", ".join(names[:10]) + (" …" if len(names) > 10 else "")
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
