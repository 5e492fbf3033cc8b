"""Decides which layers are replaced by kernels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import nn

from grounding_model.model.attention import DeformableAttention
from grounding_model.model.encoder import EncoderLayer
from grounding_model.model.grounding import GroundingModel
from grounding_model.model.kernels.layer_norm import KernelLayerNorm
from grounding_model.model.kernels.sampling import KernelDeformableAttention
from grounding_model.model.kernels.window_attention import KernelSwinBlock
from grounding_model.model.precision import BFloat16Linear
from grounding_model.model.swin import SwinBlock, SwinTransformer

KERNELS: Mapping[type[nn.Module], type[nn.Module]] = {
    nn.LayerNorm: KernelLayerNorm,
    DeformableAttention: KernelDeformableAttention,
    SwinBlock: KernelSwinBlock,
}
MIN_CHANNELS = 16  # of a head: the minimum for Triton's matrix product


def use_kernels(model: GroundingModel) -> None:
    """Replaces layers by their kernels, in place, with the same parameters. Only for inference on a GPU."""
    for module in list(model.modules()):
        if (kernel := KERNELS.get(type(module))) and fits(module):
            module.__class__ = kernel
    keep_bfloat16(model)


def fits(module: nn.Module) -> bool:
    """Whether the kernel supports the number of channels in a head of the module."""
    if isinstance(module, SwinBlock):
        channels = len(module.attention.proj.weight) // module.attention.num_heads
        return is_power_of_two(channels) and channels >= MIN_CHANNELS
    if isinstance(module, DeformableAttention):
        return is_power_of_two(len(module.value.weight) // module.heads)
    return True


def is_power_of_two(number: int) -> bool:
    return number & (number - 1) == 0


def keep_bfloat16(model: GroundingModel) -> None:
    """Makes layers write bfloat16 directly if their output is next rounded to bfloat16 or added to float32."""
    backbone = model.backbone
    if isinstance(backbone, SwinTransformer):
        for block in backbone.blocks():
            layers = (block.attention.qkv, block.attention.proj, block.mlp.fc2)
            norms = ((block.norm1, block.attention.qkv), (block.norm2, block.mlp.fc1))
            stay_bfloat16(layers)
            for norm, reader in norms:
                if isinstance(norm, KernelLayerNorm) and isinstance(reader, BFloat16Linear):
                    norm.output = torch.bfloat16
    for layer in model.encoder.layers:
        image = cast(EncoderLayer, layer).image
        stay_bfloat16((image.attention.output, image.feedforward.shrink))


def stay_bfloat16(layers: tuple[nn.Module, ...]) -> None:
    for layer in layers:
        if isinstance(layer, BFloat16Linear):
            layer.output = torch.bfloat16
