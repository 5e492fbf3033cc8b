"""`groundhog weights`."""

from __future__ import annotations

import argparse

from flows.commands.shared import command


def add(commands) -> None:
    parser = command(
        commands,
        "weights",
        _weights,
        "turn weights into ours or into a Hugging Face folder, or say what they are",
        "groundhog weights grounding_dino_swin-t.pth swin-t.safetensors --text-encoder bert-base-uncased",
    )
    parser.usage = (
        "groundhog weights SRC DST [--text-encoder DIR] [--half]\n"
        "       groundhog weights inspect SRC [--text-encoder DIR]"
    )
    parser.add_argument("source", metavar="SRC", help="mmdet .pth, Hugging Face folder or hub name, or ours")
    parser.add_argument("target", metavar="DST", nargs="?", help="NAME.safetensors, or a folder to be made")
    parser.add_argument("--text-encoder", metavar="DIR", help="tokenizer and configuration that SRC lacks")
    parser.add_argument("--half", action="store_true", help="write 16-bit numbers")


def _weights(options: argparse.Namespace) -> int:
    from grounding_model import weights

    if options.source == "inspect" and options.target:
        print(weights.inspect(options.target, options.text_encoder))
    elif options.target:
        weights.convert(options.source, options.target, options.text_encoder, options.half)
        print(options.target)
    else:
        print(weights.inspect(options.source, options.text_encoder))
    return 0
