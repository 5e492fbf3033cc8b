"""`groundhog quality`: filter policies compared against known truth. `groundhog agreement`: what to review first."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from flows.cli.arguments import add_overrides, command, names
from formats.io.errors import InputError
from formats.io.plurals import many


def add(commands) -> None:
    _add_quality(commands)
    _add_agreement(commands)


def _add_quality(commands) -> None:
    parser = command(
        commands,
        "quality",
        _quality,
        "compare filter policies with held-out ground truth: quality of the labels, and AP of a model trained on them",
        "groundhog quality configs/quality_glyphs.toml --variants control,threshold --seeds 0",
    )
    parser.add_argument("config", metavar="CONFIG", help="TOML file, such as configs/quality_glyphs.toml")
    parser.add_argument("--variants", metavar="A,B", help="variants to run (default: all without a result)")
    parser.add_argument("--seeds", metavar="N,M", help="seeds to run (default: all)")
    parser.add_argument("--labels-only", action="store_true", help="score the labels without training a model")
    add_overrides(parser, "'seeds=[0, 1]'")


def _quality(options: argparse.Namespace) -> int:
    from flows.quality.ablation import QualityConfig, measure_labels, measure_quality
    from flows.quality.report import write_labels_report, write_quality_report
    from formats.io.toml_config import read_config

    config = read_config(options.config, QualityConfig, options.set)
    variants = () if options.variants is None else names(options.variants, "--variants")
    seeds = () if options.seeds is None else [_seed(text) for text in names(options.seeds, "--seeds")]
    if options.labels_only:
        print(f"{write_labels_report(config, measure_labels(config, seeds))}\n{_written(config.train.work_dir)}")
        return 0
    pieces = measure_quality(config, variants, seeds, lambda line: print(line, file=sys.stderr, flush=True))
    print(f"{write_quality_report(config, pieces)}\n{_written(config.train.work_dir)}")
    return 0


def _written(folder: Path) -> str:
    from flows.quality.page import PAGE_NAME

    return f"written to {folder}, as a page: {folder / PAGE_NAME}"


def _seed(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InputError("--seeds", f"{text!r}", "expected whole numbers such as 0,1,2") from None


def _add_agreement(commands) -> None:
    parser = command(
        commands,
        "agreement",
        _agreement,
        "rank images by the agreement of two label files, worst first: the order to review them in",
        "groundhog agreement data/cat/cat_od_v1.json data/cat/cat_od_v2.json -n 20",
    )
    parser.add_argument("labels", metavar="LABELS", help="ODVG file of a round, a view or a model")
    parser.add_argument("others", metavar="OTHERS", help="ODVG file of the same images")
    parser.add_argument("-n", type=int, default=20, metavar="N", help="number of images to show (default %(default)s)")
    parser.add_argument("-o", "--out", metavar="FILE", help="write the whole ranking as CSV")


def _agreement(options: argparse.Namespace) -> int:
    from flows.quality.agreement import rank_by_agreement, write_ranking

    ranking = rank_by_agreement(options.labels, options.others)
    for each in ranking[: options.n]:
        print(f"{each.agreement:.3f}  {each.filename}")
    if options.out:
        write_ranking(options.out, ranking)
        print(f"{many(len(ranking), 'image')}: {options.out}")
    return 0
