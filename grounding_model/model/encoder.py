"""The encoder: image and text attend to each other, then each to itself.

B batch, V image tokens of all levels, L text tokens, C model width, K levels.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from grounding_model.model.activation_checkpointing import Recomputed
from grounding_model.model.attention import (
    DeformableAttention,
    FeedForward,
    ImageTextFusion,
    LevelSizes,
    MultiheadAttention,
    level_constants,
)
from grounding_model.model.config import ModelConfig
from grounding_model.model.positions import token_code


class ImageTokens(NamedTuple):
    """All levels of a batch of images as one sequence of tokens."""

    tokens: Tensor  # (B, V, C)
    positions: Tensor  # (B, V, C) sine code plus level embedding
    padding: Tensor | None  # (B, V) bool, True outside the content; None if every image fills the canvas
    sizes: list[tuple[int, int]]  # height, width of each level
    valid_ratios: Tensor  # (B, K, 2) width, height of the content in fractions of the level


def cell_centres(sizes: LevelSizes, device: torch.device) -> list[Tensor]:
    """-> (h * w, 2) x, y in cells, for each level."""
    centres = []
    for height, width in sizes:
        y, x = torch.meshgrid(
            torch.arange(height, dtype=torch.float32, device=device) + 0.5,
            torch.arange(width, dtype=torch.float32, device=device) + 0.5,
            indexing="ij",
        )
        centres.append(torch.stack((x, y), dim=-1).flatten(0, 1))
    return centres


def encoder_references(image: ImageTokens) -> Tensor:
    """-> (B or 1, V, K, 2): the position of each token in fractions of every level's padded size."""
    device = image.tokens.device
    if image.padding is None and device.type == "cpu":  # of a GPU, what a CUDA graph records would belong to it
        return _references_of_cpu(tuple(image.sizes))
    return _references(image.sizes, image.valid_ratios, device)


def _references(sizes: LevelSizes, valid_ratios: Tensor, device: torch.device) -> Tensor:
    points = []
    cells = level_constants(sizes, device)[:, :2].flip(-1)  # width, height
    for level, centres in enumerate(cell_centres(sizes, device)):
        points.append(centres[None] / (valid_ratios[:, None, level] * cells[level]))
    return torch.cat(points, dim=1)[:, :, None] * valid_ratios[:, None]


@lru_cache(maxsize=16)
def _references_of_cpu(sizes: tuple[tuple[int, int], ...]) -> Tensor:
    """Cached references of images that fill the canvas."""
    with torch.inference_mode(False):  # a training may use them too
        return _references(sizes, torch.ones(1, len(sizes), 2), torch.device("cpu"))


class TextLayer(nn.Module):
    """Self-attention of words within their sub-sentence, then a feed-forward layer, each followed by a norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention = MultiheadAttention(config.width, config.text_heads, config.dropout)
        self.attention_norm = nn.LayerNorm(config.width)
        self.feedforward = FeedForward(config.width, config.text_feedforward, config.dropout)
        self.feedforward_norm = nn.LayerNorm(config.width)

    def forward(self, text: Tensor, positions: Tensor, blocked: Tensor) -> Tensor:
        """text, positions (B, L, C), blocked (B, L, L) -> (B, L, C)."""
        query = text + positions
        text = self.attention_norm(text + self.attention(query, query, text, blocked=blocked))
        return self.feedforward_norm(text + self.feedforward(text))


class ImageLayer(nn.Module):
    """Deformable self-attention over the levels, then a feed-forward layer, each followed by a norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention = DeformableAttention(config.width, config.heads, config.levels, config.points)
        self.attention_dropout = nn.Dropout(config.dropout)
        self.attention_norm = nn.LayerNorm(config.width)
        self.feedforward = FeedForward(config.width, config.feedforward, config.dropout)
        self.feedforward_norm = nn.LayerNorm(config.width)

    def forward(self, tokens: Tensor, image: ImageTokens, references: Tensor) -> Tensor:
        """tokens (B, V, C), references (B, V, K, 2) -> (B, V, C)."""
        query = tokens + image.positions
        attended = self.attention(query, tokens, references, image.sizes, image.padding)
        tokens = self.attention_norm(tokens + self.attention_dropout(attended))
        return self.feedforward_norm(tokens + self.feedforward(tokens))


class EncoderLayer(nn.Module):
    """Image and text attend to each other, then each to itself."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.fusion = ImageTextFusion(
            config.width, config.fusion_width, config.fusion_heads, config.fusion_scale, config.fusion_dropout
        )
        self.text = TextLayer(config)
        self.image = ImageLayer(config)

    def forward(
        self,
        tokens: Tensor,
        text: Tensor,
        image: ImageTokens,
        references: Tensor,
        token_mask: Tensor,
        text_positions: Tensor,
        blocked: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """tokens (B, V, C), text (B, L, C) -> the same shapes. The other arguments are those of the parts."""
        tokens, text = self.fusion(tokens, text, image.padding, token_mask)
        text = self.text(text, text_positions, blocked=blocked)
        return self.image(tokens, image, references), text


class Encoder(Recomputed):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.encoder_layers))

    def forward(
        self, image: ImageTokens, text: Tensor, token_mask: Tensor, position_ids: Tensor, attention: Tensor
    ) -> tuple[Tensor, Tensor]:
        """text (B, L, C); token_mask, position_ids (B, L); attention (B, L, L) True where a token may attend
        -> image memory (B, V, C), text memory (B, L, C)."""
        tokens, references = image.tokens, encoder_references(image)
        text_positions = token_code(position_ids, text.shape[-1])
        for layer in cast(Iterable[EncoderLayer], self.layers):
            tokens, text = self.run_layer(
                layer, tokens, text, image, references, token_mask, text_positions, ~attention
            )
        return tokens, text
