"""Parts of a new model that others have trained: the Swin of ImageNet, and BERT.

Pretraining starts from both, as the reference's does; everything between them starts at random.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn
from transformers import BertModel
from transformers.utils import logging as transformers_logging

from formats.io.errors import InputError
from grounding_model.checkpoints.safe_pickle import read_pickled_checkpoint
from grounding_model.checkpoints.weight_names import IMAGENET_SWIN, counted, without_wrappers
from grounding_model.model.grounding import GroundingModel
from grounding_model.model.swin import SwinTransformer

SWIN_RELEASES = "https://github.com/SwinTransformer/storage/releases/tag/v1.0.0"


def load_parts(model: GroundingModel, backbone: Path | None, text_encoder: str | None) -> None:
    """Puts the weights of these files into the model's parts; None leaves a part as it is.

    backbone: a .pth of Microsoft's Swin Transformer. text_encoder: a folder of transformers with BERT, or its name in
    the Hugging Face cache. Raises InputError for what is not there, and for weights that are not those of the part.
    """
    if backbone is not None:
        load_backbone(model.backbone, backbone)
    if text_encoder is not None:
        load_bert(model.text_encoder.bert, text_encoder)


def load_backbone(backbone: nn.Module, path: Path) -> None:
    """The norms of the feature maps stay new: classification has none (mmdet 3.3.0, swin.py, init_weights)."""
    if not isinstance(backbone, SwinTransformer):
        raise InputError(
            "start.backbone", "is given for a network of timm", "expected a variant with Swin, or no backbone"
        )
    if not path.is_file():
        raise InputError(path, "no such file", f"expected the Swin of ImageNet from {SWIN_RELEASES}")
    given = IMAGENET_SWIN.to_ours(without_wrappers(read_pickled_checkpoint(path).tensors, path), path)
    own = {name: tensor for name, tensor in backbone.state_dict().items() if not name.startswith("out_norms.")}
    _check_same(path, {n: t.shape for n, t in given.items()}, {n: t.shape for n, t in own.items()})
    backbone.load_state_dict(given, strict=False)


def load_bert(bert: BertModel, source: str) -> None:
    """transformers puts right what older files call otherwise, and leaves their heads out."""
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
        remedy = "expected a folder with config.json and model.safetensors, such as bert-base-uncased's"
        raise InputError(source, f"no BERT there ({str(error).splitlines()[0]})", remedy) from error
    given, told = loaded
    if told["missing_keys"]:
        raise InputError(source, f"{counted(sorted(told['missing_keys']))} missing", "expected the whole BERT")
    tensors = given.state_dict()
    shapes = ({name: tensor.shape for name, tensor in state.items()} for state in (tensors, bert.state_dict()))
    _check_same(source, *shapes)
    bert.load_state_dict(tensors)


def _check_same(place: object, given: dict, wanted: dict) -> None:
    """Shapes by name."""
    if wrong := [name for name in wanted | given if given.get(name) != wanted.get(name)]:
        raise InputError(
            place, f"{counted(sorted(wrong))} missing or of another shape", "expected the model's own variant"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers warns of heads that nobody asked for."""
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
