"""`groundhog rounds`: the state of a loop, its approval by a person, and the origin of a label."""

from __future__ import annotations

import argparse
from pathlib import Path

from flows.cli.arguments import command


def add(commands) -> None:
    summary = "show the rounds of a self-training, approve a round, trace a box back to its origin"
    parser = commands.add_parser("rounds", help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
    verbs = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_status(verbs)
    _add_approve(verbs)
    _add_lineage(verbs)


def _add_status(verbs) -> None:
    parser = command(
        verbs,
        "status",
        _status,
        "show the held-out score, the label drift and the gate's decision of every round",
        "groundhog rounds status work_dirs/self_train_glyphs",
    )
    parser.add_argument("work_dir", metavar="WORK_DIR", help="train.work_dir of the configuration")


def _status(options: argparse.Namespace) -> int:
    from flows.self_training.messages import status

    print(status(options.work_dir))
    return 0


def _add_approve(verbs) -> None:
    parser = command(
        verbs,
        "approve",
        _approve,
        "let a loop continue that is waiting for review or was stopped by the gate",
        "groundhog rounds approve work_dirs/self_train_cat --round 1 --reviewed corrected.json",
    )
    parser.add_argument("work_dir", metavar="WORK_DIR", help="train.work_dir of the configuration")
    parser.add_argument(
        "--round", type=int, metavar="N", help="round to approve, 2 for the labels v2 (default: the last)"
    )
    parser.add_argument(
        "--reviewed",
        metavar="FILE",
        help='ODVG lines to use instead of the model\'s from now on: those with "reviewed": true, else all',
    )


def _approve(options: argparse.Namespace) -> int:
    from flows.self_training.state import WAITING_NAME, approve_round, round_folder

    number = approve_round(options.work_dir, options.round, options.reviewed)
    resumed = ""
    if (round_folder(Path(options.work_dir), number) / WAITING_NAME).is_file():
        from flows.orchestration.pause import resume_waiting  # Prefect takes seconds to import

        resumed = resume_waiting(options.work_dir, number)
    print(f"v{number} is approved; {resumed or 'run `groundhog self-train` again to continue'}")
    return 0


def _add_lineage(verbs) -> None:
    parser = command(
        verbs,
        "lineage",
        _lineage,
        "trace labels, or one box, back to v1; exit code 1 if a file has changed since",
        "groundhog rounds lineage data/cat/cat_od_v3.json --image a.jpg --box 0",
    )
    parser.add_argument("labels", metavar="LABELS", help="X_od_v3.json or X_vg_v3.json")
    parser.add_argument("--image", metavar="NAME", help="file name as in LABELS")
    parser.add_argument(
        "--box",
        type=int,
        default=0,
        metavar="I",
        help="index of the box (default %(default)s, the one with the highest score)",
    )


def _lineage(options: argparse.Namespace) -> int:
    from flows.self_training.lineage import describe_lineage, lineage

    links = lineage(options.labels, options.image, options.box)
    print(describe_lineage(links, options.image))
    return 1 if any(link.broken for link in links) else 0
