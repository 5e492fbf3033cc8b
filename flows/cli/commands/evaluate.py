"""`groundhog evaluate`, `groundhog evaluate compare` and `groundhog forgetting`."""

from __future__ import annotations

import argparse
from pathlib import Path

from flows.cli.arguments import add_overrides, command, quoted
from flows.cli.parser import Subcommands
from formats.io.errors import InputError


def add(commands) -> None:
    _add_evaluate(commands)
    _add_forgetting(commands)


def _add_evaluate(commands) -> None:
    parser = command(
        commands,
        "evaluate",
        _evaluate,
        "evaluate a detector on labelled images, as a configuration says; compare: compare two evaluations",
        "groundhog evaluate configs/evaluate_glyphs.toml --weights work_dirs/glyphs/model.safetensors",
    )
    parser.add_argument("config", metavar="CONFIG", help="a TOML file")
    parser.add_argument("--weights", metavar="W", help="instead of the configuration's")
    parser.add_argument("--show-dir", metavar="D", help="draw truth and prediction there, the worst images first")
    add_overrides(parser)
    _add_compare(Subcommands(parser))


def _evaluate(options: argparse.Namespace) -> int:
    from flows.evaluation.evaluate import evaluate_config

    given = [f"weights={quoted(options.weights)}"] if options.weights else []
    print(evaluate_config(options.config, (*options.set, *given), options.show_dir))
    return 0


def _add_compare(commands: Subcommands) -> None:
    parser = command(
        commands,
        "compare",
        _compare,
        "compare two evaluations of the same truth: scores, and the 95 % interval of the gain",
        "groundhog evaluate compare work_dirs/evaluate_before work_dirs/evaluate_after",
    )
    parser.add_argument("first", metavar="A", help="work_dir of an evaluation")
    parser.add_argument("second", metavar="B", help="work_dir of another; the gain is B's score minus A's")


def _compare(options: argparse.Namespace) -> int:
    from flows.evaluation.compare import compare

    print(compare(options.first, options.second).table())
    return 0


def _add_forgetting(commands) -> None:
    parser = command(
        commands,
        "forgetting",
        _forgetting,
        "measure what fine-tuning gained and what the model forgot, for interpolations between two models",
        "groundhog forgetting glyph-tiny work_dirs/finetune_glyphs/model.safetensors \\\n"
        "    --target configs/evaluate_glyphs_cats.toml --held-out configs/evaluate_glyphs.toml",
    )
    parser.add_argument("base", metavar="BASE", help="weights that fine-tuning started from")
    parser.add_argument("tuned", metavar="TUNED", help="fine-tuned weights")
    told = "evaluation configuration of the task that the model was tuned for"
    parser.add_argument("--target", required=True, metavar="CONFIG", help=told)
    told = "evaluation configuration of another task; repeat the option for several, their mean counts"
    parser.add_argument("--held-out", required=True, action="append", metavar="CONFIG", help=told)
    told = "interpolation weights, 0 is BASE and 1 is TUNED (default %(default)s)"
    parser.add_argument("--alphas", default="0,0.25,0.5,0.75,1", metavar="A,B,…", help=told)
    told = "recommend an alpha only if the held-out mean falls by less than this (default %(default)s)"
    parser.add_argument("--most-lost", type=float, default=0.03, metavar="AP", help=told)
    parser.add_argument("--text-encoder", metavar="DIR", help="BERT folder, for weights without a tokenizer")
    told = "folder for the table as JSON, the plot and all evaluations, which are reused (default %(default)s)"
    parser.add_argument("--out", default="outputs/forgetting", metavar="DIR", help=told)


def _forgetting(options: argparse.Namespace) -> int:
    from flows.evaluation.forgetting import Task, measure_forgetting

    curve = measure_forgetting(
        options.base,
        options.tuned,
        Task(Path(options.target)),
        [Task(Path(config)) for config in options.held_out],
        options.out,
        alphas=_alphas(options.alphas),
        most_lost=options.most_lost,
        text_encoder=options.text_encoder,
    )
    print(curve.table())
    if 0 < (alpha := curve.recommended.alpha) < 1:
        print(f"groundhog weights interpolate {options.base} {options.tuned} OUT.safetensors --alpha {alpha:g}")
    print(f"written to {options.out}")
    return 0


def _alphas(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError("--alphas", f"'{text}'", "expected numbers with commas, such as 0,0.5,1") from None
