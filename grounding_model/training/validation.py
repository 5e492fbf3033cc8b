"""AP of the model in training on labelled detection data, with the images divided among the processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from formats.io.errors import InputError
from formats.record import Record
from grounding_model.data.sources import LabelledImages, TrainingData, open_dataset
from grounding_model.inputs.prompt import Prompt
from grounding_model.metrics.coco import CocoResult, evaluate_coco
from grounding_model.training.distributed import Processes, gather_from_processes
from grounding_model.training.log import MEAN_AP


class Validated(Protocol):
    """The part of Detector's interface that validation needs."""

    @property
    def predict_each(self) -> Callable[..., Iterator[Any]]: ...


def open_for_validation(data: Sequence[TrainingData]) -> list[LabelledImages]:
    """The data sets, every image once. Raises InputError when the categories of one make no valid prompt.

    Called before the first step, so that a run does not fail hours later.
    """
    datasets = []
    for index, source in enumerate(data):
        try:
            dataset = open_dataset(source)
            Prompt.categories(list(dataset.categories.values()))
        except InputError as error:
            raise InputError(f"validate.{index}", str(error), "expected detection data with its categories") from error
        datasets.append(dataset)
    return datasets


def validate(
    detector: Validated,
    datasets: Sequence[LabelledImages],
    scale: tuple[int, int] | None,
    batch_size: int,
    processes: Processes,
    problems: Counter[str],
) -> dict[str, float]:
    """AP and AP50 on each data set, all its categories in the prompt, and the mean AP, by their names in the log.

    scale: short and long side of the images in pixels; None: the model's. problems: counts what is skipped.
    """
    numbers: dict[str, float] = {}
    for index, dataset in enumerate(datasets):
        result = _average_precision(detector, dataset, scale, batch_size, processes, problems)
        numbers |= {f"validation.{index}.ap": result.ap, f"validation.{index}.ap50": result.ap50}
    means = [value for name, value in numbers.items() if name.endswith(".ap")]
    return numbers | {MEAN_AP: float(np.mean(means))}


def _average_precision(
    detector: Validated,
    dataset: LabelledImages,
    scale: tuple[int, int] | None,
    batch_size: int,
    processes: Processes,
    problems: Counter[str],
) -> CocoResult:
    """Images are read on demand; labels become indices in the prompt."""
    names = list(dataset.categories.values())
    index_of = {label: index for index, label in enumerate(dataset.categories)}
    truth: list[Record] = []

    def images() -> Iterator[np.ndarray]:
        for index in range(processes.index, len(dataset), processes.count):
            try:
                image, record = dataset.load(index)
            except InputError as error:
                problems[f"validation: {error}"] += 1
                continue
            instances = tuple(replace(item, label=index_of[item.label]) for item in record.instances or ())
            truth.append(replace(record, filename=f"image-{index:09d}", instances=instances))
            yield image

    outcomes = detector.predict_each(
        images(),
        Prompt.categories(names),
        score_threshold=0.0,
        max_per_image=100,
        scale=scale,
        batch_size=batch_size,
    )
    records = [outcome for outcome in outcomes if isinstance(outcome, Record)]
    predictions = [replace(record, filename=true.filename) for record, true in zip(records, truth, strict=True)]
    # Every process evaluates all images, so that all have the same scores; in one order, which decides ties.
    return evaluate_coco(_gather_records(truth), _gather_records(predictions), names)


def _gather_records(records: list[Record]) -> list[Record]:
    """The records of all processes, sorted by image."""
    return sorted(
        (record for part in gather_from_processes(records) for record in part), key=lambda record: record.filename
    )
