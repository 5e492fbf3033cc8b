"""`groundhog distill`."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from flows.cli.arguments import command


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
    parser.add_argument("--student", metavar="NAME", help="rtdetrv2-nano (default) …, or a folder or hf:owner/name")
    parser.add_argument("--backbone", metavar="NAME", help="any of timm's networks, instead of the student's own")
    parser.add_argument("--backbone-weights", metavar="W", help="random (default), imagenet, efficientnet-lite0, file")
    parser.add_argument("--image-size", type=int, metavar="N", help="pixels of the square that images are resized to")
    parser.add_argument("--queries", type=int, metavar="N", help="answers an image (default: the student's own)")
    text = "of two answers of a class that overlap more, drop the worse: for few labels (default: keep both)"
    parser.add_argument("--nms-iou", type=float, metavar="IOU", help=text)
    parser.add_argument("--label-map", metavar="FILE", help="default: X_label_map.json beside X_od_v1.json")
    parser.add_argument("--trust", choices=("labels", "scores", "none"), help="how labels weigh (default scores)")
    parser.add_argument("--teacher", metavar="W", help="the model that made the labels, to compare with")
    parser.add_argument("--truth", metavar="FILE", help="ODVG file of labelled images that no training has used")
    parser.add_argument("--truth-images", metavar="DIR", help="its images (default: IMAGES)")
    parser.add_argument("--licence", metavar="L", help="of the teacher's weights, for the metadata")
    parser.add_argument("--steps", type=int, metavar="N", help="of training (default 300)")
    parser.add_argument("--device", metavar="D", help="of training: auto, cpu, cuda …")
    parser.add_argument("--work-dir", metavar="D", help="default: work_dirs/distill")


def _distill(options: argparse.Namespace) -> int:
    from flows.distillation.config import DistillConfig
    from flows.distillation.distill import distill
    from formats.io.errors import InputError
    from formats.io.toml_config import read_config

    if options.labels.endswith(".toml"):
        config = read_config(options.labels, DistillConfig)
    elif options.images is None:
        raise InputError("IMAGES", "is missing", "expected the folder of the labels' images, or a TOML file alone")
    else:
        config = DistillConfig(Path(options.labels), Path(options.images))
    result = distill(_changed(config, options))
    print(result.table)
    print(f"student: {result.student}" + (f"\nonnx:    {result.onnx}" if result.onnx else ""))
    return 0


def _changed(config, options: argparse.Namespace):
    """The configuration with what the command line says."""
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
