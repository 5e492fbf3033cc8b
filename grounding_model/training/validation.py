"""AP of the model in training on labelled detection data, its images divided among the processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from formats.io.errors import InputError
from formats.record import Record
from grounding_model.data.sources import LabelledImages, TrainingData, open_dataset
from grounding_model.detector import Detector
from grounding_model.inputs.prompt import Prompt
from grounding_model.metrics.coco import CocoResult, evaluate_coco
from grounding_model.training.distributed import Processes, gather
from grounding_model.training.log import MEAN_AP


def open_for_validation(data: Sequence[TrainingData]) -> list[LabelledImages]:
    """The data sets, every image once. Raises InputError for one that no prompt of categories can ask about.

    Before the first step, so that a run does not end hours later.
    """
    datasets = []
    for index, each in enumerate(data):
        try:
            dataset = open_dataset(each)
            Prompt.categories(list(dataset.categories.values()))
        except InputError as error:
            raise InputError(f"validate.{index}", str(error), "expected detection data with its categories") from error
        datasets.append(dataset)
    return datasets


def validate(
    detector: Detector,
    datasets: Sequence[LabelledImages],
    scale: tuple[int, int] | None,
    batch_size: int,
    processes: Processes,
    problems: Counter[str],
) -> dict[str, float]:
    """AP and AP50 on each data set, all its categories in the prompt, and the mean AP, by their names in the log.

    scale: short and long side of the images in pixels; None: the model's own. problems: told what is passed over.
    """
    numbers: dict[str, float] = {}
    for index, dataset in enumerate(datasets):
        result = _average_precision(detector, dataset, scale, batch_size, processes, problems)
        numbers |= {f"validation.{index}.ap": result.ap, f"validation.{index}.ap50": result.ap50}
    means = [value for name, value in numbers.items() if name.endswith(".ap")]
    return numbers | {MEAN_AP: float(np.mean(means))}


def _average_precision(
    detector: Detector,
    dataset: LabelledImages,
    scale: tuple[int, int] | None,
    batch_size: int,
    processes: Processes,
    problems: Counter[str],
) -> CocoResult:
    """Images are read as they are needed; labels become places in the prompt."""
    names = list(dataset.categories.values())
    place = {label: index for index, label in enumerate(dataset.categories)}
    truth: list[Record] = []

    def images() -> Iterator[np.ndarray]:
        for index in range(processes.index, len(dataset), processes.count):
            try:
                image, record = dataset.load(index)
            except InputError as error:
                problems[f"validation: {error}"] += 1
                continue
            instances = tuple(replace(one, label=place[one.label]) for one in record.instances or ())
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
    found = [outcome for outcome in outcomes if isinstance(outcome, Record)]
    predictions = [replace(one, filename=record.filename) for one, record in zip(found, truth, strict=True)]
    # Every process judges everything, so that all know the same figures; in one order, which decides between ties.
    return evaluate_coco(_together(truth), _together(predictions), names)


def _together(records: list[Record]) -> list[Record]:
    """The records of all processes by their image."""
    return sorted((record for part in gather(records) for record in part), key=lambda record: record.filename)
