"""Runs a model on images and prompts and returns records: the public interface of this package.

B images of a batch, Q queries, L tokens, E entities of a caption, C labels of a prompt.
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

# Threads that decode and resize images: a GPU processes more than 100 photos per second.
READERS = max(4, min(16, os.cpu_count() or 1))
CACHED_TEXTS = 64  # batches of captions whose features are kept; 1,203 categories need about 30 captions


class Chunk(NamedTuple):
    """One caption of a prompt.

    tokens: the token columns of each entity; empty for an expression. labels: the label of each entity.
    """

    caption: str
    tokens: list[list[int]]
    labels: tuple[int, ...]


class ReadyPrompt(NamedTuple):
    prompt: Prompt
    chunks: list[Chunk]


class Picture(NamedTuple):
    """A decoded and resized image.

    height, width: size of the stored image in pixels. pixels: (3, h, w) RGB at the model's input size, as normalised
    float32; for a GPU as uint8, which is copied to the device in a quarter of the time.
    """

    height: int
    width: int
    pixels: Tensor


class LoadedImage(NamedTuple):
    """An image together with its prompt. Consecutive images may share one Picture."""

    filename: str
    picture: Picture
    prompt: ReadyPrompt


class Detections(NamedTuple):
    """Boxes of one image, best first. boxes: (N, 4) x1, y1, x2, y2 in pixels of the stored image."""

    boxes: Tensor
    scores: Tensor  # (N,)
    labels: Tensor  # (N,) int64
    all_scores: Tensor  # (N, C) for all labels of the prompt, NaN for those outside the box's caption; or (N, 0)


def load_detector(
    weights: str | Path = WEIGHTS,
    text_encoder: str | Path | None = None,
    device: str = "auto",
    dtype: str = DTYPE,
) -> Detector | StudentDetector:
    """Loads a detector from anything that load_checkpoint reads, or from a student's folder.

    device: a torch device name, or 'auto' for a GPU if there is one, else the CPU.

    dtype: float32; bfloat16, which rounds only the large linear layers of the image side; or auto, which means
    bfloat16 on devices with native support and float32 elsewhere. Students are small and always run in float32.

    Raises InputError when the weights cannot be read, the device is not available, or the dtype is unknown.
    """
    chosen = choose_device(device)
    if is_student(weights):
        # Both import transformers' model classes, which takes seconds.
        from grounding_model.students.detector import StudentDetector
        from grounding_model.students.files import load_student

        return StudentDetector(load_student(weights), chosen)
    checkpoint = load_checkpoint(weights, text_encoder)
    if isinstance(checkpoint.model.backbone, TimmFeatures):
        checkpoint.model.backbone.fold_batch_norms()
    return Detector(checkpoint.model, checkpoint.tokenizer, chosen, checkpoint.provenance, dtype)


def choose_device(name: str = "auto") -> torch.device:
    """The torch device for a name; 'auto' prefers a GPU. Raises InputError when this machine has no such device."""
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
    """Speeds up inference on a GPU: Triton kernels where Triton is installed, and CUDA graphs for recurring sizes."""
    try:
        from grounding_model.model.kernels.choice import use_kernels
    except ImportError as error:  # Triton comes with PyTorch for GPUs, but not on every system
        logger.info("using the plain layers, since Triton's kernels are not available: %s", error)
    else:
        use_kernels(model)
    return ReplayedModel(model)


class Detector:
    """A model with its tokenizer on a device.

    provenance: how the weights were made, from the metadata of their file. dtype: see load_detector; the attribute
    holds the format that 'auto' resolved to. bfloat16 changes the model in place.
    """

    gives_image_features = True  # labelling requests image features only from detectors that set this

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
        """Returns one record per image, in order; see predict_each. Raises InputError at the first unusable image.

        prompt: category names, a Prompt, or a list with one of these per image. settings: fields of PredictSettings,
        such as score_threshold=0.3 and batch_size=4.
        """
        images = image_list(images)
        return records_of(self.predict_each(images, _prompts_of(prompt, len(images)), **settings))

    def predict_each(
        self, images: Iterable[ImageSource], prompt: Prompt | Iterable[Prompt], **settings: Any
    ) -> Iterator[Record | Failure]:
        """Yields one record or Failure per image, in order. Threads read ahead; only a few batches are in memory.

        images: paths, or (h, w, 3) uint8 RGB arrays. prompt: one for all images, or an iterable with one per image.
        When consecutive entries repeat a path with different prompts, the image is read and encoded only once.
        settings: fields of PredictSettings.
        A record's filename is the path as passed in, or "image-0" and so on for arrays. Categories become instances
        whose label is the index in the prompt; each phrase becomes a region, in order; an expression becomes one
        region that spans the whole text. Boxes are sorted by score.

        Raises InputError before the first image when the settings or a shared prompt are invalid. An unusable image,
        or an invalid prompt for a single image, yields a Failure in its position and the other images continue.
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
        # While the GPU works on one batch, the records of the previous batch are built here.
        return _in_batches(loaded, chosen.batch_size, _Labeller(self, chosen), ahead=int(on_gpu))

    def captions(self, prompt: Prompt, chunk_size: int | None = None) -> list[str]:
        """The captions that the text encoder receives for a prompt: one, or one per chunk."""
        return [chunk.caption for chunk in self._ready(prompt, chunk_size).chunks]

    def text_cache(self) -> dict[tuple[str, ...], TextFeatures]:
        """Text features, keyed by the captions of a batch. Emptied when training has changed the weights."""
        weights = self.model.text_encoder.parameters()
        version = sum(weight._version for weight in weights if not weight.is_inference())  # others cannot be trained
        if version != self._texts_version:
            self._texts, self._texts_version = {}, version
        return self._texts

    def _ready(self, prompt: Prompt, chunk_size: int | None) -> ReadyPrompt:
        """Splits a prompt into captions with token columns; a caption without phrases has none.

        Raises InputError for a name that tokenizes to nothing or is too long for a caption.
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
                what = "contains no token that the model knows"
                raise InputError(f"prompt '{name}'", what, "expected letters or digits")
        unknown = unknown_phrases(part.caption, columns, self.tokenizer)
        self._warn_of_unknown([prompt.labels[part.labels[index]] for index in unknown])
        return Chunk(part.caption, columns, part.labels)

    def _warn_of_unknown(self, names: Sequence[str]) -> None:
        """Warns once per name, since the same prompt is prepared again for every shard."""
        for name in names:
            if name not in self._warned:
                self._warned.add(name)
                remedy = "expected a name in the tokenizer's language; boxes for this name are meaningless"
                logger.warning("prompt %r: all its words are unknown to the model ([UNK]); %s", name, remedy)


class Begun(NamedTuple):
    """A batch that the device has started on; its results may not be computed yet."""

    images: Sequence[LoadedImage]
    answers: list[tuple[int, Detections]]  # index of an image in the batch, detections for one of its captions
    pooled: Tensor | None  # (B, K C) image features


class _Labeller:
    """Runs the model on loaded images. Caches the features of captions and of the last picture."""

    def __init__(self, detector: Detector, settings: PredictSettings) -> None:
        self.detector = detector
        self.settings = settings
        self.texts = detector.text_cache()
        self.scorings: dict[int, tuple[Chunk, LabelScoring]] = {}
        self.last: tuple[Tensor, ImageFeatures] | None = None  # pixels as the model saw them, and their features

    def __call__(self, images: Sequence[LoadedImage]) -> Callable[[], list[Record]]:
        """Starts the work; returns a function that waits for it to finish and returns the records."""
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
            # An image with fewer chunks than others runs with a filler caption, whose detections are discarded.
            filler = next(chunk.caption for chunk in chunks if chunk)
            captions = [chunk.caption if chunk else filler for chunk in chunks]
            shared = set(captions) == {filler}  # one caption is broadcast to all images
            text = self._encode_text((filler,) if shared else tuple(captions))
            grounding = self.detector.forward.ground(features, text)
            last = grounding.logits[-1].float(), grounding.boxes[-1].float()
            present = [index for index, chunk in enumerate(chunks) if chunk]
            answers += zip(present, self._answers(*last, chunks, images))
        pooled = pooled_features(features) if self.settings.return_image_feature else None
        return Begun(images, answers, pooled)

    @torch.inference_mode()
    def _records(self, batch: Begun) -> list[Record]:
        found: list[list[Detections]] = [[] for _ in batch.images]
        for (index, _), detections in zip(batch.answers, _to_cpu([answer for _, answer in batch.answers])):
            found[index].append(_in_pixels(detections, batch.images[index].picture))
        records = [
            self._record(image, parts or [_nothing(self._columns(image))]) for image, parts in zip(batch.images, found)
        ]
        if batch.pooled is None:
            return records
        pooled = batch.pooled.cpu().numpy()
        return [_record_with(FeaturedRecord, record, image_feature=row) for record, row in zip(records, pooled)]

    def _answers(
        self, logits: Tensor, boxes: Tensor, chunks: Sequence[Chunk | None], images: Sequence[LoadedImage]
    ) -> list[Detections]:
        """(B, Q, L) logits and (B, Q, 4) boxes -> the detections of each image that has a chunk."""
        count = self.settings.max_per_chunk or self.settings.max_per_image
        first = chunks[0]
        if first is not None and all(chunk is first for chunk in chunks):  # the usual case: one prompt for all
            together = _best_pairs(logits, boxes, self._scoring(first), count, self._columns(images[0]))
            return [Detections(*rows) for rows in zip(*together)]
        return [
            _best_pairs(*answer, self._scoring(chunk), count, self._columns(image))
            for answer, chunk, image in zip(zip(logits, boxes), chunks, images)
            if chunk
        ]

    def _encode_images(self, pictures: Sequence[Tensor]) -> ImageFeatures:
        """Row i belongs to picture i. Pictures that share one tensor run through the backbone only once.

        The last picture's features are kept for the next batch, except with mixed sizes, where they depend on the
        padding of this batch.
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
        """The scoring of a chunk, cached because a prompt usually serves all images."""
        key = id(chunk)
        if key not in self.scorings:
            if len(self.scorings) >= CACHED_TEXTS:
                self.scorings.clear()
            scoring = LabelScoring.of(chunk.tokens, chunk.labels, self.detector.device)
            self.scorings[key] = chunk, scoring  # keeps the chunk alive: a new object could reuse its id
        return self.scorings[key][1]

    def _columns(self, image: LoadedImage) -> int:
        """The number of columns of all_scores: one per label if requested, else none."""
        return len(image.prompt.prompt.labels) if self.settings.return_all_scores else 0

    def _record(self, image: LoadedImage, parts: Sequence[Detections]) -> Record:
        count = self.settings.max_per_image if self.settings.max_per_chunk is None else None
        nms_iou = self.detector.model.config.nms_iou
        found = _best(parts, count, self.settings.score_threshold, nms_iou)
        if not self.settings.return_all_scores:
            return _record(image, found, Record)
        all_scores = found.all_scores
        if image.prompt.prompt.kind != "categories":  # records list their boxes by region
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
    """(B, K C) float16: mean over the image's content of each of the K levels, concatenated."""
    means = []
    for level, padding in zip(features.levels, features.paddings):
        content = (~padding)[:, None].float()
        means.append((level.float() * content).sum((2, 3)) / content.sum((2, 3)))
    return torch.cat(means, dim=1).to(torch.float16)


def _record_with(kind: Callable[..., Record], record: Record, **more: Any) -> Record:
    return kind(**{each.name: getattr(record, each.name) for each in fields(record)}, **more)


class LabelScoring(NamedTuple):
    """Turns the scores of a caption's L tokens into scores of its labels. Tensors are on the model's device.

    mean: (L', E) weight of each of the first L' tokens in each entity's mean; None for an expression.
    places: (E,) int64, index into labels for each entity. labels: (C,) int64, ascending.
    """

    mean: Tensor | None
    places: Tensor
    labels: Tensor

    @classmethod
    def of(cls, tokens: Sequence[Sequence[int]], labels: Sequence[int], device: torch.device) -> LabelScoring:
        """tokens: token columns of each entity; empty for an expression. labels: label of each entity."""
        if not tokens:
            return cls(None, torch.zeros(0, dtype=torch.int64), torch.zeros(1, dtype=torch.int64, device=device))
        mean = torch.zeros(max(map(max, tokens)) + 1, len(tokens))
        for entity, columns in enumerate(tokens):
            mean[list(columns), entity] = 1 / len(columns)
        unique, places = torch.tensor(labels).unique(return_inverse=True)
        return cls(*(tensor.to(device, non_blocking=True) for tensor in (mean, places, unique)))


def label_scores(logits: Tensor, scoring: LabelScoring) -> Tensor:
    """(..., Q, L) logits -> (..., Q, C) scores: mean over an entity's tokens, maximum over a label's entities.

    For an expression C is 1: the maximum over all tokens, including [CLS], '.' and [SEP] as in the reference.
    """
    probabilities = logits.float().sigmoid()
    if scoring.mean is None:
        return probabilities.amax(dim=-1, keepdim=True)
    entities = probabilities[..., : len(scoring.mean)] @ scoring.mean
    if entities.shape[-1] == len(scoring.labels):  # every entity has its own label
        return torch.empty_like(entities).index_copy(-1, scoring.places, entities)
    scores = entities.new_zeros(*entities.shape[:-1], len(scoring.labels))
    return scores.scatter_reduce(-1, scoring.places.expand_as(entities), entities, "amax")


def _nothing(columns: int) -> Detections:
    return Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), torch.zeros(0, columns))


def _best_pairs(logits: Tensor, boxes: Tensor, scoring: LabelScoring, count: int, columns: int) -> Detections:
    """(..., Q, L) logits, (..., Q, 4) cx, cy, w, h in fractions of the content -> the `count` best (query, label)
    pairs of each image, boxes in the same format.

    Does not synchronise with a GPU.
    """
    scores = label_scores(logits, scoring)
    best, indices = scores.flatten(-2).topk(min(count, scores.shape[-2:].numel()))
    query, column = indices // scores.shape[-1], indices % scores.shape[-1]
    all_scores = scores.new_full((*query.shape, columns), torch.nan)
    if columns:
        all_scores[..., scoring.labels] = scores.take_along_dim(query[..., None], -2)
    # NaN anywhere in the output must be reported even if the best scores are finite; _to_cpu checks the boxes.
    broken = logits.isnan().flatten(-2).any(-1) | ~boxes.isfinite().flatten(-2).all(-1)
    chosen = boxes.take_along_dim(query[..., None], -2).masked_fill(broken[..., None, None], torch.nan)
    return Detections(chosen, best, scoring.labels[column], all_scores)


def _to_cpu(answers: Sequence[Detections]) -> list[Detections]:
    """Copies all results at once: the only point where a batch waits for the device.

    Raises InputError for NaN in the output, since such a model would silently find nothing in any image.
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
    """(N, 4) cx, cy, w, h in fractions -> x1, y1, x2, y2 in pixels of the stored image, clipped to it."""
    centre, half = boxes[:, :2], boxes[:, 2:] / 2
    corners = torch.cat((centre - half, centre + half), dim=1).clamp(0, 1)
    return corners * corners.new_tensor([picture.width, picture.height] * 2)


def _best(parts: Sequence[Detections], count: int | None, score_threshold: float, nms_iou: float | None) -> Detections:
    """Merges the detections of all chunks: above the threshold, after NMS per label, the `count` best (None: all)."""
    if len(parts) == 1 and nms_iou is None:  # the usual case: already sorted
        end = int((parts[0].scores >= score_threshold).sum())
        end = end if count is None else min(end, count)
        return Detections(*(tensor[:end] for tensor in parts[0]))
    boxes, scores, labels, all_scores = (torch.cat(tensors) for tensors in zip(*parts))
    order = scores.argsort(descending=True, stable=True)
    order = order[scores[order] >= score_threshold]
    if nms_iou is not None:
        order = order[suppress_overlaps(boxes[order], labels[order], nms_iou)]
    keep = order[:count]
    return Detections(boxes[keep], scores[keep], labels[keep], all_scores[keep])


def _record(image: LoadedImage, found: Detections, make: Callable[..., Record]) -> Record:
    """The detections as a record. make: Record, or a callable with the same parameters."""
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
    """Yields records and failures in order. ahead: number of batches started before waiting for the oldest."""
    begun: deque[Callable[[], Iterator[Record | Failure]]] = deque()
    for batch in _batches(loaded, batch_size):
        begun.append(partial(_outcomes, batch, label([image for image in batch if isinstance(image, LoadedImage)])))
        if len(begun) > ahead:
            yield from begun.popleft()()
    while begun:
        yield from begun.popleft()()


def _batches(loaded: Iterable[LoadedImage | Failure], size: int) -> Iterator[list[LoadedImage | Failure]]:
    """Groups of `size` images each, together with the failures between them."""
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
    """Loads images in order, at most `ahead` in advance. Consecutive equal paths share one decoded image."""
    waiting: deque[Future[LoadedImage | Failure]] = deque()
    last: str | None = None
    with ThreadPoolExecutor(READERS, thread_name_prefix="read-image") as readers:
        try:
            for index, (source, prompt) in enumerate(pairs):
                image = as_source(source)
                filename = f"image-{index}" if isinstance(image, np.ndarray) else str(image)
                if isinstance(image, np.ndarray) or filename != last:  # an array may have changed since
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
    """The part of the preprocessing that needs no model and can therefore run in threads."""
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
    """One prompt for all images, or a list with one per image: Prompts, or lists of names.

    A tuple inside a list of names contains synonyms.
    """
    if isinstance(prompt, Prompt):
        return prompt
    if isinstance(prompt, str):
        raise InputError(
            "prompt", f"the text '{prompt}'", "expected a list of names, or a Prompt such as Prompt.phrases(text)"
        )
    entries: list[Any] = list(prompt)  # names and synonyms, or prompts and lists of names
    if not entries or not all(isinstance(entry, Prompt | list) for entry in entries):
        return Prompt.categories(entries)
    if len(entries) != count:
        raise InputError(
            "prompt",
            f"{many(len(entries), 'prompt')} for {many(count, 'image')}",
            "expected one for all images, or one for each",
        )
    return [entry if isinstance(entry, Prompt) else Prompt.categories(entry) for entry in entries]
