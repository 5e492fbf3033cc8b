"""The matcher: least cost against every possible assignment, the reference's matches, and clear errors."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
import torch
from torch import Tensor

from grounding_model.model.targets import Matching, Target, pad_targets
from grounding_model.training.matcher import match_queries
from grounding_model.training.settings import MatchingCosts
from tests.training_cases import CASES, golden_numbers, golden_targets, make_target, random_boxes, random_target

ALL_TOKENS = torch.ones(1, 6, dtype=torch.bool)


def cost_of_pair(logits: Tensor, box: Tensor, target: Target, row: int, token_mask: Tensor) -> float:
    """The cost of one query for one box, number by number."""
    cost = 0.0
    for token in range(len(logits)):
        if token_mask[token]:
            p = 1 / (1 + math.exp(-float(logits[token])))
            if target.tokens[row, token]:
                cost += 2 * 0.25 * (1 - p) ** 2 * -math.log(p)
            else:
                cost += 2 * 0.75 * p**2 * -math.log(1 - p)
    (x, y, w, h), (tx, ty, tw, th) = box.tolist(), target.boxes[row].tolist()
    cost += 5 * (abs(x - tx) + abs(y - ty) + abs(w - tw) + abs(h - th))
    height, width = target.size

    def corners(x: float, y: float, w: float, h: float) -> tuple[float, float, float, float]:
        return (x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height

    a, b = corners(x, y, w, h), corners(tx, ty, tw, th)
    overlap = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return cost - 2 * (overlap / union - (hull - union) / hull)


def pairs_of(matching: Matching, image: int) -> set[tuple[int, int]]:
    here = matching.images == image
    return set(zip(matching.queries[here].tolist(), matching.targets[here].tolist()))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("count", [1, 3, 5, 6])
def test_no_assignment_costs_less(seed: int, count: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    queries = 5  # 6 boxes are one more than there are queries
    logits = torch.randn(1, queries, 6, generator=generator)
    boxes = random_boxes(queries, generator)[None]
    token_mask = torch.tensor([[True, True, True, True, False, False]])
    target = random_target(count, generator)
    matching = match_queries(logits, boxes, pad_targets([target]), token_mask)

    cost = [
        [cost_of_pair(logits[0, query], boxes[0, query], target, row, token_mask[0]) for row in range(count)]
        for query in range(queries)
    ]
    if count <= queries:
        least = min(sum(cost[q][row] for row, q in enumerate(p)) for p in permutations(range(queries), count))
    else:
        least = min(sum(cost[q][row] for q, row in enumerate(p)) for p in permutations(range(count), queries))
    pairs = pairs_of(matching, 0)
    assert len(pairs) == min(count, queries)
    assert sum(cost[query][row] for query, row in pairs) == pytest.approx(least, rel=1e-4)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("layer", [0, 1])
def test_matches_equal_the_reference(case: str, layer: int) -> None:
    golden = golden_numbers()
    denoising = golden[f"{case}/dn_label_query"].shape[1]
    logits = torch.from_numpy(golden[f"{case}/head_all_cls_logits"])[layer, :, denoising:]
    boxes = torch.from_numpy(golden[f"{case}/head_all_boxes_cxcywh"])[layer, :, denoising:]
    token_mask = torch.from_numpy(golden[f"{case}/text_token_mask"])
    matching = match_queries(logits, boxes, pad_targets(golden_targets(case)), token_mask)
    expected = golden[f"{case}/matcher_gt_inds"][layer]
    for image in range(len(expected)):
        queries = np.flatnonzero(expected[image])
        assert pairs_of(matching, image) == set(zip(queries.tolist(), (expected[image][queries] - 1).tolist()))


def test_boxes_to_ignore_are_not_matched() -> None:
    target = make_target([[0.5, 0.5, 0.2, 0.2], [0.2, 0.2, 0.1, 0.1]], ignore=[True, False])
    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.2], [0.2, 0.2, 0.1, 0.1]]])
    assert pairs_of(match_queries(torch.zeros(1, 2, 6), boxes, pad_targets([target]), ALL_TOKENS), 0) == {(1, 1)}


def test_padded_tokens_may_hold_anything() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, boxes = torch.randn(1, 5, 6, generator=generator), random_boxes(5, generator)[None]
    token_mask = torch.tensor([[True, True, True, True, False, False]])
    padded = pad_targets([random_target(3, generator)])
    plain = pairs_of(match_queries(logits, boxes, padded, token_mask), 0)
    for filling in (-math.inf, math.nan, 1e9):
        filled = logits.masked_fill(~token_mask[:, None], filling)
        assert pairs_of(match_queries(filled, boxes, padded, token_mask), 0) == plain


def test_repeats_share_out_the_queries() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, boxes = torch.randn(1, 7, 6, generator=generator), random_boxes(7, generator)[None]
    padded = pad_targets([random_target(2, generator)])
    for repeats, each in ((1, 1), (2, 2), (3, 3), (5, 3)):  # 7 queries give no more than 3 to each of 2 boxes
        matching = match_queries(logits, boxes, padded, ALL_TOKENS, repeats=repeats)
        assert torch.bincount(matching.targets).tolist() == [each, each]
        assert len(matching.queries.unique()) == len(matching.queries)


def test_mixed_precision_does_not_change_the_matches() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = -4 + 1e-2 * torch.randn(1, 64, 6, generator=generator)
    boxes = torch.full((1, 64, 4), 0.5)
    padded = pad_targets([random_target(30, generator)])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = match_queries(logits, boxes, padded, ALL_TOKENS)
    assert pairs_of(mixed, 0) == pairs_of(match_queries(logits, boxes, padded, ALL_TOKENS), 0)


def test_no_boxes_in_the_batch() -> None:
    matching = match_queries(torch.zeros(2, 5, 6), torch.full((2, 5, 4), 0.5), pad_targets([make_target([])] * 2),
                             ALL_TOKENS.repeat(2, 1))  # fmt: skip
    assert [len(index) for index in matching] == [0, 0, 0]


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_what_is_not_finite_is_named(broken: float) -> None:
    padded = pad_targets([make_target([[0.5, 0.5, 0.2, 0.2]])] * 2)
    logits, boxes = torch.zeros(2, 3, 6), torch.full((2, 3, 4), 0.5)
    masks = ALL_TOKENS.repeat(2, 1)
    boxes[1, 2, 3] = broken
    with pytest.raises(FloatingPointError, match=r"image 1 of the batch: box( and giou)? not finite"):
        match_queries(logits, boxes, padded, masks, MatchingCosts())
    logits[0, 1, 4] = math.nan
    with pytest.raises(FloatingPointError, match="image 0 of the batch: classification not finite"):
        match_queries(logits, boxes, padded, masks)
