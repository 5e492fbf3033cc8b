"""ResNet (arXiv 1512.03385) with the stride of a bottleneck in its 3 x 3 convolution, as in timm and torchvision.

The tensors have timm's names and order, and the maps are those of timm's features_only (tests compare).

B batch, C channels, H W height and width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

STEM = 64  # channels behind the first convolution


class BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = shortcut(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, width, H / stride, W / stride)."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(y)) + self.downsample(x), inplace=True)


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = self.expansion * width
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 4 * width, H / stride, W / stride)."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        return F.relu(self.bn3(self.conv3(y)) + self.downsample(x), inplace=True)


def shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    """A 1 x 1 convolution if the block changes the shape, else None."""
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class Depths(NamedTuple):
    block: type[BasicBlock] | type[Bottleneck]
    blocks: tuple[int, ...]  # of each stage


RESNETS = {
    "resnet18": Depths(BasicBlock, (2, 2, 2, 2)),
    "resnet34": Depths(BasicBlock, (3, 4, 6, 3)),
    "resnet50": Depths(Bottleneck, (3, 4, 6, 3)),
    "resnet101": Depths(Bottleneck, (3, 4, 23, 3)),
}


class ResNet(nn.Module):
    """out_indices: maps to return, 0 after the stem, 1 to 4 after the stages. channels: of the blocks in the stages."""

    def __init__(self, name: str, out_indices: Sequence[int], channels: Sequence[int] = (64, 128, 256, 512)) -> None:
        super().__init__()
        block, depths = RESNETS[name]
        self.out_indices = tuple(out_indices)
        self.conv1 = nn.Conv2d(3, STEM, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        self.maps, inputs = [STEM], STEM
        for stage, (depth, width) in enumerate(zip(depths[: max(out_indices)], channels), 1):
            blocks = nn.Sequential()
            for index in range(depth):
                blocks.append(block(inputs, width, 2 if stage > 1 and index == 0 else 1))
                inputs = width * block.expansion
            self.add_module(f"layer{stage}", blocks)
            self.maps.append(inputs)
        self.channels = tuple(self.maps[index] for index in out_indices)
        self.stride = 2 ** (max(out_indices) + 1)
        self._reset()

    def _reset(self) -> None:
        """Initialises each block to compute its shortcut (arXiv 1706.02677, section 5.1)."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        for module in self.modules():
            if isinstance(module, BasicBlock | Bottleneck):
                nn.init.zeros_((module.bn3 if isinstance(module, Bottleneck) else module.bn2).weight)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> one map for each of out_indices."""
        maps = list(self._maps(x))
        return [maps[index] for index in self.out_indices]

    def _maps(self, x: Tensor) -> Iterator[Tensor]:
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        yield x
        x = F.max_pool2d(x, 3, 2, padding=1)
        for stage in range(1, len(self.maps)):
            x = getattr(self, f"layer{stage}")(x)
            yield x
