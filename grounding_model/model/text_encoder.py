"""Tokens -> features of the model's width, by BERT (arXiv 1810.04805) and a linear layer.

B batch, L tokens, C model width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from grounding_model.inputs.tokens import TextBatch
from grounding_model.model.config import TextEncoder


class BertEncoder(nn.Module):
    """BERT's last hidden layer, where a token sees only its own sub-sentence."""

    def __init__(self, config: TextEncoder, width: int) -> None:
        super().__init__()
        bert = BertConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            intermediate_size=config.feedforward,
            max_position_embeddings=config.positions,
            hidden_dropout_prob=config.dropout,
            attention_probs_dropout_prob=config.dropout,
        )
        self.bert = BertModel(bert, add_pooling_layer=False)
        self.projection = nn.Linear(config.width, width)
        nn.init.xavier_uniform_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)

    def forward(self, text: TextBatch) -> Tensor:
        """-> (B, L, C)."""
        # An additive mask with a head axis is the one form that every attention kernel of transformers takes right.
        blocked = torch.zeros_like(text.attention, dtype=self.projection.weight.dtype)
        blocked = blocked.masked_fill(~text.attention, torch.finfo(blocked.dtype).min)[:, None]
        hidden = self.bert(
            input_ids=text.input_ids,
            attention_mask=blocked,
            position_ids=text.position_ids,
            token_type_ids=torch.zeros_like(text.input_ids),
        ).last_hidden_state
        return self.projection(hidden)
