"""Draws docs/images/few-labels-curves.png: AP on the test photos during trainings on few labels.

    PYTHONPATH=. python docs/draw_few_labels_curves.py '10 labels=WORK_DIR' '30 labels=WORK_DIR' '150 labels=WORK_DIR'

A WORK_DIR holds the log of a `groundhog train` with `validate` and `validate_every`. Several with one name are seeds.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

from formats.io.plots import new_figure, write_figure
from grounding_model.training.log import MEAN_AP


def evaluations(work_dir: str) -> dict[int, float]:
    """Step -> AP."""
    lines = (json.loads(line) for line in (Path(work_dir) / "log.jsonl").read_text().splitlines())
    return {line["step"]: line[MEAN_AP] for line in lines if MEAN_AP in line}


def main(*trainings: str) -> None:
    seeds: defaultdict[str, list[dict[int, float]]] = defaultdict(list)
    for training in trainings:
        name, _, work_dir = training.partition("=")
        seeds[name].append(evaluations(work_dir))
    figure = new_figure(6.4, 3.6)
    axes = figure.add_subplot(xlabel="step", ylabel="AP, 50 test photos", ylim=(0, 0.6))
    for colour, (name, runs) in enumerate(seeds.items()):
        steps = sorted(set.intersection(*(set(run) for run in runs)))
        axes.plot(steps, [np.mean([run[step] for run in runs]) for step in steps], color=f"C{colour}", label=name)
        for run in runs:
            axes.plot(list(run), list(run.values()), ".", color=f"C{colour}")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    write_figure(Path(__file__).parent / "images" / "few-labels-curves.png", figure)


if __name__ == "__main__":
    main(*sys.argv[1:])
