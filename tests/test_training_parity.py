"""One training step of the whole model against the reference: losses, matches and gradients of five batches."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from grounding_model.checkpoints.checkpoint import Checkpoint
from grounding_model.checkpoints.weight_names import MMDET_WITH_SWIN
from grounding_model.checkpoints.weights import load_checkpoint
from grounding_model.inputs.image import read_image, resize_for_test
from grounding_model.inputs.image_batch import ImageBatch, collate_images
from grounding_model.inputs.tokens import TextBatch, tokenize
from grounding_model.model.grounding import Grounding
from grounding_model.model.targets import pad_targets
from grounding_model.training.losses import grounding_losses
from grounding_model.training.matcher import match_queries
from tests.paths import GOLDEN
from tests.training_cases import CASES, golden_cases, golden_numbers, golden_targets


class Step(NamedTuple):
    grounding: Grounding
    losses: dict[str, Tensor]
    gradients: dict[str, Tensor]  # by the reference's names


@cache
def checkpoint() -> Checkpoint:
    loaded = load_checkpoint(GOLDEN / "a" / "checkpoint.pth", text_encoder=GOLDEN / "a" / "bert")
    loaded.model.train()  # every dropout of this checkpoint is zero
    return loaded


@cache
def images() -> ImageBatch:
    scale = (160, 266)
    return collate_images([resize_for_test(read_image(GOLDEN / "a" / f"img{image}.png"), scale) for image in (0, 1)])


def text_of(case: str) -> TextBatch:
    return tokenize([caption_of(item) for item in golden_cases()[case]["items"]], checkpoint().tokenizer)


def caption_of(item: dict) -> str:
    """A caption with spans stands as it is; categories, listed or in one text, are joined."""
    if "tokens_positive" in item:
        return item["text"]
    names = item["text"].split(". ") if isinstance(item["text"], str) else item["text"]
    return "".join(f"{name}. " for name in names)


@cache
def step(case: str) -> Step:
    model, targets = checkpoint().model, golden_targets(case)
    model.zero_grad()
    torch.manual_seed(golden_cases()[case]["seed"])
    grounding = model(images(), text_of(case), targets)
    losses = grounding_losses(grounding, targets)
    sum(losses.values()).backward()
    gradients = {MMDET_WITH_SWIN.theirs_of(name)[0]: parameter.grad for name, parameter in model.named_parameters()}
    return Step(grounding, losses, gradients)


@pytest.mark.parametrize("case", CASES)
def test_inputs_are_those_of_the_reference(case: str) -> None:
    text, golden = text_of(case), golden_numbers()
    np.testing.assert_array_equal(text.input_ids, golden[f"{case}/text_input_ids"])
    np.testing.assert_array_equal(text.token_mask, golden[f"{case}/text_token_mask"])
    np.testing.assert_array_equal(text.position_ids, golden[f"{case}/text_position_ids"])
    assert images().sizes.tolist() == [item["img_shape"] for item in golden_cases()[case]["items"]]


@pytest.mark.parametrize("case", CASES)
def test_outputs_equal_the_reference(case: str) -> None:
    grounding, golden = step(case).grounding, golden_numbers()
    logits = torch.cat((grounding.denoising.logits, grounding.logits), dim=2).detach()
    boxes = torch.cat((grounding.denoising.boxes, grounding.boxes), dim=2).detach()
    np.testing.assert_allclose(logits, golden[f"{case}/head_all_cls_logits"], atol=1e-4)
    np.testing.assert_allclose(boxes, golden[f"{case}/head_all_boxes_cxcywh"], atol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_losses_equal_the_reference(case: str) -> None:
    losses, expected = step(case).losses, golden_cases()[case]
    assert losses.keys() == expected["losses"].keys()
    for name, value in losses.items():
        assert value.item() == pytest.approx(expected["losses"][name], rel=1e-4), name
    assert sum(losses.values()).item() == pytest.approx(expected["total"], rel=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_matches_equal_the_reference(case: str) -> None:
    """In every decoder layer, and last among the encoder's proposals."""
    grounding, padded = step(case).grounding, pad_targets(golden_targets(case))
    layers = [*zip(grounding.logits, grounding.boxes), (grounding.encoder_logits, grounding.encoder_boxes)]
    expected = golden_numbers()[f"{case}/matcher_gt_inds"]
    assert len(layers) == len(expected)
    for (logits, boxes), gt_plus_one in zip(layers, expected):
        matching = match_queries(logits, boxes, padded, grounding.token_mask)
        found = np.zeros_like(gt_plus_one)
        found[matching.images, matching.queries] = matching.targets + 1
        np.testing.assert_array_equal(found, gt_plus_one)


@pytest.mark.parametrize("case", CASES)
def test_gradients_equal_the_reference(case: str) -> None:
    gradients, expected = step(case).gradients, golden_cases()[case]
    assert not [name for name, gradient in gradients.items() if gradient is None]
    norms = {name: gradients[name].norm().item() for name in expected["grad_norms"]}
    assert norms == pytest.approx(expected["grad_norms"], rel=1e-3)
    total = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
    assert total.item() == pytest.approx(expected["total_grad_norm"], rel=1e-3)
    for key, gradient in golden_numbers().items():
        if key.startswith(f"{case}/grad/"):
            error = np.linalg.norm(gradients[key.removeprefix(f"{case}/grad/")] - gradient)
            assert error <= 1e-3 * np.linalg.norm(gradient), key


def test_an_image_trains_alike_wherever_it_stands_in_the_batch() -> None:
    """Captions of different length included; denoising off, for its noise depends on the place."""
    model, text, targets = checkpoint().model, text_of("tokpos"), golden_targets("tokpos")
    turned_images = ImageBatch(*(tensor.flip(0) for tensor in images()))
    turned_text = TextBatch(*(tensor.flip(0) for tensor in text))
    with torch.no_grad():
        losses = grounding_losses(model(images(), text), targets)
        turned = grounding_losses(model(turned_images, turned_text), targets[::-1])
    assert not any("dn_" in name for name in losses)
    assert {name: loss.item() for name, loss in turned.items()} == pytest.approx(
        {name: loss.item() for name, loss in losses.items()}, rel=1e-4
    )
