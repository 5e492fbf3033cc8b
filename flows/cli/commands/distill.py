"""`groundhog distill`."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import get_args

from flows.cli.arguments import add_overrides, command
from flows.distillation.defaults import STEPS, TRUST, WORK_DIR, Trust
from grounding_model.students.config import DEFAULT_STUDENT, FromStudent


def add(commands) -> None:
    parser = command(
        commands,
        "distill",
        _distill,
        "train a small detector on labels and write it for transformers and for ONNX Runtime",
        "groundhog distill data/cat/cat_od_v3.json data/cat/images --student rtdetrv2-nano --teacher cat.safetensors",
    )
    parser.add_argument("labels", metavar="LABELS", help="ODVG file, or a TOML file with all settings")
    parser.add_argument("images", metavar="IMAGES", nargs="?", help="folder that the filenames are relative to")
    parser.add_argument(
        "--student", metavar="NAME", help=f"{DEFAULT_STUDENT} (default) …, or a folder or hf:owner/name"
    )
    parser.add_argument("--backbone", metavar="NAME", help="any of timm's networks, instead of the student's own")
    parser.add_argument(
        "--backbone-weights",
        metavar="W",
        help=f"{FromStudent.backbone_weights} (default), imagenet, efficientnet-lite0 or a file",
    )
    parser.add_argument("--image-size", type=int, metavar="N", help="images are resized to N x N pixels")
    parser.add_argument(
        "--queries",
        type=int,
        metavar="N",
        help="number of queries, the maximum of boxes per image (default: the student's own)",
    )
    text = "of two boxes of a class with a higher IoU, drop the one with the lower score "
    text += f"(default {FromStudent.nms_iou:g}; 1 keeps both)"
    parser.add_argument("--nms-iou", type=float, metavar="IOU", help=text)
    parser.add_argument("--label-map", metavar="FILE", help="label map (default: X_label_map.json beside LABELS)")
    parser.add_argument(
        "--trust",
        choices=get_args(Trust),
        help=f"weight of a label in training: as in the file, by its score, or the same for all (default {TRUST})",
    )
    parser.add_argument("--teacher", metavar="W", help="the model that made the labels, to compare with")
    parser.add_argument(
        "--truth", metavar="FILE", help="ODVG file of labelled images to measure AP on; no training may have used them"
    )
    parser.add_argument("--truth-images", metavar="DIR", help="images of --truth (default: IMAGES)")
    parser.add_argument("--licence", metavar="L", help="licence of the teacher's weights, written to the metadata")
    parser.add_argument("--steps", type=int, metavar="N", help=f"training steps (default {STEPS})")
    parser.add_argument("--device", metavar="D", help="device to train on: auto, cpu, cuda …")
    parser.add_argument("--work-dir", metavar="D", help=f"output folder (default: {WORK_DIR})")
    add_overrides(parser, "train.optimizer.learning_rate=5e-4")


def _distill(options: argparse.Namespace) -> int:
    from flows.distillation.config import DistillConfig
    from flows.distillation.distill import distill
    from formats.io.errors import InputError
    from formats.io.toml_config import read_config

    if options.labels.endswith(".toml"):
        config = read_config(options.labels, DistillConfig, options.set)
    elif options.set:
        raise InputError("--set", "is given without a configuration", "expected a TOML file as LABELS")
    elif options.images is None:
        raise InputError("IMAGES", "is missing", "expected the folder of the labels' images, or a TOML file alone")
    else:
        config = DistillConfig(Path(options.labels), Path(options.images))
    result = distill(_changed(config, options))
    print(result.table)
    print(f"student: {result.student}" + (f"\nonnx:    {result.onnx}" if result.onnx else ""))
    return 0


def _changed(config, options: argparse.Namespace):
    """The configuration with the options of the command line."""
    from grounding_model.data.sources import OdvgData

    start = {"student": options.student, "backbone": options.backbone, "image_size": options.image_size}
    start |= {"backbone_weights": options.backbone_weights, "queries": options.queries, "nms_iou": options.nms_iou}
    train = {"steps": options.steps, "device": options.device, "work_dir": options.work_dir and Path(options.work_dir)}
    changes = {"trust": options.trust, "teacher": options.teacher, "licence": options.licence}
    changes["label_map"] = options.label_map and Path(options.label_map)
    if options.truth:
        changes["truth"] = OdvgData(Path(options.truth), Path(options.truth_images or config.images))
    settings = replace(config.train, start=replace(config.train.start, **_given(start)), **_given(train))
    return replace(config, train=settings, **_given(changes))


def _given(values: dict) -> dict:
    return {name: value for name, value in values.items() if value is not None}
