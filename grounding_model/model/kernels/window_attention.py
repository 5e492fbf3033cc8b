"""Swin's window attention as one Triton kernel, for inference on a GPU.

Each program computes one head of one window. It reads queries, keys and values at their positions in the map, so
nothing has to be padded, rolled, cut into windows or reassembled (swin.SwinBlock.attend is the plain version).

B batch, H W height and width of the map, C channels, S side of a window, D channels of a head.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from grounding_model.model.swin import SwinBlock


@triton.jit(do_not_specialize=["height", "width", "windows_down", "windows_across"])
def window_attention_kernel(
    projected, projection_bias, position_bias, output, height, width, windows_down, windows_across, scale,
    HEADS: tl.constexpr, CHANNELS: tl.constexpr, SIDE: tl.constexpr, SHIFT: tl.constexpr, BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(0) % HEADS
    window = tl.program_id(0) // HEADS
    image = window // (windows_down * windows_across)
    # Position of each pixel of the window in the rolled map, which consists of whole windows, and in the map itself.
    pixel = tl.arange(0, BLOCK)
    real = pixel < SIDE * SIDE
    rolled_y = window // windows_across % windows_down * SIDE + pixel // SIDE
    rolled_x = window % windows_across * SIDE + pixel % SIDE
    padded_height, padded_width = windows_down * SIDE, windows_across * SIDE
    y, x = (rolled_y + SHIFT) % padded_height, (rolled_x + SHIFT) % padded_width
    inside = real & (y < height) & (x < width)
    token = (image.to(tl.int64) * height + y) * width + x
    channel = head * CHANNELS + tl.arange(0, CHANNELS)
    all_channels = HEADS * CHANNELS
    source = projected + token[:, None] * (3 * all_channels) + channel[None, :]
    # Outside the map the plain version projects zeros, which yields the bias.
    mask = inside[:, None]
    bias = projection_bias + channel
    query = tl.where(mask, tl.load(source, mask=mask, other=0.0), tl.load(bias)[None, :])
    key = tl.load(source + all_channels, mask=mask, other=0.0)
    key = tl.where(mask, key, tl.load(bias + all_channels)[None, :])
    value = tl.load(source + 2 * all_channels, mask=mask, other=0.0)
    value = tl.where(mask, value, tl.load(bias + 2 * all_channels)[None, :])
    scores = tl.dot(query, tl.trans(key), input_precision=PRECISION) * scale
    pair = (head * SIDE * SIDE + pixel[:, None]) * (SIDE * SIDE) + pixel[None, :]
    scores += tl.load(position_bias + pair, mask=real[:, None] & real[None, :], other=0.0).to(tl.float32)
    if SHIFT:  # pixels that are neighbours only because of the roll are masked
        band_y = (rolled_y >= padded_height - SIDE).to(tl.int32) + (rolled_y >= padded_height - SHIFT).to(tl.int32)
        band_x = (rolled_x >= padded_width - SIDE).to(tl.int32) + (rolled_x >= padded_width - SHIFT).to(tl.int32)
        region = band_y * 3 + band_x
        scores = tl.where(region[:, None] == region[None, :], scores, scores - 100.0)
    scores = tl.where(real[None, :], scores, float("-inf"))
    shares = tl.exp(scores - tl.max(scores, 1)[:, None])
    shares = shares / tl.sum(shares, 1)[:, None]
    answer = tl.dot(shares.to(value.dtype), value, input_precision=PRECISION)
    target = output + token[:, None] * all_channels + channel[None, :]
    tl.store(target, answer.to(output.dtype.element_ty), mask=mask)


@torch.library.custom_op("groundhog::window_attention", mutates_args=())
def window_attention(
    projected: Tensor, projection_bias: Tensor, position_bias: Tensor, heads: int, side: int, shift: int
) -> Tensor:
    """projected (B, H, W, 3 * C) queries, keys and values of every pixel; projection_bias (3 * C,); position_bias
    (heads, S * S, S * S) -> (B, H, W, C), before the output layer."""
    batch, height, width, channels = projected.shape
    channels //= 3
    down, across = triton.cdiv(height, side), triton.cdiv(width, side)
    output = projected.new_empty(batch, height, width, channels)
    exact = projected.dtype == torch.float32 and not torch.backends.cuda.matmul.allow_tf32
    window_attention_kernel[(batch * down * across * heads,)](
        projected.contiguous(), projection_bias, position_bias.contiguous(), output, height, width, down, across,
        (channels // heads) ** -0.5,
        HEADS=heads, CHANNELS=channels // heads, SIDE=side, SHIFT=shift, BLOCK=triton.next_power_of_2(side * side),
        PRECISION="ieee" if exact else "tf32",
    )  # fmt: skip
    return output


@window_attention.register_fake
def _(projected: Tensor, projection_bias: Tensor, position_bias: Tensor, heads: int, side: int, shift: int) -> Tensor:
    batch, height, width, channels = projected.shape
    return projected.new_empty(batch, height, width, channels // 3)


class KernelSwinBlock(SwinBlock):
    def attend(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        layer = self.attention
        seen = window_attention(layer.qkv(x), layer.qkv.bias, layer.bias(), layer.num_heads, self.window, self.shift)
        return layer.proj(seen)
