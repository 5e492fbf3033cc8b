"""From pixels to feature maps of the model's width.

B batch, C channels, H W height and width.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from grounding_model.inputs.image_batch import MEAN, STD
from grounding_model.model.config import SwinBackbone, TimmBackbone
from grounding_model.model.networks.efficientnet import EfficientNetLite0
from grounding_model.model.networks.folding import fold_batch_norms
from grounding_model.model.networks.resnet import RESNETS, ResNet
from grounding_model.model.swin import SwinTransformer

logger = logging.getLogger(__name__)

# What makes timm read files or the network. A checkpoint's own configuration comes here too, and may be a stranger's.
FETCHING_OPTIONS = frozenset(("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"))


class TimmFeatures(nn.Module):
    """Any timm network that offers features_only, its maps turned to channels first.

    Raises ValueError for a name or an option by which timm would fetch something.
    """

    def __init__(self, config: TimmBackbone) -> None:
        super().__init__()
        if ":" in config.name or "/" in config.name:
            raise ValueError(
                f"backbone '{config.name}' is to be fetched; expected the name of one of timm's own networks"
            )
        if fetching := sorted(FETCHING_OPTIONS.intersection(config.options)):
            raise ValueError(
                f"backbone options {', '.join(fetching)} fetch weights; expected options of the architecture"
            )
        self.network: nn.Module
        if is_own_network(config):
            self.network = network = own_network(config)
            self.channels, self.stride = network.channels, network.stride
        else:
            self.network = timm_network(config)
            info: Any = self.network.feature_info
            self.channels, self.stride = tuple(info.channels()), max(info.reduction())
        # Transformers such as timm's Swin answer with channels last and say so in their name for the format.
        self.channels_last = str(getattr(self.network, "output_fmt", "NCHW")).endswith("NHWC")
        self._renormalisation = renormalisation(config.mean, config.std)
        self._frozen_statistics = config.frozen_statistics
        self._dtype = torch.float32

    def train(self, mode: bool = True) -> TimmFeatures:
        super().train(mode)
        if self._frozen_statistics:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> [(B, C, H / stride, W / stride)]. Pads to a multiple of the stride, which some need."""
        height, width = pixels.shape[2:]
        if self._renormalisation is not None:
            scale, shift = self._renormalisation
            pixels = pixels * scale.to(pixels) + shift.to(pixels)
        pixels = F.pad(pixels, (0, -width % self.stride, 0, -height % self.stride))
        # Convolutions and pooling are about twice as fast with the channels of a pixel side by side in memory.
        maps = self.network(pixels.to(self._dtype).contiguous(memory_format=torch.channels_last))
        if self._dtype != torch.float32:
            maps = [x.float() for x in maps]
        return [x.permute(0, 3, 1, 2).contiguous() if self.channels_last else x for x in maps]

    def fold_batch_norms(self) -> None:
        """For inference, in place: a batch norm behind a convolution becomes part of its weights.

        The network can no longer be trained or saved. One whose forward cannot be traced stays as it is.
        """
        if isinstance(self.network, ResNet | EfficientNetLite0):
            fold_batch_norms(self.network)
        else:
            try:
                self.network = fuse(self.network.eval())
            except Exception as error:  # tracing raises whatever the network's own code does
                logger.debug("batch norms of the backbone stay as they are: %s", error)
        # As the maps are, or each convolution of each batch reorders its weights first.
        self.network.to(memory_format=torch.channels_last)

    def use_bfloat16(self) -> None:
        """For inference, in place: convolutions in bfloat16, in a network of ours whose batch norms are folded.

        Another network stays float32: a norm's statistics and what its own code computes may need that.
        """
        own = isinstance(self.network, ResNet | EfficientNetLite0)
        if own and not any(isinstance(module, nn.BatchNorm2d) for module in self.network.modules()):
            self._dtype = torch.bfloat16
            self.network.to(self._dtype)


def is_own_network(config: TimmBackbone) -> bool:
    """Whether we have a network of this name, with timm's tensors and maps."""
    if config.name in RESNETS:
        return config.options.keys() <= {"channels"}
    return config.name == "tf_efficientnet_lite0" and not config.options


def own_network(config: TimmBackbone) -> ResNet | EfficientNetLite0:
    """For an is_own_network."""
    if config.name in RESNETS:
        return ResNet(config.name, config.out_indices, **config.options)
    return EfficientNetLite0(config.out_indices)


def timm_network(config: TimmBackbone) -> nn.Module:
    """Whatever timm has by this name."""
    import timm  # here, because with torchvision it takes two seconds that most models need not wait for

    return timm.create_model(
        config.name, pretrained=False, features_only=True, out_indices=config.out_indices, **config.options
    )


def renormalisation(mean: Sequence[float], std: Sequence[float]) -> tuple[Tensor, Tensor] | None:
    """Scale and shift (3, 1, 1) from pixels as collate_images normalises them to this mean and deviation, in 0..1.

    None where they are the same: nothing is computed then.
    """
    ours = [value / 255 for value in (*MEAN, *STD)]
    if all(abs(one - other) < 1e-3 for one, other in zip(ours, (*mean, *std))):
        return None
    scale = [one / other for one, other in zip(ours[3:], std)]
    shift = [(one - other) / spread for one, other, spread in zip(ours[:3], mean, std)]
    return torch.tensor(scale)[:, None, None], torch.tensor(shift)[:, None, None]


def build_backbone(config: SwinBackbone | TimmBackbone) -> SwinTransformer | TimmFeatures:
    return SwinTransformer(config) if isinstance(config, SwinBackbone) else TimmFeatures(config)


class ConvNorm(nn.Module):
    """A convolution and a group norm of 32 groups, no activation."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2)
        self.norm = nn.GroupNorm(32, out_channels)
        nn.init.xavier_uniform_(self.conv.weight)
        assert self.conv.bias is not None
        nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class ChannelMapper(nn.Module):
    """Brings every map to the model's width and adds coarser ones.

    The first extra map is made from the last map of the backbone, each further one from the extra before it.
    """

    def __init__(self, in_channels: tuple[int, ...], width: int, levels: int) -> None:
        super().__init__()
        if levels < len(in_channels):
            raise ValueError(f"{levels} levels for {len(in_channels)} backbone maps; expected at least as many")
        self.laterals = nn.ModuleList(ConvNorm(channels, width, kernel=1) for channels in in_channels)
        extra_inputs = [in_channels[-1]] + [width] * (levels - len(in_channels) - 1)
        self.extras = nn.ModuleList(
            ConvNorm(channels, width, kernel=3, stride=2) for channels in extra_inputs[: levels - len(in_channels)]
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """[(B, C_i, H_i, W_i)] -> [(B, width, H_i, W_i)], one a level."""
        levels = [lateral(x) for lateral, x in zip(self.laterals, maps)]
        x = maps[-1]
        for extra in self.extras:
            x = extra(x)
            levels.append(x)
        return levels
