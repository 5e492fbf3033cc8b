"""Loads pretrained parts of a new model: a Swin trained on ImageNet, and BERT.

As in the reference, pretraining starts from both; all other parts are initialised at random.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from formats.io.errors import InputError
from grounding_model.checkpoints.safe_pickle import read_pickled_checkpoint
from grounding_model.checkpoints.timm_backbone import load_timm_backbone
from grounding_model.checkpoints.weight_names import IMAGENET_SWIN, counted, without_wrappers
from grounding_model.checkpoints.weights import load_checkpoint
from grounding_model.model.backbone import TimmFeatures
from grounding_model.model.grounding import GroundingModel
from grounding_model.model.swin import SwinTransformer

LAYERS = ("encoder_layers", "decoder_layers")
SWIN_RELEASES = "https://github.com/SwinTransformer/storage/releases/tag/v1.0.0"


def load_parts(model: GroundingModel, backbone: Path | None, text_encoder: str | None) -> None:
    """Loads pretrained weights into parts of the model; None leaves a part unchanged.

    backbone: a .pth of Microsoft's Swin Transformer; for a timm network, as in locate_backbone. text_encoder: a
    transformers folder with BERT, or its name in the Hugging Face cache. Raises InputError for missing files, and for
    weights that do not fit.
    """
    if backbone is not None:
        load_backbone(model.backbone, backbone)
    if text_encoder is not None:
        load_bert(model.text_encoder.bert, text_encoder)


def load_backbone(backbone: nn.Module, path: Path) -> None:
    """Loads a backbone, except for Swin's output norms, which a classifier lacks (mmdet 3.3.0, swin.py)."""
    if isinstance(backbone, TimmFeatures):
        return load_timm_backbone(backbone.network, path)
    assert isinstance(backbone, SwinTransformer)
    if not path.is_file():
        raise InputError(path, "no such file", f"expected a Swin trained on ImageNet from {SWIN_RELEASES}")
    loaded = IMAGENET_SWIN.to_ours(without_wrappers(read_pickled_checkpoint(path).tensors, path), path)
    expected = {name: tensor for name, tensor in backbone.state_dict().items() if not name.startswith("out_norms.")}
    _check_same(path, {n: t.shape for n, t in loaded.items()}, {n: t.shape for n, t in expected.items()})
    backbone.load_state_dict(loaded, strict=False)


def load_bert(bert: nn.Module, source: str) -> None:
    """Loads BERT through transformers, which renames the tensors of older files and drops their heads."""
    from transformers import BertModel

    try:
        with _quiet():
            loaded: Any = BertModel.from_pretrained(
                source,
                add_pooling_layer=False,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
                trust_remote_code=False,
            )
    except (OSError, ValueError, RuntimeError) as error:
        remedy = "expected a folder with config.json and model.safetensors, such as that of bert-base-uncased"
        raise InputError(source, f"has no BERT ({str(error).splitlines()[0]})", remedy) from error
    pretrained, loading_info = loaded
    if loading_info["missing_keys"]:
        raise InputError(source, f"{counted(sorted(loading_info['missing_keys']))} missing", "expected a complete BERT")
    tensors = pretrained.state_dict()
    loaded, expected = (
        {name: tensor.shape for name, tensor in state.items()} for state in (tensors, bert.state_dict())
    )
    _check_same(source, loaded, expected)
    bert.load_state_dict(tensors)


def load_rest(model: GroundingModel, source: str) -> None:
    """Loads everything but backbone and neck from a model with another backbone.

    Encoder and decoder layers that the other model lacks, and their heads, start as copies of its last ones.

    Raises InputError if the models differ in more than these.
    """
    rest = load_checkpoint(source).model
    for name in LAYERS:
        theirs, ours = getattr(rest.config, name), getattr(model.config, name)
        if ours < theirs:
            what = f"is {ours}, but {source} has {theirs}"
            raise InputError(f"start.architecture.{name}", what, f"expected {theirs} or more, or another start.rest")
    taken, expected = (
        {name: tensor for name, tensor in each.state_dict().items() if not name.startswith(("backbone.", "neck."))}
        for each in (rest, model)
    )
    old = {name: taken[counterpart] for name in expected if (counterpart := _counterpart(name, rest, model)) in taken}
    unused = {name: tensor for name, tensor in taken.items() if name not in expected}
    taken_shapes, expected_shapes = (
        {name: tensor.shape for name, tensor in state.items()} for state in (old | unused, expected)
    )
    differing = ", ".join(_differing(rest.config, model.config))
    remedy = differing and f"expected {differing} in start.architecture, or another start.rest"
    _check_same(source, taken_shapes, expected_shapes, remedy)
    model.load_state_dict(old, strict=False)


def _counterpart(name: str, rest: GroundingModel, model: GroundingModel) -> str:
    """The tensor of `rest` that the model's tensor starts from."""
    numbered = re.match(r"(encoder\.layers|decoder\.layers|classify|regress)\.(\d+)(?=\.)", name)
    if numbered is None:
        return name
    part, layer = numbered[1], int(numbered[2])
    if part == "encoder.layers":
        layer = min(layer, rest.config.encoder_layers - 1)
    elif layer == model.config.decoder_layers:  # the last pair of heads is the encoder's
        layer = rest.config.decoder_layers
    else:
        layer = min(layer, rest.config.decoder_layers - 1)
    return f"{part}.{layer}{name[numbered.end() :]}"


def _differing(theirs: Any, ours: Any) -> Iterator[str]:
    """The whole numbers of two architectures that differ, without those of the backbone and the numbers of layers."""
    for table, (first, second) in {"": (theirs, ours), "text.": (theirs.text, ours.text)}.items():
        for name, value in vars(first).items():
            other = getattr(second, name)
            if isinstance(value, int) and value != other and name not in LAYERS:
                yield f"{table}{name} = {value}, not {other}"


def _check_same(location: object, actual: dict, expected: dict, remedy: str = "") -> None:
    """Raises InputError unless actual and expected, name -> shape, are equal."""
    if wrong := [name for name in expected | actual if actual.get(name) != expected.get(name)]:
        what = f"{counted(sorted(wrong))} missing or of another shape"
        raise InputError(location, what, remedy or "expected the variant of the model")


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the warnings of transformers about unused heads."""
    from transformers.utils import logging as transformers_logging

    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
