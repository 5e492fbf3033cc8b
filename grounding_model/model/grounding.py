"""The whole model, MM-Grounding-DINO (arXiv 2401.02361; Grounding DINO, arXiv 2303.05499, figure 3).

B batch, H W canvas in pixels, K levels, V image tokens, L text tokens, Q queries, N denoising queries, C model width,
D decoder layers. Boxes are cx, cy, w, h in fractions of the image's content.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grounding_model.inputs.image_batch import ImageBatch
from grounding_model.inputs.tokens import TextBatch
from grounding_model.model.backbone import ChannelMapper, build_backbone
from grounding_model.model.boxes import inverse_sigmoid
from grounding_model.model.config import ModelConfig
from grounding_model.model.decoder import Decoder
from grounding_model.model.denoising import ContrastiveDenoising, DenoisingQueries
from grounding_model.model.encoder import Encoder, ImageTokens
from grounding_model.model.heads import BoxHead, ContrastiveHead
from grounding_model.model.positions import pixel_code, whole_map_code
from grounding_model.model.query_selection import QuerySelection
from grounding_model.model.targets import Matching, Target
from grounding_model.model.text_encoder import BertEncoder


class ImageFeatures(NamedTuple):
    """A batch of images, encoded once for any number of texts."""

    levels: list[Tensor]  # K maps (B, C, h, w)
    paddings: list[Tensor]  # K masks (B, h, w) bool, True outside the content
    image: ImageTokens  # the same levels as one sequence of tokens

    def one(self, index: int) -> ImageFeatures:
        """The features of one image of the batch, as views of the same memory."""
        row = slice(index, index + 1)
        image = self.image._replace(
            tokens=self.image.tokens[row],
            positions=self.image.positions[row],
            padding=None if self.image.padding is None else self.image.padding[row],
            valid_ratios=self.image.valid_ratios[row],
        )
        return ImageFeatures([level[row] for level in self.levels], [mask[row] for mask in self.paddings], image)

    @classmethod
    def joined(cls, parts: Sequence[ImageFeatures]) -> ImageFeatures:
        """A batch of images with equal canvas; the same image may occur several times, each with its own text."""
        images = [part.image for part in parts]
        paddings = [image.padding for image in images if image.padding is not None]
        image = images[0]._replace(
            tokens=torch.cat([each.tokens for each in images]),
            positions=torch.cat([each.positions for each in images]),
            padding=torch.cat(paddings) if paddings else None,
            valid_ratios=torch.cat([each.valid_ratios for each in images]),
        )
        levels = [torch.cat(maps) for maps in zip(*(part.levels for part in parts))]
        return cls(levels, [torch.cat(masks) for masks in zip(*(part.paddings for part in parts))], image)


class TextFeatures(NamedTuple):
    """A batch of captions, encoded once for any number of images."""

    tokens: Tensor  # (B, L, C)
    text: TextBatch


class DenoisingGrounding(NamedTuple):
    """The decoder's predictions for the denoising queries."""

    logits: Tensor  # (D, B, N, L)
    boxes: Tensor  # (D, B, N, 4)
    queries: DenoisingQueries

    @property
    def positives(self) -> Matching:
        """Which of the queries has to reconstruct which box."""
        return self.queries.positives


class Grounding(NamedTuple):
    """The model's output. Logits are before the sigmoid and -inf at padded tokens; the last layer is the prediction."""

    logits: Tensor  # (D, B, Q, L)
    boxes: Tensor  # (D, B, Q, 4)
    encoder_logits: Tensor  # (B, Q, L) of the selected proposals
    encoder_boxes: Tensor  # (B, Q, 4)
    denoising: DenoisingGrounding | None
    token_mask: Tensor  # (B, L) bool, True for tokens, False for padding
    image_levels: list[Tensor]  # K maps (B, C, h, w) after the neck
    text_tokens: Tensor  # (B, L, C) before the encoder


class GroundingModel(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config.backbone)
        self.neck = ChannelMapper(self.backbone.channels, config.width, config.levels)
        self.level_embedding = nn.Parameter(torch.randn(config.levels, config.width))
        self.text_encoder = BertEncoder(config.text, config.width)
        self.encoder = Encoder(config)
        self.query_selection = QuerySelection(config.width, config.queries)
        self.decoder = Decoder(config)
        # One pair of heads per decoder layer, and a last pair for the encoder's proposals.
        heads = range(config.decoder_layers + 1)
        self.classify = nn.ModuleList(
            ContrastiveHead(config.width, config.contrastive_scale, config.contrastive_bias) for _ in heads
        )
        self.regress = nn.ModuleList(BoxHead(config.width) for _ in heads)
        self.denoising = ContrastiveDenoising(config.denoising, config.width)

    def forward(self, images: ImageBatch, text: TextBatch, targets: Sequence[Target] | None = None) -> Grounding:
        """Grounds text i in image i. With targets (in training), denoising queries are added."""
        image_features = self.encode_image(images)
        text_features = self.encode_text(text)
        denoising = None
        if targets is not None and self.config.denoising.queries:
            tokens = image_features.image.tokens.shape[1]
            denoising = self.denoising(targets, min(self.config.queries, tokens))
        return self.ground(image_features, text_features, denoising)

    def encode_image(self, images: ImageBatch) -> ImageFeatures:
        """Pixels -> feature maps of every level, also as one sequence of tokens."""
        levels = self.neck(self.backbone(images.pixels))
        if images.padded:
            canvas = padding_mask(images)[None].float()
            paddings = [F.interpolate(canvas, x.shape[-2:], mode="nearest")[0].bool() for x in levels]
        else:  # all images are alike, so one row is broadcast
            paddings = [x.new_zeros(1, *x.shape[-2:], dtype=torch.bool) for x in levels]
        if images.padded:
            codes = [pixel_code(padding, self.config.width) for padding in paddings]
        else:
            codes = [whole_map_code(x.shape[-2], x.shape[-1], self.config.width, x.device) for x in levels]
        positions = [code.flatten(1, 2) + embedding for code, embedding in zip(codes, self.level_embedding)]
        ratios = torch.stack([valid_ratio(mask) for mask in paddings], dim=1)
        count = len(images.pixels)
        image = ImageTokens(
            tokens=torch.cat([x.flatten(2).transpose(1, 2) for x in levels], dim=1),
            positions=torch.cat(positions, dim=1).expand(count, -1, -1),
            padding=torch.cat([mask.flatten(1) for mask in paddings], dim=1) if images.padded else None,
            sizes=[(x.shape[-2], x.shape[-1]) for x in levels],
            valid_ratios=ratios.expand(count, -1, -1),
        )
        return ImageFeatures(levels, [mask.expand(count, -1, -1) for mask in paddings], image)

    def encode_text(self, text: TextBatch) -> TextFeatures:
        """Tokens -> features; each token attends only to its sub-sentence."""
        return TextFeatures(self.text_encoder(text), text)

    def ground(self, image: ImageFeatures, text: TextFeatures, denoising: DenoisingQueries | None = None) -> Grounding:
        """Finds in image i what text i names. A single caption is used for all images."""
        token_mask, position_ids, attention = text.text.token_mask, text.text.position_ids, text.text.attention
        memory, words = self.encoder(image.image, text.tokens, token_mask, position_ids, attention)
        selected = self.query_selection(image.image, memory, words, token_mask, self.classify[-1], self.regress[-1])
        queries, references, blocked = selected.content, selected.references, None
        if denoising is not None:
            queries = torch.cat((denoising.content, queries), dim=1)
            references = torch.cat((denoising.references, references), dim=1)
            blocked = denoising.attention_block
        states, starts = self.decoder(
            queries, references.sigmoid(), blocked, image.image, memory, words, token_mask, self.regress[:-1]
        )
        logits = torch.stack([head(x, words, token_mask) for head, x in zip(self.classify, states)])
        boxes = torch.stack(
            [(head(x) + inverse_sigmoid(s, eps=1e-5)).sigmoid() for head, x, s in zip(self.regress, states, starts)]
        )
        denoised = None
        if denoising is not None:
            noisy = denoising.content.shape[1]
            denoised = DenoisingGrounding(logits[:, :, :noisy], boxes[:, :, :noisy], denoising)
            logits, boxes = logits[:, :, noisy:], boxes[:, :, noisy:]
        return Grounding(
            logits, boxes, selected.logits, selected.boxes, denoised, token_mask, image.levels, text.tokens
        )


def padding_mask(images: ImageBatch) -> Tensor:
    """-> (B, H, W) bool, True outside each image's content."""
    height, width = images.pixels.shape[-2:]
    sizes = images.sizes.to(images.pixels.device, non_blocking=True)[:, :, None, None]
    rows = torch.arange(height, device=images.pixels.device)[None, :, None] >= sizes[:, 0]
    columns = torch.arange(width, device=images.pixels.device)[None, None, :] >= sizes[:, 1]
    return rows | columns


def valid_ratio(padding: Tensor) -> Tensor:
    """(B, h, w) bool -> (B, 2): width, height of the content in fractions of the map, from its first row and column."""
    return torch.stack(((~padding[:, 0, :]).float().mean(1), (~padding[:, :, 0]).float().mean(1)), dim=-1)
