"""The layers of attention.py give the numbers and gradients of the plain formulas they are a faster form of."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grounding_model.model import attention
from grounding_model.model.attention import (
    DeformableAttention,
    FeedForward,
    ImageTextFusion,
    MultiheadAttention,
    sample_levels,
)
from grounding_model.model.kernels import feedforward

SIZES = [(5, 7), (3, 4), (1, 2), (1, 1)]
HEADS, POINTS, CHANNELS = 3, 2, 4


def by_grid_sample(value: Tensor, sizes: list[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """Each level sampled as an image, then added up by weight, as the paper has it (arXiv 2010.04159, equation 3)."""
    answer = torch.zeros(())
    for level, start in enumerate(torch.tensor([0, *[h * w for h, w in sizes]]).cumsum(0)[:-1]):
        height, width = sizes[level]
        image = value[:, start : start + height * width].permute(0, 2, 3, 1).flatten(0, 1)
        grid = (2 * locations[:, :, :, level] - 1).transpose(1, 2).flatten(0, 1)
        sampled = F.grid_sample(image.unflatten(-1, (height, width)), grid, padding_mode="zeros", align_corners=False)
        weight = weights[:, :, :, level].transpose(1, 2).flatten(0, 1)
        answer = answer + (sampled * weight[:, None]).sum(-1)
    return answer.unflatten(0, (len(value), -1)).flatten(1, 2).transpose(1, 2)


def sampling_case(queries: int, spread: float = 1.6) -> tuple[Tensor, Tensor, Tensor]:
    """Points reach beyond the image; some lie exactly on a border and on a cell's centre."""
    generator = torch.Generator().manual_seed(3)
    value = torch.randn(2, sum(h * w for h, w in SIZES), HEADS, CHANNELS, generator=generator, dtype=torch.float64)
    shape = (2, queries, HEADS, len(SIZES), POINTS)
    locations = 0.5 + spread * (torch.rand(*shape, 2, generator=generator, dtype=torch.float64) - 0.5)
    locations[:, 0] = 0.0
    locations[:, 1] = 1.0
    locations[:, 2] = 0.5
    weights = torch.rand(shape, generator=generator, dtype=torch.float64)
    return value, locations, weights


def gradients(function: Callable[..., Tensor], *arguments: Tensor) -> list[Tensor]:
    inputs = [argument.clone().requires_grad_() for argument in arguments]
    answer = function(*inputs)
    factors = torch.linspace(-1, 1, answer.numel(), dtype=answer.dtype).view(answer.shape).cos()
    return list(torch.autograd.grad((answer * factors).sum(), inputs))


@pytest.mark.parametrize("spread", [0.8, 1.6, 40.0], ids=["inside", "around the border", "far outside"])
def test_sampling_equals_grid_sample(spread: float) -> None:
    value, locations, weights = sampling_case(9, spread)
    found = sample_levels(value, SIZES, locations, weights)
    assert found.abs().max() > 0.01
    torch.testing.assert_close(found, by_grid_sample(value, SIZES, locations, weights), rtol=0, atol=1e-12)


def test_gradients_of_sampling_equal_those_of_grid_sample() -> None:
    """Away from cell centres, where bilinear sampling has a corner and no single gradient."""
    value, locations, weights = (tensor[:, 3:] if tensor.dim() > 4 else tensor for tensor in sampling_case(9))
    found = gradients(lambda v, p, w: sample_levels(v, SIZES, p, w), value, locations, weights)
    expected = gradients(lambda v, p, w: by_grid_sample(v, SIZES, p, w), value, locations, weights)
    for gradient, reference in zip(found, expected, strict=True):
        assert reference.abs().max() > 0.1
        torch.testing.assert_close(gradient, reference, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rows", [1, 4, 18])
@pytest.mark.parametrize("kind", [2, 4], ids=["points", "boxes"])
def test_deformable_attention_does_not_depend_on_how_many_queries_run_at_a_time(
    rows: int, kind: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chunk may hold queries of two images; all images may share their references."""
    torch.manual_seed(4)
    layer = DeformableAttention(12, HEADS, len(SIZES), POINTS).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    query, memory = torch.randn(2, 9, 12, dtype=torch.float64), torch.randn(2, 50, 12, dtype=torch.float64)
    references = torch.rand(1, 9, len(SIZES), kind, dtype=torch.float64)
    padding = torch.rand(2, 50) < 0.3
    function = partial(layer, sizes=SIZES, padding=padding)
    value = layer.value(memory).masked_fill(padding[..., None], 0).unflatten(-1, (HEADS, -1))
    locations, weights = layer.points_of(query.flatten(0, 1), references.expand(2, -1, -1, -1).flatten(0, 1), SIZES)
    by_image = (locations.unflatten(0, (2, -1)), weights.unflatten(0, (2, -1)))
    expected = layer.output(by_grid_sample(value, SIZES, *by_image)).detach()
    expected_gradients = gradients(function, query, memory, references)
    monkeypatch.setattr(attention, "INFERENCE_ROWS", rows)
    monkeypatch.setattr(attention, "TRAINING_ROWS", rows)
    with torch.inference_mode():
        torch.testing.assert_close(function(query, memory, references), expected, rtol=0, atol=1e-12)
    for gradient, reference in zip(gradients(function, query, memory, references), expected_gradients, strict=True):
        assert reference.abs().max() > 0.01
        torch.testing.assert_close(gradient, reference, rtol=0, atol=1e-12)


def test_half_precision_values_are_sampled_too() -> None:
    value, locations, weights = (tensor.float() for tensor in sampling_case(9))
    with torch.inference_mode():
        found = sample_levels(value.bfloat16(), SIZES, locations, weights)
    assert found.dtype == torch.bfloat16
    expected = by_grid_sample(value, SIZES, locations, weights)
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=0.02 * expected.abs().max().item())


def plain_fusion(
    layer: ImageTextFusion, image: Tensor, text: Tensor, padding: Tensor | None, token_mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Two attentions by one table of scores, with all tokens in all channels (GLIP, arXiv 2112.03857, equation 4)."""
    image, text = layer.image_norm(image), layer.text_norm(text)
    width = layer.image_query.out_features // layer.heads
    query, key = layer.split_heads(layer.image_query(image)), layer.split_heads(layer.text_key(text))
    scores = (query * width**-0.5 @ key.transpose(-1, -2)).clamp(-layer.score_limit, layer.score_limit)
    to_text = scores.masked_fill(~token_mask[:, None, None, :], float("-inf")).softmax(-1)
    if padding is not None:
        scores = scores.masked_fill(padding[:, None, :, None], float("-inf"))
    to_image = layer.dropout(scores.transpose(-1, -2).softmax(-1))
    image_delta = layer.dropout(to_text) @ layer.split_heads(layer.text_value(text))
    text_delta = to_image @ layer.split_heads(layer.image_value(image))
    image = image + layer.image_scale * layer.image_output(image_delta.transpose(1, 2).flatten(2))
    return image, text + layer.text_scale * layer.text_output(text_delta.transpose(1, 2).flatten(2))


def fusion_case(padded: bool) -> tuple[ImageTextFusion, tuple[Tensor, Tensor, Tensor | None, Tensor]]:
    """All weights drawn, biases and scales too: as a layer starts, most of it is zero."""
    torch.manual_seed(5)
    layer = ImageTextFusion(width=12, fusion_width=24, heads=3, initial_scale=1.0, dropout=0.0).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.5)
    image, text = torch.randn(2, 17, 12, dtype=torch.float64), torch.randn(2, 5, 12, dtype=torch.float64)
    padding, token_mask = torch.zeros(2, 17).bool(), torch.ones(2, 5).bool()
    padding[1, 11:], token_mask[0, 3:] = True, False
    return layer, (image, text, padding if padded else None, token_mask)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("limit", [50000.0, 0.3], ids=["free scores", "clamped scores"])
def test_fusion_equals_the_plain_formula(padded: bool, limit: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageTextFusion, "score_limit", limit)
    layer, inputs = fusion_case(padded)
    for found, expected in zip(layer(*inputs), plain_fusion(layer, *inputs), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("rows", [1, 5, 17])
@pytest.mark.parametrize("padded", [False, True])
def test_fusion_of_a_few_image_tokens_at_a_time_equals_the_whole(
    rows: int, padded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some chunks hold padding alone, and the largest score of a word may be in any."""
    layer, (image, text, padding, token_mask) = fusion_case(padded)
    if padding is not None:
        padding[1, :7] = True
    expected = plain_fusion(layer, image, text, padding, token_mask)
    monkeypatch.setattr(attention, "INFERENCE_ROWS", rows)
    with torch.inference_mode():
        for found, reference in zip(layer(image, text, padding, token_mask), expected, strict=True):
            torch.testing.assert_close(found, reference.detach(), rtol=0, atol=1e-11)


@pytest.mark.parametrize("training", [False, True])
def test_one_text_for_all_images_is_that_text_for_each(training: bool) -> None:
    layer, (image, text, padding, token_mask) = fusion_case(padded=True)
    with torch.set_grad_enabled(training):
        found = layer(image, text[:1], padding, token_mask[:1])
        expected = layer(image, text[:1].expand(2, -1, -1), padding, token_mask[:1].expand(2, -1))
    for one, each in zip(found, expected, strict=True):
        torch.testing.assert_close(one, each, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dimensions", [2, 3, None])
@pytest.mark.parametrize("same", [False, True], ids=["queries of their own", "queries are the keys"])
def test_multihead_attention_is_that_of_torch(dimensions: int | None, same: bool) -> None:
    """One that is written out, since torch's copies a mask for each head."""
    torch.manual_seed(3)
    layer = MultiheadAttention(12, 3, dropout=0.0).double()
    query, value = torch.randn(2, 6, 12, dtype=torch.float64), torch.randn(2, 6, 12, dtype=torch.float64)
    key = query if same else torch.randn(2, 6, 12, dtype=torch.float64)
    blocked = None if dimensions is None else (torch.rand(2, 6, 6) < 0.4) & ~torch.eye(6, dtype=torch.bool)
    blocked = blocked[0] if dimensions == 2 and blocked is not None else blocked
    padding = torch.tensor([[False] * 6, [False] * 3 + [True] * 3]) if blocked is None else None
    mask = blocked.repeat_interleave(3, 0) if dimensions == 3 and blocked is not None else blocked
    expected, _ = nn.MultiheadAttention.forward(layer, query, key, value, padding, attn_mask=mask, need_weights=False)
    torch.testing.assert_close(layer(query, key, value, blocked, padding), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("limit", [50000.0, 0.3], ids=["free scores", "clamped scores"])
def test_gradients_of_fusion_equal_those_of_the_plain_formula(limit: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of both inputs and of every weight."""
    monkeypatch.setattr(ImageTextFusion, "score_limit", limit)
    layer, (image, text, padding, token_mask) = fusion_case(padded=True)
    all_gradients = []
    for function in (layer, lambda *inputs: plain_fusion(layer, *inputs)):
        inputs = (image.clone().requires_grad_(), text.clone().requires_grad_())
        answer = torch.cat([part.flatten() for part in function(*inputs, padding, token_mask)])
        loss = (answer * torch.arange(len(answer)).cos()).sum()
        all_gradients.append(torch.autograd.grad(loss, (*inputs, *layer.parameters())))
    for found, expected in zip(*all_gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_dropout_of_fusion_leaves_the_mean_answer_alone() -> None:
    """What dropout takes from a row of attention it takes from the bias of the values too, as in the plain formula."""
    layer, inputs = fusion_case(padded=True)
    with torch.no_grad():
        expected = layer(*inputs)
        layer.dropout.p = 0.3
        many = [layer(*inputs) for _ in range(3000)]
        plain = [plain_fusion(layer, *inputs) for _ in range(3000)]
    for side in (0, 1):
        found, reference = (torch.stack([answer[side] for answer in runs]) for runs in (many, plain))
        spread = reference.std(0).mean().item()
        assert spread > 0.1
        torch.testing.assert_close(found.mean(0), expected[side], rtol=0, atol=0.15 * found.std(0).max().item())
        assert found.std(0).mean().item() == pytest.approx(spread, rel=0.03)


def test_feed_forward_in_chunks_equals_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = FeedForward(8, 32, dropout=0.0).double(), torch.randn(2, 11, 8, dtype=torch.float64)
    expected = layer.of_rows(x).detach()
    monkeypatch.setattr(attention, "INFERENCE_ROWS", 4)
    with torch.inference_mode():
        torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("frozen", [False, True])
def test_feed_forward_in_chunks_has_the_gradients_of_the_whole(frozen: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feedforward, "ROWS", 4)
    layer = FeedForward(8, 32, dropout=0.0).double()
    layer.expand.requires_grad_(not frozen)
    x = torch.randn(2, 11, 8, dtype=torch.float64, requires_grad=True)
    wanted = [x, *(parameter for parameter in layer.parameters() if parameter.requires_grad)]
    found, expected = (
        torch.autograd.grad(function(x).square().sum(), wanted) for function in (layer.forward, layer.of_rows)
    )
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)
