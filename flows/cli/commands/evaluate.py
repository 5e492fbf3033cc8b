"""`groundhog evaluate`, `groundhog evaluate compare` and `groundhog forgetting`."""

from __future__ import annotations

import argparse
import shlex
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
        "evaluate a detector as configured in a TOML file; `evaluate compare A B` compares two evaluations",
        "groundhog evaluate configs/evaluate_glyphs.toml --weights work_dirs/glyphs/model.safetensors",
    )
    parser.add_argument("config", metavar="CONFIG", help="TOML file, such as configs/evaluate_coco.toml")
    parser.add_argument("--weights", metavar="W", help="weights to evaluate, instead of those in CONFIG")
    parser.add_argument("--work-dir", metavar="DIR", help="output folder, instead of the work_dir in CONFIG")
    parser.add_argument("--overwrite", action="store_true", help="replace another evaluation in the output folder")
    parser.add_argument(
        "--show-dir", metavar="DIR", help="draw ground truth and predictions into this folder, worst images first"
    )
    add_overrides(parser, "'scale=[480, 800]'")
    _add_compare(Subcommands(parser))


def _evaluate(options: argparse.Namespace) -> int:
    from flows.evaluation.evaluate import evaluate_config

    overrides = [*options.set]
    overrides += [f"weights={quoted(options.weights)}"] if options.weights else []
    overrides += [f"work_dir={quoted(options.work_dir)}"] if options.work_dir else []
    overrides += ["overwrite=true"] if options.overwrite else []
    print(evaluate_config(options.config, overrides, options.show_dir))
    return 0


def _add_compare(commands: Subcommands) -> None:
    parser = command(
        commands,
        "compare",
        _compare,
        "compare the scores of two evaluations of the same ground truth, with the 95 % interval of the gain",
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
    text = "evaluation configuration of the task that the model was tuned for"
    parser.add_argument("--target", required=True, metavar="CONFIG", help=text)
    text = "evaluation configuration of another task; repeat the option for several, whose mean score counts"
    parser.add_argument("--held-out", required=True, action="append", metavar="CONFIG", help=text)
    text = "interpolation weights, 0 is BASE and 1 is TUNED (default %(default)s)"
    parser.add_argument("--alphas", default="0,0.25,0.5,0.75,1", metavar="A,B,…", help=text)
    text = (
        "recommend an alpha only if the mean score of the held-out tasks falls by less than this (default %(default)s)"
    )
    parser.add_argument("--max-loss", "--most-lost", type=float, default=0.03, metavar="AP", help=text)
    parser.add_argument("--text-encoder", metavar="DIR", help="BERT folder, for weights without a tokenizer")
    text = "folder for the table as JSON, the plot and all evaluations, which are reused (default %(default)s)"
    parser.add_argument("--out", default="outputs/forgetting", metavar="DIR", help=text)


def _forgetting(options: argparse.Namespace) -> int:
    from flows.evaluation.forgetting import Task, measure_forgetting

    curve = measure_forgetting(
        options.base,
        options.tuned,
        Task(Path(options.target)),
        [Task(Path(config)) for config in options.held_out],
        options.out,
        alphas=_alphas(options.alphas),
        max_loss=options.max_loss,
        text_encoder=options.text_encoder,
    )
    print(curve.table())
    if 0 < (alpha := curve.recommended.alpha) < 1:
        mixed = f"{shlex.join([options.base, options.tuned])} OUT.safetensors --alpha {alpha:g}"
        print(f"groundhog weights interpolate {mixed}")
    print(f"written to {options.out}")
    return 0


def _alphas(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError("--alphas", f"'{text}'", "expected numbers separated by commas, such as 0,0.5,1") from None
