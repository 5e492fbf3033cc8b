"""`groundhog forgetting`."""

from __future__ import annotations

import argparse
from pathlib import Path

from flows.cli.arguments import command
from formats.io.errors import InputError


def add(commands) -> None:
    parser = command(
        commands,
        "forgetting",
        _forgetting,
        "measure what fine-tuning gained and what it cost, along the line between two models",
        "groundhog forgetting glyph-tiny work_dirs/finetune_glyphs/model.safetensors \\\n"
        "    --target configs/evaluate_glyphs_cats.toml --held-out configs/evaluate_glyphs.toml",
    )
    parser.add_argument("base", metavar="BASE", help="weights that fine-tuning started from")
    parser.add_argument("tuned", metavar="TUNED", help="weights that came out")
    told = "evaluation configuration of the task that was tuned for"
    parser.add_argument("--target", required=True, metavar="CONFIG", help=told)
    told = "evaluation configuration of a task that was not; may be given several times, their mean counts"
    parser.add_argument("--held-out", required=True, action="append", metavar="CONFIG", help=told)
    told = "where on the line, 0 BASE to 1 TUNED (default %(default)s)"
    parser.add_argument("--alphas", default="0,0.25,0.5,0.75,1", metavar="A,B,…", help=told)
    told = "the held-out mean may fall by less than this for an alpha to be recommended (default %(default)s)"
    parser.add_argument("--most-lost", type=float, default=0.03, metavar="AP", help=told)
    parser.add_argument("--text-encoder", metavar="DIR", help="BERT folder, where the weights carry no tokenizer")
    told = "table as JSON, plot, and every measurement, which is kept (default %(default)s)"
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
