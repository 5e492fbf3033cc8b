"""The compiled sampling answers as the plain one, and is never needed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from grounding_model import load_detector
from grounding_model.glyphs import categories_of, draw_scene
from grounding_model.model.attention import DeformableAttention, sample_rows
from grounding_model.model.kernels import compiled_gather
from grounding_model.model.kernels.compiled_gather import (
    CompiledDeformableAttention,
    compiled_sample_rows,
    differentiable_sample_rows,
    library,
)

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
@pytest.mark.parametrize("channels", [32, 36])
def test_the_loop_has_the_gradients_of_the_plain_layer(channels: int) -> None:
    table, first, locations, weights = question(channels, torch.float32)
    inputs = [table, locations, weights]
    found, expected = (
        torch.autograd.grad(function(t, SIZES, first, at, w).square().sum(), (t, at, w))
        for function in (differentiable_sample_rows, sample_rows)
        for t, at, w in [[each.clone().requires_grad_() for each in inputs]]
    )
    for mine, theirs in zip(found, expected, strict=True):
        assert theirs.abs().max() > 1
        torch.testing.assert_close(mine, theirs, atol=1e-5 * theirs.abs().max().item(), rtol=1e-4)


@needs_compiler
def test_gradients_are_the_same_with_several_threads() -> None:
    before, gradients = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        table, first, locations, weights = question(32, torch.float32)
        differentiable_sample_rows(table.requires_grad_(), SIZES, first, locations, weights).sum().backward()
        gradients.append(table.grad)
    torch.set_num_threads(before)
    assert torch.equal(*gradients)


@needs_compiler
def test_a_layer_in_training_learns_the_same_with_the_loop() -> None:
    torch.manual_seed(2)
    layer, other = DeformableAttention(16, 2, len(SIZES), 3), DeformableAttention(16, 2, len(SIZES), 3)
    other.load_state_dict(layer.state_dict())
    other.__class__ = CompiledDeformableAttention
    query, memory, references = torch.rand(2, 4, 16), torch.rand(2, 154, 16), torch.rand(2, 4, len(SIZES), 2)
    for each in (layer, other):
        each(query, memory, references, SIZES, None).square().sum().backward()
    for mine, theirs in zip(other.parameters(), layer.parameters(), strict=True):
        assert theirs.grad.abs().max() > 1e-3
        torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-5, rtol=1e-4)


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


@pytest.fixture
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """An empty cache folder, and no library that an earlier test has loaded."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(compiled_gather, "FLAGS", ("-O0", "-shared", "-fPIC"))  # compiles in a second
    library.cache_clear()
    yield tmp_path / "groundhog"
    library.cache_clear()


@needs_compiler
@pytest.mark.parametrize("length", [0, 9000, -1])
def test_a_damaged_library_is_built_again(own_cache: Path, length: int) -> None:
    (path,) = [compiled_gather._built(["c++"])]
    whole = path.read_bytes()
    path.unlink()
    path.write_bytes(whole[:length])
    assert library() is not None
    assert list(own_cache.iterdir()) == [path]
    assert path.read_bytes() == whole


@needs_compiler
def test_a_compiler_with_options_is_used(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "c++ -g0")
    assert library() is not None


@pytest.mark.parametrize("value", ["0", "false", "No", "off"])
def test_the_loop_can_be_switched_off(own_cache: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("GROUNDHOG_COMPILE", value)
    assert library() is None
    assert not own_cache.exists()


@needs_compiler
def test_without_a_home_folder_the_plain_layer_is_used(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    assert library() is None


@needs_compiler
def test_a_library_without_a_function_is_not_used(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled_gather, "BACKWARD", "gather_forth")
    assert library() is None
