"""The losses: the reference's numbers on the reference's outputs, and what holds for any outputs."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, distributed, multiprocessing

from grounding_model.model.denoising import DenoisingQueries
from grounding_model.model.grounding import DenoisingGrounding, Grounding
from grounding_model.model.targets import Matching, Target, pad_targets
from grounding_model.training.losses import focal_loss, grounding_losses, varifocal_loss
from grounding_model.training.region_words import RegionWordHead, pool_boxes
from grounding_model.training.settings import LossSettings
from tests.training_cases import (
    CASES,
    golden_cases,
    golden_numbers,
    golden_targets,
    make_target,
    random_boxes,
    random_target,
)

LENGTH = 6


def grounding_of(
    logits: Tensor, boxes: Tensor, token_mask: Tensor, denoising: DenoisingGrounding | None = None
) -> Grounding:
    """Outputs of D layers; the first layer's stand in for the encoder's proposals."""
    return Grounding(logits, boxes, logits[0], boxes[0], denoising, token_mask, [], torch.empty(0))


def random_grounding(images: int, seed: int = 0, queries: int = 7) -> Grounding:
    generator = torch.Generator().manual_seed(seed)
    boxes = random_boxes(2 * images * queries, generator).reshape(2, images, queries, 4)
    logits = torch.randn(2, images, queries, LENGTH, generator=generator)
    token_mask = torch.arange(LENGTH) < torch.arange(LENGTH, LENGTH - images, -1)[:, None]
    logits = logits.masked_fill(~token_mask[:, None], -math.inf)
    return grounding_of(logits.requires_grad_(), boxes.requires_grad_(), token_mask)


def random_targets(counts: tuple[int, ...], seed: int = 1) -> list[Target]:
    generator = torch.Generator().manual_seed(seed)
    return [random_target(count, generator, LENGTH, (100, 150)) for count in counts]


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], msg=lambda text, name=name: f"{name}: {text}")


def golden_positives(case: str, targets: list[Target]) -> DenoisingQueries:
    """The reference's denoising queries as far as the loss needs them: which query has to become which box."""
    meta = golden_cases()[case]["dn_meta"]
    groups, queries = meta["num_denoising_groups"], meta["num_denoising_queries"]
    pairs = [
        (image, group * (queries // groups) + row, row)
        for image, target in enumerate(targets)
        for group in range(groups)
        for row in range(len(target.boxes))
    ]
    positives = Matching(*torch.tensor(pairs, dtype=torch.int64).reshape(-1, 3).unbind(1))
    return DenoisingQueries(torch.empty(0), torch.empty(0), torch.empty(0), positives, groups, queries // groups)


@pytest.mark.parametrize("case", CASES)
def test_losses_of_the_decoder_equal_the_reference(case: str) -> None:
    golden = golden_numbers()
    noisy = golden[f"{case}/dn_label_query"].shape[1]
    logits = torch.from_numpy(golden[f"{case}/head_all_cls_logits"])
    boxes = torch.from_numpy(golden[f"{case}/head_all_boxes_cxcywh"])
    token_mask = torch.from_numpy(golden[f"{case}/text_token_mask"])
    targets = golden_targets(case)
    denoising = DenoisingGrounding(logits[:, :, :noisy], boxes[:, :, :noisy], golden_positives(case, targets))
    losses = grounding_losses(grounding_of(logits[:, :, noisy:], boxes[:, :, noisy:], token_mask, denoising), targets)
    expected = golden_cases()[case]["losses"]
    assert losses.keys() == expected.keys()
    for name, value in losses.items():
        if not name.startswith("enc_"):  # the encoder's outputs are not among the stored numbers
            assert value.item() == pytest.approx(expected[name], rel=1e-4), name


def test_order_of_images_does_not_matter() -> None:
    grounding, targets = random_grounding(3), random_targets((2, 0, 3))
    order = [2, 0, 1]
    permuted = grounding_of(grounding.logits[:, order], grounding.boxes[:, order], grounding.token_mask[order])
    assert_same(grounding_losses(grounding, targets), grounding_losses(permuted, [targets[i] for i in order]))


def test_order_of_boxes_does_not_matter() -> None:
    grounding, targets = random_grounding(2), random_targets((4, 3))
    turned = [Target(*(tensor.flip(0) for tensor in target[:5]), size=target.size) for target in targets]
    assert_same(grounding_losses(grounding, targets), grounding_losses(grounding, turned))


def test_padding_of_tokens_does_not_matter() -> None:
    grounding, targets = random_grounding(2), random_targets((4, 3))
    longer = grounding_of(
        F.pad(grounding.logits, (0, 3), value=-math.inf), grounding.boxes, F.pad(grounding.token_mask, (0, 3))
    )
    padded = [target._replace(tokens=F.pad(target.tokens, (0, 3))) for target in targets]
    assert_same(grounding_losses(grounding, targets), grounding_losses(longer, padded))


@pytest.mark.parametrize("counts", [(0, 0), (0, 2), (9, 1)])
def test_any_number_of_boxes_gives_finite_gradients_everywhere(counts: tuple[int, int]) -> None:
    grounding = random_grounding(2)
    sum(grounding_losses(grounding, random_targets(counts)).values()).backward()
    assert grounding.boxes.grad.isfinite().all()
    assert grounding.logits.grad.isfinite().all()
    assert grounding.logits.grad[..., 0].all()  # every query has something to learn about every real token
    assert bool(grounding.boxes.grad.any()) == (sum(counts) > 0)


def test_weight_is_a_factor_on_the_boxes_part() -> None:
    grounding, (target,) = random_grounding(1), random_targets((3,))
    whole = grounding_losses(grounding, [target])
    half = grounding_losses(grounding, [target._replace(weights=target.weights / 2)])
    for name in whole:
        if name.endswith(("bbox", "iou")):
            torch.testing.assert_close(half[name], whole[name] / 2)
        else:
            assert half[name] < whole[name]


def test_weight_zero_leaves_the_matched_query_alone() -> None:
    grounding, (target,) = random_grounding(1), random_targets((3,))
    weights = torch.tensor([1.0, 0.0, 1.0])
    sum(grounding_losses(grounding, [target._replace(weights=weights)]).values()).backward()
    untouched = (grounding.logits.grad[-1, 0] == 0).all(-1)
    assert untouched.sum() == 1
    assert (grounding.boxes.grad[-1, 0].abs().sum(-1) > 0).sum() == 2
    assert not grounding.boxes.grad[-1, 0][untouched].any()


WANTED, IGNORED = [0.3, 0.5, 0.2, 0.2], [0.7, 0.5, 0.2, 0.2]
NEAR_IGNORED, FAR_FROM_IGNORED, ELSEWHERE = [0.71, 0.5, 0.2, 0.2], [0.85, 0.5, 0.2, 0.2], [0.5, 0.1, 0.1, 0.1]


def gradients_of_queries(boxes: list[list[float]], target: Target) -> list[bool]:
    """Whether the classification of each query is learnt from."""
    logits = torch.zeros(1, 1, len(boxes), LENGTH, requires_grad=True)
    grounding = grounding_of(logits, torch.tensor([[boxes]]), torch.ones(1, LENGTH, dtype=torch.bool))
    grounding_losses(grounding, [target])["loss_cls"].backward()
    return logits.grad[0, 0].any(-1).tolist()


def test_a_query_on_an_ignored_box_is_no_negative() -> None:
    target = make_target([WANTED, IGNORED], ignore=[False, True])
    queries = [WANTED, NEAR_IGNORED, FAR_FROM_IGNORED, ELSEWHERE]
    assert gradients_of_queries(queries, target) == [True, False, True, True]


def test_a_duplicate_of_a_real_box_stays_negative_beside_an_ignored_one() -> None:
    target = make_target([WANTED, [0.32, 0.5, 0.2, 0.2]], ignore=[False, True])
    assert gradients_of_queries([WANTED, WANTED, [0.32, 0.5, 0.2, 0.2]], target) == [True, True, False]


def test_a_matched_query_on_an_ignored_box_stays_positive() -> None:
    target = make_target([WANTED, IGNORED], ignore=[False, True])
    assert gradients_of_queries([NEAR_IGNORED], target) == [True]


def test_ignored_boxes_count_for_nothing_else() -> None:
    grounding, (target,) = random_grounding(1), random_targets((3,))
    # Far outside: no query is near it, so it must be as if it were not there.
    outside = torch.tensor([[5.0, 5.0, 0.1, 0.1]])
    more = Target(
        boxes=torch.cat((outside, target.boxes)),
        tokens=torch.cat((target.tokens[:1], target.tokens)),
        labels=torch.cat((target.labels[:1], target.labels)),
        weights=torch.ones(4),
        ignore=torch.tensor([True, False, False, False]),
        size=target.size,
    )
    assert_same(grounding_losses(grounding, [target]), grounding_losses(grounding, [more]))


def test_a_second_answer_costs_as_many_times_more() -> None:
    second, elsewhere = [0.31, 0.5, 0.2, 0.2], ELSEWHERE

    def gradients(settings: LossSettings) -> Tensor:
        logits = torch.zeros(1, 1, 3, LENGTH, requires_grad=True)
        boxes = torch.tensor([[[WANTED, second, elsewhere]]])
        grounding = grounding_of(logits, boxes, torch.ones(1, LENGTH, dtype=torch.bool))
        grounding_losses(grounding, [make_target([WANTED])], settings)["loss_cls"].backward()
        return logits.grad[0, 0]

    plain, dear = gradients(LossSettings()), gradients(LossSettings(duplicate_weight=4.0))
    torch.testing.assert_close(dear, plain * torch.tensor([[1.0], [4.0], [1.0]]))
    farther = gradients(LossSettings(duplicate_weight=4.0, duplicate_iou=0.95))
    torch.testing.assert_close(farther, plain)


@pytest.mark.parametrize(("repeats", "layers"), [(1, {"loss_cls", "d0.loss_cls"}), (2, {"loss_cls"})])
def test_second_answers_are_dearer_only_where_one_is_to_answer(repeats: int, layers: set[str]) -> None:
    grounding, targets = random_grounding(1), random_targets((2,))
    settings = LossSettings(auxiliary_repeats=repeats, duplicate_iou=0.0)
    plain = grounding_losses(grounding, targets, settings)
    dear = grounding_losses(grounding, targets, replace(settings, duplicate_weight=4.0))
    assert {name for name in plain if not torch.isclose(plain[name], dear[name])} == layers


def test_without_boxes_nothing_is_a_second_answer() -> None:
    grounding, targets = random_grounding(2), random_targets((0, 0))
    assert_same(
        grounding_losses(grounding, targets), grounding_losses(grounding, targets, LossSettings(duplicate_weight=4.0))
    )


def test_focal_loss_follows_its_definition() -> None:
    logits, targets = torch.tensor([-2.0, 0.3, 1.5]), torch.tensor([1.0, 0.0, 1.0])
    for logit, target, loss in zip(logits, targets, focal_loss(logits, targets, 0.25, 2.0)):
        p = float(logit.sigmoid()) if target else 1 - float(logit.sigmoid())
        assert float(loss) == pytest.approx((0.25 if target else 0.75) * (1 - p) ** 2 * -math.log(p), rel=1e-5)


def test_varifocal_loss_is_minimal_if_the_score_equals_the_iou() -> None:
    logits = torch.linspace(-4, 4, 801)
    loss = varifocal_loss(logits, torch.full_like(logits, 0.7), 0.75, 2.0)
    assert float(logits[loss.argmin()].sigmoid()) == pytest.approx(0.7, abs=0.01)


def test_iou_aware_positives_aim_at_the_iou() -> None:
    settings = LossSettings(iou_aware=True)
    box = [[0.5, 0.5, 0.4, 0.4]]
    shifted = torch.tensor([[[[0.6, 0.5, 0.4, 0.4]]]])  # IoU 0.6 with the box
    for logit, sign in ((math.log(0.6 / 0.4) - 0.1, -1), (math.log(0.6 / 0.4) + 0.1, 1)):
        logits = torch.full((1, 1, 1, LENGTH), logit, requires_grad=True)
        grounding = grounding_of(logits, shifted, torch.ones(1, LENGTH, dtype=torch.bool))
        grounding_losses(grounding, [make_target(box)], settings)["loss_cls"].backward()
        assert logits.grad[0, 0, 0, 1] * sign > 0


def test_repeats_reach_encoder_and_auxiliary_layers_only() -> None:
    grounding, targets = random_grounding(1), random_targets((2,))
    plain = grounding_losses(grounding, targets)
    many = grounding_losses(grounding, targets, replace(LossSettings(), encoder_repeats=3, auxiliary_repeats=2))
    changed = {name for name in plain if not torch.isclose(plain[name], many[name])}
    unchanged = {"loss_cls", "loss_bbox", "loss_iou"}
    assert changed == set(plain) - unchanged


def test_the_last_layer_learns_from_several_queries_per_box_if_configured() -> None:
    grounding, targets = random_grounding(1), random_targets((2,))
    plain = grounding_losses(grounding, targets)
    many = grounding_losses(grounding, targets, replace(LossSettings(), last_repeats=2))
    changed = {name for name in plain if not torch.isclose(plain[name], many[name])}
    assert changed == {"loss_cls", "loss_bbox", "loss_iou"}


def losses_on_a_process(rank: int, rendezvous: str, result: str) -> None:
    """One of two processes, each with one image of the batch; both have to be importable, so it stands here."""
    distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    whole, targets = random_grounding(2), random_targets((1, 5))
    part = grounding_of(
        whole.logits[:, rank : rank + 1], whole.boxes[:, rank : rank + 1], whole.token_mask[rank : rank + 1]
    )
    losses = grounding_losses(part, targets[rank : rank + 1])
    torch.save({name: value.detach() for name, value in losses.items()}, f"{result}{rank}")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_the_mean_over_processes_is_the_loss_of_the_whole_batch(tmp_path: Path) -> None:
    """So that training on two devices is training on one with twice the batch."""
    multiprocessing.spawn(losses_on_a_process, (str(tmp_path / "rendezvous"), str(tmp_path / "losses")), nprocs=2)
    first, second = (torch.load(tmp_path / f"losses{rank}") for rank in range(2))
    whole = grounding_losses(random_grounding(2), random_targets((1, 5)))
    assert_same({name: (first[name] + second[name]) / 2 for name in first}, whole)


def test_half_precision_outputs_give_finite_losses() -> None:
    grounding = random_grounding(2)
    half = grounding_of(grounding.logits.bfloat16(), grounding.boxes.bfloat16(), grounding.token_mask)
    losses = grounding_losses(half, random_targets((2, 3)))
    assert all(value.isfinite() and value.dtype == torch.float32 for value in losses.values())


def test_pooling_reads_the_inside_of_the_box() -> None:
    """A level that holds its own x and y gives the box's centre, in pixels of the canvas."""
    height, width = 64, 128
    targets = [make_target([WANTED, IGNORED], size=(64, 128)), make_target([WANTED], size=(48, 64))]
    levels = []
    for stride in (8, 16):
        y = (torch.arange(height // stride) + 0.5) * stride
        x = (torch.arange(width // stride) + 0.5) * stride
        levels.append(torch.stack(torch.meshgrid(x, y, indexing="xy")).expand(2, -1, -1, -1))
    pooled = pool_boxes(levels, (height, width), pad_targets(targets))
    assert pooled.shape == (2, 2, 2)
    torch.testing.assert_close(pooled[0], torch.tensor([[0.3 * 128, 32.0], [0.7 * 128, 32.0]]))
    torch.testing.assert_close(pooled[1, 0], torch.tensor([0.3 * 64, 24.0]))


def test_region_words_learn_a_picture_of_two_halves() -> None:
    torch.manual_seed(0)
    level = torch.zeros(1, 4, 8, 16)
    level[:, 0, :, :8], level[:, 1, :, 8:] = 1, 1
    target = make_target(
        [[0.25, 0.5, 0.3, 0.5], [0.75, 0.5, 0.3, 0.5], [0.5, 0.5, 0.1, 0.1]], ignore=[False, False, True]
    )
    head, text, mask = RegionWordHead(4, 5, 8), torch.randn(1, LENGTH, 5), torch.ones(1, LENGTH, dtype=torch.bool)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.05)

    def loss() -> Tensor:
        return head([level], (64, 128), text, mask, [target])

    start = loss().item()
    for _ in range(60):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert loss().item() < 0.1 * start


def test_region_words_leave_ignored_boxes_out() -> None:
    generator = torch.Generator().manual_seed(0)
    level, text = torch.randn(1, 4, 8, 16, generator=generator), torch.randn(1, LENGTH, 5, generator=generator)
    head, mask = RegionWordHead(4, 5, 8), torch.ones(1, LENGTH, dtype=torch.bool)
    both = make_target([WANTED, IGNORED], ignore=[False, True])
    with_ignored, alone = (head([level], (64, 128), text, mask, [x]) for x in (both, make_target([WANTED])))
    torch.testing.assert_close(with_ignored, alone)


def test_region_words_do_not_see_padded_tokens() -> None:
    generator = torch.Generator().manual_seed(0)
    level, text = torch.randn(1, 4, 8, 16, generator=generator), torch.randn(1, LENGTH, 5, generator=generator)
    head, mask = RegionWordHead(4, 5, 8), torch.ones(1, LENGTH, dtype=torch.bool)
    target = make_target([WANTED])
    alone = head([level], (64, 128), text, mask, [target])
    longer = torch.cat((text, 100 * torch.ones(1, 3, 5)), dim=1)
    longer_mask = torch.cat((mask, torch.zeros(1, 3, dtype=torch.bool)), dim=1)
    padded = target._replace(tokens=torch.cat((target.tokens, torch.zeros(1, 3, dtype=torch.bool)), dim=1))
    torch.testing.assert_close(head([level], (64, 128), longer, longer_mask, [padded]), alone)


def test_region_words_without_boxes_are_zero_and_connected() -> None:
    head = RegionWordHead(4, 5, 8)
    mask = torch.ones(1, LENGTH, dtype=torch.bool)
    loss = head([torch.randn(1, 4, 8, 16)], (64, 128), torch.randn(1, LENGTH, 5), mask, [make_target([])])
    loss.backward()
    assert loss.item() == 0
    assert all(parameter.grad is not None for parameter in head.parameters())
