"""The dimensions of a model, each with its reason. Variants list only their differences from the defaults."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from formats.io.ranges import Count, Range, Share

Layers = Annotated[int, Range(1, 200)]  # the largest published model has 24; more would take forever to build


@dataclass(frozen=True)
class SwinBackbone:
    """Swin Transformer as mmdet computes it (arXiv 2103.14030)."""

    kind: Literal["swin"] = "swin"
    embed_dim: Count = 96
    depths: tuple[Layers, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window: int = 7
    out_stages: tuple[int, ...] = (1, 2, 3)
    drop_path: Share = 0.2  # stochastic depth of the official pretraining


@dataclass(frozen=True)
class TimmBackbone:
    """Any timm network that supports features_only."""

    kind: Literal["timm"] = "timm"
    name: str = "resnet50"
    out_indices: tuple[int, ...] = (2, 3, 4)
    options: dict[str, Any] = field(default_factory=dict)  # passed to timm.create_model
    # Added later, so they are left out of repr, which identifies the settings of older runs.
    mean: tuple[float, ...] = field(default=(0.485, 0.456, 0.406), repr=False)  # of the pixels in training, 0..1
    std: tuple[float, ...] = field(default=(0.229, 0.224, 0.225), repr=False)
    frozen_statistics: bool = field(default=False, repr=False)  # of batch norms: statistics of small batches are worse


@dataclass(frozen=True)
class TextEncoder:
    """BERT (arXiv 1810.04805), last hidden layer, no pooler."""

    vocab_size: Count = 30522
    width: Count = 768
    layers: Layers = 12
    heads: Layers = 12
    feedforward: Count = 3072
    positions: Count = 512
    dropout: Share = 0.1  # as in BERT, active in training


@dataclass(frozen=True)
class Denoising:
    """Contrastive denoising (DINO, arXiv 2203.03605, section 3.3)."""

    queries: int = 100  # per image, divided among the groups; 0 switches denoising off
    label_table: Count = 256  # rows of the label embedding
    label_noise: Share = 0.5
    box_noise: float = 1.0


@dataclass(frozen=True)
class ModelConfig:
    backbone: SwinBackbone | TimmBackbone = SwinBackbone()
    text: TextEncoder = TextEncoder()
    width: Count = 256  # channels of every token after the neck
    levels: Layers = 4  # feature maps: those of the backbone, then maps of stride-2 convolutions
    queries: int = 900
    encoder_layers: Layers = 6
    decoder_layers: Layers = 6
    heads: Layers = 8
    points: Layers = 4  # sampling points per head and level in deformable attention
    feedforward: Count = 2048
    text_heads: Layers = 4
    text_feedforward: Count = 1024
    fusion_width: Count = 1024
    fusion_heads: Layers = 4
    fusion_scale: float = 1e-4  # initial layer scale of image-text fusion
    fusion_dropout: Share = 0.1
    dropout: Share = 0.0
    max_text_tokens: Count = 256  # columns of the contrastive logits; longer texts are truncated
    contrastive_scale: Literal["sqrt_width", "learned", "none"] = "sqrt_width"
    contrastive_bias: bool = True  # used by MM-Grounding-DINO, but not by the original Grounding DINO
    denoising: Denoising = Denoising()
    nms_iou: float | None = field(default=None, repr=False)  # IoU for NMS per label; None: no NMS
    image_scale: tuple[int, int] = (800, 1333)  # short and long side in pixels of the training images


SWIN_T = ModelConfig()
SWIN_B = replace(
    SWIN_T, backbone=SwinBackbone(embed_dim=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32), window=12, drop_path=0.3)
)
SWIN_L = replace(
    SWIN_T,
    backbone=SwinBackbone(
        embed_dim=192, depths=(2, 2, 18, 2), heads=(6, 12, 24, 48), window=12, out_stages=(0, 1, 2, 3)
    ),
    levels=5,
)

# The embedded model, small enough to be trained on two CPU cores: see configs/glyph_tiny.toml.
GLYPH_TINY = ModelConfig(
    # Strides 16 and 32 only: stride 8 would halve the speed, and pictograms of 30 pixels are still two cells wide.
    backbone=TimmBackbone(name="resnet18", out_indices=(3, 4), options={"channels": (32, 64, 128, 256)}),
    text=TextEncoder(vocab_size=2000, width=128, layers=2, heads=4, feedforward=512, positions=256, dropout=0.0),
    width=128,
    levels=2,
    queries=30,
    encoder_layers=1,
    decoder_layers=2,
    heads=4,
    feedforward=512,
    text_heads=4,
    text_feedforward=256,
    fusion_width=256,
    fusion_scale=0.3,  # with the reference's 1e-4, fusion learns little in such a short training
    fusion_dropout=0.0,
    denoising=Denoising(queries=20),
    image_scale=(160, 320),
)

# The same with a backbone trained on photos, where objects are larger than pictograms: see configs/photo_tiny.toml.
PHOTO_TINY = replace(
    GLYPH_TINY,
    backbone=TimmBackbone(
        name="tf_efficientnet_lite0", out_indices=(3, 4), mean=(0.5,) * 3, std=(0.5,) * 3, frozen_statistics=True
    ),
    encoder_layers=2,
    decoder_layers=4,
    # Several queries are trained on each box (losses.last_repeats), which helps with few images; NMS then keeps one
    # prediction, as in DETA (arXiv 2212.06137).
    nms_iou=0.6,
    image_scale=(256, 416),
)

VARIANTS = {"swin-t": SWIN_T, "swin-b": SWIN_B, "swin-l": SWIN_L, "glyph-tiny": GLYPH_TINY, "photo-tiny": PHOTO_TINY}
