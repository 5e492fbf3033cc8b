"""The prediction heads of a query: which tokens it matches, and where its box is.

B batch, Q queries, L tokens, C model width, D decoder layers.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn


class ContrastiveHead(nn.Module):
    """Similarity of a query to each token of the text, as a logit."""

    def __init__(self, width: int, scale: Literal["sqrt_width", "learned", "none"], bias: bool) -> None:
        super().__init__()
        self.divisor = math.sqrt(width) if scale == "sqrt_width" else 1.0
        self.log_scale = nn.Parameter(torch.zeros(())) if scale == "learned" else None
        # Initially every token has probability 0.01, as recommended for focal loss (arXiv 1708.02002, section 4.1).
        self.bias = nn.Parameter(torch.full((1,), -math.log(99))) if bias else None

    def forward(self, queries: Tensor, text: Tensor, token_mask: Tensor) -> Tensor:
        """(B, Q, C), (B, L, C), (B, L) -> (B, Q, L), -inf at padded tokens."""
        logits = queries @ text.transpose(-1, -2) / self.divisor
        if self.log_scale is not None:
            logits = logits * self.log_scale.exp()
        if self.bias is not None:
            logits = logits + self.bias
        return logits.masked_fill(~token_mask[:, None, :], float("-inf"))


class BoxHead(nn.Sequential):
    """The offset of a query's box from its reference: (B, Q, C) -> (B, Q, 4) cxcywh logits to be added."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 4))
        for parameter in self[-1].parameters():  # initially the boxes are the references
            nn.init.zeros_(parameter)
