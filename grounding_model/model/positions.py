"""Sine position codes of pixels, boxes and tokens.

B batch, H W height and width of a feature map, Q queries, L tokens, C channels.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor


def sine_code(values: Tensor, channels: int, temperature: float) -> Tensor:
    """(...) -> (..., channels): alternating sine and cosine, at falling frequencies (arXiv 1706.03762, section 3.5)."""
    exponent = torch.arange(channels, dtype=torch.float32, device=values.device).div(2, rounding_mode="floor")
    angles = values[..., None].float() / temperature ** (2 * exponent / channels)
    return torch.stack((angles[..., 0::2].sin(), angles[..., 1::2].cos()), dim=-1).flatten(-2)


def pixel_code(padding: Tensor, channels: int) -> Tensor:
    """(B, H, W) bool, True outside the content -> (B, H, W, C): row code, then column code.

    Positions are fractions of the content's size, so padding does not change them.
    """
    content = (~padding).float()
    rows, columns = content.cumsum(1), content.cumsum(2)
    rows = rows / (rows[:, -1:, :] + 1e-6) * 2 * math.pi
    columns = columns / (columns[:, :, -1:] + 1e-6) * 2 * math.pi
    return torch.cat([sine_code(axis, channels // 2, temperature=20) for axis in (rows, columns)], dim=-1)


def whole_map_code(height: int, width: int, channels: int, device: torch.device) -> Tensor:
    """-> (1, H, W, C): pixel_code of a map without padding, from one code per row and one per column."""
    made = _whole_map_codes_of_cpu if device.type == "cpu" else _whole_map_codes
    rows, columns = made(height, width, channels, device)
    return torch.cat((rows.expand(-1, -1, width, -1), columns.expand(-1, height, -1, -1)), dim=-1)


def _whole_map_codes(height: int, width: int, channels: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """-> (1, H, 1, C / 2), (1, 1, W, C / 2)."""
    with torch.inference_mode(False):  # a training may use them too
        column = torch.zeros(1, height, 1, dtype=torch.bool, device=device)
        row = torch.zeros(1, 1, width, dtype=torch.bool, device=device)
        return pixel_code(column, channels)[..., : channels // 2], pixel_code(row, channels)[..., channels // 2 :]


# Cached on the CPU only: tensors created while a CUDA graph is recorded belong to that graph.
_whole_map_codes_of_cpu = lru_cache(maxsize=256)(_whole_map_codes)


def box_code(boxes: Tensor, channels: int) -> Tensor:
    """cxcywh fractions (..., 4) -> (..., 2 * channels): half a model width for each of y, x, w, h, in this order."""
    x, y, width, height = boxes.unbind(-1)
    in_order = torch.stack((y, x, width, height), dim=-1)  # indexing with a list would copy it to the device
    return sine_code(in_order * 2 * math.pi, channels // 2, temperature=10000).flatten(-2)


def token_code(position_ids: Tensor, channels: int) -> Tensor:
    """(B, L) int -> (B, L, C)."""
    return sine_code(position_ids * 2 * math.pi, channels, temperature=10000)
