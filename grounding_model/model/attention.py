"""The two kinds of attention that torch does not have.

B batch, Q queries, V image tokens of all levels in a row, L text tokens, C model width, H heads, K levels, P points.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grounding_model.model.activation_checkpointing import recomputed

LevelSizes = Sequence[tuple[int, int]]  # height, width of each level


# Rows that one call works on. A CPU is several times faster while what it writes stays in its cache.
INFERENCE_ROWS = 1024
TRAINING_ROWS = 4096  # each call's gradient is a whole table, so fewer calls pay here


def in_row_chunks(layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """layer(x) for a layer that treats each row alone: (..., C) -> (..., C')."""
    if x.device.type != "cpu" or torch.is_grad_enabled():
        return layer(x)
    return torch.cat([layer(rows) for rows in x.flatten(0, -2).split(INFERENCE_ROWS)]).unflatten(0, x.shape[:-1])


def sample_levels(value: Tensor, sizes: LevelSizes, locations: Tensor, weights: Tensor) -> Tensor:
    """(B, V, H, C/H), (B, Q, H, K, P, 2) x y fractions, (B, Q, H, K, P) -> (B, Q, C).

    Bilinear samples of every level, added up by weight; nothing is sampled outside a level. It is one weighted sum of
    4 * K * P rows for each query and head, so no sample is ever written to memory (tests compare with grid_sample).
    """
    batch, tokens, heads, channels = value.shape
    queries = locations.shape[1]
    table = value.reshape(-1, channels)  # the row of a head of a token of an image: (image * V + token) * H + head
    images = torch.arange(batch, dtype=torch.int32, device=value.device).repeat_interleave(queries)
    by_query = (images * (tokens * heads), locations.flatten(0, 1), weights.flatten(0, 1))

    def sample(first_row: Tensor, location: Tensor, weight: Tensor) -> Tensor:
        rows, shares = corners(sizes, location, weight)
        rows = (rows + first_row[:, None, None, None]).view(len(rows) * heads, -1)
        shares = shares.view(rows.shape).to(table.dtype)
        return F.embedding_bag(rows, table, mode="sum", per_sample_weights=shares)

    training = torch.is_grad_enabled()
    if training:  # the gradients of many samples are added up in the table's own precision
        table = table.to(locations.dtype)
    size = len(images) if value.is_cuda else TRAINING_ROWS if training else INFERENCE_ROWS
    parts = zip(*(x.split(max(size, 1)) for x in by_query))
    # In training rows and shares are computed again in the backward pass: they are quick, and larger than the answer.
    sampled = [recomputed(sample, *part) if training else sample(*part) for part in parts]
    return torch.cat(sampled).view(batch, queries, heads * channels)


def corners(sizes: LevelSizes, locations: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """(Q, H, K, P, 2) x y fractions, (Q, H, K, P) -> the four cells around each point: their rows (Q, H, 4, K * P)
    int32 in the table of one image, and their bilinear shares times the weight. A cell outside the level is some row
    of it with share zero."""
    queries, heads, _, points = weights.shape
    # Constants of a point have one dimension, for all heads, levels and points: torch is slow to broadcast short ones.
    ends = [0, *itertools.accumulate(height * width for height, width in sizes)]
    levels = torch.tensor([(*size, end) for size, end in zip(sizes, ends)], dtype=torch.int32, device=weights.device)
    height, width, start = levels.repeat_interleave(points, 0).repeat(heads, 1).T.contiguous()
    head = torch.arange(heads, dtype=torch.int32, device=weights.device).repeat_interleave(len(sizes) * points)
    left, right, left_share, right_share = neighbours(locations[..., 0].flatten(1), width)
    top, bottom, top_share, bottom_share = neighbours(locations[..., 1].flatten(1), height)
    weights = weights.flatten(1)
    top_share, bottom_share = top_share * weights, bottom_share * weights
    top, bottom = (top * width + start) * heads + head, (bottom * width + start) * heads + head
    left, right = left * heads, right * heads
    rows = [row + column for row in (top, bottom) for column in (left, right)]
    shares = [row * column for row in (top_share, bottom_share) for column in (left_share, right_share)]
    by_head = (queries, heads, -1)
    return torch.stack([x.view(by_head) for x in rows], 2), torch.stack([x.view(by_head) for x in shares], 2)


def neighbours(fractions: Tensor, length: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Places along one axis of that many cells -> the cells before and after each, int32, and the share of each."""
    position = fractions * length - 0.5
    before = position.detach().floor()
    share = position - before
    before = before.int()
    after = before + 1
    shares = (1 - share) * ((before >= 0) & (before < length)), share * ((after >= 0) & (after < length))
    last, zero = length - 1, torch.zeros_like(length)
    return before.clamp(zero, last), after.clamp(zero, last), *shares


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
        return self.output(sample_levels(value, sizes, locations, weights).to(query.dtype))


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
        -> the same two, fused. The residual is added to the normalised tokens, as in the reference.

        Words are few and image tokens many, so each linear layer of the image side is multiplied with the words before
        it meets the image: (image W) words = image (W words). No image token is ever written in fusion_width channels.
        """
        image, text = self.image_norm(image), self.text_norm(text)
        scores = self.scores(image, text)
        # Padded words are not looked at. The reference lets them be (FACTS.md 7, quirk A), so that there an image's
        # result depends on the longest caption of its batch.
        to_text = scores.masked_fill(~token_mask[:, None, None, :], float("-inf")).softmax(-1)
        if padding is not None:
            scores = scores.masked_fill(padding[:, :, None, None], float("-inf"))
        to_image = scores.softmax(1)
        image_delta = self.seen_of_words(self.dropout(to_text), text)
        text_delta = self.seen_of_image(self.dropout(to_image), image)
        return image + self.image_scale * image_delta, text + self.text_scale * text_delta

    def scores(self, image: Tensor, text: Tensor) -> Tensor:
        """How much each image token and each word have to do with one another: (B, V, H, L)."""
        layer = self.image_query
        key = self.split_heads(self.text_key(text)) * (layer.out_features // self.heads) ** -0.5  # (B, H, L, D)
        words = (key @ layer.weight.unflatten(0, (self.heads, -1))).flatten(1, 2)  # (B, H * L, C)
        bias = (key @ layer.bias.view(self.heads, -1, 1)).flatten(1)  # (B, H * L)
        scores = image @ words.transpose(1, 2) + bias[:, None]
        return scores.clamp(-self.score_limit, self.score_limit).unflatten(-1, (self.heads, -1))

    def seen_of_words(self, to_text: Tensor, text: Tensor) -> Tensor:
        """to_text (B, V, H, L), text (B, L, C) -> what each image token takes from the words, (B, V, C)."""
        layer = self.image_output
        value = self.split_heads(self.text_value(text))  # (B, H, L, D)
        words = value @ layer.weight.unflatten(1, (self.heads, -1)).permute(1, 2, 0)  # (B, H, L, C)
        return to_text.flatten(2) @ words.flatten(1, 2) + layer.bias

    def seen_of_image(self, to_image: Tensor, image: Tensor) -> Tensor:
        """to_image (B, V, H, L), image (B, V, C) -> what each word takes from the image, (B, L, C)."""
        layer = self.image_value
        seen = (to_image.flatten(2).transpose(1, 2) @ image).unflatten(1, (self.heads, -1))  # (B, H, L, C)
        total = to_image.sum(1)[..., None]  # 1, but for dropout
        value = seen @ layer.weight.unflatten(0, (self.heads, -1)).transpose(1, 2)  # (B, H, L, D)
        value = value + total * layer.bias.view(self.heads, 1, -1)
        return self.text_output(value.transpose(1, 2).flatten(2))

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
        return in_row_chunks(self.of_rows, x)

    def of_rows(self, x: Tensor) -> Tensor:
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
