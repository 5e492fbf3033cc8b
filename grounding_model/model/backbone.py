"""Turns pixels into feature maps of the model's width.

B batch, C channels, H W height and width.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from copy import deepcopy
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

# Options that make timm read files or the network. Configurations of untrusted checkpoints are checked for these too.
FETCHING_OPTIONS = frozenset(("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"))


class TimmFeatures(nn.Module):
    """Any timm network that supports features_only, with its maps as channels first.

    Raises ValueError for a name or an option that would make timm download something.
    """

    def __init__(self, config: TimmBackbone) -> None:
        super().__init__()
        if ":" in config.name or "/" in config.name:
            raise ValueError(
                f"backbone '{config.name}' would be downloaded; expected the name of a network that timm contains"
            )
        if fetching := sorted(FETCHING_OPTIONS.intersection(config.options)):
            raise ValueError(
                f"backbone options {', '.join(fetching)} load weights; expected options of the architecture"
            )
        self.network: nn.Module
        if is_own_network(config):
            self.network = network = own_network(config)
            self.channels, self.stride = network.channels, network.stride
        else:
            self.network = timm_network(config)
            info: Any = self.network.feature_info
            self.channels, self.stride = tuple(info.channels()), max(info.reduction())
        # Transformers such as timm's Swin return channels last, which they declare in output_fmt.
        self.channels_last = str(getattr(self.network, "output_fmt", "NCHW")).endswith("NHWC")
        self._renormalisation = renormalisation(config.mean, config.std)
        self._frozen_statistics = config.frozen_statistics
        self._dtype = torch.float32
        self._frozen: tuple[TimmFeatures, ...] = ()  # a tuple hides the copy from parameters() and state_dict()

    def train(self, mode: bool = True) -> TimmFeatures:
        super().train(mode)
        if self._frozen_statistics:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> [(B, C, H / stride, W / stride)]. Pads to a multiple of the stride, which some need."""
        if self._frozen and torch.is_grad_enabled():
            with torch.no_grad():
                return self._frozen[0](pixels)
        height, width = pixels.shape[2:]
        if self._renormalisation is not None:
            scale, shift = self._renormalisation
            pixels = pixels * scale.to(pixels) + shift.to(pixels)
        pixels = F.pad(pixels, (0, -width % self.stride, 0, -height % self.stride))
        # Convolutions and pooling are about twice as fast in channels-last memory format.
        maps = self.network(pixels.to(self._dtype).contiguous(memory_format=torch.channels_last))
        if self._dtype != torch.float32:
            maps = [x.float() for x in maps]
        return [x.permute(0, 3, 1, 2).contiguous() if self.channels_last else x for x in maps]

    def fold_batch_norms(self) -> None:
        """For inference, in place: folds batch norms into the weights of the convolutions before them.

        The network can no longer be trained or saved. A network whose forward cannot be traced is left unchanged.
        """
        if isinstance(self.network, ResNet | EfficientNetLite0):
            fold_batch_norms(self.network)
        else:
            try:
                self.network = fuse(self.network.eval())
            except Exception as error:  # tracing raises whatever the network's own code does
                logger.debug("batch norms of the backbone are not folded: %s", error)
        # Same memory format as the maps; otherwise each convolution reorders its weights in every call.
        self.network.to(memory_format=torch.channels_last)

    def use_frozen_copy(self, bfloat16: bool) -> None:
        """For training with frozen weights: maps come from a copy that is prepared as for inference.

        The copy has no gradients and is not saved; without gradients (in a validation) the original is used.
        Raises ValueError if a weight is trained.
        """
        if any(weight.requires_grad for weight in self.parameters()):
            raise ValueError("the backbone is trained; expected frozen weights")
        self._frozen = ()
        frozen = deepcopy(self).eval()
        frozen.fold_batch_norms()
        if bfloat16:
            frozen.use_bfloat16()
        self._frozen = (frozen,)

    def use_bfloat16(self) -> None:
        """For inference, in place: bfloat16 convolutions, in our own networks with folded batch norms.

        Other networks stay in float32, which their norms or their own code may need.
        """
        own = isinstance(self.network, ResNet | EfficientNetLite0)
        if own and not any(isinstance(module, nn.BatchNorm2d) for module in self.network.modules()):
            self._dtype = torch.bfloat16
            self.network.to(self._dtype)


def is_own_network(config: TimmBackbone) -> bool:
    """Whether this project implements the network, with timm's tensor names and maps."""
    if config.name in RESNETS:
        return config.options.keys() <= {"channels"}
    return config.name == "tf_efficientnet_lite0" and not config.options


def own_network(config: TimmBackbone) -> ResNet | EfficientNetLite0:
    """Builds a network for which is_own_network is true."""
    if config.name in RESNETS:
        return ResNet(config.name, config.out_indices, **config.options)
    return EfficientNetLite0(config.out_indices)


def timm_network(config: TimmBackbone) -> nn.Module:
    """Builds a timm network."""
    import timm  # not at the top: importing it takes two seconds, and most models do not need it

    return timm.create_model(
        config.name, pretrained=False, features_only=True, out_indices=config.out_indices, **config.options
    )


def renormalisation(mean: Sequence[float], std: Sequence[float]) -> tuple[Tensor, Tensor] | None:
    """Scale and shift, (3, 1, 1), from the normalisation of collate_images to this mean and deviation (in 0..1).

    None if the two normalisations are the same, so that nothing is computed.
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
    """A convolution and a group norm with 32 groups, without activation."""

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
    """Projects every map to the model's width and adds coarser maps.

    The first extra map is computed from the last backbone map, each further one from the previous extra map.
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
        """[(B, C_i, H_i, W_i)] -> [(B, width, H_i, W_i)], one per level."""
        levels = [lateral(x) for lateral, x in zip(self.laterals, maps)]
        x = maps[-1]
        for extra in self.extras:
            x = extra(x)
            levels.append(x)
        return levels
