"""Contrastive denoising: queries are true boxes with noise, which gives the decoder a training task that needs no
matching (DN-DETR, arXiv 2203.01305; contrastive form: DINO, arXiv 2203.03605, section 3.3).

Shapes: B images, G groups, T boxes of the image with most boxes, N = 2 * G * T denoising queries, Q matching queries,
C channels, K boxes of the whole batch, M = G * K positive queries.

A group has T slots for positives, then T for negatives. A positive is a box moved by less than half its size, from
which the original box has to be reconstructed; a negative is moved by half to its whole size and has to be rejected.
Slots that an image with fewer boxes leaves empty are negative queries without content at the centre of the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor, nn

from grounding_model.inputs.image_batch import send
from grounding_model.model import boxes as box_maths
from grounding_model.model.config import Denoising
from grounding_model.model.targets import Matching, Target


class DenoisingQueries(NamedTuple):
    """Queries that precede the matching queries in the decoder. N is 0 if the batch has no box."""

    content: Tensor  # (B, N, C)
    references: Tensor  # (B, N, 4) cx, cy, w, h in fractions of the content, before the sigmoid
    attention_block: Tensor  # (N + Q, N + Q) bool, True where the query of the row may not attend to that of the column
    positives: Matching  # which of the N queries has to reconstruct which box
    groups: int  # G
    group_size: int  # 2 * T


class ContrastiveDenoising(nn.Module):
    """Creates denoising queries; owns the label embedding, which is only used in training.

    Random numbers are drawn in the order of the reference, so that the same seed yields the same queries.
    """

    def __init__(self, config: Denoising, width: int) -> None:
        super().__init__()
        self.config = config
        self.label_embedding = nn.Embedding(config.label_table, width)

    def forward(
        self, targets: Sequence[Target], matching_queries: int, generator: torch.Generator | None = None
    ) -> DenoisingQueries:
        """Queries for a batch whose decoder also runs `matching_queries` (Q) others.

        Boxes marked ignore are left out. The number of groups is what fits into config.queries for the image with most
        boxes, at least one, so even an image with more boxes has each box denoised once. Raises ValueError when a label
        has no row in the embedding.
        """
        device = self.label_embedding.weight.device
        # Which boxes there are and where they go is decided on the CPU, and sent at once: a GPU is not waited for.
        rows = [torch.nonzero(~target.ignore).flatten() for target in targets]  # the boxes that are denoised
        places = max(len(row) for row in rows)
        groups = max(1, self.config.queries // places) if places else 1
        group_size = 2 * places

        images = torch.cat([torch.full_like(row, image) for image, row in enumerate(rows)])
        slots = torch.cat([torch.arange(len(row)) for row in rows])
        labels = torch.cat([target.labels[row] for target, row in zip(targets, rows)])
        firsts = accumulate((len(target.labels) for target in targets), initial=0)
        in_batch = torch.cat([row + first for row, first in zip(rows, firsts)])

        if len(labels) and labels.max() >= self.config.label_table:
            raise ValueError(
                f"label {int(labels.max())} has no row in the denoising label table of {self.config.label_table}; "
                "put fewer phrases into a caption or enlarge denoising.label_table"
            )
        halves = torch.arange(2 * groups)[:, None]  # positives of group 0, its negatives, group 1, …
        queries = (halves * places + slots).flatten()  # (2 * G * K,)
        positive = Matching(
            images.repeat(groups), queries.view(2 * groups, -1)[::2].flatten(), torch.cat(rows).repeat(groups)
        )
        noisy_labels = self._noisy_labels(labels.repeat(2 * groups), generator)
        parts = (noisy_labels, in_batch, images.repeat(2 * groups), queries, *positive)
        noisy_labels, in_batch, image_of, query_of, *positive_on_device = _sent(parts, device)

        content = self.label_embedding(noisy_labels)
        boxes = torch.cat([target.boxes for target in targets])[in_batch]
        references = box_maths.inverse_sigmoid(self._noisy_boxes(boxes, groups, generator), eps=1e-3)
        shape = (len(targets), groups * group_size)
        return DenoisingQueries(
            content=content.new_zeros(*shape, content.shape[-1]).index_put((image_of, query_of), content),
            references=references.new_zeros(*shape, 4).index_put((image_of, query_of), references),
            attention_block=attention_block(groups, group_size, matching_queries, device),
            positives=Matching(*positive_on_device),
            groups=groups,
            group_size=group_size,
        )

    def _noisy_labels(self, labels: Tensor, generator: torch.Generator | None) -> Tensor:
        """(2 * G * K,) -> the same, on the CPU: labels are replaced by random ones with probability label_noise / 2."""
        table, noise = self.config.label_table, self.config.label_noise
        if noise == 0:
            return labels
        chance = torch.rand(len(labels), generator=generator)
        chosen = torch.nonzero(chance < noise / 2).flatten()
        replacements = torch.randint(0, table, chosen.shape, generator=generator)
        return labels.scatter(0, chosen, replacements)

    def _noisy_boxes(self, boxes: Tensor, groups: int, generator: torch.Generator | None) -> Tensor:
        """cxcywh (K, 4) -> cxcywh (2 * G * K, 4), clipped to the image; each half of a group has its own noise."""
        noise = self.config.box_noise
        corners = box_maths.cxcywh_to_xyxy(boxes).repeat(2 * groups, 1)
        if noise > 0:
            signs = torch.randint(0, 2, corners.shape, device=boxes.device, generator=generator) * 2 - 1
            amounts = torch.rand(corners.shape, device=boxes.device, generator=generator)
            amounts.view(groups, 2, -1)[:, 1] += 1  # negatives lie at least half a box away
            half_size = boxes[:, 2:].repeat(2 * groups, 2) / 2
            corners = corners + signs * amounts * half_size * noise
        return box_maths.xyxy_to_cxcywh(corners.clamp(0, 1))


def _sent(parts: Sequence[Tensor], device: torch.device) -> Sequence[Tensor]:
    """Vectors of one dtype, copied to a device together."""
    return send(torch.cat(list(parts)), device).split([len(part) for part in parts])


def attention_block(groups: int, group_size: int, matching_queries: int, device: torch.device) -> Tensor:
    """(N + Q, N + Q) bool, True = may not attend: groups cannot see one another, matching queries cannot see groups.

    Groups may attend to matching queries, which contain nothing of the truth; the reverse would leak the truth.
    """
    matching = torch.full((matching_queries,), -1, device=device)
    group_of = torch.cat([torch.arange(groups, device=device).repeat_interleave(group_size), matching])
    return (group_of[None, :] >= 0) & (group_of[:, None] != group_of[None, :])
