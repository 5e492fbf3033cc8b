"""Folds batch norms into the convolutions before them, for inference."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights


@torch.no_grad()
def fold_batch_norms(network: nn.Module) -> None:
    """Folds the norms in place, assuming that a norm declared right after a convolution also follows it when run.

    It can no longer be trained or saved.
    """
    for module in list(network.modules()):
        before: nn.Module | None = None
        for name, child in list(module.named_children()):
            if isinstance(before, nn.Conv2d) and isinstance(child, nn.BatchNorm2d):
                assert child.running_mean is not None
                assert child.running_var is not None
                before.weight, before.bias = fuse_conv_bn_weights(
                    before.weight, before.bias, child.running_mean, child.running_var, child.eps,
                    child.weight, child.bias,
                )  # fmt: skip
                setattr(module, name, nn.Identity())
            before = child
