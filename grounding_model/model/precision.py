"""Inference in bfloat16 where it costs no accuracy: the large linear layers of the image side, the convolutions of a
backbone, and the values that image tokens and words exchange in fusion.

Everything that places or ranks a box stays in float32: sampling offsets and weights, fusion scores, query selection,
the decoder except for its image values, the heads, and the text encoder. torch.autocast would round those too.
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
    """The dtype for one of DTYPES. 'auto' means bfloat16 on devices with native support, and float32 elsewhere, where
    emulated bfloat16 is slower. Raises ValueError for another name."""
    if name not in DTYPES:
        raise ValueError(f"'{name}' is not a number format; expected {', '.join(DTYPES)}")
    if name != "auto":
        return cast(Dtype, name)
    return "bfloat16" if multiplies_bfloat16(device) else "float32"


@contextmanager
def float32_products(dtype: Dtype, device: torch.device) -> Iterator[None]:
    """Sets how a GPU multiplies float32 tensors. In a bfloat16 model (8 bits) TF32 (11 bits) loses nothing and is
    several times as fast; a float32 model is multiplied in float32, including convolutions (torch's default is TF32).
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
    """A linear layer with bfloat16 weights, for inputs of any float dtype. output: the dtype of its output."""

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
    """-> module, name of its linear layer, dtype of that layer's output: bfloat16 if the next layer rounds anyway."""
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
