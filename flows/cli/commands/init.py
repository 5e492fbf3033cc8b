"""`groundhog init`: a configuration for your own images."""

from __future__ import annotations

import argparse

from flows.cli.arguments import command, names
from grounding_model.checkpoints.catalogue import short_table
from grounding_model.inputs.defaults import PHOTO_WEIGHTS, WEIGHTS


def add(commands) -> None:
    parser = command(
        commands,
        "init",
        _init,
        "write the configuration of a self-training on your own images; it becomes the deployment self-train/NAME",
        "groundhog init raccoon --images data/raccoon/images --labels data/raccoon/first_od.json",
    )
    parser.epilog = (
        f"weights, with the AP on LVIS minival that their authors publish:\n{short_table()}\n\n{parser.epilog}"
    )
    parser.add_argument("name", metavar="NAME", help="name of the data set")
    parser.add_argument("--images", required=True, metavar="DIR", help="image folder")
    parser.add_argument("--categories", metavar="A,B,C", help="names to detect, or a text file with one name per line")
    parser.add_argument(
        "--captions", metavar="FILE", help="captions of the images: CSV, JSON or a folder of .txt files"
    )
    parser.add_argument(
        "--labels", metavar="FILE", help="labels of some of the images, on which the first model is fine-tuned"
    )
    parser.add_argument(
        "--labels-format", metavar="F", help="their format, as `groundhog convert` names it (default: detected)"
    )
    weights_help = (
        f"model to start from (default: {PHOTO_WEIGHTS} with --labels, else {WEIGHTS}); see `groundhog weights list`"
    )
    parser.add_argument("--weights", metavar="W", help=weights_help)
    parser.add_argument("--text-encoder", metavar="DIR", help="BERT folder, for weights without a tokenizer")
    parser.add_argument(
        "--config-dir", default="configs", metavar="DIR", help="folder to write to (default: %(default)s)"
    )


def _init(options: argparse.Namespace) -> int:
    from flows.self_training.init import init, next_steps_after_init

    path = init(
        options.name,
        options.images,
        categories=None if options.categories is None else names(options.categories),
        captions=options.captions,
        labels=options.labels,
        labels_format=options.labels_format,
        weights=options.weights,
        text_encoder=options.text_encoder,
        config_dir=options.config_dir,
    )
    print(next_steps_after_init(path))
    return 0
