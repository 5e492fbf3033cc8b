"""Inference in bfloat16 where it costs no accuracy: the large linear layers of the image side, the convolutions of a
backbone, and what image tokens and words take from each other.

Everything that places a box or ranks it stays float32: sampling offsets and weights, the scores of fusion, query
selection, the decoder but for its image values, the heads, and the text encoder. torch.autocast as it is also rounds
those.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grounding_model.inputs.defaults import DTYPES
from grounding_model.model.backbone import TimmFeatures
from grounding_model.model.decoder import DecoderLayer
from grounding_model.model.encoder import EncoderLayer
from grounding_model.model.grounding import GroundingModel
from grounding_model.model.swin import SwinTransformer

Dtype = Literal["float32", "bfloat16"]


def choose_dtype(name: str, device: torch.device) -> Dtype:
    """name: one of DTYPES. 'auto' is bfloat16 where the device multiplies it natively, else float32; emulated it
    is slower than float32. Raises ValueError for another name."""
    if name not in DTYPES:
        raise ValueError(f"'{name}' is not a number format; expected {', '.join(DTYPES)}")
    if name != "auto":
        return cast(Dtype, name)
    return "bfloat16" if multiplies_bfloat16(device) else "float32"


@contextmanager
def float32_products(dtype: Dtype, device: torch.device) -> Iterator[None]:
    """How a GPU multiplies what stays float32, set on purpose: beside bfloat16's 8 bits the 11 of TF32 cost nothing and
    are several times as fast; a model in float32 is multiplied in float32, convolutions too (torch's default is TF32).
    """
    if device.type != "cuda":
        yield
        return
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = dtype == "bfloat16"
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def multiplies_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    features = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return any(features.get(name) for name in ("avx512_bf16", "amx_bf16"))


class BFloat16Linear(nn.Module):
    """A linear layer with bfloat16 weights; it takes any floats. output: the format of its answer."""

    def __init__(self, layer: nn.Linear, output: torch.dtype) -> None:
        super().__init__()
        self.output = output
        self.weight = nn.Parameter(layer.weight.detach().bfloat16(), requires_grad=False)
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().bfloat16(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.bfloat16(), self.weight, self.bias).to(self.output)


@torch.no_grad()
def use_bfloat16(model: GroundingModel) -> None:
    """Replaces the layers named above, in place. The model can no longer be trained or saved."""
    for module, name, output in bfloat16_layers(model):
        setattr(module, name, BFloat16Linear(getattr(module, name), output))
    if isinstance(model.backbone, TimmFeatures):
        model.backbone.use_bfloat16()
    for layer in cast(Iterable[EncoderLayer], model.encoder.layers):
        layer.fusion.taken_dtype = torch.bfloat16


def bfloat16_layers(model: GroundingModel) -> Iterator[tuple[nn.Module, str, torch.dtype]]:
    """-> module, name of its linear layer, format of that layer's answer: bfloat16 where the next one rounds anyway."""
    full, half = torch.float32, torch.bfloat16
    if isinstance(model.backbone, SwinTransformer):
        for block in model.backbone.blocks():
            yield from ((block.attention, "qkv", full), (block.attention, "proj", full))
            yield from ((block.mlp, "fc1", half), (block.mlp, "fc2", full))
        yield from ((downsample, "reduction", full) for downsample in model.backbone.downsamples)
    for layer in cast(Iterator[EncoderLayer], model.encoder.layers):
        yield from ((layer.image.attention, "value", half), (layer.image.attention, "output", full))
        yield from ((layer.image.feedforward, "expand", half), (layer.image.feedforward, "shrink", full))
    for decoder_layer in cast(Iterator[DecoderLayer], model.decoder.layers):
        yield decoder_layer.image_attention, "value", half
