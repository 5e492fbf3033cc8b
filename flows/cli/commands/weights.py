"""`groundhog weights`: convert, `inspect`, `interpolate`, `list`."""

from __future__ import annotations

import argparse

from flows.cli.arguments import command
from flows.cli.parser import Subcommands


def add(commands) -> None:
    parser = command(
        commands,
        "weights",
        _weights,
        "convert weights to our format or to a Hugging Face folder; inspect them; interpolate between two",
        "groundhog weights grounding_dino_swin-t.pth swin-t.safetensors --text-encoder bert-base-uncased",
    )
    parser.add_argument("source", metavar="SRC", help="mmdet .pth, Hugging Face folder or hub name, or our format")
    parser.add_argument("target", metavar="DST", nargs="?", help="NAME.safetensors, or a new folder; inspect if absent")
    _add_text_encoder(parser)
    _add_half(parser)
    summary = (
        "leave an untrained backbone out of the file, and load it from here instead: efficientnet-lite0, or a timm name"
    )
    parser.add_argument("--backbone-from", metavar="B", help=summary)
    _add_overwrite(parser)
    subcommands = Subcommands(parser)
    _add_inspect(subcommands)
    _add_interpolate(subcommands)
    _add_list(subcommands)


def _weights(options: argparse.Namespace) -> int:
    if options.target is None:
        return _inspect(options)
    from grounding_model.checkpoints.weights import convert_checkpoint

    changed = (options.text_encoder, options.half, options.backbone_from, options.overwrite)
    convert_checkpoint(options.source, options.target, *changed)
    print(options.target)
    return 0


def _add_inspect(commands: Subcommands) -> None:
    parser = command(
        commands,
        "inspect",
        _inspect,
        "show the format, the architecture and the origin of weights, and whether any tensor is missing",
        "groundhog weights inspect grounding_dino_swin-t.pth",
    )
    summary = "mmdet .pth, Hugging Face folder or hub name, our format, or the folder or ONNX file of a student"
    parser.add_argument("source", metavar="SRC", help=summary)
    _add_text_encoder(parser)


def _inspect(options: argparse.Namespace) -> int:
    from grounding_model.students.config import is_onnx, is_student

    if is_student(options.source):
        from grounding_model.students.files import inspect_student

        print(inspect_student(options.source))
        return 0
    if is_onnx(options.source):
        from grounding_model.students.onnx_detector import inspect_onnx

        print(inspect_onnx(options.source))
        return 0
    from grounding_model.checkpoints.weights import inspect

    print(inspect(options.source, options.text_encoder))
    return 0


def _add_interpolate(commands: Subcommands) -> None:
    parser = command(
        commands,
        "interpolate",
        _interpolate,
        "mix fine-tuned weights with those that they were tuned from (WiSE-FT, arXiv 2109.01903)",
        "groundhog weights interpolate before.safetensors after.safetensors between.safetensors --alpha 0.5",
    )
    parser.add_argument("base", metavar="BASE", help="weights that fine-tuning started from")
    parser.add_argument("tuned", metavar="TUNED", help="fine-tuned weights")
    parser.add_argument("out", metavar="OUT", help="NAME.safetensors")
    alpha_help = "0 gives the base weights, 1 the fine-tuned ones (default %(default)s)"
    parser.add_argument("--alpha", type=float, default=0.5, metavar="A", help=alpha_help)
    _add_text_encoder(parser)
    _add_half(parser)
    _add_overwrite(parser)


def _interpolate(options: argparse.Namespace) -> int:
    from grounding_model.checkpoints.interpolation import write_interpolation

    how = (options.alpha, options.text_encoder, options.half, options.overwrite)
    write_interpolation(options.base, options.tuned, options.out, *how)
    print(options.out)
    return 0


def _add_list(commands: Subcommands) -> None:
    command(
        commands,
        "list",
        _list,
        "list weights to start from: what they are good for, their licence, memory, and a command that uses them",
        "groundhog weights list",
    )


def _list(options: argparse.Namespace) -> int:
    from grounding_model.checkpoints.catalogue import catalogue_table

    print(catalogue_table())
    return 0


def _add_text_encoder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--text-encoder", metavar="DIR", help="BERT folder, for weights without a tokenizer")


def _add_overwrite(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--overwrite", action="store_true", help="replace the file of weights that is written")


def _add_half(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--half", action="store_true", help="write 16-bit floats")
