"""The gain of self-training rounds on a few labels: the loop of `groundhog init --labels` compared with the same number
of training steps on the labels alone.

    python benchmarks/few_labels.py data/raccoon/raccoon_train_od.json data/raccoon/raccoon_test_od.json \\
        data/raccoon/images --labelled 10,30 --seeds 0,1,2

The first N lines of the training file are the labels, its other images are unlabelled; nothing is held back, and the
test file is used for evaluation. Both arms share their first training; then one does rounds with true and
pseudo-labels, the other trains as often and as long on the labels alone. Prints a Markdown table with the 95 %
interval of the difference from a bootstrap over test images, a row of all seeds with the interval of their mean
difference, and writes results.json. Resumes when it was interrupted; when finished, it only prints the table.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import chdir
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flows.evaluation.config import SAMPLES_NAME, EvaluateConfig
from flows.evaluation.evaluate import evaluate_benchmark
from flows.self_training.config import SelfTrainConfig, read_self_train
from flows.self_training.init import init
from flows.self_training.loop import self_train
from flows.training.train import train
from formats.dataset_names import label_map_beside
from formats.io.files import write_json
from formats.odvg import read_odvg, write_odvg
from grounding_model.data.sources import OdvgData
from grounding_model.metrics.bootstrap import (
    Interval,
    Samples,
    drawn,
    image_count,
    interval_within,
    read_samples,
    resampled,
    samples_interval,
)
from grounding_model.training.config import FromWeights


def prepared(
    folder: Path,
    records: Sequence,
    names: tuple[str, ...],
    images: Path,
    labelled: int,
    seed: int,
    test: OdvgData,
    steps: int | None,
) -> SelfTrainConfig:
    """The configuration written by `groundhog init` for the training images, evaluated on the test images."""
    shown = folder / "images"
    shown.mkdir(parents=True, exist_ok=True)
    for record in records:
        link = shown / record.filename
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to((images / record.filename).resolve())
    write_odvg(folder / "first_od.json", records[:labelled], names)
    for left in (folder / "self_train_few.toml", folder / "data" / "few" / "few_labelled_od.json"):
        left.unlink(missing_ok=True)
    with chdir(folder):  # init writes its copy of the labels into data/
        config = init("few", shown.resolve(), labels="first_od.json", config_dir="").resolve()
    read = read_self_train(config)
    assert read.labelled is not None
    return replace(
        read,
        labelled=replace(read.labelled, annotations=folder / read.labelled.annotations, held_back=0.0),
        evaluation=test,
        evaluated_categories=names,
        data=replace(read.data, annotations=folder / "few_od.json"),
        train=replace(read.train, steps=steps or read.train.steps, seed=seed, work_dir=folder / "loop", threads=1),
    )


def labels_alone(config: SelfTrainConfig, start: str, folder: Path) -> str:
    """The weights after as many trainings as the loop has rounds, on the labels alone."""
    assert config.labelled is not None
    known = config.train.work_dir / "labelled" / "labelled_train_od.json"
    data = OdvgData(known, config.data.images, label_map_beside(known))  # type: ignore[union-attr]
    for number in range(config.rounds):
        settings = replace(config.train, datasets=(data,), start=FromWeights(start), work_dir=folder / f"{number}")
        start = str(train(settings))
    return start


def judged(weights: str, config: SelfTrainConfig, folder: Path) -> Samples:
    """The matches of the model's predictions on the test images; from an earlier run if newer than the weights."""
    assert config.evaluation is not None
    path = folder / SAMPLES_NAME
    if not path.exists() or path.stat().st_mtime < Path(weights).stat().st_mtime:
        evaluate_benchmark(
            EvaluateConfig(config.evaluation, weights=weights, work_dir=folder, overwrite=True, batch_size=8)
        )
    return read_samples(path)


def average_precision(samples: Samples) -> float:
    """Of all images, each once."""
    return float(resampled(samples, [np.ones(image_count(samples), dtype=np.int64)])[0])


class Pair(NamedTuple):
    """The matches of the last round's model, and of the model trained on the labels alone."""

    rounds: Samples
    alone: Samples

    @property
    def gain(self) -> float:
        return average_precision(self.rounds) - average_precision(self.alone)


def pooled_interval(pairs: Sequence[Pair]) -> Interval:
    """95 % interval of the mean gain over the seeds, with the same 1000 resamples of test images for every seed."""
    draws = np.stack([drawn(pair.rounds, pair.alone, resamples=1000) for pair in pairs])
    return interval_within(draws.mean(0))


def compared(config: SelfTrainConfig, folder: Path) -> tuple[Pair, dict[str, object]]:
    """AP after the first training, after the rounds, and after the same steps on the labels alone."""
    result = self_train(config)
    first, last = result.rounds[0].weights, result.rounds[-1].weights
    alone = judged(labels_alone(config, first, folder / "alone"), config, folder / "judge-alone")
    pair = Pair(judged(last, config, folder / "judge-rounds"), alone)
    return pair, {
        "first": result.rounds[0].score,
        "rounds": average_precision(pair.rounds),
        "alone": average_precision(pair.alone),
        "gain": pair.gain,
        "interval": list(samples_interval(pair.rounds, pair.alone, resamples=1000)),
        "each": [done.score for done in result.rounds],
    }


def pooled(pairs: Sequence[Pair], rows: Sequence[dict]) -> dict[str, object]:
    """The means over the seeds, in the form of `compared`."""
    means = {name: float(np.mean([row[name] for row in rows])) for name in ("first", "rounds", "alone", "gain")}
    each = [float(np.mean(scores)) for scores in zip(*(row["each"] for row in rows))]
    return {**means, "interval": list(pooled_interval(pairs)), "each": each}


def table_row(labelled: int, seed: str, row: dict) -> str:
    low, high = row["interval"]
    each = " · ".join(f"{value:.3f}" for value in row["each"])
    numbers = f"{row['first']:.3f} | {each} | {row['alone']:.3f} | {row['gain']:+.3f} | {low:+.3f} … {high:+.3f}"
    return f"| {labelled} | {seed} | {numbers} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--labelled", default="10,30")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--rounds", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--steps", type=int, help="of every training, instead of those that init writes")
    parser.add_argument("--out", type=Path, default=Path("outputs/few_labels"))
    options = parser.parse_args()
    records = list(read_odvg(options.train))
    names = tuple(sorted({one.category for record in records for one in record.instances or ()}))
    test = OdvgData(options.test, options.images)
    found = []
    print("| labelled | seed | first training | after each round | labels alone | difference | 95 % |", flush=True)
    print("|--:|--:|--:|:--|--:|--:|:--|")
    for labelled in map(int, options.labelled.split(",")):
        pairs, rows = [], []
        for seed in map(int, options.seeds.split(",")):
            folder = (options.out / f"{labelled}-{seed}").resolve()
            config = prepared(folder, records, names, options.images, labelled, seed, test, options.steps)
            pair, row = compared(replace(config, rounds=options.rounds), folder)
            pairs.append(pair)
            rows.append(row)
            print(table_row(labelled, str(seed), row), flush=True)
            found.append({"labelled": labelled, "seed": seed, **row})
            write_json(options.out / "results.json", found)
        print(table_row(labelled, "all", pooled(pairs, rows)), flush=True)


if __name__ == "__main__":
    main()
