"""Turns the model's logits and boxes into records: label scores, selection of the best boxes, pixel coordinates.

B images of a batch, Q queries, L tokens, E entities of a caption, C labels of a prompt, N boxes of an image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

import torch
from torch import Tensor

from formats.io.errors import InputError
from formats.record import Box, Instance, Record, Region
from grounding_model.inputs.read_ahead import LoadedImage, Picture
from grounding_model.model.boxes import suppress_overlaps
from grounding_model.model.grounding import ImageFeatures


class Detections(NamedTuple):
    """Boxes of one image, best first. boxes: (N, 4) x1, y1, x2, y2 in pixels of the stored image."""

    boxes: Tensor
    scores: Tensor  # (N,)
    labels: Tensor  # (N,) int64
    all_scores: Tensor  # (N, C) for all labels of the prompt, NaN for those outside the box's caption; or (N, 0)


def pooled_features(features: ImageFeatures) -> Tensor:
    """(B, K C) float16: mean over the image's content of each of the K levels, concatenated."""
    means = []
    for level, padding in zip(features.levels, features.paddings):
        content = (~padding)[:, None].float()
        means.append((level.float() * content).sum((2, 3)) / content.sum((2, 3)))
    return torch.cat(means, dim=1).to(torch.float16)


class LabelScoring(NamedTuple):
    """Turns the scores of a caption's L tokens into scores of its labels. Tensors are on the model's device.

    mean: (L', E) weight of each of the first L' tokens in each entity's mean; None for an expression.
    columns: (E,) int64, index into labels for each entity. labels: (C,) int64, ascending.
    """

    mean: Tensor | None
    columns: Tensor
    labels: Tensor

    @classmethod
    def of(cls, tokens: Sequence[Sequence[int]], labels: Sequence[int], device: torch.device) -> LabelScoring:
        """tokens: token columns of each entity; empty for an expression. labels: label of each entity."""
        if not tokens:
            return cls(None, torch.zeros(0, dtype=torch.int64), torch.zeros(1, dtype=torch.int64, device=device))
        mean = torch.zeros(max(map(max, tokens)) + 1, len(tokens))
        for entity, columns in enumerate(tokens):
            mean[list(columns), entity] = 1 / len(columns)
        unique, columns = torch.tensor(labels).unique(return_inverse=True)
        return cls(*(tensor.to(device, non_blocking=True) for tensor in (mean, columns, unique)))


def label_scores(logits: Tensor, scoring: LabelScoring) -> Tensor:
    """(..., Q, L) logits -> (..., Q, C) scores: mean over an entity's tokens, maximum over a label's entities.

    For an expression C is 1: the maximum over all tokens, including [CLS], '.' and [SEP] as in the reference.
    """
    probabilities = logits.float().sigmoid()
    if scoring.mean is None:
        return probabilities.amax(dim=-1, keepdim=True)
    entities = probabilities[..., : len(scoring.mean)] @ scoring.mean
    if entities.shape[-1] == len(scoring.labels):  # every entity has its own label
        return torch.empty_like(entities).index_copy(-1, scoring.columns, entities)
    scores = entities.new_zeros(*entities.shape[:-1], len(scoring.labels))
    return scores.scatter_reduce(-1, scoring.columns.expand_as(entities), entities, "amax")


def no_detections(columns: int) -> Detections:
    return Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), torch.zeros(0, columns))


def top_pairs(logits: Tensor, boxes: Tensor, scoring: LabelScoring, count: int, columns: int) -> Detections:
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
    # NaN anywhere must be reported, even if the best scores are finite: detections_on_cpu looks at the boxes.
    broken = logits.isnan().flatten(-2).any(-1) | ~boxes.isfinite().flatten(-2).all(-1)
    chosen = boxes.take_along_dim(query[..., None], -2).masked_fill(broken[..., None, None], torch.nan)
    return Detections(chosen, best, scoring.labels[column], all_scores)


def detections_on_cpu(batches: Sequence[Detections]) -> list[Detections]:
    """Copies all results at once: the only point where a batch waits for the device.

    Raises InputError for NaN in the output, since such a model would silently find nothing in any image.
    """
    copies = [Detections(*(tensor.to("cpu", non_blocking=True) for tensor in each)) for each in batches]
    if batches and batches[0].boxes.is_cuda:
        torch.cuda.current_stream(batches[0].boxes.device).synchronize()
    if any(copy.boxes.isnan().any() for copy in copies):
        raise InputError(
            "weights", "the model's output contains NaN", "expected weights from a training that did not diverge"
        )
    return copies


def in_pixels(detections: Detections, picture: Picture) -> Detections:
    return detections._replace(boxes=_pixels(detections.boxes, picture))


def _pixels(boxes: Tensor, picture: Picture) -> Tensor:
    """(N, 4) cx, cy, w, h in fractions -> x1, y1, x2, y2 in pixels of the stored image, clipped to it."""
    centre, half = boxes[:, :2], boxes[:, 2:] / 2
    corners = torch.cat((centre - half, centre + half), dim=1).clamp(0, 1)
    return corners * corners.new_tensor([picture.width, picture.height] * 2)


def best_detections(
    parts: Sequence[Detections], count: int | None, score_threshold: float, nms_iou: float | None
) -> Detections:
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


def record_of_detections(image: LoadedImage, found: Detections, make: Callable[..., Record]) -> Record:
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


def record_with(kind: Callable[..., Record], record: Record, **more: Any) -> Record:
    return kind(**{each.name: getattr(record, each.name) for each in fields(record)}, **more)
