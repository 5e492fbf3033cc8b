"""`groundhog evaluate` and `groundhog evaluate compare`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from flows.cli.arguments import add_overrides, command, quoted
from formats.io.errors import InputError


def add(commands) -> None:
    parser = command(
        commands,
        "evaluate",
        _evaluate,
        "measure a detector on labelled images, as a configuration says; compare two measurements",
        "groundhog evaluate configs/evaluate_glyphs.toml --weights work_dirs/glyphs/model.safetensors",
    )
    parser.usage = (
        "groundhog evaluate CONFIG [--weights W] [--show-dir D] [--set KEY=VALUE]\n"
        "       groundhog evaluate compare A B"
    )
    parser.add_argument("config", metavar="CONFIG", help="a TOML file; or the word compare, with two work_dirs")
    parser.add_argument("runs", metavar="A B", nargs="*", help="work_dirs of two evaluations of the same truth")
    parser.add_argument("--weights", metavar="W", help="instead of the configuration's")
    parser.add_argument("--show-dir", metavar="D", help="draw truth and prediction there, the worst images first")
    add_overrides(parser)


def _evaluate(options: argparse.Namespace) -> int:
    if options.config == "compare":
        return _compare(options.runs)
    from flows.evaluation.evaluate import evaluate_config

    if options.runs:
        raise InputError("evaluate", f"{len(options.runs)} more arguments after CONFIG", "expected one configuration")
    given = [f"weights={quoted(options.weights)}"] if options.weights else []
    print(evaluate_config(options.config, (*options.set, *given), options.show_dir))
    return 0


def _compare(runs: Sequence[str]) -> int:
    from flows.evaluation.compare import compare

    if len(runs) != 2:
        raise InputError("evaluate compare", f"{len(runs)} evaluations", "expected two work_dirs: compare A B")
    first, second = runs
    print(compare(first, second).table())
    return 0
