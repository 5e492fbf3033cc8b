"""`groundhog train`."""

from __future__ import annotations

import argparse

from flows.cli.arguments import add_overrides, command, quoted
from formats.io.toml_config import read_config


def add(commands) -> None:
    parser = command(
        commands,
        "train",
        _train,
        "train a model, as a configuration says; an interrupted run goes on with --resume",
        "groundhog train configs/glyph_tiny.toml --work-dir work_dirs/glyph-tiny --set steps=2000",
    )
    parser.add_argument("config", metavar="CONFIG", help="a TOML file")
    parser.add_argument("--weights", metavar="W", help="start from these, instead of the configuration's start")
    parser.add_argument("--work-dir", metavar="D", help="instead of the configuration's")
    parser.add_argument("--gpus", type=int, metavar="N", help="train in N processes, one a GPU")
    told = "go on with an interrupted run in the work_dir; start where there is none"
    parser.add_argument("--resume", action="store_true", help=told)
    parser.add_argument("--dry-run", action="store_true", help="say how much memory a step needs, and stop")
    add_overrides(parser)


def _train(options: argparse.Namespace) -> int:
    from flows.training.train import describe_training, train_config

    overrides = list(options.set)
    overrides += [f"work_dir={quoted(options.work_dir)}"] if options.work_dir else []
    overrides += [f"processes={options.gpus}"] if options.gpus else []
    overrides += [f'start={{kind="weights", source={quoted(options.weights)}}}'] if options.weights else []
    if options.dry_run:
        from grounding_model.training.config import TrainConfig
        from grounding_model.training.memory import describe_memory

        print(describe_memory(read_config(options.config, TrainConfig, overrides)))
    else:
        print(describe_training(train_config(options.config, overrides, options.resume)))
    return 0
