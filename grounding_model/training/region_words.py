"""An auxiliary loss for training from scratch: it aligns the image features inside a true box with the words for it.

Image features under each true box are compared with the caption's tokens directly. Nothing has to be detected or
matched, and words compete for a box, so image and text features align while the decoder is still untrained. Used to
train glyph-tiny; the head is discarded afterwards. Aligning regions with words is GLIP's idea (arXiv 2112.03857, 3.1).

Shapes: B images, T boxes of the image with most boxes, L tokens of the longest caption, P sample points of a box,
C channels of an image level, C' channels of a text token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grounding_model.model.targets import PaddedTargets, Target, pad_targets
from grounding_model.training.losses import loss_divisors

POINTS_A_SIDE = 3  # a box is read at 3 x 3 points of every level


class RegionWordHead(nn.Module):
    """Train-only: one linear layer each for image and text, then a scaled dot product."""

    def __init__(self, image_width: int, text_width: int, width: int) -> None:
        super().__init__()
        self.image = nn.Linear(image_width, width)
        self.text = nn.Linear(text_width, width)
        self.scale = width**-0.5

    def forward(
        self,
        levels: Sequence[Tensor],
        canvas: tuple[int, int],
        text: Tensor,
        token_mask: Tensor,
        targets: Sequence[Target],
    ) -> Tensor:
        """The unweighted loss, a scalar: the mean over boxes of the cross entropy between the tokens that name a box
        and a softmax over all tokens of the caption (soft token prediction, MDETR, arXiv 2104.12763, section 2.2.1).

        levels: (B, C, h, w) each, all over the same `canvas` (height, width in pixels of the padded batch);
        text (B, L, C'); token_mask (B, L) bool. Weights of boxes are factors and ignored boxes are left out, as in
        grounding_losses.
        """
        padded = pad_targets(targets)
        regions = pool_boxes(levels, canvas, padded)  # (B, T, C)
        logits = self.image(regions) @ self.text(text).transpose(1, 2) * self.scale  # (B, T, L)
        log_shares = logits.float().masked_fill(~token_mask[:, None], -math.inf).log_softmax(-1)
        named = padded.tokens.float()
        wanted = named / named.sum(-1, keepdim=True).clamp(min=1)
        by_box = -(log_shares.masked_fill(~padded.tokens, 0) * wanted).sum(-1) * padded.weights * padded.wanted
        return by_box.sum() / loss_divisors([padded.wanted_count], logits.device)[0]


def pool_boxes(levels: Sequence[Tensor], canvas: tuple[int, int], padded: PaddedTargets) -> Tensor:
    """-> (B, T, C): the mean of every level read bilinearly at a grid of points inside each box.

    Boxes are fractions of an image's content, levels cover the canvas that it was padded to.
    """
    height, width = canvas
    steps = (torch.arange(POINTS_A_SIDE, device=padded.boxes.device) + 0.5) / POINTS_A_SIDE - 0.5
    offsets = torch.cartesian_prod(steps, steps)  # (P, 2) in sizes of the box, from its centre
    points = padded.boxes[..., None, :2] + offsets * padded.boxes[..., None, 2:]  # (B, T, P, 2) x, y of the content
    of_canvas = points * padded.scale[..., None, :2] / points.new_tensor([width, height])
    samples = [
        F.grid_sample(level.float(), of_canvas * 2 - 1, mode="bilinear", padding_mode="border", align_corners=False)
        for level in levels
    ]  # (B, C, T, P) each
    return torch.stack([sample.mean(-1) for sample in samples]).mean(0).transpose(1, 2)
