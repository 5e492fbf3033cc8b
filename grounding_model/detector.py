"""Images and prompts in, records out: the model as everybody outside this package sees it.

B images of a batch, Q queries, L tokens, E entities of a caption, C labels of a prompt
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import fields
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from formats.io.errors import InputError
from formats.io.notebook import html_table
from formats.io.plurals import many
from formats.record import Box, Instance, Record, Region
from grounding_model.checkpoints.weights import load_checkpoint
from grounding_model.inputs.defaults import DTYPE, DTYPES, WEIGHTS
from grounding_model.inputs.image import check_image, read_resized, resize_for_test
from grounding_model.inputs.image_batch import collate_pixels, normalise
from grounding_model.inputs.predict import (
    Failure,
    FeaturedRecord,
    ImageSource,
    PredictSettings,
    ScoredRecord,
    as_source,
    image_list,
    records_of,
)
from grounding_model.inputs.prompt import BuiltPrompt, Prompt
from grounding_model.inputs.tokens import CaptionTokenizer, count_tokens, tokenize, tokens_of_spans, unknown_phrases
from grounding_model.model.backbone import TimmFeatures
from grounding_model.model.boxes import suppress_overlaps
from grounding_model.model.grounding import GroundingModel, ImageFeatures, TextFeatures
from grounding_model.model.kernels.compiled_gather import use_compiled_gather
from grounding_model.model.kernels.cuda_graphs import ReplayedModel
from grounding_model.model.precision import choose_dtype, float32_products, use_bfloat16
from grounding_model.students.config import is_student

if TYPE_CHECKING:
    from grounding_model.students.detector import StudentDetector

logger = logging.getLogger(__name__)

PromptSource = Prompt | Sequence[str | tuple[str, ...]]

# Threads that decode and resize: a GPU takes more than 100 photos a second.
READERS = max(4, min(16, os.cpu_count() or 1))
CACHED_TEXTS = 64  # batches of captions whose features are kept: a list of 1,203 categories takes about 30 captions


class Chunk(NamedTuple):
    """One caption of a prompt. tokens: the columns of every entity, none for an expression. labels: of every entity."""

    caption: str
    tokens: list[list[int]]
    labels: tuple[int, ...]


class ReadyPrompt(NamedTuple):
    prompt: Prompt
    chunks: list[Chunk]


class Picture(NamedTuple):
    """height, width: of the stored image in pixels. pixels: (3, h, w) RGB as the model sees it, normalised float32, or
    uint8 for a GPU, to which it comes in a quarter of the time."""

    height: int
    width: int
    pixels: Tensor


class LoadedImage(NamedTuple):
    """One question: a prompt about a picture, which neighbours may share."""

    filename: str
    picture: Picture
    prompt: ReadyPrompt


class Detections(NamedTuple):
    """Boxes of one image, best first. boxes: (N, 4) x1, y1, x2, y2 in pixels of the stored image."""

    boxes: Tensor
    scores: Tensor  # (N,)
    labels: Tensor  # (N,) int64
    all_scores: Tensor  # (N, C) of every label of the prompt, NaN where the box's caption did not hold it; or (N, 0)


def load_detector(
    weights: str | Path = WEIGHTS,
    text_encoder: str | Path | None = None,
    device: str = "auto",
    dtype: str = DTYPE,
) -> Detector | StudentDetector:
    """A detector from whatever load_checkpoint reads, or from a student's folder.

    device: as torch names it; 'auto' is a GPU where there is one.

    dtype: float32; bfloat16, which rounds the large linear layers of the image side only; or auto, which is bfloat16
    where the device multiplies it natively. A student is small, and always float32.

    Raises InputError when the weights cannot be read, the device is not there, or the dtype is not one of these.
    """
    chosen = choose_device(device)
    if is_student(weights):
        # Both load transformers' models, which takes seconds.
        from grounding_model.students.detector import StudentDetector
        from grounding_model.students.files import load_student

        return StudentDetector(load_student(weights), chosen)
    checkpoint = load_checkpoint(weights, text_encoder)
    if isinstance(checkpoint.model.backbone, TimmFeatures):
        checkpoint.model.backbone.fold_batch_norms()
    return Detector(checkpoint.model, checkpoint.tokenizer, chosen, checkpoint.provenance, dtype)


def choose_device(name: str = "auto") -> torch.device:
    """Raises InputError when this machine has no such device."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        first_line = str(error).splitlines()[0]
        raise InputError("device", f"'{name}' cannot be used ({first_line})", "expected auto, cpu or cuda") from error
    return device


def fast_forward(model: GroundingModel) -> GroundingModel | ReplayedModel:
    """On a GPU: layers as single kernels where Triton is installed, and CUDA graphs of sizes that come again."""
    try:
        from grounding_model.model.kernels.choice import use_kernels
    except ImportError as error:  # Triton comes with PyTorch for GPUs, but not on every system
        logger.info("the plain layers answer, without Triton's kernels: %s", error)
    else:
        use_kernels(model)
    return ReplayedModel(model)


class Detector:
    """A model with its tokenizer on a device. provenance: how the weights came about, as their file tells it.

    dtype: as load_detector takes it; as an attribute, what 'auto' came to. bfloat16 changes the model in place.
    """

    gives_image_features = True  # labelling asks only detectors that say so

    def __init__(
        self,
        model: GroundingModel,
        tokenizer: CaptionTokenizer,
        device: torch.device | str = "cpu",
        provenance: Mapping[str, str] | None = None,
        dtype: str = DTYPE,
    ) -> None:
        try:
            self.dtype = choose_dtype(dtype, torch.device(device))
        except ValueError as error:
            raise InputError("dtype", f"'{dtype}'", f"expected {', '.join(DTYPES)}") from error
        self.model = model.to(device).eval()
        if self.dtype == "bfloat16":
            use_bfloat16(self.model)
        self.tokenizer = tokenizer
        self.device = torch.device(device)
        self.forward = fast_forward(self.model) if self.device.type == "cuda" else self.model
        if self.device.type == "cpu":
            use_compiled_gather(self.model)
        self.provenance = dict(provenance or {})
        self._texts: dict[tuple[str, ...], TextFeatures] = {}
        self._texts_version = -1
        self._warned: set[str] = set()

    def __repr__(self) -> str:
        return f"Detector({', '.join(f'{name}={value}' for name, value in self._description().items())})"

    def _repr_html_(self) -> str:
        return html_table("Detector", (), list((self._description() | self.provenance).items()))

    def _description(self) -> dict[str, str]:
        millions = sum(parameter.numel() for parameter in self.model.parameters()) / 1e6
        short, long = self.model.config.image_scale
        return {
            "parameters": f"{millions:.1f}M",
            "scale": f"({short}, {long})",
            "device": str(self.device),
            "dtype": self.dtype,
        }

    def predict(
        self, images: Sequence[ImageSource], prompt: PromptSource | Sequence[PromptSource], **settings: Any
    ) -> list[Record]:
        """The records of all images, in their order; see predict_each. Raises InputError at the first bad one.

        prompt: category names, a Prompt, or a list with one of them for each image. settings: as PredictSettings
        tells them, such as score_threshold=0.3 and batch_size=4.
        """
        images = image_list(images)
        return records_of(self.predict_each(images, _prompts_of(prompt, len(images)), **settings))

    def predict_each(
        self, images: Iterable[ImageSource], prompt: Prompt | Iterable[Prompt], **settings: Any
    ) -> Iterator[Record | Failure]:
        """One outcome an image, in order, while threads read the images ahead; memory holds a few batches.

        images: paths, or (h, w, 3) uint8 RGB. prompt: one for all, or an iterable with one each. A path that stands
        several times in a row, with other prompts, is read and runs through the backbone once.
        settings: as PredictSettings tells them.
        A record's filename is the path as given, "image-0" for an array. Categories become instances whose label is
        the index in the prompt; phrases become a region each, in their order; an expression one region over the
        caller's text. Boxes are sorted by score.

        Raises InputError for settings or a common prompt that cannot work, before the first image. A bad image or a
        bad prompt of one image is a Failure in its place, and the rest continues.
        """
        chosen = PredictSettings(**settings)
        pairs: Iterable[tuple[ImageSource, Callable[[], ReadyPrompt]]]
        if isinstance(prompt, Prompt):
            ready = self._ready(prompt, chosen.chunk_size)
            pairs = ((image, lambda: ready) for image in images)
        else:
            pairs = (
                (image, partial(self._ready, each, chosen.chunk_size))
                for image, each in zip(images, prompt, strict=True)
            )
        scale = chosen.scale or self.model.config.image_scale
        on_gpu = self.device.type == "cuda"
        read = partial(_read, scale=scale, for_gpu=on_gpu)
        loaded = _read_ahead(pairs, read, ahead=READERS + chosen.batch_size)
        # A GPU works on a batch while we make records of the one before.
        return _in_batches(loaded, chosen.batch_size, _Labeller(self, chosen), ahead=int(on_gpu))

    def captions(self, prompt: Prompt, chunk_size: int | None = None) -> list[str]:
        """What the model reads of a prompt: one caption, or one for each chunk."""
        return [chunk.caption for chunk in self._ready(prompt, chunk_size).chunks]

    def text_cache(self) -> dict[tuple[str, ...], TextFeatures]:
        """Features of captions by the captions of a batch, for as long as the weights stay: a training changes them."""
        weights = self.model.text_encoder.parameters()
        version = sum(weight._version for weight in weights if not weight.is_inference())  # others cannot be trained
        if version != self._texts_version:
            self._texts, self._texts_version = {}, version
        return self._texts

    def _ready(self, prompt: Prompt, chunk_size: int | None) -> ReadyPrompt:
        """Captions and token columns of a prompt; none for a caption without phrases.

        Raises InputError for a name of which the tokenizer leaves nothing, or which is too long for any caption.
        """
        budget = self.model.config.max_text_tokens - 2  # [CLS], [SEP]
        built = prompt.chunks(lambda text: count_tokens(text, self.tokenizer), budget, chunk_size)
        with_labels = [part for part in built if part.labels or prompt.kind == "expression"]
        return ReadyPrompt(prompt, [self._chunk(prompt, part) for part in with_labels])

    def _chunk(self, prompt: Prompt, part: BuiltPrompt) -> Chunk:
        columns = tokens_of_spans(part.caption, part.spans, self.tokenizer, self.model.config.max_text_tokens)
        for label, found in zip(part.labels, columns):
            if not found:
                name = prompt.labels[label]
                raise InputError(f"prompt '{name}'", "the tokenizer knows no token in it", "expected letters or digits")
        unknown = unknown_phrases(part.caption, columns, self.tokenizer)
        self._warn_of_unknown([prompt.labels[part.labels[index]] for index in unknown])
        return Chunk(part.caption, columns, part.labels)

    def _warn_of_unknown(self, names: Sequence[str]) -> None:
        """Once a name: a prompt is prepared again for every shard."""
        for name in names:
            if name not in self._warned:
                self._warned.add(name)
                remedy = "expected a name in the language of its tokenizer, or it finds nothing, or anything"
                logger.warning("prompt %r: the model knows no word of it ([UNK]); %s", name, remedy)


class Begun(NamedTuple):
    """A batch on its way: its answers are on the device, perhaps not there yet."""

    images: Sequence[LoadedImage]
    answers: list[tuple[int, Detections]]  # an image's place in the batch, what was found by one of its captions
    pooled: Tensor | None  # (B, K C) image features


class _Labeller:
    """Runs the model on loaded images; keeps the features of captions that come again and of the last picture."""

    def __init__(self, detector: Detector, settings: PredictSettings) -> None:
        self.detector = detector
        self.settings = settings
        self.texts = detector.text_cache()
        self.scorings: dict[int, tuple[Chunk, LabelScoring]] = {}
        self.last: tuple[Tensor, ImageFeatures] | None = None  # pixels as the model saw them, and their features

    def __call__(self, images: Sequence[LoadedImage]) -> Callable[[], list[Record]]:
        """Starts the work -> what waits for its end and gives the records."""
        if self.settings.mixed_sizes:
            return partial(self._records, self._batch(images))
        by_size: dict[tuple[int, ...], list[int]] = {}
        for index, image in enumerate(images):
            by_size.setdefault(image.picture.pixels.shape, []).append(index)
        begun = [(indices, self._batch([images[index] for index in indices])) for indices in by_size.values()]

        def finish() -> list[Record]:
            records: dict[int, Record] = {}
            for indices, batch in begun:
                records |= zip(indices, self._records(batch))
            return [records[index] for index in range(len(images))]

        return finish

    @torch.inference_mode()
    def _batch(self, images: Sequence[LoadedImage]) -> Begun:
        with float32_products(self.detector.dtype, self.detector.device):
            return self._begin(images)

    def _begin(self, images: Sequence[LoadedImage]) -> Begun:
        features = self._encode_images([image.picture.pixels for image in images])
        answers: list[tuple[int, Detections]] = []
        for chunks in zip_longest(*(image.prompt.chunks for image in images)):
            # An image whose prompt has no chunk left runs along with another's caption, and gets nothing from it.
            filler = next(chunk.caption for chunk in chunks if chunk)
            captions = [chunk.caption if chunk else filler for chunk in chunks]
            shared = set(captions) == {filler}  # a text of one caption is that of every image
            text = self._encode_text((filler,) if shared else tuple(captions))
            grounding = self.detector.forward.ground(features, text)
            last = grounding.logits[-1].float(), grounding.boxes[-1].float()
            present = [index for index, chunk in enumerate(chunks) if chunk]
            answers += zip(present, self._answers(*last, chunks, images))
        pooled = pooled_features(features) if self.settings.return_image_feature else None
        return Begun(images, answers, pooled)

    @torch.inference_mode()
    def _records(self, batch: Begun) -> list[Record]:
        found: list[list[Detections]] = [[_nothing(self._columns(image))] for image in batch.images]
        for (index, _), detections in zip(batch.answers, _to_cpu([answer for _, answer in batch.answers])):
            found[index].append(_in_pixels(detections, batch.images[index].picture))
        records = [self._record(image, parts) for image, parts in zip(batch.images, found)]
        if batch.pooled is None:
            return records
        pooled = batch.pooled.cpu().numpy()
        return [_record_with(FeaturedRecord, record, image_feature=row) for record, row in zip(records, pooled)]

    def _answers(
        self, logits: Tensor, boxes: Tensor, chunks: Sequence[Chunk | None], images: Sequence[LoadedImage]
    ) -> list[Detections]:
        """(B, Q, L) logits and (B, Q, 4) boxes -> one for each image that has a chunk."""
        count = self.settings.max_per_chunk or self.settings.max_per_image
        first = chunks[0]
        if first is not None and all(chunk is first for chunk in chunks):  # mostly: one prompt for all
            together = _best_pairs(logits, boxes, self._scoring(first), count, self._columns(images[0]))
            return [Detections(*rows) for rows in zip(*together)]
        return [
            _best_pairs(*answer, self._scoring(chunk), count, self._columns(image))
            for answer, chunk, image in zip(zip(logits, boxes), chunks, images)
            if chunk
        ]

    def _encode_images(self, pictures: Sequence[Tensor]) -> ImageFeatures:
        """Row i is that of picture i. Those that share one tensor run through the backbone once, and the last of all
        is kept for the next batch, unless its padding belongs to this one.
        """
        known = {id(self.last[0]): self.last[1]} if self.last else {}
        new = list({id(pixels): pixels for pixels in pictures if id(pixels) not in known}.values())
        if new:
            encoded = self.detector.forward.encode_image(collate_pixels(new, self.detector.device))
            known |= {id(pixels): encoded.one(index) for index, pixels in enumerate(new)}
        if not self.settings.mixed_sizes:
            self.last = pictures[-1], known[id(pictures[-1])]
        if len(new) == len(pictures):
            return encoded
        return ImageFeatures.joined([known[id(pixels)] for pixels in pictures])

    def _scoring(self, chunk: Chunk) -> LabelScoring:
        """Made once for a prompt of all images."""
        key = id(chunk)
        if key not in self.scorings:
            if len(self.scorings) >= CACHED_TEXTS:
                self.scorings.clear()
            scoring = LabelScoring.of(chunk.tokens, chunk.labels, self.detector.device)
            self.scorings[key] = chunk, scoring  # the chunk is kept, since another could get its id
        return self.scorings[key][1]

    def _columns(self, image: LoadedImage) -> int:
        """How many labels' scores each box keeps beside its own."""
        return len(image.prompt.prompt.labels) if self.settings.return_all_scores else 0

    def _record(self, image: LoadedImage, parts: Sequence[Detections]) -> Record:
        count = self.settings.max_per_image if self.settings.max_per_chunk is None else None
        nms_iou = self.detector.model.config.nms_iou
        found = _best(parts, count, self.settings.score_threshold, nms_iou)
        if not self.settings.return_all_scores:
            return _record(image, found, Record)
        all_scores = found.all_scores
        if image.prompt.prompt.kind != "categories":  # their boxes stand region after region
            all_scores = all_scores[found.labels.argsort(stable=True)]
        return _record(image, found, partial(ScoredRecord, all_scores=all_scores.numpy()))

    def _encode_text(self, captions: tuple[str, ...]) -> TextFeatures:
        if captions not in self.texts:
            if len(self.texts) >= CACHED_TEXTS:
                self.texts.clear()
            model = self.detector.model
            tokens = tokenize(captions, self.detector.tokenizer, model.config.max_text_tokens)
            self.texts[captions] = model.encode_text(tokens.to(self.detector.device))
        return self.texts[captions]


def pooled_features(features: ImageFeatures) -> Tensor:
    """(B, K C) float16: the mean of each of K levels over the image's content."""
    means = []
    for level, padding in zip(features.levels, features.paddings):
        content = (~padding)[:, None].float()
        means.append((level.float() * content).sum((2, 3)) / content.sum((2, 3)))
    return torch.cat(means, dim=1).to(torch.float16)


def _record_with(kind: Callable[..., Record], record: Record, **more: Any) -> Record:
    return kind(**{each.name: getattr(record, each.name) for each in fields(record)}, **more)


class LabelScoring(NamedTuple):
    """How the scores of a caption's L tokens become those of its labels, as tensors on the model's device.

    mean: (L', E) shares of each token in each entity, for the L' first tokens; None for an expression.
    places: (E,) int64 the column of each entity's label among labels. labels: (C,) int64, ascending.
    """

    mean: Tensor | None
    places: Tensor
    labels: Tensor

    @classmethod
    def of(cls, tokens: Sequence[Sequence[int]], labels: Sequence[int], device: torch.device) -> LabelScoring:
        """tokens: of each entity; none for an expression. labels: of each entity."""
        if not tokens:
            return cls(None, torch.zeros(0, dtype=torch.int64), torch.zeros(1, dtype=torch.int64, device=device))
        mean = torch.zeros(max(map(max, tokens)) + 1, len(tokens))
        for entity, columns in enumerate(tokens):
            mean[list(columns), entity] = 1 / len(columns)
        unique, places = torch.tensor(labels).unique(return_inverse=True)
        return cls(*(tensor.to(device, non_blocking=True) for tensor in (mean, places, unique)))


def label_scores(logits: Tensor, scoring: LabelScoring) -> Tensor:
    """(..., Q, L) logits -> (..., Q, C) scores: mean over the tokens of an entity, best entity of a label.

    An expression's C is 1: the best of all tokens, [CLS], '.' and [SEP] among them as in the reference.
    """
    probabilities = logits.float().sigmoid()
    if scoring.mean is None:
        return probabilities.amax(dim=-1, keepdim=True)
    entities = probabilities[..., : len(scoring.mean)] @ scoring.mean
    if entities.shape[-1] == len(scoring.labels):  # a label each, in whatever order
        return torch.empty_like(entities).index_copy(-1, scoring.places, entities)
    scores = entities.new_zeros(*entities.shape[:-1], len(scoring.labels))
    return scores.scatter_reduce(-1, scoring.places.expand_as(entities), entities, "amax")


def _nothing(columns: int) -> Detections:
    return Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), torch.zeros(0, columns))


def _best_pairs(logits: Tensor, boxes: Tensor, scoring: LabelScoring, count: int, columns: int) -> Detections:
    """(..., Q, L) logits, (..., Q, 4) cx, cy, w, h in fractions of the content -> the best (query, label) pairs of an
    image or of each, boxes as given.

    Nothing here waits for a GPU.
    """
    scores = label_scores(logits, scoring)
    best, indices = scores.flatten(-2).topk(min(count, scores.shape[-2:].numel()))
    query, column = indices // scores.shape[-1], indices % scores.shape[-1]
    all_scores = scores.new_full((*query.shape, columns), torch.nan)
    if columns:
        all_scores[..., scoring.labels] = scores.take_along_dim(query[..., None], -2)
    # What is not a number anywhere must not be overlooked, since the best scores may well be some.
    broken = logits.isnan().flatten(-2).any(-1) | ~boxes.isfinite().flatten(-2).all(-1)
    chosen = boxes.take_along_dim(query[..., None], -2).masked_fill(broken[..., None, None], torch.nan)
    return Detections(chosen, best, scoring.labels[column], all_scores)


def _to_cpu(answers: Sequence[Detections]) -> list[Detections]:
    """At once: the one time that a batch waits for the device.

    Raises InputError for NaN in the output: such a model would silently find nothing in any image.
    """
    copies = [Detections(*(tensor.to("cpu", non_blocking=True) for tensor in answer)) for answer in answers]
    if answers and answers[0].boxes.is_cuda:
        torch.cuda.current_stream(answers[0].boxes.device).synchronize()
    if any(copy.boxes.isnan().any() for copy in copies):
        raise InputError(
            "weights", "the model's output contains NaN", "expected weights from a training that did not diverge"
        )
    return copies


def _in_pixels(detections: Detections, picture: Picture) -> Detections:
    return detections._replace(boxes=_pixels(detections.boxes, picture))


def _pixels(boxes: Tensor, picture: Picture) -> Tensor:
    """(N, 4) cx, cy, w, h in fractions -> x1, y1, x2, y2 in pixels of the stored image, inside it."""
    centre, half = boxes[:, :2], boxes[:, 2:] / 2
    corners = torch.cat((centre - half, centre + half), dim=1).clamp(0, 1)
    return corners * corners.new_tensor([picture.width, picture.height] * 2)


def _best(parts: Sequence[Detections], count: int | None, score_threshold: float, nms_iou: float | None) -> Detections:
    """Detections of all chunks, sorted by score, without duplicates of a label, cut by count (None: all), threshold."""
    boxes, scores, labels, all_scores = (torch.cat(tensors) for tensors in zip(*parts))
    order = scores.argsort(descending=True, stable=True)
    order = order[scores[order] >= score_threshold]
    if nms_iou is not None:
        order = order[suppress_overlaps(boxes[order], labels[order], nms_iou)]
    keep = order[:count]
    return Detections(boxes[keep], scores[keep], labels[keep], all_scores[keep])


def _record(image: LoadedImage, found: Detections, make: Callable[..., Record]) -> Record:
    """make: Record, or what is called like it."""
    prompt = image.prompt.prompt
    boxes: list[Box] = [tuple(box) for box in found.boxes.tolist()]
    rows = list(zip(boxes, found.scores.tolist(), found.labels.tolist()))
    size = (image.filename, image.picture.height, image.picture.width)
    if prompt.kind == "categories":
        return make(*size, instances=tuple(Instance(box, n, prompt.labels[n], score) for box, score, n in rows))
    spans = prompt.spans if prompt.kind == "phrases" else (((0, len(prompt.text)),),)
    regions = []
    for label, phrase in enumerate(spans):
        boxes_of_label = [(box, score) for box, score, n in rows if n == label]
        regions.append(
            Region(
                boxes=tuple(box for box, _ in boxes_of_label),
                phrase=tuple(prompt.text[start:end] for start, end in phrase),
                spans=phrase,
                scores=tuple(score for _, score in boxes_of_label),
            )
        )
    return make(*size, caption=prompt.text, regions=tuple(regions))


def _in_batches(
    loaded: Iterable[LoadedImage | Failure],
    batch_size: int,
    label: Callable[[Sequence[LoadedImage]], Callable[[], list[Record]]],
    ahead: int,
) -> Iterator[Record | Failure]:
    """Failures keep their place among the records. ahead: batches begun before the first of them is waited for."""
    begun: deque[Callable[[], Iterator[Record | Failure]]] = deque()
    for batch in _batches(loaded, batch_size):
        begun.append(partial(_outcomes, batch, label([image for image in batch if isinstance(image, LoadedImage)])))
        if len(begun) > ahead:
            yield from begun.popleft()()
    while begun:
        yield from begun.popleft()()


def _batches(loaded: Iterable[LoadedImage | Failure], size: int) -> Iterator[list[LoadedImage | Failure]]:
    """Of so many images each, and the failures among them."""
    batch: list[LoadedImage | Failure] = []
    images = 0
    for outcome in loaded:
        batch.append(outcome)
        images += isinstance(outcome, LoadedImage)
        if images == size:
            yield batch
            batch, images = [], 0
    if batch:
        yield batch


def _outcomes(batch: Sequence[LoadedImage | Failure], finish: Callable[[], list[Record]]) -> Iterator[Record | Failure]:
    records = iter(finish())
    for outcome in batch:
        yield outcome if isinstance(outcome, Failure) else next(records)


def _read_ahead(
    pairs: Iterable[tuple[ImageSource, Callable[[], ReadyPrompt]]],
    read: Callable[[ImageSource, str], Picture],
    ahead: int,
) -> Iterator[LoadedImage | Failure]:
    """Images in order, at most `ahead` of them decoded and not yet taken; a path that comes again at once is shared."""
    waiting: deque[Future[LoadedImage | Failure]] = deque()
    last: str | None = None
    with ThreadPoolExecutor(READERS, thread_name_prefix="read-image") as readers:
        try:
            for index, (source, prompt) in enumerate(pairs):
                image = as_source(source)
                filename = f"image-{index}" if isinstance(image, np.ndarray) else str(image)
                if isinstance(image, np.ndarray) or filename != last:  # the same array may hold other pixels by now
                    picture = readers.submit(read, image, filename)  # before _load, which waits for it
                last = filename
                waiting.append(readers.submit(_load, filename, picture, prompt))
                if len(waiting) >= ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _read(image: ImageSource, filename: str, scale: tuple[int, int], for_gpu: bool) -> Picture:
    """Whatever of the way to the model needs no model, so that threads do it ahead."""
    if not isinstance(image, np.ndarray):
        resized, height, width = read_resized(image, scale)
    else:
        height, width = check_image(image, filename).shape[:2]
        resized = resize_for_test(image, scale)
    if not for_gpu:
        return Picture(height, width, torch.from_numpy(normalise(resized)))
    return Picture(height, width, torch.from_numpy(resized.transpose(2, 0, 1).copy()).pin_memory())


def _load(filename: str, picture: Future[Picture], prompt: Callable[[], ReadyPrompt]) -> LoadedImage | Failure:
    try:
        return LoadedImage(filename, picture.result(), prompt())
    except InputError as error:
        return Failure(filename, error)


def _prompts_of(prompt: PromptSource | Sequence[PromptSource], count: int) -> Prompt | list[Prompt]:
    """One prompt for all, or one each: a list of Prompts or of lists of names.

    In one list of names a tuple holds synonyms.
    """
    if isinstance(prompt, Prompt):
        return prompt
    if isinstance(prompt, str):
        raise InputError(
            "prompt", f"the text '{prompt}'", "expected a list of names, or a Prompt that says what the text is"
        )
    entries: list[Any] = list(prompt)  # names and synonyms, or prompts and lists of names
    if not entries or not all(isinstance(entry, Prompt | list) for entry in entries):
        return Prompt.categories(entries)
    if len(entries) != count:
        raise InputError(
            "prompt", f"{many(len(entries), 'prompt')} for {many(count, 'image')}", "expected one for all, or one each"
        )
    return [entry if isinstance(entry, Prompt) else Prompt.categories(entry) for entry in entries]
