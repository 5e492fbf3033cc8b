"""The targets of a training batch, and which query is matched with which box.

Shapes: B images, N boxes of one image, T boxes of the image with most boxes, L tokens of the longest caption, M pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from grounding_model.inputs.image_batch import send


class Target(NamedTuple):
    """The N boxes of one image of a training batch; N may be 0.

    labels and ignore stay in CPU memory: shapes depend on them, and asking a GPU for a value would wait for it.
    """

    boxes: Tensor  # (N, 4) float32 cx, cy, w, h in fractions of the image's content
    tokens: Tensor  # (N, L) bool, the batch's tokens that name each box
    labels: Tensor  # (N,) int64, index of the box's phrase in its caption; looked up in the label embedding
    weights: Tensor  # (N,) float32, factor on the box's loss
    ignore: Tensor  # (N,) bool, neither positive nor negative
    size: tuple[int, int]  # height, width of the content in pixels

    def to(self, device: torch.device | str) -> Target:
        """A copy with boxes, tokens and weights on `device`."""
        boxes, tokens, weights = (
            tensor.to(device, non_blocking=True) for tensor in (self.boxes, self.tokens, self.weights)
        )
        return self._replace(boxes=boxes, tokens=tokens, weights=weights)


class Matching(NamedTuple):
    """Pairs of a query and the box it has to predict, over a whole batch; each query is in at most one pair."""

    images: Tensor  # (M,) int64, index in the batch
    queries: Tensor  # (M,) int64, index among the image's queries
    targets: Tensor  # (M,) int64, row of the image's Target


class PaddedTargets(NamedTuple):
    """The boxes of a batch in rectangular tensors; rows beyond an image's own boxes are zeros."""

    boxes: Tensor  # (B, T, 4) cx, cy, w, h in fractions of the content
    tokens: Tensor  # (B, T, L) bool
    weights: Tensor  # (B, T)
    wanted: Tensor  # (B, T) bool, True for boxes that have to be found
    ignored: Tensor  # (B, T) bool, True for boxes that are neither positive nor negative
    scale: Tensor  # (B, 1, 4) width, height, width, height of the content in pixels
    wanted_count: int  # in the memory of the CPU, since each question to a GPU waits for it
    any_ignored: bool


def pad_targets(targets: Sequence[Target]) -> PaddedTargets:
    """The targets of B >= 1 images, padded to the image with most boxes."""

    def padded(rows: list[Tensor]) -> Tensor:
        return pad_sequence(rows, batch_first=True)

    device = targets[0].boxes.device
    ignored = padded([target.ignore for target in targets])
    wanted = padded([~target.ignore for target in targets])
    scale = torch.tensor([[target.size[::-1] * 2] for target in targets], dtype=targets[0].boxes.dtype)
    return PaddedTargets(
        boxes=padded([target.boxes for target in targets]),
        tokens=padded([target.tokens for target in targets]),
        weights=padded([target.weights for target in targets]),
        wanted=send(wanted, device),
        ignored=send(ignored, device),
        scale=send(scale, device),
        wanted_count=int(wanted.sum()),
        any_ignored=bool(ignored.any()),
    )
