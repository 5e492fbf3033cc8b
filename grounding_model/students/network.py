"""A closed-set detector around a transformers model: its input is images, its output boxes with classes.

B images, H W their height and width in pixels, S side of the model's square input, C classes, Q queries,
N denoising queries, D layers with predictions, K boxes kept per image, M positive denoising queries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grounding_model.inputs.defaults import MAX_PER_IMAGE
from grounding_model.inputs.image_batch import MEAN, STD, send
from grounding_model.model.boxes import cxcywh_to_xyxy, iou_matrix
from grounding_model.model.targets import Matching, Target
from grounding_model.students.edge_losses import EdgeDistributions


class DenoisedClasses(NamedTuple):
    """The decoder's predictions for the denoising queries, and the true box that each should reconstruct."""

    logits: Tensor  # (D, B, N, C)
    boxes: Tensor  # (D, B, N, 4)
    positives: Matching
    edges: EdgeDistributions | None = None  # D-FINE's, of all layers but the first


class ClassPredictions(NamedTuple):
    """A student's predictions in training, in the form that grounding_losses expects: each class is a token."""

    logits: Tensor  # (D, B, Q, C) before the sigmoid; the last layer is the final prediction
    boxes: Tensor  # (D, B, Q, 4) cx, cy, w, h in fractions of the image
    encoder_logits: Tensor  # (B, Q, C)
    encoder_boxes: Tensor  # (B, Q, 4)
    denoising: DenoisedClasses | None
    token_mask: Tensor  # (B, C) bool, the classes that the image was labelled for
    edges: EdgeDistributions | None = None  # D-FINE's, of all layers but the first


class Student(nn.Module):
    """detector: RTDetrV2ForObjectDetection or DFineForObjectDetection. names: of its C classes.

    image_size: S. mean, std: of the pixels in RGB 0..255. nms_iou: see FromStudent; None: all count.
    """

    def __init__(
        self,
        detector: nn.Module,
        names: Sequence[str],
        image_size: int,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
        provenance: Mapping[str, str] | None = None,
        nms_iou: float | None = None,
    ) -> None:
        super().__init__()
        self.detector: Any = detector
        self.names, self.image_size = tuple(names), image_size
        self.mean, self.std = tuple(mean), tuple(std)
        self.provenance = dict(provenance or {})
        self.nms_iou = nms_iou

    def prepare(self, images: Tensor, side: int | None = None) -> Tensor:
        """(B, H, W, 3) uint8 RGB -> (B, 3, S, S), the model's input: stretched to the square and normalised.

        side: S; None: image_size.
        """
        pixels = images.permute(0, 3, 1, 2).float()
        side = side or self.image_size
        resized = F.interpolate(pixels, (side, side), mode="bilinear", align_corners=False, antialias=True)
        mean, std = (resized.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (resized - mean) / std

    def score(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """The output of prepare -> (B, Q, C) scores, (B, Q, 4) x1, y1, x2, y2 in fractions of the image, clipped to it.

        With nms_iou, duplicates have score 0.
        """
        output = self.detector(pixels)
        scores, boxes = output.logits.float().sigmoid(), cxcywh_to_xyxy(output.pred_boxes.float()).clamp(0, 1)
        return scores if self.nms_iou is None else zero_duplicates(scores, boxes, self.nms_iou), boxes

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, H, W, 3) uint8 RGB -> (B, K) int64 classes, (B, K, 4) boxes, (B, K) scores, best first.

        Boxes are x1, y1, x2, y2 in pixels of the images.
        """
        scores, boxes = self.score(self.prepare(images))
        height, width = images.shape[1], images.shape[2]
        count = min(MAX_PER_IMAGE, scores.shape[1] * scores.shape[2])
        best, index = scores.flatten(1).topk(count)
        query = index // scores.shape[2]
        chosen = boxes.gather(1, query[..., None].expand(-1, -1, 4))
        x1, y1, x2, y2 = chosen.unbind(-1)
        return index % scores.shape[2], torch.stack([x1 * width, y1 * height, x2 * width, y2 * height], -1), best

    def predict_for_training(self, pixels: Tensor, targets: Sequence[Target], known: Tensor) -> ClassPredictions:
        """The output of prepare, one target per image, (B, C) bool known classes -> the input of the losses."""
        device = pixels.device  # labels and ignore are in CPU memory
        rows = [send(torch.nonzero(~target.ignore).flatten(), device) for target in targets]  # that are denoised
        labels = [
            {"class_labels": send(target.labels, device)[row], "boxes": target.boxes[row]}
            for target, row in zip(targets, rows)
        ]
        output = self.detector.model(pixels, labels=labels)
        logits, boxes = output.intermediate_logits.transpose(0, 1), output.intermediate_reference_points.transpose(0, 1)
        edges, denoised = self._edges(output), None
        if (meta := output.denoising_meta_values) is not None:
            (noisy_logits, logits), (noisy_boxes, boxes) = (
                part.split(meta["dn_num_split"], dim=2) for part in (logits, boxes)
            )
            noisy_edges, edges = _split_edges(edges, meta["dn_num_split"])
            denoised = DenoisedClasses(noisy_logits, noisy_boxes, _positives(meta, rows), noisy_edges)
        return ClassPredictions(logits, boxes, output.enc_topk_logits, output.enc_topk_bboxes, denoised, known, edges)

    def _edges(self, output: Any) -> EdgeDistributions | None:
        """The edge distributions of a D-FINE decoder; None for other models."""
        from transformers.models.d_fine.modeling_d_fine import DFineDecoder, weighting_function

        decoder = self.detector.model.decoder
        if not isinstance(decoder, DFineDecoder):
            return None
        logits = output.intermediate_predicted_corners.transpose(0, 1).unflatten(-1, (4, -1))
        offsets = weighting_function(decoder.max_num_bins, decoder.up, decoder.reg_scale).float()  # type: ignore[arg-type]
        references = output.initial_reference_points.transpose(0, 1)
        return EdgeDistributions(logits, references, offsets, abs(float(self.detector.config.reg_scale)))


def zero_duplicates(scores: Tensor, boxes: Tensor, nms_iou: float) -> Tensor:
    """Scores (B, Q, C) and boxes (B, Q, 4) x1, y1, x2, y2 -> the scores, with those of duplicates set to 0.

    A box is a duplicate if a better box of its class overlaps it by more than nms_iou, even if that box is a duplicate
    itself. This needs no loop, which ONNX export would not support well (Fast NMS, arXiv 1904.02689).
    """
    overlaps = iou_matrix(boxes, boxes) > nms_iou  # (B, Q, Q)
    better = scores[:, :, None] < scores[:, None]  # (B, Q, Q, C): whether the second of the pair is better
    return scores.masked_fill((overlaps[..., None] & better).any(2), 0)


def _split_edges(edges: EdgeDistributions | None, sizes: Sequence[int]) -> list[EdgeDistributions | None]:
    """Splits the distributions into those of the denoising queries and those of the others."""
    if edges is None:
        return [None, None]
    parts = zip(edges.logits.split(sizes, dim=2), edges.references.split(sizes, dim=2))
    return [edges._replace(logits=logits, references=references) for logits, references in parts]


def _positives(meta: Mapping[str, Any], rows: Sequence[Tensor]) -> Matching:
    """The positive denoising queries. transformers orders them by group, then by box. rows: of each image's Target."""
    queries = meta["dn_positive_idx"]
    images = [torch.full_like(query, image) for image, query in enumerate(queries)]
    targets = [row.repeat(meta["dn_num_group"]) for row in rows]
    return Matching(torch.cat(images), torch.cat(list(queries)), torch.cat(targets))
