"""Swin Transformer (arXiv 2103.14030) as the reference computes it, built from timm's parts.

timm's own network differs where a map is not a multiple of the window: it rolls before it pads, and shrinks the window
to small maps. Official weights were trained with padding first and a fixed window, so the blocks are put together here.

B batch, H W height and width of the map, C channels, windows of S x S.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import cast

import torch
import torch.nn.functional as F
from timm.layers import DropPath, Mlp
from timm.models.swin_transformer import PatchMerging, WindowAttention, window_partition, window_reverse
from torch import Tensor, nn

from grounding_model.model.activation_checkpointing import Recomputed
from grounding_model.model.attention import in_row_chunks
from grounding_model.model.config import SwinBackbone


def pad_to_multiple(x: Tensor, size: int) -> Tensor:
    """(B, H, W, C) -> (B, H', W', C), zeros below and right until both sides are multiples of size."""
    height, width = x.shape[1:3]
    return F.pad(x, (0, 0, 0, -width % size, 0, -height % size))


def shifted_window_mask(height: int, width: int, window: int, shift: int, device: torch.device) -> Tensor:
    """-> (windows, S * S, S * S): -100 between pixels that only the cyclic roll brought together, else 0."""

    def bands(length: int) -> Tensor:
        position = torch.arange(length, device=device)
        return (position >= length - window).int() + (position >= length - shift).int()

    region = bands(height)[:, None] * 3 + bands(width)
    windows = window_partition(region[None, :, :, None].float(), (window, window)).flatten(1)
    return torch.where(windows[:, None, :] == windows[:, :, None], 0.0, -100.0)


class SwinBlock(nn.Module):
    """Window attention, shifted in every second block, then a two-layer perceptron."""

    def __init__(self, dim: int, heads: int, window: int, shift: int, drop_path: float) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1 = nn.LayerNorm(dim)
        self.attention = WindowAttention(dim, heads, window_size=window)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, hidden_features=4 * dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        x = x + self.drop_path(self.attend(self.norm1(x)))
        return x + self.drop_path(in_row_chunks(self.mlp, self.norm2(x).flatten(0, -2), recompute=False).view(x.shape))

    def attend(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C): pad, roll, attend in windows, roll back, cut."""
        height, width = x.shape[1:3]
        x = pad_to_multiple(x, self.window)
        padded_height, padded_width = x.shape[1:3]
        mask = None
        if self.shift:
            x = x.roll((-self.shift, -self.shift), dims=(1, 2))
            mask = shifted_window_mask(padded_height, padded_width, self.window, self.shift, x.device).to(x.dtype)
        size = (self.window, self.window)
        windows = window_partition(x, size).flatten(1, 2)
        windows = self.attention(windows, mask=mask).unflatten(1, size)
        x = window_reverse(windows, size, padded_height, padded_width)
        if self.shift:
            x = x.roll((self.shift, self.shift), dims=(1, 2))
        return x[:, :height, :width]


class SwinTransformer(Recomputed):
    """Pixels -> one normalised feature map for each of config.out_stages."""

    def __init__(self, config: SwinBackbone) -> None:
        super().__init__()
        self.out_stages = config.out_stages
        dims = [config.embed_dim * 2**stage for stage in range(len(config.depths))]
        self.channels = tuple(dims[stage] for stage in config.out_stages)
        self.patch_embed = nn.Conv2d(3, config.embed_dim, kernel_size=4, stride=4)
        self.patch_norm = nn.LayerNorm(config.embed_dim)
        blocks = sum(config.depths)
        # Stochastic depth grows from block to block (arXiv 1603.09382).
        rates = iter([config.drop_path * block / max(blocks - 1, 1) for block in range(blocks)])
        self.stages = nn.ModuleList(
            nn.ModuleList(
                SwinBlock(dim, heads, config.window, config.window // 2 if block % 2 else 0, next(rates))
                for block in range(depth)
            )
            for dim, heads, depth in zip(dims, config.heads, config.depths)
        )
        self.downsamples = nn.ModuleList(PatchMerging(dim, 2 * dim) for dim in dims[:-1])
        self.out_norms = nn.ModuleDict({str(stage): nn.LayerNorm(dims[stage]) for stage in config.out_stages})

    def blocks(self) -> Iterator[SwinBlock]:
        for stage in cast(Iterable[nn.ModuleList], self.stages):
            yield from cast(Iterable[SwinBlock], stage)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> [(B, C, H / stride, W / stride)], strides 4, 8, 16, 32 of the stages asked for."""
        height, width = pixels.shape[2:]
        pixels = F.pad(pixels, (0, -width % 4, 0, -height % 4))
        x = self.patch_norm(self.patch_embed(pixels).permute(0, 2, 3, 1))
        outputs = []
        for index, stage in enumerate(cast(Iterable[nn.ModuleList], self.stages)):
            for block in stage:
                x = self.run_layer(block, x)
            if index in self.out_stages:
                outputs.append(self.out_norms[str(index)](x).permute(0, 3, 1, 2).contiguous())
            if index < len(self.downsamples):
                x = self.downsamples[index](x)
        return outputs
