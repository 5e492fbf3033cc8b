"""Turns tokens into features of the model's width with BERT (arXiv 1810.04805) and a linear layer.

Tensor names and results are those of transformers' BertModel (tests compare). It is not imported, because loading its
module takes longer than loading torch.

B batch, L tokens, C model width, W BERT's width, H heads.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grounding_model.inputs.tokens import TextBatch
from grounding_model.model.config import TextEncoder

TOKEN_TYPES = 2  # first and second sentence; captions use the first
NORM_EPS = 1e-12
INITIAL_STD = 0.02  # of all weights (google-research/bert, modeling.py, initializer_range)


class Embeddings(nn.Module):
    """The sum of word, position (in the sub-sentence) and sentence embeddings."""

    def __init__(self, config: TextEncoder) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.width, padding_idx=0)
        self.position_embeddings = nn.Embedding(config.positions, config.width)
        self.token_type_embeddings = nn.Embedding(TOKEN_TYPES, config.width)
        self.LayerNorm = nn.LayerNorm(config.width, eps=NORM_EPS)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        """(B, L), (B, L) -> (B, L, W)."""
        words = self.word_embeddings(input_ids) + self.token_type_embeddings.weight[0]
        return self.dropout(self.LayerNorm(words + self.position_embeddings(position_ids)))


class SelfAttention(nn.Module):
    def __init__(self, config: TextEncoder) -> None:
        super().__init__()
        if config.width % config.heads:
            raise ValueError(f"width {config.width} is not a multiple of {config.heads} heads")
        self.heads, self.dropout = config.heads, config.dropout
        self.query, self.key, self.value = (nn.Linear(config.width, config.width) for _ in range(3))

    def forward(self, x: Tensor, allowed: Tensor) -> Tensor:
        """x (B, L, W), allowed (B, 1, L, L) True where a token may attend -> (B, L, W)."""
        query, key, value = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        dropout = self.dropout if self.training else 0.0
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed, dropout_p=dropout)
        return seen.transpose(1, 2).flatten(2)


class Residual(nn.Module):
    """A linear layer with a residual connection, followed by a norm."""

    def __init__(self, inputs: int, width: int, dropout: float) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, width)
        self.LayerNorm = nn.LayerNorm(width, eps=NORM_EPS)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        return self.LayerNorm(self.dropout(self.dense(x)) + before)


class Layer(nn.Module):
    def __init__(self, config: TextEncoder) -> None:
        super().__init__()
        self.attention = nn.ModuleDict(
            {"self": SelfAttention(config), "output": Residual(config.width, config.width, config.dropout)}
        )
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(config.width, config.feedforward)})
        self.output = Residual(config.feedforward, config.width, config.dropout)

    def forward(self, x: Tensor, allowed: Tensor) -> Tensor:
        """x (B, L, W), allowed (B, 1, L, L) -> (B, L, W)."""
        x = self.attention["output"](self.attention["self"](x, allowed), x)
        return self.output(F.gelu(self.intermediate["dense"](x)), x)


class Bert(nn.Module):
    """BERT without its pooler and heads."""

    def __init__(self, config: TextEncoder) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(Layer(config) for _ in range(config.layers))})
        self.apply(_reset)

    def forward(self, input_ids: Tensor, position_ids: Tensor, attention: Tensor) -> Tensor:
        """(B, L), (B, L), (B, L, L) True where token i attends to token j -> (B, L, W), the last hidden layer."""
        x, allowed = self.embeddings(input_ids, position_ids), attention[:, None]
        for layer in cast(Iterable[Layer], self.encoder["layer"]):
            x = layer(x, allowed)
        return x


@torch.no_grad()
def _reset(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=INITIAL_STD)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
    if isinstance(module, nn.Embedding) and module.padding_idx is not None:
        module.weight[module.padding_idx].zero_()


class BertEncoder(nn.Module):
    """BERT's last hidden layer, where each token attends only to its sub-sentence."""

    def __init__(self, config: TextEncoder, width: int) -> None:
        super().__init__()
        self.bert = Bert(config)
        self.projection = nn.Linear(config.width, width)
        nn.init.xavier_uniform_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)

    def forward(self, text: TextBatch) -> Tensor:
        """-> (B, L, C)."""
        return self.projection(self.bert(text.input_ids, text.position_ids, text.attention))
