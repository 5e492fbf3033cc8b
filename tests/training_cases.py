"""Targets for the tests of the training objective: drawn at random, written by hand, or the reference's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor

from grounding_model.model.boxes import xyxy_to_cxcywh
from grounding_model.model.targets import Target
from tests.paths import GOLDEN

CASES = ("tokpos", "tokpos_emptygt", "classes_same", "classes_diff", "all_emptygt")


@cache
def golden_numbers() -> dict[str, np.ndarray]:
    """Arrays of the reference's training cases, keys `case/name`."""
    return dict(np.load(GOLDEN / "a" / "train_fixed.npz"))


@cache
def golden_cases() -> dict:
    """Inputs, losses and gradient norms of the reference's training cases."""
    return json.loads((GOLDEN / "a" / "train_fixed.json").read_text())


def make_target(
    boxes: Sequence[Sequence[float]],
    tokens: Tensor | None = None,
    labels: Sequence[int] | None = None,
    weights: Sequence[float] | None = None,
    ignore: Sequence[bool] | None = None,
    size: tuple[int, int] = (100, 200),
    length: int = 6,
) -> Target:
    """A target of cx, cy, w, h boxes; box i is named by token i + 1 unless `tokens` says otherwise."""
    count = len(boxes)
    return Target(
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        tokens=torch.eye(length, dtype=torch.bool)[1 : count + 1] if tokens is None else tokens,
        labels=torch.tensor(labels if labels is not None else range(count), dtype=torch.int64),
        weights=torch.tensor(weights if weights is not None else [1.0] * count),
        ignore=torch.tensor(ignore if ignore is not None else [False] * count, dtype=torch.bool),
        size=size,
    )


def random_boxes(count: int, generator: torch.Generator) -> Tensor:
    """(count, 4) cx, cy, w, h inside the image."""
    centres = 0.3 + 0.4 * torch.rand(count, 2, generator=generator)
    sizes = 0.1 + 0.4 * torch.rand(count, 2, generator=generator)
    return torch.cat((centres, sizes), dim=-1)


def random_target(
    count: int, generator: torch.Generator, length: int = 6, size: tuple[int, int] = (100, 200)
) -> Target:
    """A target of `count` boxes, each named by about a third of the tokens."""
    tokens = torch.rand(count, length, generator=generator) < 0.3
    labels = torch.randint(0, 4, (count,), generator=generator).tolist()
    return make_target(random_boxes(count, generator).tolist(), tokens=tokens, labels=labels, size=size)


def golden_targets(case: str) -> list[Target]:
    """The two images of a reference case."""
    targets = []
    for image, item in enumerate(golden_cases()[case]["items"]):
        height, width = item["img_shape"]
        length = golden_numbers()[f"{case}/text_token_mask"].shape[1]
        corners = torch.tensor(item["bboxes_xyxy"]).reshape(-1, 4) / torch.tensor([width, height, width, height])
        named = torch.from_numpy(golden_numbers()[f"{case}/positive_map_{image}"])[:, :length] > 0
        boxes = xyxy_to_cxcywh(corners).tolist()
        targets.append(make_target(boxes, named, item["labels"], size=(height, width)))
    return targets
