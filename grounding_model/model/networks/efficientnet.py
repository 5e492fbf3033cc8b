"""EfficientNet-Lite0 (arXiv 1905.11946, without squeeze and excitation) with the padding of its TensorFlow weights.

The tensors have the names and order of timm's tf_efficientnet_lite0, and the maps are those of its features_only (tests
compare).

B batch, C channels, H W height and width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, cast

import torch.nn.functional as F
from torch import Tensor, nn

STEM = 32  # channels behind the first convolution
NORM_EPS = 1e-3
EXPANSION = 6


class Stage(NamedTuple):
    blocks: int
    channels: int
    kernel: int
    stride: int


STAGES = (
    Stage(1, 16, 3, 1),
    Stage(2, 24, 3, 2),
    Stage(2, 40, 5, 2),
    Stage(3, 80, 3, 2),
    Stage(3, 112, 5, 1),
    Stage(4, 192, 5, 2),
    Stage(1, 320, 3, 1),
)
STAGE_OF_MAP = (0, 1, 2, 4, 6)  # the last stage with each stride from 2 to 32


class Convolution(nn.Conv2d):
    """A convolution without bias. With stride 2, odd padding has the extra pixel below and right, as in TensorFlow."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        padding = kernel // 2 if stride == 1 else 0
        super().__init__(inputs, outputs, kernel, stride, padding=padding, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride[0] == 1:
            return super().forward(x)
        height, width = (self.kernel_size[0] - 2 + length % 2 for length in x.shape[-2:])
        x = F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))
        return super().forward(x)


def norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=NORM_EPS)


class Separable(nn.Module):
    """A depthwise convolution, then a pointwise one."""

    def __init__(self, inputs: int, stage: Stage) -> None:
        super().__init__()
        self.conv_dw = Convolution(inputs, inputs, stage.kernel, stage.stride, groups=inputs)
        self.bn1 = norm(inputs)
        self.conv_pw = Convolution(inputs, stage.channels, 1)
        self.bn2 = norm(stage.channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H / stride, W / stride)."""
        return self.bn2(self.conv_pw(F.relu6(self.bn1(self.conv_dw(x)), inplace=True)))


class Inverted(nn.Module):
    """An inverted residual with six times as many channels (MobileNetV2, arXiv 1801.04381).

    Its input is added if the shapes match.
    """

    def __init__(self, inputs: int, stage: Stage) -> None:
        super().__init__()
        hidden = EXPANSION * inputs
        self.conv_pw, self.bn1 = Convolution(inputs, hidden, 1), norm(hidden)
        self.conv_dw = Convolution(hidden, hidden, stage.kernel, stage.stride, groups=hidden)
        self.bn2 = norm(hidden)
        self.conv_pwl, self.bn3 = Convolution(hidden, stage.channels, 1), norm(stage.channels)
        self.has_shortcut = stage.stride == 1 and inputs == stage.channels

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H / stride, W / stride)."""
        y = F.relu6(self.bn1(self.conv_pw(x)), inplace=True)
        y = F.relu6(self.bn2(self.conv_dw(y)), inplace=True)
        y = self.bn3(self.conv_pwl(y))
        return y + x if self.has_shortcut else y


class EfficientNetLite0(nn.Module):
    """out_indices: maps to return, 0 to 4 for strides 2 to 32. Later stages exist, but are not run."""

    def __init__(self, out_indices: Sequence[int]) -> None:
        super().__init__()
        self.conv_stem, self.bn1 = Convolution(3, STEM, 3, 2), norm(STEM)
        self.blocks, inputs = nn.Sequential(), STEM
        for index, stage in enumerate(STAGES):
            blocks = nn.Sequential()
            for block in range(stage.blocks):
                block_stage = stage if block == 0 else stage._replace(stride=1)
                blocks.append(Inverted(inputs, block_stage) if index else Separable(inputs, block_stage))
                inputs = stage.channels
            self.blocks.append(blocks)
        self.out_stages = [STAGE_OF_MAP[index] for index in out_indices]
        self.channels = tuple(STAGES[stage].channels for stage in self.out_stages)
        self.stride = 2 ** (max(out_indices) + 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.kernel_size[0] ** 2 * module.out_channels / module.groups
                nn.init.normal_(module.weight, std=(2 / fan_out) ** 0.5)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> one map for each of out_indices."""
        x = F.relu6(self.bn1(self.conv_stem(x)), inplace=True)
        maps = []
        for blocks in cast(Iterable[nn.Module], self.blocks[: max(self.out_stages) + 1]):
            x = blocks(x)
            maps.append(x)
        return [maps[stage] for stage in self.out_stages]
