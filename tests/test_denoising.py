"""Denoising queries: the reference's under its seed, and what holds for any batch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from grounding_model.checkpoints.safe_pickle import read_pickled_checkpoint
from grounding_model.model.boxes import cxcywh_to_xyxy
from grounding_model.model.config import Denoising
from grounding_model.model.denoising import ContrastiveDenoising, DenoisingQueries, attention_block
from grounding_model.model.targets import Target
from tests.paths import GOLDEN
from tests.training_cases import CASES, golden_numbers, golden_targets, make_target, random_target

SETTINGS = Denoising(queries=20)
QUIET = replace(SETTINGS, label_noise=0.0, box_noise=0.0)
PLACES = [[0.5, 0.5, 0.2, 0.4], [0.3, 0.4, 0.2, 0.2], [0.6, 0.6, 0.4, 0.4]]


def queries_of(targets: list[Target], settings: Denoising = SETTINGS, seed: int = 0) -> DenoisingQueries:
    torch.manual_seed(0)
    denoising = ContrastiveDenoising(settings, width=8)
    return denoising(targets, matching_queries=5, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("case", CASES)
def test_queries_equal_the_reference_under_its_seed(case: str) -> None:
    tensors = read_pickled_checkpoint(GOLDEN / "a" / "checkpoint.pth").tensors
    denoising = ContrastiveDenoising(SETTINGS, width=64)
    denoising.label_embedding.weight.data = tensors["dn_query_generator.label_embedding.weight"]
    torch.manual_seed(2024)
    queries = denoising(golden_targets(case), matching_queries=50)
    golden = golden_numbers()
    np.testing.assert_array_equal(queries.content.detach(), golden[f"{case}/dn_label_query"])
    np.testing.assert_allclose(queries.references, golden[f"{case}/dn_bbox_query"], atol=1e-5)
    np.testing.assert_array_equal(queries.attention_block, golden[f"{case}/dn_attn_mask"])


def test_without_noise_a_positive_is_its_box_and_its_label() -> None:
    targets = [make_target(PLACES), make_target(PLACES[:1], labels=[7])]
    torch.manual_seed(0)
    denoising = ContrastiveDenoising(QUIET, width=8)
    queries = denoising(targets, matching_queries=5)
    assert len(queries.positives.images) == queries.groups * 4
    for image, query, row in zip(*(index.tolist() for index in queries.positives)):
        torch.testing.assert_close(queries.references[image, query].sigmoid(), targets[image].boxes[row])
        embedded = denoising.label_embedding.weight[targets[image].labels[row]]
        torch.testing.assert_close(queries.content[image, query], embedded)


def test_positives_move_less_than_half_a_box_and_negatives_more() -> None:
    target = make_target([[0.5, 0.5, 0.2, 0.4]])  # far enough from the border for no corner to be cut off
    queries = queries_of([target], replace(SETTINGS, queries=200))
    moved = (cxcywh_to_xyxy(queries.references[0].sigmoid()) - cxcywh_to_xyxy(target.boxes)).abs()
    share = moved / (target.boxes[:, 2:].repeat(1, 2) / 2)
    positive = torch.zeros(len(share), dtype=torch.bool)
    positive[queries.positives.queries] = True
    assert share[positive].max() <= 1
    assert share[~positive].max() > 1


def test_a_quarter_of_the_labels_is_replaced() -> None:
    torch.manual_seed(0)
    denoising = ContrastiveDenoising(replace(SETTINGS, queries=2000), width=1)
    denoising.label_embedding.weight.data = torch.arange(256.0)[:, None]
    labels = denoising([make_target(PLACES[:1], labels=[3])], 5).content.flatten()
    assert (labels != 3).float().mean() == pytest.approx(0.25, abs=0.03)


def test_mask_follows_its_definition() -> None:
    groups, group_size, matching = 3, 4, 5
    block = attention_block(groups, group_size, matching, torch.device("cpu"))
    dn = groups * group_size
    for row in range(dn + matching):
        for column in range(dn + matching):
            other_group = column < dn and (row >= dn or row // group_size != column // group_size)
            assert block[row, column] == other_group


def test_boxes_to_ignore_take_no_part() -> None:
    with_ignored = queries_of([make_target(PLACES, ignore=[False, True, False])])
    kept = make_target([PLACES[0], PLACES[2]], labels=[0, 2])
    without = queries_of([kept])
    torch.testing.assert_close(with_ignored.content, without.content)
    torch.testing.assert_close(with_ignored.references, without.references)
    assert with_ignored.positives.targets.unique().tolist() == [0, 2]


@pytest.mark.parametrize(("counts", "groups", "queries"), [((0, 0), 1, 0), ((0, 3), 6, 36), ((500,), 1, 1000)])
def test_any_number_of_boxes(counts: tuple[int, ...], groups: int, queries: int) -> None:
    generator = torch.Generator().manual_seed(0)
    made = queries_of([random_target(count, generator) for count in counts])
    assert made.groups == groups
    assert made.content.shape == (len(counts), queries, 8)
    assert made.references.shape == (len(counts), queries, 4)
    assert made.attention_block.shape == (queries + 5, queries + 5)
    assert len(made.positives.queries) == groups * sum(counts)
    assert made.references.isfinite().all()


def test_empty_places_hold_no_content_at_the_centre() -> None:
    queries = queries_of([make_target([]), make_target(PLACES)])
    assert not queries.content[0].any()
    assert (queries.references[0].sigmoid() == 0.5).all()


def test_the_embedding_learns() -> None:
    torch.manual_seed(0)
    denoising = ContrastiveDenoising(QUIET, width=8)
    denoising([make_target(PLACES)], 5).content.sum().backward()
    assert denoising.label_embedding.weight.grad[:3].all()
    assert not denoising.label_embedding.weight.grad[3:].any()


def test_a_label_outside_the_table_is_named() -> None:
    with pytest.raises(ValueError, match="label 256 has no row"):
        queries_of([make_target(PLACES[:1], labels=[256])])
