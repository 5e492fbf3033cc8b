"""Labels with known errors: true boxes that are dropped, moved, renamed or doubled, and boxes without an object.

No detector is involved: errors are random, according to the noise model in Disturbance.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from formats.record import Box, Instance, Record
from formats.yolo import read_yolo
from grounding_model.glyphs.pictograms import NOUNS
from grounding_model.glyphs.records import draw_scene

KINDS = ("dropped", "moved", "renamed", "doubled", "invented")
RIGHT_SCORE, WRONG_SCORE, CONFIDENT_SCORE = (6.0, 2.0), (3.0, 4.0), (8.0, 2.0)  # of beta distributions
MIN_SCORE = 0.3  # labels score more


@dataclass(frozen=True)
class Disturbance:
    """Probabilities of each error per true box; `invented`: wrong boxes per true box.

    clustered: share of images that contain all errors; the others have none; None: an image's probabilities are these
    times a random factor from 4 * Beta(1, 3), mean 1. confident: wrong boxes score as high as right ones, or higher.
    """

    dropped: float = 0.1
    moved: float = 0.04
    renamed: float = 0.04
    doubled: float = 0.03
    invented: float = 0.05
    clustered: float | None = None
    confident: bool = False


@dataclass(frozen=True)
class Planted:
    """One error. box: in the labels, or the true box if it was dropped."""

    filename: str
    kind: str
    box: Box


def disturb(
    truth: Iterable[Record], names: tuple[str, ...], settings: Disturbance, seed: int
) -> tuple[list[Record], list[Planted]]:
    """The labels with scores, one record per true record; and the list of their errors."""
    rng = np.random.default_rng(seed)
    planted: list[Planted] = []
    return [_disturbed(record, names, settings, rng, planted) for record in truth], planted


def _disturbed(
    record: Record, names: tuple[str, ...], settings: Disturbance, rng: np.random.Generator, planted: list[Planted]
) -> Record:
    if settings.clustered is None:
        factor = 4.0 * rng.beta(1.0, 3.0)
    else:
        factor = float(rng.random() < settings.clustered) / settings.clustered
    chance = {kind: min(0.95, factor * getattr(settings, kind)) for kind in KINDS}
    labels: list[Instance] = []

    def plant(kind: str, box: Box, instance: Instance | None) -> None:
        planted.append(Planted(record.filename, kind, box))
        if instance is not None:
            labels.append(replace(instance, box=box, score=_score(settings.confident, rng)))

    for true in record.instances or ():
        drawn = rng.random(len(KINDS))
        happens = {kind: bool(value < chance[kind]) for kind, value in zip(KINDS, drawn)}
        if happens["dropped"]:
            plant("dropped", true.box, None)
        elif happens["moved"]:
            plant("moved", moved(true.box, record, rng, 0.15, 0.45), true)
        elif happens["renamed"]:
            label = int(rng.choice([label for label in range(len(names)) if label != true.label]))
            plant("renamed", true.box, replace(true, label=label, category=names[label]))
        else:
            labels.append(replace(true, score=_scaled(rng.beta(*RIGHT_SCORE))))
            if happens["doubled"]:
                plant("doubled", moved(true.box, record, rng, 0.6, 0.9), true)
        if happens["invented"]:
            label = int(rng.integers(len(names)))
            plant("invented", anywhere(record, rng), Instance(true.box, label, names[label]))
    return replace(record, instances=tuple(labels))


def _score(confident: bool, rng: np.random.Generator) -> float:
    return _scaled(rng.beta(*(CONFIDENT_SCORE if confident else WRONG_SCORE)))


def _scaled(share: float) -> float:
    return round(MIN_SCORE + (1 - MIN_SCORE) * float(share), 4)


def moved(box: Box, record: Record, rng: np.random.Generator, low: float, high: float, tries: int = 200) -> Box:
    """The box shifted and scaled at random until its IoU with itself is between low and high."""
    from formats.boxes import pairwise_iou

    width, height = box[2] - box[0], box[3] - box[1]
    best = box
    for _ in range(tries):
        shift = rng.normal(0, 0.35, 2) * (width, height)
        scale = np.exp(rng.normal(0, 0.25, 2))
        middle = np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]) + shift
        half = np.array([width, height]) * scale / 2
        best = _clipped((*(middle - half), *(middle + half)), record)
        if low <= pairwise_iou([box], [best])[0, 0] <= high:
            return best
    return best


def anywhere(record: Record, rng: np.random.Generator) -> Box:
    width, height = rng.uniform(0.08, 0.4, 2) * (record.width, record.height)
    x, y = rng.uniform(0, record.width - width), rng.uniform(0, record.height - height)
    return _clipped((x, y, x + width, y + height), record)


def _clipped(box: tuple[float, ...], record: Record) -> Box:
    x1, y1 = max(0.0, min(box[0], record.width - 2.0)), max(0.0, min(box[1], record.height - 2.0))
    x2, y2 = min(float(record.width), max(box[2], x1 + 2)), min(float(record.height), max(box[3], y1 + 2))
    return (round(x1, 2), round(y1, 2), round(x2, 2), round(y2, 2))


def read_coco128(folder: Path) -> tuple[list[Record], tuple[str, ...]]:
    """The 128 images of coco128 in YOLO's layout, and the names of the categories."""
    from formats.label_map import read_category_names

    names = tuple(read_category_names(folder / "classes.yaml"))
    return list(read_yolo(folder / "labels", folder / "images", names)), names


def drawn_scenes(count: int, seed: int = 0, domain: str = "source") -> tuple[list[Record], tuple[str, ...]]:
    """Scenes of the glyph world."""
    return [draw_scene(domain, seed, index)[1] for index in range(count)], NOUNS


def repeated(records: list[Record], times: int) -> list[Record]:
    """A larger data set: each image repeated under different names."""
    return [replace(each, filename=f"{number}/{each.filename}") for number in range(times) for each in records]
