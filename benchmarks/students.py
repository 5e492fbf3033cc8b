"""Students trained on the last labels of `groundhog demo`, with different `trust` settings, compared with the teacher.

    OMP_NUM_THREADS=1 python benchmarks/students.py --seeds 0,1,2

For each seed: the demo's loop, `groundhog distill` from the small detector of configs/glyph_student.toml with each
`trust` setting, and AP on the demo's 300 test scenes. Appends a line to rows.jsonl as soon as a student is evaluated,
and prints Markdown tables: AP of the teacher and of each student, and the 95 % interval of the differences from a
bootstrap over test scenes, also for the mean over the seeds. Resumes when it was interrupted, and uses a finished demo
in OUT/demo-SEED: `groundhog demo --seed SEED --out-dir OUT/demo-SEED`.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np

from flows.distillation.config import DistillConfig, default_training
from flows.distillation.defaults import STEPS, Trust
from flows.distillation.distill import distill
from flows.evaluation.config import SAMPLES_NAME, EvaluateConfig
from flows.evaluation.evaluate import evaluate_benchmark
from flows.self_training.demo import demo_config
from flows.self_training.loop import self_train
from flows.self_training.state import ROUNDS_NAME, read_loop_state
from flows.training.train import train
from formats.io.toml_config import read_config
from grounding_model.data.sources import GlyphData
from grounding_model.metrics.bootstrap import drawn, interval_within, read_samples
from grounding_model.students.config import FromStudent
from grounding_model.training.config import TrainConfig

TEST = GlyphData(domain="cats", count=300, seed=1000)  # the demo's
ARMS: tuple[Trust, ...] = ("none", "scores", "labels")
TEACHER = "teacher"
PAIRS = (("scores", "none"), ("labels", "none"), ("scores", "labels"), *((arm, TEACHER) for arm in ARMS))
START = Path(__file__).parents[1] / "configs" / "glyph_student.toml"


class Labels(NamedTuple):
    """What a demo ended with: labels, the folder of their images, and the weights that made them."""

    path: Path
    images: Path
    teacher: str


def labels_of(seed: int, out: Path, rounds: int | None) -> Labels:
    """Of the demo that lies there finished, else of one that is run there."""
    folder = out / f"demo-{seed}"
    config = demo_config(folder, seed)
    finished = (folder / ROUNDS_NAME).is_file() and (state := read_loop_state(folder)).state == "finished"
    last = (state if finished else self_train(replace(config, rounds=rounds or config.rounds))).rounds[-1]
    return Labels(last.labels, last.labels.parent / "truth" / "images", last.weights)


def taught(labels: Labels, start: Path, seed: int, trust: Trust, steps: int, out: Path) -> str:
    """The student's folder."""
    settings = replace(default_training(out / f"student-{seed}-{trust}"), steps=steps, seed=seed, threads=1)
    settings = replace(settings, start=FromStudent(str(start)))
    return str(distill(DistillConfig(labels.path, labels.images, trust=trust, train=settings, onnx=False)).student)


def judged(weights: str, folder: Path) -> float:
    """AP on the test scenes; the matches behind it stay in the folder."""
    config = EvaluateConfig(TEST, weights=weights, work_dir=folder, categories=("cat",), overwrite=True, batch_size=8)
    return float(evaluate_benchmark(config).numbers["ap"])


def rows_in(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def tables(rows: list[dict[str, Any]], out: Path) -> str:
    """Markdown of all that has been measured so far."""
    ap = {(row["seed"], row["model"]): row["ap"] for row in rows}
    seeds = sorted({seed for seed, _ in ap})
    lines = ["| seed | teacher | " + " | ".join(f"`{arm}`" for arm in ARMS) + " |", "|--:" * (2 + len(ARMS)) + "|"]
    for seed in seeds:
        shown = [f"{ap[seed, model]:.3f}" if (seed, model) in ap else "-" for model in (TEACHER, *ARMS)]
        lines.append(f"| {seed} | " + " | ".join(shown) + " |")
    lines += [
        "",
        "| difference | " + " | ".join(f"seed {seed}" for seed in seeds) + " | mean |",
        "|:--" * (2 + len(seeds)) + "|",
    ]
    for one, other in PAIRS:
        draws = [
            differences(seed, one, other, out) if {(seed, one), (seed, other)} <= ap.keys() else None for seed in seeds
        ]
        gains = [ap.get((seed, one), 0.0) - ap.get((seed, other), 0.0) for seed in seeds]
        known = [(gain, draw) for gain, draw in zip(gains, draws) if draw is not None]
        if known:
            mean = described(float(np.mean([gain for gain, _ in known])), np.mean([draw for _, draw in known], axis=0))
            cells = ["-" if draw is None else described(gain, draw) for gain, draw in zip(gains, draws)]
            lines.append(f"| `{one}` - `{other}` | " + " | ".join([*cells, mean]) + " |")
    return "\n".join(lines)


def differences(seed: int, one: str, other: str, out: Path) -> np.ndarray:
    """(S,) of AP, on the same draws of test scenes."""
    found, baseline = (read_samples(out / f"judge-{seed}-{model}" / SAMPLES_NAME) for model in (one, other))
    return drawn(found, baseline)


def described(gain: float, draws: np.ndarray) -> str:
    low, high = interval_within(draws)
    return f"{gain:+.3f} ({low:+.3f} … {high:+.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--trust", default=",".join(ARMS), help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=STEPS, help="of every student (default %(default)s)")
    parser.add_argument("--rounds", type=int, help="trainings of a demo that is run here (default: the demo's)")
    parser.add_argument("--start-steps", type=int, default=1500, help="of the detector that they start from")
    parser.add_argument("--out", type=Path, default=Path("outputs/students"))
    options = parser.parse_args()
    seeds = [int(seed) for seed in options.seeds.split(",")]
    arms = [arm for arm in get_args(Trust) if arm in options.trust.split(",")]
    settings = replace(read_config(START, TrainConfig), steps=options.start_steps, work_dir=options.out / "start")
    start = train(settings)
    path = options.out / "rows.jsonl"
    for seed in seeds:
        labels = labels_of(seed, options.out, options.rounds)
        for model in (TEACHER, *sorted(arms, key=ARMS.index)):
            if any((row["seed"], row["model"]) == (seed, model) for row in rows_in(path)):
                continue
            weights = (
                labels.teacher if model == TEACHER else taught(labels, start, seed, model, options.steps, options.out)
            )
            row = {"seed": seed, "model": model, "ap": judged(weights, options.out / f"judge-{seed}-{model}")}
            with path.open("a") as stream:
                stream.write(json.dumps(row | {"steps": options.steps}) + "\n")
            print(row, flush=True)
    print(tables(rows_in(path), options.out))


if __name__ == "__main__":
    main()
