"""Swin Transformer (arXiv 2103.14030) as the reference computes it.

timm's network differs if a map is not a multiple of the window: it rolls before it pads, and shrinks the window
for small maps. The official weights were trained with padding first and a fixed window.

B batch, H W height and width of the map, C channels, windows of S x S.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grounding_model.model.activation_checkpointing import Recomputed
from grounding_model.model.attention import in_row_chunks
from grounding_model.model.config import SwinBackbone


def pad_to_multiple(x: Tensor, size: int) -> Tensor:
    """(B, H, W, C) -> (B, H', W', C), padded with zeros below and right until both sides are multiples of size."""
    height, width = x.shape[1:3]
    return F.pad(x, (0, 0, 0, -width % size, 0, -height % size))


def window_partition(x: Tensor, size: int) -> Tensor:
    """(B, H, W, C) of whole windows -> (B * windows, S * S, C)."""
    rows = x.unflatten(2, (-1, size)).unflatten(1, (-1, size))  # (B, H / S, S, W / S, S, C)
    return rows.transpose(2, 3).flatten(3, 4).flatten(0, 2)


def window_reverse(windows: Tensor, size: int, height: int, width: int) -> Tensor:
    """The inverse: (B * windows, S * S, C) -> (B, H, W, C)."""
    rows = windows.view(-1, height // size, width // size, size, size, windows.shape[-1])
    return rows.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def shifted_window_mask(height: int, width: int, window: int, shift: int, device: torch.device) -> Tensor:
    """-> (windows, S * S, S * S): -100 between pixels that are neighbours only because of the cyclic roll, else 0."""

    def bands(length: int) -> Tensor:
        position = torch.arange(length, device=device)
        return (position >= length - window).int() + (position >= length - shift).int()

    region = bands(height)[:, None] * 3 + bands(width)
    windows = window_partition(region[None, :, :, None].float(), window).flatten(1)
    return torch.where(windows[:, None, :] == windows[:, :, None], 0.0, -100.0)


def relative_positions(size: int) -> Tensor:
    """-> (S * S, S * S) int64: the row in the bias table for each pair of pixels of a window."""
    y, x = (axis.flatten() for axis in torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij"))
    down, right = y[:, None] - y + size - 1, x[:, None] - x + size - 1
    return down * (2 * size - 1) + right


class WindowAttention(nn.Module):
    """Self-attention among the pixels of a window, with a bias for each relative position."""

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        self.register_buffer("relative_position_index", relative_positions(window), persistent=False)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        # Not trunc_normal_: at 100 deviations it cuts nothing off, and looks at the values, which an estimate has not.
        nn.init.normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x (B * windows, S * S, C), mask (windows, S * S, S * S), added to the scores -> the same shape as x."""
        query, key, value = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        scores = query * query.shape[-1] ** -0.5 @ key.transpose(-2, -1) + self.bias()
        if mask is not None:
            scores = (scores.unflatten(0, (-1, len(mask))) + mask[:, None]).flatten(0, 1)
        return self.proj((scores.softmax(-1) @ value).transpose(1, 2).flatten(2))

    def bias(self) -> Tensor:
        """-> (heads, S * S, S * S)."""
        index = cast(Tensor, self.relative_position_index)
        return self.relative_position_bias_table[index.flatten()].view(*index.shape, -1).permute(2, 0, 1)


class Mlp(nn.Module):
    """Two linear layers with a GELU between."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class DropPath(nn.Module):
    """Skips a residual branch for a random share of the images of a batch (stochastic depth, arXiv 1603.09382)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) -> (B, ...), with the remaining images scaled up to preserve the mean."""
        if not self.training or self.rate == 0:
            return x
        kept = 1 - self.rate
        draw = x.new_empty(len(x), *[1] * (x.dim() - 1)).bernoulli_(kept)
        return x * (draw.div_(kept) if kept else draw)


class PatchMerging(nn.Module):
    """Merges each 2 x 2 pixels into one with twice the channels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H / 2, W / 2, 2 C), sizes rounded up."""
        x = pad_to_multiple(x, 2).unflatten(2, (-1, 2)).unflatten(1, (-1, 2))  # (B, H / 2, 2, W / 2, 2, C)
        return self.reduction(self.norm(x.permute(0, 1, 3, 4, 2, 5).flatten(3)))


class SwinBlock(nn.Module):
    """Window attention, with shifted windows in every second block, then a two-layer perceptron."""

    def __init__(self, dim: int, heads: int, window: int, shift: int, drop_path: float) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1 = nn.LayerNorm(dim)
        self.attention = WindowAttention(dim, heads, window)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, 4 * dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        x = x + self.drop_path(self.attend(self.norm1(x)))
        return x + self.drop_path(in_row_chunks(self.mlp, self.norm2(x).flatten(0, -2), recompute=False).view(x.shape))

    def attend(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C): pads, rolls, attends within windows, rolls back and crops."""
        height, width = x.shape[1:3]
        x = pad_to_multiple(x, self.window)
        padded_height, padded_width = x.shape[1:3]
        mask = None
        if self.shift:
            x = x.roll((-self.shift, -self.shift), dims=(1, 2))
            mask = shifted_window_mask(padded_height, padded_width, self.window, self.shift, x.device).to(x.dtype)
        windows = self.attention(window_partition(x, self.window), mask)
        x = window_reverse(windows, self.window, padded_height, padded_width)
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
        # The rate of stochastic depth grows with each block (arXiv 1603.09382).
        rates = iter([config.drop_path * block / max(blocks - 1, 1) for block in range(blocks)])
        self.stages = nn.ModuleList(
            nn.ModuleList(
                SwinBlock(dim, heads, config.window, config.window // 2 if block % 2 else 0, next(rates))
                for block in range(depth)
            )
            for dim, heads, depth in zip(dims, config.heads, config.depths)
        )
        self.downsamples = nn.ModuleList(PatchMerging(dim) for dim in dims[:-1])
        self.out_norms = nn.ModuleDict({str(stage): nn.LayerNorm(dims[stage]) for stage in config.out_stages})

    def blocks(self) -> Iterator[SwinBlock]:
        for stage in cast(Iterable[nn.ModuleList], self.stages):
            yield from cast(Iterable[SwinBlock], stage)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> [(B, C, H / stride, W / stride)], of stride 4, 8, 16 or 32, for each of config.out_stages."""
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
