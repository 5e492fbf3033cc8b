"""Runs a model on images and prompts and returns records: the public interface of this package.

B images of a batch, Q queries, L tokens, E entities of a caption, C labels of a prompt.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from formats.io.errors import InputError
from formats.io.notebook import html_table
from formats.record import Record
from grounding_model.checkpoints.weights import load_checkpoint
from grounding_model.inputs.defaults import DTYPE, DTYPES, WEIGHTS
from grounding_model.inputs.image_batch import collate_pixels
from grounding_model.inputs.predict import (
    Failure,
    FeaturedRecord,
    ImageSource,
    PredictSettings,
    ScoredRecord,
    image_list,
    records_of,
)
from grounding_model.inputs.prompt import BuiltPrompt, Prompt, PromptSource, prompts_of
from grounding_model.inputs.read_ahead import (
    READERS,
    Chunk,
    LoadedImage,
    Picture,
    ReadyPrompt,
    in_batches,
    read_ahead,
    read_for_model,
)
from grounding_model.inputs.tokens import CaptionTokenizer, count_tokens, tokenize, tokens_of_spans, unknown_phrases
from grounding_model.model.backbone import TimmFeatures
from grounding_model.model.grounding import GroundingModel, ImageFeatures, TextFeatures
from grounding_model.model.kernels.compiled_gather import use_compiled_gather
from grounding_model.model.kernels.cuda_graphs import ReplayedModel
from grounding_model.model.precision import choose_dtype, float32_products, use_bfloat16
from grounding_model.postprocessing import (
    Detections,
    LabelScoring,
    best_detections,
    detections_on_cpu,
    in_pixels,
    no_detections,
    pooled_features,
    record_of_detections,
    record_with,
    top_pairs,
)
from grounding_model.students.config import is_onnx, is_student

if TYPE_CHECKING:
    from grounding_model.students.detector import StudentDetector
    from grounding_model.students.onnx_detector import OnnxDetector

logger = logging.getLogger(__name__)

WINDOW = 4  # batches' worth of pictures that a GPU's batches are composed from
CACHED_TEXTS = 64  # batches of captions whose features are kept; 1,203 categories need about 30 captions


def load_detector(
    weights: str | Path = WEIGHTS,
    text_encoder: str | Path | None = None,
    device: str = "auto",
    dtype: str = DTYPE,
) -> Detector | StudentDetector | OnnxDetector:
    """Loads a detector from anything that load_checkpoint reads, or from a student's folder or ONNX file.

    device: a torch device name, or 'auto' for a GPU if there is one, else the CPU, on which an ONNX file always runs.

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
    if is_onnx(weights):
        from grounding_model.students.onnx_detector import OnnxDetector, OnnxSession

        return OnnxDetector(OnnxSession(weights))
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
    except RuntimeError:  # its message lists twenty kinds of devices
        raise InputError("device", f"'{name}' is not a device", "expected auto, cpu, cuda or cuda:1") from None
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        first_line = str(error).splitlines()[0]
        raise InputError("device", f"'{name}' cannot be used ({first_line})", "expected auto, cpu or cuda") from error
    return device


def current_device(device: torch.device) -> AbstractContextManager:
    """Makes a GPU the current one: torch's own operations go where their tensors are, but Triton's kernels and the
    recording of CUDA graphs go to the current GPU, which is the first one by default."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def fast_forward(model: GroundingModel, device: torch.device) -> GroundingModel | ReplayedModel:
    """Speeds up inference on a GPU: Triton kernels where Triton is installed, and CUDA graphs for recurring sizes.

    The layers are replaced in place, and the model can no longer be trained.
    """
    if device.type != "cuda":
        return model
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
    holds the format that 'auto' resolved to. bfloat16 changes the model in place. in_training: the model is being
    trained, so its layers are not replaced by kernels, which have no gradients.
    """

    gives_image_features = True  # labelling requests image features only from detectors that set this

    def __init__(
        self,
        model: GroundingModel,
        tokenizer: CaptionTokenizer,
        device: torch.device | str = "cpu",
        provenance: Mapping[str, str] | None = None,
        dtype: str = DTYPE,
        in_training: bool = False,
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
        self.forward = self.model if in_training else fast_forward(self.model, self.device)
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
        return records_of(self.predict_each(images, prompts_of(prompt, len(images)), **settings))

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
        read = partial(read_for_model, scale=scale, for_gpu=on_gpu)
        loaded = read_ahead(pairs, read, _with_prompt, ahead=READERS + chosen.batch_size)
        # While the GPU works on one batch, the records of the previous batch are built here.
        # A GPU gets its batches out of several, by size; without padding only pictures of one size share a batch.
        window = WINDOW if on_gpu and not chosen.mixed_sizes else 1
        return in_batches(loaded, window * chosen.batch_size, _Labeller(self, chosen), ahead=int(on_gpu))

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
    detections: list[tuple[int, Detections]]  # index of an image in the batch, detections for one of its captions
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
        """Starts the work; returns a function that waits for it to finish and returns the records.

        Pictures of one size share batches, also those that are not neighbours in `images`."""
        if self.settings.mixed_sizes:
            return partial(self._records, self._batch(images))
        by_size: dict[tuple[int, ...], list[int]] = {}
        for index, image in enumerate(images):
            by_size.setdefault(image.picture.pixels.shape, []).append(index)
        size = self.settings.batch_size
        batches = [group[first : first + size] for group in by_size.values() for first in range(0, len(group), size)]
        begun = [(indices, self._batch([images[index] for index in indices])) for indices in batches]

        def finish() -> list[Record]:
            records: dict[int, Record] = {}
            for indices, batch in begun:
                records |= zip(indices, self._records(batch))
            return [records[index] for index in range(len(images))]

        return finish

    @torch.inference_mode()
    def _batch(self, images: Sequence[LoadedImage]) -> Begun:
        device = self.detector.device
        with current_device(device), float32_products(self.detector.dtype, device):
            return self._begin(images)

    def _begin(self, images: Sequence[LoadedImage]) -> Begun:
        features = self._encode_images([image.picture.pixels for image in images])
        detections: list[tuple[int, Detections]] = []
        for chunks in zip_longest(*(image.prompt.chunks for image in images)):
            # An image with fewer chunks than others runs with a filler caption, whose detections are discarded.
            filler = next(chunk.caption for chunk in chunks if chunk)
            captions = [chunk.caption if chunk else filler for chunk in chunks]
            shared = set(captions) == {filler}  # one caption is broadcast to all images
            text = self._encode_text((filler,) if shared else tuple(captions))
            grounding = self.detector.forward.ground(features, text)
            last = grounding.logits[-1].float(), grounding.boxes[-1].float()
            present = [index for index, chunk in enumerate(chunks) if chunk]
            detections += zip(present, self._detections(*last, chunks, images))
        pooled = pooled_features(features) if self.settings.return_image_feature else None
        return Begun(images, detections, pooled)

    @torch.inference_mode()
    def _records(self, batch: Begun) -> list[Record]:
        found: list[list[Detections]] = [[] for _ in batch.images]
        for (index, _), detections in zip(batch.detections, detections_on_cpu([each for _, each in batch.detections])):
            found[index].append(in_pixels(detections, batch.images[index].picture))
        records = [
            self._record(image, parts or [no_detections(self._columns(image))])
            for image, parts in zip(batch.images, found)
        ]
        if batch.pooled is None:
            return records
        pooled = batch.pooled.cpu().numpy()
        return [record_with(FeaturedRecord, record, image_feature=row) for record, row in zip(records, pooled)]

    def _detections(
        self, logits: Tensor, boxes: Tensor, chunks: Sequence[Chunk | None], images: Sequence[LoadedImage]
    ) -> list[Detections]:
        """(B, Q, L) logits and (B, Q, 4) boxes -> the detections of each image that has a chunk."""
        count = self.settings.max_per_chunk or self.settings.max_per_image
        first = chunks[0]
        if first is not None and all(chunk is first for chunk in chunks):  # the usual case: one prompt for all
            together = top_pairs(logits, boxes, self._scoring(first), count, self._columns(images[0]))
            return [Detections(*rows) for rows in zip(*together)]
        return [
            top_pairs(*outputs, self._scoring(chunk), count, self._columns(image))
            for outputs, chunk, image in zip(zip(logits, boxes), chunks, images)
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
        found = best_detections(parts, count, self.settings.score_threshold, nms_iou)
        if not self.settings.return_all_scores:
            return record_of_detections(image, found, Record)
        all_scores = found.all_scores
        if image.prompt.prompt.kind != "categories":  # records list their boxes by region
            all_scores = all_scores[found.labels.argsort(stable=True)]
        return record_of_detections(image, found, partial(ScoredRecord, all_scores=all_scores.numpy()))

    def _encode_text(self, captions: tuple[str, ...]) -> TextFeatures:
        if captions not in self.texts:
            if len(self.texts) >= CACHED_TEXTS:
                self.texts.clear()
            model = self.detector.model
            tokens = tokenize(captions, self.detector.tokenizer, model.config.max_text_tokens)
            self.texts[captions] = model.encode_text(tokens.to(self.detector.device))
        return self.texts[captions]


def _with_prompt(filename: str, picture: Picture, prompt: Callable[[], ReadyPrompt]) -> LoadedImage:
    return LoadedImage(filename, picture, prompt())
