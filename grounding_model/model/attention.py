"""The two kinds of attention that torch does not have.

B batch, Q queries, V image tokens of all levels in a row, L text tokens, C model width, H heads, K levels, P points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LevelSizes = Sequence[tuple[int, int]]  # height, width of each level


def sample_levels(value: Tensor, sizes: LevelSizes, locations: Tensor, weights: Tensor) -> Tensor:
    """(B, V, H, C/H), (B, Q, H, K, P, 2) x y fractions, (B, Q, H, K, P) -> (B, Q, C).

    Bilinear samples of every level, added up by weight; nothing is sampled outside a level.
    """
    batch, _, heads, channels = value.shape
    queries, points = locations.shape[1], locations.shape[4]
    grids = (2 * locations - 1).permute(3, 0, 2, 1, 4, 5).flatten(1, 2)  # (K, B * H, Q, P, 2)
    sampled = []
    for level, grid, (height, width) in zip(value.split([h * w for h, w in sizes], dim=1), grids, sizes):
        image = level.permute(0, 2, 3, 1).reshape(batch * heads, channels, height, width)
        sampled.append(F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False))
    weights = weights.permute(0, 2, 1, 3, 4).reshape(batch * heads, 1, queries, len(sizes) * points)
    output = (torch.cat(sampled, dim=-1) * weights).sum(-1)  # (B * H, C/H, Q)
    return output.view(batch, heads * channels, queries).transpose(1, 2)


class DeformableAttention(nn.Module):
    """Each query looks at a few points of every level, around its own place (arXiv 2010.04159, section 4.1)."""

    def __init__(self, width: int, heads: int, levels: int, points: int) -> None:
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.offsets = nn.Linear(width, heads * levels * points * 2)
        self.weights = nn.Linear(width, heads * levels * points)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Heads start by looking in different directions, points ever further out."""
        for layer in (self.offsets, self.weights):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        angle = torch.arange(self.heads) * (2 * math.pi / self.heads)
        direction = torch.stack((angle.cos(), angle.sin()), dim=-1)
        direction = direction / direction.abs().max(dim=-1, keepdim=True).values
        distance = torch.arange(1, self.points + 1)
        bias = direction[:, None, None, :] * distance[None, None, :, None]
        with torch.no_grad():
            self.offsets.bias.copy_(bias.expand(-1, self.levels, -1, -1).flatten())
        for layer in (self.value, self.output):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self, query: Tensor, memory: Tensor, references: Tensor, sizes: LevelSizes, padding: Tensor | None
    ) -> Tensor:
        """query (B, Q, C), position added; memory (B, V, C); references (B, Q, K, 2 or 4) points or cxcywh, in
        fractions of each level's padded size; padding (B, V) True beyond the content -> (B, Q, C)."""
        batch, queries, _ = query.shape
        value = self.value(memory)
        if padding is not None:
            value = value.masked_fill(padding[..., None], 0)
        value = value.unflatten(-1, (self.heads, -1))
        offsets = self.offsets(query).view(batch, queries, self.heads, self.levels, self.points, 2)
        weights = self.weights(query).view(batch, queries, self.heads, -1).softmax(-1)
        weights = weights.view(batch, queries, self.heads, self.levels, self.points)
        references = references[:, :, None, :, None, :]
        if references.shape[-1] == 2:  # a point: offsets count in cells of the level
            cells = torch.tensor([(w, h) for h, w in sizes], dtype=offsets.dtype, device=offsets.device)
            locations = references + offsets / cells[:, None, :]
        else:  # a box: offsets count in half boxes, shared out over the points
            locations = references[..., :2] + offsets / self.points * references[..., 2:] * 0.5
        return self.output(sample_levels(value, sizes, locations, weights))


class ImageTextFusion(nn.Module):
    """Image tokens look at words and words at image tokens, by one table of scores (GLIP, arXiv 2112.03857, 3.2)."""

    # Scores are held inside this range so that half precision cannot overflow (GLIP).
    score_limit = 50000.0

    def __init__(self, width: int, fusion_width: int, heads: int, initial_scale: float, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.image_norm, self.text_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.image_query, self.text_key = nn.Linear(width, fusion_width), nn.Linear(width, fusion_width)
        self.image_value, self.text_value = nn.Linear(width, fusion_width), nn.Linear(width, fusion_width)
        self.image_output, self.text_output = nn.Linear(fusion_width, width), nn.Linear(fusion_width, width)
        self.image_scale = nn.Parameter(torch.full((width,), initial_scale))
        self.text_scale = nn.Parameter(torch.full((width,), initial_scale))
        self.dropout = nn.Dropout(dropout)
        for layer in self.children():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, image: Tensor, text: Tensor, padding: Tensor | None, token_mask: Tensor) -> tuple[Tensor, Tensor]:
        """image (B, V, C), text (B, L, C), padding (B, V) True beyond the content, token_mask (B, L) True for tokens
        -> the same two, fused. The residual is added to the normalised tokens, as in the reference."""
        image, text = self.image_norm(image), self.text_norm(text)
        query = self.split_heads(self.image_query(image)) * (self.image_query.out_features // self.heads) ** -0.5
        scores = query @ self.split_heads(self.text_key(text)).transpose(-1, -2)  # (B, H, V, L)
        scores = scores.clamp(-self.score_limit, self.score_limit)
        # Padded words are not looked at. The reference lets them be (FACTS.md 7, quirk A), so that there an image's
        # result depends on the longest caption of its batch.
        to_text = scores.masked_fill(~token_mask[:, None, None, :], float("-inf")).softmax(-1)
        to_image = scores.transpose(-1, -2)
        if padding is not None:
            to_image = to_image.masked_fill(padding[:, None, None, :], float("-inf"))
        to_image = to_image.softmax(-1)
        image_delta = self.dropout(to_text) @ self.split_heads(self.text_value(text))
        text_delta = self.dropout(to_image) @ self.split_heads(self.image_value(image))
        image = image + self.image_scale * self.image_output(image_delta.transpose(1, 2).flatten(2))
        text = text + self.text_scale * self.text_output(text_delta.transpose(1, 2).flatten(2))
        return image, text

    def split_heads(self, x: Tensor) -> Tensor:
        """(B, N, width) -> (B, H, N, width / H)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class FeedForward(nn.Module):
    """Two linear layers with a ReLU between."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.expand, self.shrink = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.shrink(self.dropout(F.relu(self.expand(x)))))


class MultiheadAttention(nn.MultiheadAttention):
    """torch's, batch first, answering with the values alone; True in a mask means may not look."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__(width, heads, dropout=dropout, batch_first=True)

    def forward(  # type: ignore[override]
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        blocked: Tensor | None = None,
        key_padding: Tensor | None = None,
    ) -> Tensor:
        """query (B, Q, C), key and value (B, N, C), blocked (Q, N) or (B, Q, N), key_padding (B, N) -> (B, Q, C)."""
        if blocked is not None and blocked.dim() == 3:
            blocked = blocked.repeat_interleave(self.num_heads, dim=0)
        return super().forward(query, key, value, attn_mask=blocked, key_padding_mask=key_padding, need_weights=False)[
            0
        ]
