"""Single GPU kernels answer as the plain layers do. Without a GPU Triton's interpreter runs them (conftest.py)."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

pytest.importorskip("triton")

from grounding_model.inputs.image_batch import ImageBatch
from grounding_model.inputs.tokens import TextBatch
from grounding_model.model.attention import DeformableAttention
from grounding_model.model.config import ModelConfig, SwinBackbone, TextEncoder
from grounding_model.model.grounding import GroundingModel
from grounding_model.model.kernels.choice import use_kernels
from grounding_model.model.kernels.cuda_graphs import ReplayedFunction, ReplayedModel
from grounding_model.model.kernels.layer_norm import KernelLayerNorm
from grounding_model.model.kernels.sampling import KernelDeformableAttention
from grounding_model.model.kernels.window_attention import KernelSwinBlock
from grounding_model.model.precision import use_bfloat16
from grounding_model.model.swin import SwinBlock

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SIZES = [(9, 12), (5, 6), (3, 3)]
TOKENS = sum(height * width for height, width in SIZES)


def drawn(module: nn.Module, seed: int = 0) -> nn.Module:
    """With weights that are neither zero nor alike."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return module.eval().to(DEVICE)


@pytest.mark.parametrize("channels", [24, 96, 256])
def test_layer_norm(channels: int) -> None:
    plain = drawn(nn.LayerNorm(channels))
    kernel = deepcopy(plain)
    kernel.__class__ = KernelLayerNorm
    x = torch.randn(3, 7, channels, device=DEVICE) * 3 + 1
    with torch.inference_mode():
        torch.testing.assert_close(kernel(x), plain(x))
        kernel.output = torch.bfloat16
        assert kernel(x).dtype == torch.bfloat16


@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize("size", [(9, 11), (10, 5), (3, 4)], ids=str)
def test_window_attention_of_any_map(shift: int, size: tuple[int, int]) -> None:
    """A multiple of the window or not, larger than it or not."""
    plain = drawn(SwinBlock(32, heads=2, window=5, shift=shift, drop_path=0.0))
    kernel = deepcopy(plain)
    kernel.__class__ = KernelSwinBlock
    x = torch.randn(2, *size, 32, device=DEVICE)
    with torch.inference_mode():
        torch.testing.assert_close(kernel(x), plain(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("reference", [2, 4], ids=["points", "boxes"])
def test_deformable_attention(reference: int) -> None:
    """Some points lie outside of every level, and some tokens are padding."""
    plain = drawn(DeformableAttention(width=32, heads=2, levels=3, points=4))
    kernel = deepcopy(plain)
    kernel.__class__ = KernelDeformableAttention
    query, memory = torch.randn(2, 41, 32, device=DEVICE), torch.randn(2, TOKENS, 32, device=DEVICE)
    references = torch.rand(2, 41, 3, reference, device=DEVICE) * 1.4 - 0.2
    padding = torch.zeros(2, TOKENS, dtype=torch.bool, device=DEVICE)
    padding[1, 70:100] = True
    with torch.inference_mode():
        expected = plain(query, memory, references, SIZES, padding)
        torch.testing.assert_close(kernel(query, memory, references, SIZES, padding), expected, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def model() -> GroundingModel:
    config = ModelConfig(
        backbone=SwinBackbone(embed_dim=32, depths=(1, 2, 1, 1), heads=(1, 2, 4, 8)),
        text=TextEncoder(vocab_size=60, width=32, layers=1, heads=2, feedforward=48),
        width=64, heads=2, encoder_layers=1, decoder_layers=2, queries=12, fusion_width=64,
    )  # fmt: skip
    return drawn(GroundingModel(config))


def inputs(batch: int, height: int = 64, width: int = 96) -> tuple[ImageBatch, TextBatch]:
    generator = torch.Generator().manual_seed(batch)
    images = ImageBatch(
        torch.randn(batch, 3, height, width, generator=generator), torch.tensor([[height, width]] * batch)
    )
    ids = torch.arange(5 * batch).view(batch, 5)
    seen = torch.eye(5, dtype=torch.bool).repeat(batch, 1, 1)
    text = TextBatch(ids, torch.ones(batch, 5, dtype=torch.bool), torch.zeros_like(ids), seen)
    return images.to(DEVICE), text.to(DEVICE)


@pytest.mark.slow
@torch.inference_mode()
def test_the_whole_model_with_kernels(model: GroundingModel) -> None:
    fused = deepcopy(model)
    use_kernels(fused)
    kinds = {type(module) for module in fused.modules()}
    assert {KernelLayerNorm, KernelSwinBlock, KernelDeformableAttention} <= kinds
    expected, found = model(*inputs(2)), fused(*inputs(2))
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found.boxes, expected.boxes, rtol=1e-3, atol=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: the interpreter multiplies no bfloat16")
@torch.inference_mode()
def test_in_bfloat16_kernels_round_no_more_than_plain_layers(model: GroundingModel) -> None:
    rounded = deepcopy(model)
    use_bfloat16(rounded)
    fused = deepcopy(rounded)
    use_kernels(fused)
    image, _ = inputs(2)
    exact, plain, kernels = (each.encode_image(image).image.tokens for each in (model, rounded, fused))
    error = (plain - exact).norm()
    assert 0 < (kernels - exact).norm() < 1.5 * error


def test_a_size_that_comes_once_is_not_recorded() -> None:
    replayed = ReplayedFunction(lambda x: x + 1)
    assert replayed(torch.ones(2)).tolist() == [2, 2]
    assert replayed(torch.ones(3)).tolist() == [2, 2, 2]
    assert len(replayed.seen) == 2
    assert not replayed.recordings


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@torch.inference_mode()
def test_graphs_answer_as_the_model_does(model: GroundingModel) -> None:
    """For every size, however sizes and batches take turns, and what was answered before stays as it was."""
    use_kernels(fused := deepcopy(model))
    replayed = ReplayedModel(fused)
    cases = [inputs(1), inputs(2), inputs(2, 96, 64)]
    expected = [fused(*case) for case in cases]
    kept = []
    for _ in range(4):
        for case, answer in zip(cases, expected):
            found = replayed(*case)
            kept.append((found, answer))
    for found, answer in kept:
        torch.testing.assert_close(found.boxes, answer.boxes)
        torch.testing.assert_close(found.logits, answer.logits)
    assert len(replayed.ground.recordings) == 3
    assert replayed.ground.usable


def test_full_memory_costs_the_recordings_and_not_the_answer() -> None:
    replayed = ReplayedFunction(lambda x: full(x) if replayed.recordings else x + 1)

    def full(x: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    replayed.recordings["a size"] = None
    assert replayed(torch.ones(2)).tolist() == [2, 2]
    assert not replayed.usable
    assert not replayed.recordings
    with pytest.raises(torch.OutOfMemoryError):
        ReplayedFunction(full)(torch.ones(2))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@torch.inference_mode()
def test_what_cannot_be_recorded_is_called() -> None:
    replayed = ReplayedFunction(lambda x: x * x.sum().item())
    for _ in range(3):
        assert replayed(torch.ones(2, device="cuda")).tolist() == [2, 2]
    assert not replayed.usable
