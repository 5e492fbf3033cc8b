"""The sampling of deformable attention as one Triton kernel, for inference on a GPU.

The plain path (attention.sample_rows) writes 64 rows and weights for each query and head before it sums them; here
a query's points never leave the registers. Imported only if there is a GPU and Triton.

N queries, H heads, D channels of a head, K levels, P points.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from grounding_model.model.attention import DeformableAttention, LevelSizes, level_constants

QUERIES = 32  # per program, for one head


@triton.jit(do_not_specialize=["queries"])
def sampling_kernel(
    table, levels, first_rows, locations, weights, output, queries,
    HEADS: tl.constexpr, CHANNELS: tl.constexpr, LEVELS: tl.constexpr, POINTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(0) % HEADS
    query = tl.program_id(0) // HEADS * BLOCK + tl.arange(0, BLOCK)
    real = query < queries
    channel = tl.arange(0, CHANNELS)
    first = tl.load(first_rows + query, mask=real, other=0).to(tl.int64) + head
    total = tl.zeros((BLOCK, CHANNELS), dtype=tl.float32)
    for level in range(LEVELS):  # not unrolled: that would take many seconds to compile
        height, width = tl.load(levels + 3 * level), tl.load(levels + 3 * level + 1)
        start = tl.load(levels + 3 * level + 2)
        for point in tl.static_range(POINTS):
            sample = ((query * HEADS + head) * LEVELS + level) * POINTS + point
            weight = tl.load(weights + sample, mask=real, other=0.0).to(tl.float32)
            x = tl.load(locations + 2 * sample, mask=real, other=0.0).to(tl.float32) * width - 0.5
            y = tl.load(locations + 2 * sample + 1, mask=real, other=0.0).to(tl.float32) * height - 0.5
            left, top = tl.floor(x), tl.floor(y)
            right_share, bottom_share = x - left, y - top
            column, row = left.to(tl.int32), top.to(tl.int32)
            for below in tl.static_range(2):
                for beside in tl.static_range(2):
                    inside = (column + beside >= 0) & (column + beside < width)
                    inside = inside & (row + below >= 0) & (row + below < height) & real
                    share = right_share if beside else 1 - right_share
                    share = share * (bottom_share if below else 1 - bottom_share) * weight
                    token = start + (row + below) * width + column + beside
                    rows = (first + token * HEADS) * CHANNELS
                    values = tl.load(table + rows[:, None] + channel[None, :], mask=inside[:, None], other=0.0)
                    total += share[:, None] * values.to(tl.float32)
    target = output + ((query * HEADS + head) * CHANNELS)[:, None] + channel[None, :]
    tl.store(target, total.to(output.dtype.element_ty), mask=real[:, None])


@torch.library.custom_op("groundhog::sample_rows", mutates_args=())
def sample_rows_on_gpu(table: Tensor, levels: Tensor, first_rows: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    """Like attention.sample_rows, with levels (K, 3) int32 height, width, first token, from level_constants.

    table (B * V * H, D), D a power of two, first_rows (N,) int32, locations (N, H, K, P, 2), weights (N, H, K, P)
    -> (N, H * D) in the table's dtype, summed in float32.
    """
    queries, heads, level_count, points = weights.shape
    channels = table.shape[1]
    output = table.new_empty(queries, heads * channels)
    programs = (triton.cdiv(queries, QUERIES) * heads,)
    sampling_kernel[programs](
        table.contiguous(), levels, first_rows, locations.contiguous(), weights.contiguous(), output, queries,
        HEADS=heads, CHANNELS=channels, LEVELS=level_count, POINTS=points, BLOCK=QUERIES,
    )  # fmt: skip
    return output


@sample_rows_on_gpu.register_fake
def _(table: Tensor, levels: Tensor, first_rows: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    return table.new_empty(len(weights), weights.shape[1] * table.shape[1])


class KernelDeformableAttention(DeformableAttention):
    def sample(
        self, table: Tensor, sizes: LevelSizes, first_rows: Tensor, locations: Tensor, weights: Tensor
    ) -> Tensor:
        return sample_rows_on_gpu(table, level_constants(sizes, table.device), first_rows, locations, weights)
