"""Language-guided query selection: the image tokens that match the text best become the queries.

(Grounding DINO, arXiv 2303.05499, section 3.2.) B batch, V image tokens, Q queries, L text tokens, C model width.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from grounding_model.model.attention import LevelSizes, level_constants
from grounding_model.model.encoder import ImageTokens, cell_centres
from grounding_model.model.heads import BoxHead, ContrastiveHead


class SelectedQueries(NamedTuple):
    content: Tensor  # (B, Q, C)
    references: Tensor  # (B, Q, 4) cxcywh logits, without gradient
    logits: Tensor  # (B, Q, L) of the selected tokens
    boxes: Tensor  # (B, Q, 4) cxcywh fractions of the content


def proposal_boxes(image: ImageTokens) -> tuple[Tensor, Tensor]:
    """-> a box around each token, (B or 1, V, 4) cxcywh fractions of the content, and whether it is usable, (B or 1, V)
    bool.

    Its side is 0.05 of the image on the finest level and doubles with each level. Boxes closer than 0.01 of the image
    to its edge are not usable.
    """
    device = image.tokens.device
    if image.padding is None and device.type == "cpu":  # of a GPU, what a CUDA graph records would belong to it
        return _proposals_of_cpu(tuple(image.sizes))
    proposals, usable = _proposals(image.sizes, image.valid_ratios, device)
    return proposals, usable if image.padding is None else usable & ~image.padding


def _proposals(sizes: LevelSizes, valid_ratios: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    boxes = []
    cells = level_constants(sizes, device)[:, :2].flip(-1)  # width, height
    for level, centres in enumerate(cell_centres(sizes, device)):
        # The content of a level in whole cells, counted as in the reference.
        content = (valid_ratios[:, level] * cells[level]).round()[:, None]
        centre = centres[None] / content
        boxes.append(torch.cat((centre, torch.full_like(centre, 0.05 * 2**level)), dim=-1))
    proposals = torch.cat(boxes, dim=1)
    return proposals, ((proposals > 0.01) & (proposals < 0.99)).all(-1)


@lru_cache(maxsize=16)
def _proposals_of_cpu(sizes: tuple[tuple[int, int], ...]) -> tuple[Tensor, Tensor]:
    """Cached proposals of images that fill the canvas."""
    with torch.inference_mode(False):  # a training may use them too
        return _proposals(sizes, torch.ones(1, len(sizes), 2), torch.device("cpu"))


class QuerySelection(nn.Module):
    def __init__(self, width: int, queries: int) -> None:
        super().__init__()
        self.queries = queries
        self.projection, self.norm = nn.Linear(width, width), nn.LayerNorm(width)
        # Row i is the content of the query for the i-th best proposal.
        self.content = nn.Embedding(queries, width)
        nn.init.xavier_uniform_(self.projection.weight)

    def forward(
        self,
        image: ImageTokens,
        memory: Tensor,
        text: Tensor,
        token_mask: Tensor,
        classify: ContrastiveHead,
        regress: BoxHead,
    ) -> SelectedQueries:
        """memory (B, V, C), text (B, L, C), token_mask (B, L) -> the best Q tokens, best first."""
        proposals, usable = proposal_boxes(image)
        # Unusable tokens are zeroed but still compete, as in the reference; the box of one that wins fills the image.
        memory = self.norm(self.projection(memory.masked_fill(~usable[..., None], 0)))
        starts = torch.logit(proposals).masked_fill(~usable[..., None], float("inf"))
        logits = classify(memory, text, token_mask)
        best = logits.max(-1).values.topk(min(self.queries, memory.shape[1]), dim=1).indices
        chosen = best[..., None]
        starts = regress(memory.take_along_dim(chosen, 1)) + starts.take_along_dim(chosen, 1)
        content = self.content.weight[: best.shape[1]].expand(len(memory), -1, -1)
        return SelectedQueries(content, starts.detach(), logits.take_along_dim(chosen, 1), starts.sigmoid())
