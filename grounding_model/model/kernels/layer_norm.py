"""Layer norm as one Triton kernel, for inference on a GPU: torch's is tuned for few long rows, not many short ones.

N rows, C channels.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

NUMBERS = 4096  # elements per program: several rows


@triton.jit(do_not_specialize=["rows"])
def layer_norm_kernel(
    table, weight, bias, output, rows, epsilon, CHANNELS: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    known = column < CHANNELS
    real = (row < rows)[:, None] & known[None, :]
    offset = row[:, None] * CHANNELS + column[None, :]
    values = tl.load(table + offset, mask=real, other=0.0).to(tl.float32)
    mean = tl.sum(values, 1) / CHANNELS
    values = tl.where(real, values - mean[:, None], 0.0)
    spread = tl.rsqrt(tl.sum(values * values, 1) / CHANNELS + epsilon)
    scale = tl.load(weight + column, mask=known, other=0.0).to(tl.float32)
    shift = tl.load(bias + column, mask=known, other=0.0).to(tl.float32)
    values = values * spread[:, None] * scale[None, :] + shift[None, :]
    tl.store(output + offset, values.to(output.dtype.element_ty), mask=real)


@torch.library.custom_op("groundhog::layer_norm", mutates_args=())
def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float, output: torch.dtype) -> Tensor:
    """(..., C) -> (..., C) in the dtype `output`; mean and deviation are computed in float32."""
    x = x.contiguous()
    normalised = torch.empty_like(x, dtype=output)
    channels = x.shape[-1]
    columns = triton.next_power_of_2(channels)
    rows_a_program = max(1, NUMBERS // columns)
    rows = x.numel() // channels
    layer_norm_kernel[(triton.cdiv(rows, rows_a_program),)](
        x, weight, bias, normalised, rows, epsilon, CHANNELS=channels, COLUMNS=columns, ROWS=rows_a_program
    )
    return normalised


@layer_norm.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float, output: torch.dtype) -> Tensor:
    return torch.empty(x.shape, dtype=output, device=x.device)


class KernelLayerNorm(nn.LayerNorm):
    """nn.LayerNorm over the last dimension. output: the dtype of its output; None: that of its input."""

    output: torch.dtype | None = None

    def forward(self, x: Tensor) -> Tensor:
        return layer_norm(x, self.weight, self.bias, self.eps, self.output or x.dtype)
