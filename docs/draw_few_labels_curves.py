"""Draws docs/images/few-labels-curves.png: AP on the test photos by the number of labels, and during a training.

    PYTHONPATH=. python docs/draw_few_labels_curves.py --training WORK_DIR \\
        --scores 10=0.435,0.400,0.487 30=0.470,0.486,0.466 150=0.505,0.528,0.555

The scores are those of docs/label_quality.md, a number for each seed. WORK_DIR: of a `groundhog train` with `validate`
and `validate_every`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from formats.io.plots import new_figure, write_figure
from grounding_model.training.log import LOG_FILE, MEAN_AP

HEIGHT = 0.65  # AP at the upper edge


def evaluations(work_dir: Path) -> dict[int, float]:
    """Step -> AP."""
    lines = (json.loads(line) for line in (work_dir / LOG_FILE).read_text().splitlines())
    return {line["step"]: line[MEAN_AP] for line in lines if MEAN_AP in line}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--training", type=Path, required=True)
    parser.add_argument("--scores", nargs="+", required=True, metavar="LABELS=AP,AP")
    options = parser.parse_args()
    scores = {
        int(labels): list(map(float, found.split(","))) for labels, found in (x.split("=") for x in options.scores)
    }
    figure = new_figure(8.0, 3.2)
    by_labels, by_step = figure.subplots(1, 2)
    by_labels.set(xlabel="labelled photos", ylabel="AP, 50 test photos", xscale="log", ylim=(0, HEIGHT))
    by_labels.plot(list(scores), [np.mean(found) for found in scores.values()], "C0-", label="mean of the seeds")
    for labels, found in scores.items():
        by_labels.plot([labels] * len(found), found, "C0.")
    by_labels.set_xticks(list(scores), [str(labels) for labels in scores])
    by_labels.minorticks_off()
    by_labels.legend(loc="lower right")
    during = evaluations(options.training)
    by_step.plot(list(during), list(during.values()), "C1.-", label="150 labelled photos, seed 3")
    by_step.set(xlabel="step", xlim=(0, None), ylim=(0, HEIGHT))
    by_step.legend(loc="lower right")
    for axes in (by_labels, by_step):
        axes.grid(alpha=0.3)
    write_figure(Path(__file__).parent / "images" / "few-labels-curves.png", figure)


if __name__ == "__main__":
    main()
