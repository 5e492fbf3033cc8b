"""The decoder: queries attend to each other, the words and the image; their boxes are refined layer by layer.

B batch, Q queries, L text tokens, V image tokens, C model width, D decoder layers, K levels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grounding_model.model.attention import DeformableAttention, FeedForward, MultiheadAttention
from grounding_model.model.boxes import inverse_sigmoid
from grounding_model.model.config import ModelConfig
from grounding_model.model.encoder import ImageTokens
from grounding_model.model.heads import BoxHead
from grounding_model.model.positions import box_code


class DecoderLayer(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.self_attention = MultiheadAttention(config.width, config.heads, config.dropout)
        self.self_norm = nn.LayerNorm(config.width)
        self.text_attention = MultiheadAttention(config.width, config.heads, config.dropout)
        self.text_norm = nn.LayerNorm(config.width)
        self.image_attention = DeformableAttention(config.width, config.heads, config.levels, config.points)
        self.image_norm = nn.LayerNorm(config.width)
        self.feedforward = FeedForward(config.width, config.feedforward, config.dropout)
        self.feedforward_norm = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        queries: Tensor,
        positions: Tensor,
        references: Tensor,
        blocked: Tensor | None,
        image: ImageTokens,
        memory: Tensor,
        text: Tensor,
        token_mask: Tensor,
    ) -> Tensor:
        """queries, positions (B, Q, C); references (B, Q, K, 4); blocked (Q, Q); memory (B, V, C); text (B, L, C)
        -> (B, Q, C)."""
        query = queries + positions
        queries = self.self_norm(queries + self.dropout(self.self_attention(query, query, queries, blocked)))
        attended = self.text_attention(queries + positions, text, text, key_padding=~token_mask)
        queries = self.text_norm(queries + self.dropout(attended))
        attended = self.image_attention(queries + positions, memory, references, image.sizes, image.padding)
        queries = self.image_norm(queries + self.dropout(attended))
        return self.feedforward_norm(queries + self.feedforward(queries))


class BoxPosition(nn.Module):
    """The position embedding of a query, computed from its reference box."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden, self.output = nn.Linear(2 * width, width), nn.Linear(width, width)

    def forward(self, boxes: Tensor) -> Tensor:
        """cxcywh (B, Q, 4) -> (B, Q, C)."""
        return self.output(F.relu(self.hidden(box_code(boxes, self.output.out_features))))


class Decoder(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_layers))
        self.position = BoxPosition(config.width)
        self.norm = nn.LayerNorm(config.width)

    def forward(
        self,
        queries: Tensor,
        references: Tensor,
        blocked: Tensor | None,
        image: ImageTokens,
        memory: Tensor,
        text: Tensor,
        token_mask: Tensor,
        box_heads: Sequence[BoxHead],
    ) -> tuple[Tensor, Tensor]:
        """queries (B, Q, C), references (B, Q, 4) cxcywh fractions -> states (D, B, Q, C) after the norm, and the
        references (D, B, Q, 4) that each layer refines.

        A layer receives its reference without gradient; the box of the next layer is computed from the same numbers
        with gradient, so that a layer also learns from the next one (look forward twice: DINO, arXiv 2203.03605).
        """
        ratios = torch.cat((image.valid_ratios, image.valid_ratios), dim=-1)[:, None]
        states, starts, start = [], [], references
        for layer, box_head in zip(self.layers, box_heads):
            on_levels = references[:, :, None] * ratios
            positions = self.position(on_levels[:, :, 0])
            queries = layer(queries, positions, on_levels, blocked, image, memory, text, token_mask)
            states.append(self.norm(queries))
            starts.append(start)
            start = (box_head(queries) + inverse_sigmoid(references, eps=1e-3)).sigmoid()
            references = start.detach()
        return torch.stack(states), torch.stack(starts)
