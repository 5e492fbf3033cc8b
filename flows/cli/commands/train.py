"""`groundhog train`."""

from __future__ import annotations

import argparse

from flows.cli.arguments import add_overrides, command, print_problems, quoted
from formats.io.errors import InputError
from formats.io.toml_config import read_config


def add(commands) -> None:
    parser = command(
        commands,
        "train",
        _train,
        "train a model as configured in a TOML file; --resume continues an interrupted run",
        "groundhog train configs/glyph_tiny.toml --work-dir work_dirs/glyph-tiny --set steps=2000",
    )
    parser.add_argument("config", metavar="CONFIG", help="TOML file, such as configs/finetune_glyphs.toml")
    add_start_and_work_dir(parser)
    parser.add_argument("--gpus", type=int, metavar="N", help="train in N processes, one for each GPU")
    parser.add_argument(
        "--resume", action="store_true", help="continue an interrupted run in the work_dir, or start if there is none"
    )
    parser.add_argument("--dry-run", action="store_true", help="print how much memory a step needs, without training")
    add_overrides(parser)


def _train(options: argparse.Namespace) -> int:
    from flows.training.train import describe_training, train_config

    overrides = overrides_of(options)
    overrides += [f"processes={options.gpus}"] if options.gpus is not None else []
    if options.dry_run:
        from grounding_model.students.config import FromStudent
        from grounding_model.training.config import TrainConfig
        from grounding_model.training.loop import check_data
        from grounding_model.training.memory import describe_memory
        from grounding_model.training.student_learner import describe_student_memory

        config = read_config(options.config, TrainConfig, overrides)
        of_student = isinstance(config.start, FromStudent)
        print(describe_student_memory(config) if of_student else describe_memory(config))
        try:
            check_data(config.with_folder())
        except InputError as error:  # memory may be planned before the data are there
            print_problems(f"training would end with: {error}")
    else:
        print(describe_training(train_config(options.config, overrides, options.resume)))
    return 0


def add_start_and_work_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--weights", metavar="W", help="weights to start from, instead of those in CONFIG")
    parser.add_argument("--work-dir", metavar="D", help="output folder, instead of the work_dir in CONFIG")


def overrides_of(options: argparse.Namespace, table: str = "") -> list[str]:
    """--set, --work-dir and --weights as changes of a configuration; table: prefix of the keys of its TrainConfig."""
    overrides = list(options.set)
    overrides += [f"{table}work_dir={quoted(options.work_dir)}"] if options.work_dir is not None else []
    overrides += (
        [f'{table}start={{kind="weights", source={quoted(options.weights)}}}'] if options.weights is not None else []
    )
    return overrides
