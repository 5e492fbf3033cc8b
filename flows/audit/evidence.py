"""The boxes with which labels are compared: the candidates from which they were made, or those of another model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from flows.labelling.manifest import Manifest, parse_line, read_lines
from flows.labelling.shards import missing_shards
from flows.policies.calibration import Calibration, calibrate, correct_boxes
from formats.boxes import MATCH_IOU
from formats.candidates import ImageCandidates, read_candidates
from formats.io.errors import InputError
from formats.io.plurals import many
from formats.odvg import read_odvg
from formats.odvg_lines import is_quarantined
from formats.record import Record
from formats.reviewed import Key, key_of

MIN_TO_CALIBRATE = 50  # boxes of a second model; with fewer, its scores are used uncalibrated
MIN_SCORE = 0.05  # boxes with lower scores are not used


@dataclass(frozen=True, eq=False)
class NamedBoxes:
    """The boxes of an image. name: (K,) str, categories or phrases. box: (K, 4) pixels. score: (K,) 0..1, or NaN."""

    name: np.ndarray
    box: np.ndarray
    score: np.ndarray

    def __len__(self) -> int:
        return len(self.name)

    def of(self, rows: np.ndarray) -> NamedBoxes:
        return NamedBoxes(self.name[rows], self.box[rows], self.score[rows])


NOTHING = NamedBoxes(np.empty(0, object), np.zeros((0, 4)), np.zeros(0))


@dataclass(frozen=True)
class Evidence:
    """The boxes with which labels are compared.

    found: boxes by file name and caption of a line. from_labeller: whether they come from the model that made the
    labels, so that its scores cannot be calibrated with these labels.
    """

    found: Mapping[Key, NamedBoxes]
    from_labeller: bool


def named_boxes_of(record: Record) -> NamedBoxes:
    """The boxes of a record, without those marked `ignore`."""
    rows = [(each.category, each.box, each.score) for each in record.instances or () if not each.ignore]
    for region in record.regions or ():
        if not region.ignore:
            scores = region.scores or (None,) * len(region.boxes)
            rows += [(" ".join(region.phrase), box, score) for box, score in zip(region.boxes, scores)]
    if not rows:
        return NOTHING
    names = np.array([name for name, _, _ in rows], object)
    scores_array = np.array([np.nan if score is None else score for _, _, score in rows], float)
    return NamedBoxes(names, np.array([box for _, box, _ in rows], float), scores_array)


def stored_candidates(manifest: Manifest) -> Evidence:
    """The candidates of the plan that made the labels. Raises InputError if shards are missing."""
    if missing := missing_shards(manifest):
        raise InputError(
            manifest.work_dir, f"{many(len(missing), 'shard')} not labelled yet", "run `groundhog infer` again"
        )
    found: dict[Key, NamedBoxes] = {}
    for shard in manifest.shards:
        by_line = {image.line: image for image in read_candidates(manifest.shard_path(shard.index)).by_line()}
        for line in read_lines(manifest.source, shard):
            if not is_quarantined(line.text):
                record = parse_line(line, manifest.source)
                found[key_of(record)] = _named(by_line.get(line.number), _names(manifest, record))
    return Evidence(found, from_labeller=True)


def second_model(path: str | Path) -> Evidence:
    """The labels of another model or round: an ODVG file with scores, preferably with a low threshold."""
    found = {key_of(record): named_boxes_of(record) for record in read_odvg(path)}
    if not any(np.isfinite(boxes.score).any() for boxes in found.values()):
        raise InputError(path, "has no box with a score", "expected labels of a model, such as X_od_v2.json")
    return Evidence({key: boxes.of(boxes.score >= MIN_SCORE) for key, boxes in found.items()}, from_labeller=False)


def calibrated(evidence: Evidence, labels: Mapping[Key, NamedBoxes]) -> Evidence:
    """Calibrates scores to the probability that such a box is among the labels, by isotonic regression.

    This assumes that most labels are right. Scores of the model that made the labels do not change, since its boxes
    above the threshold are the labels.
    """
    if evidence.from_labeller:
        return evidence
    scores, right = _judged(evidence, labels)
    if len(scores) < MIN_TO_CALIBRATE:
        return evidence
    scale: Calibration = calibrate(scores, right)
    found = {key: replace(boxes, score=scale(boxes.score)) for key, boxes in evidence.found.items()}
    return Evidence(found, from_labeller=False)


def _judged(evidence: Evidence, labels: Mapping[Key, NamedBoxes]) -> tuple[np.ndarray, np.ndarray]:
    """(K,) scores, and whether each box matches a label, over the images that are in both."""
    scores, right = [np.zeros(0)], [np.zeros(0, bool)]
    for key, boxes in evidence.found.items():
        known = labels.get(key, NOTHING)
        for name in set(boxes.name) if key in labels else ():
            of_name = boxes.of(boxes.name == name)
            of_name = of_name.of(np.argsort(-of_name.score, kind="stable"))
            scores.append(of_name.score)
            right.append(correct_boxes(of_name.box, known.box[known.name == name], MATCH_IOU))
    return np.concatenate(scores), np.concatenate(right)


def _names(manifest: Manifest, record: Record) -> Sequence[str]:
    if manifest.label_map is not None:
        return list(manifest.label_map.values())
    return [" ".join(region.phrase) for region in record.regions or ()]


def _named(image: ImageCandidates | None, names: Sequence[str]) -> NamedBoxes:
    if image is None:
        return NOTHING
    kept = image.score >= MIN_SCORE
    return NamedBoxes(
        np.array(names, object)[image.region[kept]], image.box[kept].astype(float), image.score[kept].astype(float)
    )
