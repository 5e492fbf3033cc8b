"""The compiled sampling answers as the plain one, and is never needed."""

from __future__ import annotations

import shutil

import pytest
import torch

from grounding_model import load_detector
from grounding_model.glyphs import categories_of, draw_scene
from grounding_model.model.attention import DeformableAttention, sample_rows
from grounding_model.model.kernels import compiled_gather
from grounding_model.model.kernels.compiled_gather import CompiledDeformableAttention, compiled_sample_rows, library

needs_compiler = pytest.mark.skipif(shutil.which("c++") is None, reason="no compiler")
SIZES = [(9, 13), (5, 7), (1, 2)]


def question(channels: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    tokens, heads, queries = sum(height * width for height, width in SIZES), 4, 50
    table = torch.randn(2 * tokens * heads, channels).to(dtype)
    first = torch.tensor([0, tokens * heads], dtype=torch.int32).repeat_interleave(queries // 2)
    locations = torch.rand(queries, heads, len(SIZES), 3, 2) * 1.6 - 0.3  # some far outside
    locations[0, 0, 0, 0] = 1e9
    return table, first, locations, torch.rand(queries, heads, len(SIZES), 3)


@needs_compiler
@pytest.mark.parametrize("channels", [32, 36])
@torch.inference_mode()
def test_the_loop_adds_up_what_the_plain_layer_does(channels: int) -> None:
    table, first, locations, weights = question(channels, torch.float32)
    expected = sample_rows(table, SIZES, first, locations, weights)
    torch.testing.assert_close(
        compiled_sample_rows(table, SIZES, first, locations, weights), expected, atol=1e-5, rtol=1e-5
    )


@needs_compiler
@torch.inference_mode()
def test_rounded_values_are_added_up_in_full() -> None:
    table, first, locations, weights = question(32, torch.bfloat16)
    expected = sample_rows(table.float(), SIZES, first, locations, weights)
    torch.testing.assert_close(
        compiled_sample_rows(table, SIZES, first, locations, weights), expected, atol=1e-5, rtol=1e-5
    )


@needs_compiler
def test_training_keeps_the_plain_layer_and_its_gradient() -> None:
    layer = DeformableAttention(16, 2, len(SIZES), 3)
    layer.__class__ = CompiledDeformableAttention
    query, memory = torch.rand(1, 4, 16), torch.rand(1, 154, 16)[:, : sum(h * w for h, w in SIZES)]
    layer(query, memory.requires_grad_(), torch.rand(1, 4, len(SIZES), 2), SIZES, None).sum().backward()
    assert memory.grad is not None


def test_without_a_compiler_the_plain_layers_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = draw_scene("source", 3, 0, "od")[0]
    names = list(categories_of("source", "od"))
    usual = load_detector(device="cpu").predict([picture], names)[0]
    monkeypatch.setattr(compiled_gather, "library", lambda: None)
    detector = load_detector(device="cpu")
    assert not any(isinstance(module, CompiledDeformableAttention) for module in detector.model.modules())
    plain = detector.predict([picture], names)[0]
    for one, other in zip(usual.instances[:10], plain.instances[:10], strict=True):
        assert one.label == other.label
        assert one.box == pytest.approx(other.box, abs=1e-2)


def test_a_compiler_that_fails_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "false")
    library.cache_clear()
    try:
        assert library() is None
    finally:
        library.cache_clear()
