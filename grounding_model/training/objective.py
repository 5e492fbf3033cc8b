"""The training objective as one module, so that DistributedDataParallel sees every use of a parameter.

B images of a batch, L tokens of the longest caption
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from grounding_model.data.samples import TrainingBatch
from grounding_model.model.grounding import GroundingModel
from grounding_model.training.losses import grounding_losses
from grounding_model.training.region_words import RegionWordHead
from grounding_model.training.settings import LossSettings


class Objective(nn.Module):
    """The model and the losses of its outputs. region_words is trained too, but not saved."""

    def __init__(
        self,
        model: GroundingModel,
        losses: LossSettings,
        region_words_weight: float = 0.0,
        autocast: torch.dtype | None = None,
        words_alone_until: int = 0,
    ) -> None:
        super().__init__()
        self.model = model
        self._losses, self._region_words_weight, self._autocast = losses, region_words_weight, autocast
        self._words_alone_until = words_alone_until
        self.region_words: RegionWordHead | None = None
        if region_words_weight:
            width = model.config.width
            self.region_words = RegionWordHead(width, width, width).to(model.level_embedding.device)

    def forward(self, batch: TrainingBatch, step: int = 0) -> dict[str, Tensor]:
        """The weighted parts of the loss of a batch, which is on the model's device.

        In the first words_alone_until steps region_words is trained alone, without the transformer. Raises
        FloatingPointError where an output is not finite.
        """
        images, text, targets = batch.images, batch.text, batch.targets
        words_alone = step < self._words_alone_until
        losses: dict[str, Tensor] = {}
        with torch.autocast(images.pixels.device.type, self._autocast, enabled=self._autocast is not None):
            if words_alone:
                levels, words = self.model.encode_image(images).levels, self.model.encode_text(text).tokens
            else:
                grounding = self.model(images, text, targets)
                levels, words = grounding.image_levels, grounding.text_tokens
        if not words_alone:
            losses |= grounding_losses(grounding, targets, self._losses)
        if self.region_words is not None:
            canvas = (images.pixels.shape[2], images.pixels.shape[3])
            loss = self.region_words(levels, canvas, words.float(), text.token_mask, targets)
            losses["region_words"] = self._region_words_weight * loss
        return losses
