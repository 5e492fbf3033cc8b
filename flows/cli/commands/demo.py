"""`groundhog demo`: the whole loop, offline."""

from __future__ import annotations

import argparse
from pathlib import Path

from flows.cli.arguments import command, seed

OUT_DIR = Path("outputs/demo")


def add(commands) -> None:
    parser = command(
        commands,
        "demo",
        _demo,
        "run the whole loop offline, on the embedded model and drawn scenes, and write a report; takes some minutes",
        "groundhog demo --seed 1 --out-dir outputs/demo-1",
    )
    parser.add_argument(
        "--out-dir", metavar="DIR", type=Path, default=OUT_DIR, help="output folder (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", metavar="S", type=seed, default=0, help="random seed of scenes and training (default %(default)s)"
    )
    parser.add_argument("--weights", metavar="W", help="weights to start from (default: the embedded model)")
    parser.add_argument("--device", metavar="D", help="cpu, cuda:0 … (default: the GPU, if there is one)")
    parser.add_argument("--quick", action="store_true", help="use a few scenes and steps, to check that it runs")


def _demo(options: argparse.Namespace) -> int:
    from flows.self_training.demo import demo_table, next_steps_after_demo, run_demo

    result = run_demo(options.out_dir, options.seed, options.quick, options.weights, options.device)
    print(f"\n{demo_table(result)}\n{next_steps_after_demo(options.out_dir, result)}")
    return 0
