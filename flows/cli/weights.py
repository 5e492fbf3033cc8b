"""`groundhog weights`, `groundhog weights inspect` and `groundhog weights interpolate`."""

from __future__ import annotations

import argparse

from flows.cli.arguments import command
from formats.io.errors import InputError


def add(commands) -> None:
    parser = command(
        commands,
        "weights",
        _weights,
        "turn weights into ours or into a Hugging Face folder, say what they are, or mix them with what they came from",
        "groundhog weights grounding_dino_swin-t.pth swin-t.safetensors --text-encoder bert-base-uncased",
    )
    parser.usage = (
        "groundhog weights SRC DST [--text-encoder DIR] [--half]\n"
        "       groundhog weights inspect SRC [--text-encoder DIR]\n"
        "       groundhog weights interpolate BASE TUNED OUT [--alpha A] [--text-encoder DIR] [--half]"
    )
    parser.add_argument("source", metavar="SRC", help="mmdet .pth, Hugging Face folder or hub name, or ours")
    parser.add_argument("target", metavar="DST", nargs="?", help="NAME.safetensors, or a folder to be made")
    parser.add_argument(
        "more", metavar="TUNED OUT", nargs="*", help="of interpolate: fine-tuned weights, and the result"
    )
    told = "of interpolate: 0 gives the base weights, 1 the fine-tuned ones (default 0.5; WiSE-FT, arXiv 2109.01903)"
    parser.add_argument("--alpha", type=float, default=0.5, metavar="A", help=told)
    parser.add_argument("--text-encoder", metavar="DIR", help="tokenizer and configuration that SRC lacks")
    parser.add_argument("--half", action="store_true", help="write 16-bit numbers")


def _weights(options: argparse.Namespace) -> int:
    from grounding_model.checkpoints import weights

    if options.source == "interpolate":
        return _interpolate(options)
    if options.more:
        raise InputError("weights", f"{len(options.more)} more arguments after DST", "expected SRC DST")
    if options.source == "inspect" and options.target:
        print(weights.inspect(options.target, options.text_encoder))
    elif options.target:
        weights.convert(options.source, options.target, options.text_encoder, options.half)
        print(options.target)
    else:
        print(weights.inspect(options.source, options.text_encoder))
    return 0


def _interpolate(options: argparse.Namespace) -> int:
    from grounding_model.checkpoints.interpolation import write_interpolation

    if len(options.more) != 2:
        raise InputError("weights interpolate", "three files are needed", "expected BASE TUNED OUT")
    tuned, out = options.more
    write_interpolation(options.target, tuned, out, options.alpha, options.text_encoder, options.half)
    print(out)
    return 0
