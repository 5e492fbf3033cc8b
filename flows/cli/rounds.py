"""`groundhog rounds`: where a loop stands, what a person says to it, where a label comes from."""

from __future__ import annotations

import argparse

from flows.cli.arguments import command


def add(commands) -> None:
    told = "look at the rounds of a self-training, let it go on, follow a box to where it comes from"
    parser = commands.add_parser("rounds", help=told, description=f"{told[0].upper()}{told[1:]}.")
    verbs = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_status(verbs)
    _add_approve(verbs)
    _add_lineage(verbs)


def _add_status(verbs) -> None:
    parser = command(
        verbs,
        "status",
        _status,
        "show every round: held-out figure, drift of its labels, the gate's verdict",
        "groundhog rounds status work_dirs/self_train_glyphs",
    )
    parser.add_argument("work_dir", metavar="WORK_DIR", help="train.work_dir of the configuration")


def _status(options: argparse.Namespace) -> int:
    from flows.self_training.state import status

    print(status(options.work_dir))
    return 0


def _add_approve(verbs) -> None:
    parser = command(
        verbs,
        "approve",
        _approve,
        "let a loop go on that waits for a person, or that the gate stopped",
        "groundhog rounds approve work_dirs/self_train_cat --round 1 --reviewed corrected.json",
    )
    parser.add_argument("work_dir", metavar="WORK_DIR", help="train.work_dir of the configuration")
    parser.add_argument("--round", type=int, metavar="N", help="whose labels were looked at (default: the last)")
    parser.add_argument(
        "--reviewed",
        metavar="FILE",
        help='ODVG lines that win over the model\'s from this round on: those with "reviewed": true, or all',
    )


def _approve(options: argparse.Namespace) -> int:
    from flows.orchestration.pause import resume_waiting
    from flows.self_training.state import approve_round

    number = approve_round(options.work_dir, options.round, options.reviewed)
    resumed = resume_waiting(options.work_dir, number)
    print(f"round {number} is approved; {resumed or 'run `groundhog self-train` again to go on'}")
    return 0


def _add_lineage(verbs) -> None:
    parser = command(
        verbs,
        "lineage",
        _lineage,
        "follow labels, or one box of them, back to the first round; exit code 1 where a file has changed since",
        "groundhog rounds lineage data/cat/cat_od_v3.json --image a.jpg --box 0",
    )
    parser.add_argument("labels", metavar="LABELS", help="X_od_v3.json or X_vg_v3.json")
    parser.add_argument("--image", metavar="NAME", help="a filename in the labels")
    parser.add_argument("--box", type=int, default=0, metavar="I", help="which of its boxes (default 0, the best)")


def _lineage(options: argparse.Namespace) -> int:
    from flows.self_training.lineage import lineage, told

    links = lineage(options.labels, options.image, options.box)
    print(told(links, options.image))
    return 1 if any(link.broken for link in links) else 0
