"""Builds a new student: a transformers model of the chosen architecture, with pretrained weights for parts of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    DFineConfig,
    DFineForObjectDetection,
    RTDetrV2Config,
    RTDetrV2ForObjectDetection,
    TimmBackboneConfig,
)

from formats.io.errors import InputError
from grounding_model.checkpoints.locations import PACKAGED_BACKBONES
from grounding_model.checkpoints.timm_backbone import load_timm_backbone
from grounding_model.checkpoints.weight_names import counted
from grounding_model.inputs.image_batch import MEAN, STD
from grounding_model.students.config import IMAGE_SIZE, STUDENTS, Architecture, FromStudent
from grounding_model.students.files import LEVELS, load_student
from grounding_model.students.network import Student

FAMILIES: Mapping[str, tuple[Any, Any]] = {
    "rt_detr_v2": (RTDetrV2Config, RTDetrV2ForObjectDetection),
    "d_fine": (DFineConfig, DFineForObjectDetection),
}

PACKAGED_FOR = {"efficientnet-lite0": "tf_efficientnet_lite0"}  # timm's name of the network


def start_student(start: FromStudent, names: Sequence[str]) -> Student:
    """The student that a training starts from, for these classes.

    Raises InputError for a backbone that timm does not have or whose weights do not fit.
    """
    if start.is_pretrained:
        student = load_student(start.student.removeprefix("hf:"), names, start.image_size)
        student.detector.config.num_queries = start.queries or student.detector.config.num_queries
        student.nms_iou = start.suppression
        return student
    architecture = STUDENTS[start.student].with_queries(start.queries)
    backbone = start.backbone or architecture.backbone
    pixels = _pixels_of(backbone, start.backbone_weights)
    detector = _new_detector(architecture, backbone, names)
    student = Student(detector, names, start.image_size or IMAGE_SIZE, *pixels, nms_iou=start.suppression)
    _load_backbone(student.detector.model.backbone.model._backbone, backbone, start.backbone_weights)
    return student


def _new_detector(architecture: Architecture, backbone: str, names: Sequence[str]) -> nn.Module:
    indices, channels = _maps_of(backbone, architecture.strides)
    config_type, model_type = FAMILIES[architecture.family]
    levels, width = len(architecture.strides), architecture.width
    model = model_type(
        config_type(
            backbone_config=TimmBackboneConfig(backbone=backbone, out_indices=indices),  # type: ignore[call-arg]
            # transformers would put norms without activation in place of timm's norms that have one.
            freeze_backbone_batch_norms=False,
            encoder_hidden_dim=width,
            encoder_in_channels=channels,
            feat_strides=list(architecture.strides),
            encoder_ffn_dim=architecture.feedforward,
            encode_proj_layers=[levels - 1],
            d_model=width,
            num_queries=architecture.queries,
            decoder_in_channels=[width] * levels,
            decoder_ffn_dim=architecture.feedforward,
            num_feature_levels=levels,
            decoder_n_levels=levels,
            decoder_layers=architecture.decoder_layers,
            num_denoising=architecture.denoising,
            id2label=dict(enumerate(names)),
            label2id={name: label for label, name in enumerate(names)},
        )
    )
    _restore_norms(model)
    return model


def _restore_norms(model: Any) -> None:
    """Resets the factors of norms: transformers initialises them near 0, which blocks the signal without weights."""
    backbone = set(model.model.backbone.modules())
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module not in backbone:
            nn.init.ones_(module.weight)
    last = model.model.enc_bbox_head.layers[-1]  # proposals start at their anchors
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)


def _maps_of(backbone: str, strides: Sequence[int]) -> tuple[list[int], list[int]]:
    """Indices and channels of a timm network's maps at these strides; if several maps share a stride, the last."""
    if ":" in backbone or "/" in backbone or not timm.is_model(backbone):
        similar = ", ".join(timm.list_models(f"{backbone[:6]}*")[:4]) or "resnet18, mobilenetv4_conv_small"
        raise InputError("start.backbone", f"timm has no network {backbone!r}", f"expected, for example, {similar}")
    try:
        info: Any = timm.create_model(backbone, pretrained=False, features_only=True).feature_info
    except (RuntimeError, AttributeError, AssertionError, TypeError) as error:
        raise InputError(
            "start.backbone", f"{backbone} has no feature maps ({error})", "expected a network with features_only"
        ) from None
    reductions, channels = info.reduction(), info.channels()
    if missing := [stride for stride in strides if stride not in reductions]:
        what = f"{backbone} has no map of stride {missing[0]}; its strides are {', '.join(map(str, reductions))}"
        raise InputError("start.backbone", what, "expected another backbone or student")
    indices = [max(index for index, reduction in enumerate(reductions) if reduction == stride) for stride in strides]
    return indices, [channels[index] for index in indices]


def _pixels_of(backbone: str, source: str) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and standard deviation of pixels, RGB 0..255, that pretrained weights of a timm network expect."""
    trained = None if source == "random" else timm.get_pretrained_cfg(backbone)
    if trained is None:
        return MEAN, STD
    return [LEVELS * value for value in trained.mean], [LEVELS * value for value in trained.std]


def _load_backbone(network: nn.Module, name: str, source: str) -> None:
    """Loads pretrained weights, except for layers behind the last map in use. source: see FromStudent."""
    if source == "random":
        return
    if source in PACKAGED_BACKBONES:
        if name != PACKAGED_FOR[source]:
            fitting = next(student for student, each in STUDENTS.items() if each.backbone == PACKAGED_FOR[source])
            remedy = f"expected student {fitting}, or backbone {PACKAGED_FOR[source]}"
            raise InputError("start.backbone_weights", f"{source} does not fit {name}", remedy)
        load_timm_backbone(network, source)
        return
    tensors = _imagenet(name) if source == "imagenet" else _read(Path(source))
    expected = network.state_dict()
    chosen = {key: tensors[key] for key in expected if key in tensors and tensors[key].shape == expected[key].shape}
    if missing := [key for key in expected if key not in chosen and not key.endswith("num_batches_tracked")]:
        what = f"{counted(missing)} missing or of another shape than in {name}"
        raise InputError(source, what, "expected weights of this network with timm's tensor names")
    network.load_state_dict(chosen, strict=False)


def _imagenet(name: str) -> Mapping[str, Tensor]:
    try:
        return timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:  # the hub's client raises nearly anything without a network
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        remedy = "expected a network, or the weights as a file in backbone_weights"
        raise InputError("start.backbone_weights", f"{name} cannot be downloaded ({reason})", remedy) from None


def _read(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise InputError(path, "no such file", "expected random, imagenet, efficientnet-lite0, or a file of weights")
    try:
        tensors = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except Exception as error:  # a broken file makes torch raise nearly anything
        raise InputError(path, f"cannot be read ({type(error).__name__})", "expected a file of weights") from None
    tensors = tensors.get("state_dict", tensors) if isinstance(tensors, dict) else None
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise InputError(path, "contains no tensors", "expected weights with timm's tensor names")
    return {key.removeprefix("module."): value for key, value in tensors.items()}
