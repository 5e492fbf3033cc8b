"""Finds labels that are probably wrong by comparing them with the boxes of a model, as in ObjectLab (Tkachenko et al.,
arXiv 2309.00832), with additional kinds: duplicate boxes, nested boxes, boxes without an object, too many boxes.

Shapes are for one image: L labels, K boxes of the model. A suspicion is 0..1; different kinds are comparable to the
extent that the model's scores are probabilities (flows.audit.evidence.calibrated).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np

from flows.audit.evidence import NOTHING, Evidence, NamedBoxes, calibrated, named_boxes_of
from formats.boxes import MATCH_IOU, pairwise_iou
from formats.dataset_names import metadata_path
from formats.io.errors import InputError
from formats.io.files import load_json, write_json, write_whole
from formats.io.plurals import many
from formats.record import Box, Record
from formats.reviewed import Key, key_of

Kind = Literal["overlooked", "badly placed", "wrong category", "nothing there", "doubled", "sliver", "too many"]
KINDS: tuple[Kind, ...] = get_args(Kind)

TOUCHES = 0.1  # minimum IoU of a label with a box of the model that may be the same object, badly placed
DOUBLED_FROM, DOUBLED_AT = 0.4, 0.8  # IoU of two labels of a category with suspicion 0 and 1, linear in between
INSIDE = 0.9  # share of a sliver's area that is inside another label of its category
NOTHING_WEIGHT = 0.6  # below 1, since models miss objects more often than they place boxes wrongly
OTHER_WEIGHT = 0.7  # below 1, since either the model or the label may have the wrong category
SLIVER_WEIGHT = 0.6  # below 1, since small objects in front of larger ones of their category also look like this
MIN_SUSPICION = 0.1
USUAL_SHARE = 0.98  # share of the images with a category that have at most its usual number of boxes
MIN_FOR_USUAL = 30  # images with a category; with fewer, no usual number is determined
UNUSUAL_WEIGHT = 0.5  # below 1, since many boxes need not be an error
LIKELY = 0.5  # minimum suspicion for the summary


class Suspect(NamedTuple):
    """A label that is probably wrong, or an object without a label.

    category, box: of the label; for an overlooked object, of the box that the model found. found: for a doubtful
    category, the category that the model found there.
    """

    suspicion: float
    kind: Kind
    filename: str
    caption: str | None
    category: str
    box: Box
    reason: str
    found: str = ""


@dataclass(frozen=True)
class SuspectRules:
    """max_count: category -> maximum number of boxes per image; by default the usual number. kinds: to search for."""

    max_count: Mapping[str, int] = field(default_factory=dict)
    kinds: tuple[Kind, ...] = KINDS

    def __post_init__(self) -> None:
        for name, count in self.max_count.items():
            if count < 0:
                raise InputError("--max-count", f"{name}={count}", "expected 0 or more")


class UsualCount(NamedTuple):
    """maximum: number of boxes that few images exceed. images: those with the category, from which it was computed."""

    maximum: int
    images: int


def usual_counts(labels: Iterable[NamedBoxes]) -> dict[str, UsualCount]:
    """The usual maximum number of boxes per image, for each frequent category.

    It is the count that USUAL_SHARE of the images with the category do not exceed, or three robust standard deviations
    above the median if that is more. These are computed on square roots, which stabilise the variance of counts
    (Anscombe, Biometrika 35, 1948).
    """
    counts: dict[str, list[int]] = {}
    for boxes in labels:
        for name, count in Counter(boxes.name).items():
            counts.setdefault(name, []).append(count)
    return {name: UsualCount(_usual(seen), len(seen)) for name, seen in counts.items() if len(seen) >= MIN_FOR_USUAL}


def _usual(counts: Sequence[int]) -> int:
    roots = np.sqrt(counts)
    median = np.median(roots)
    spread = 1.4826 * np.median(np.abs(roots - median))  # the standard deviation, for a normal distribution
    return max(int(np.quantile(counts, USUAL_SHARE, method="higher")), int((median + 3 * spread) ** 2))


class RankedImage(NamedTuple):
    """suspicion: that anything is wrong in the image. suspects: in it, most suspicious first."""

    suspicion: float
    suspects: tuple[Suspect, ...]


def find_suspects(records: Sequence[Record], evidence: Evidence, rules: SuspectRules | None = None) -> list[Suspect]:
    """The boxes that are probably wrong or missing, most suspicious first.

    In images without evidence, only duplicates, slivers and unusual counts can be found.
    """
    rules = rules or SuspectRules()
    labels = {key_of(record): named_boxes_of(record) for record in records}
    scaled, usual = calibrated(evidence, labels), usual_counts(labels.values())
    found = [
        suspect
        for record in records
        for suspect in _of_image(record, labels[key_of(record)], scaled.found.get(key_of(record)), rules, usual)
        if suspect.suspicion >= MIN_SUSPICION and suspect.kind in rules.kinds
    ]
    return sorted(_once_each(found), key=lambda each: (-each.suspicion, each.filename, each.box))


def rank_images(suspects: Sequence[Suspect]) -> list[RankedImage]:
    """Images with suspects, ranked by the probability that at least one suspicion is right, assuming independence."""
    by_image: dict[Key, list[Suspect]] = {}
    for each in suspects:
        by_image.setdefault((each.filename, each.caption), []).append(each)
    ranked = [
        RankedImage(1 - float(np.prod([1 - min(each.suspicion, 0.999) for each in listed])), tuple(listed))
        for listed in by_image.values()
    ]
    return sorted(ranked, key=lambda image: (-image.suspicion, image.suspects[0].filename))


def write_review_order(path: Path, ranked: Sequence[RankedImage], reasons: int = 3) -> None:
    """Writes the images for `groundhog browse serve --order`, one per line, with the strongest reasons."""
    with write_whole(path) as stream:
        for image in ranked:
            first = image.suspects[0]
            line = {"filename": first.filename, **({} if first.caption is None else {"caption": first.caption})}
            line["reason"] = "; ".join(each.reason for each in image.suspects[:reasons])
            stream.write(json.dumps(line, ensure_ascii=False) + "\n")


def write_suspects_summary(labels: Path, suspects: Sequence[Suspect], against: str, images: int) -> None:
    """Adds a summary of suspects to the labels' .meta.json, if there is one: counts by kind, and confused categories.

    against: what the labels were compared with. images: how many images were compared.
    """
    meta = metadata_path(labels)
    if not meta.is_file():
        return
    likely = [each for each in suspects if each.suspicion >= LIKELY]
    kinds = Counter(each.kind for each in likely)
    pairs = Counter((each.category, each.found) for each in likely if each.found)
    ranked = sorted(pairs.items(), key=lambda item: (-item[1], item[0]))
    summary = {
        "against": against,
        "images": images,
        "min_suspicion": LIKELY,
        "kinds": {kind: kinds[kind] for kind in KINDS if kinds[kind]},
        "confusions": [{"label": label, "found": found, "boxes": count} for (label, found), count in ranked],
    }
    metadata = load_json(meta, "remove it, or filter again")
    write_json(meta, metadata | {"suspects": summary}, ensure_ascii=False)


def _once_each(suspects: Sequence[Suspect]) -> list[Suspect]:
    """Lists each box only once, with its most suspicious kind."""
    best: dict[tuple, Suspect] = {}
    for each in suspects:
        key = (each.filename, each.caption, each.category, each.box)
        if key not in best or best[key].suspicion < each.suspicion:
            best[key] = each
    return list(best.values())


def _of_image(
    record: Record, labels: NamedBoxes, found: NamedBoxes | None, rules: SuspectRules, usual: Mapping[str, UsualCount]
) -> Iterator[Suspect]:
    view = _Image(record, labels, found)
    yield from _doubled(view)
    yield from _slivers(view)
    yield from _too_many(view, rules, usual)
    if found is not None:
        yield from _overlooked(view, found)
        yield from _against_found(view, found)


class _Image:
    """The labels of an image, the boxes of the model, and their overlaps."""

    def __init__(self, record: Record, labels: NamedBoxes, found: NamedBoxes | None) -> None:
        self.record, self.labels = record, labels
        self.among = pairwise_iou(labels.box, labels.box)
        self.same = labels.name[:, None] == labels.name[None, :]
        other = NOTHING if found is None else found
        self.iou = pairwise_iou(labels.box, other.box)  # (L, K)
        self.same_found = labels.name[:, None] == other.name[None, :]
        self.support = _best(self.same_found * (self.iou >= MATCH_IOU) * other.score)

    def suspect(
        self, suspicion: float, kind: Kind, boxes: NamedBoxes, row: int, words: str, found: str = ""
    ) -> Suspect:
        box = tuple(round(float(side), 2) for side in boxes.box[row])
        record, name = self.record, str(boxes.name[row])
        reason = f"{kind}: {name}{words}"
        return Suspect(float(suspicion), kind, record.filename, record.caption, name, box, reason, found)  # type: ignore[arg-type]


def _best(values: np.ndarray) -> np.ndarray:
    """(L, K) -> (L,) the maximum of each row; 0 if K is 0."""
    return values.max(1) if values.shape[1] else np.zeros(len(values))


def _trust(view: _Image) -> np.ndarray:
    """(L,) the trust in each label: the score of the model's box there, or the label's own score if that is higher."""
    return np.maximum(view.support, np.nan_to_num(view.labels.score))


def _doubled(view: _Image) -> Iterator[Suspect]:
    """The less trusted of two labels of the same category on one object."""
    trust = _trust(view)
    for first, second in zip(*np.nonzero(np.triu(view.same & (view.among > DOUBLED_FROM), 1))):
        weaker = second if trust[second] <= trust[first] else first
        overlap = view.among[first, second]
        suspicion = min(1.0, (overlap - DOUBLED_FROM) / (DOUBLED_AT - DOUBLED_FROM))
        yield view.suspect(suspicion, "doubled", view.labels, int(weaker), f", IoU {overlap:.2f} with another")


def _slivers(view: _Image) -> Iterator[Suspect]:
    """A label inside another of its category, such as on a part of the object, with little support."""
    box = view.labels.box
    sides = np.minimum(box[:, None, 2:], box[None, :, 2:]) - np.maximum(box[:, None, :2], box[None, :, :2])
    area = (box[:, 2:] - box[:, :2]).prod(1)
    inside = np.clip(sides, 0, None).prod(-1) / np.maximum(area[:, None], 1e-9)
    nested = view.same & (inside >= INSIDE) & (view.among <= DOUBLED_FROM) & (area[:, None] < area[None, :])
    trust = _trust(view)
    for row in np.flatnonzero(nested.any(1)):
        suspicion = SLIVER_WEIGHT * (1 - trust[row]) * inside[row][nested[row]].max()
        yield view.suspect(suspicion, "sliver", view.labels, int(row), ", inside another")


def _too_many(view: _Image, rules: SuspectRules, usual: Mapping[str, UsualCount]) -> Iterator[Suspect]:
    """The least trusted labels in excess of the allowed or usual number."""
    trust = _trust(view)
    for name, count in Counter(view.labels.name).items():
        rows = np.flatnonzero(view.labels.name == name)
        rows = rows[np.argsort(trust[rows], kind="stable")]
        if name in rules.max_count:
            allowed = rules.max_count[name]
            for row in rows[: max(0, count - allowed)]:
                yield view.suspect(1.0, "too many", view.labels, int(row), f", {count} in the image, {allowed} allowed")
        elif name in usual:
            maximum, images = usual[name]
            words = f", {count} in the image; usual in {many(images, 'image')} are at most {maximum}"
            for row in rows[: max(0, count - maximum)]:
                yield view.suspect(UNUSUAL_WEIGHT * (1 - trust[row]), "too many", view.labels, int(row), words)


def _overlooked(view: _Image, found: NamedBoxes) -> Iterator[Suspect]:
    """Boxes of the model without a label; the best one of each object."""
    covered = (view.iou * view.same_found).max(0) if len(view.labels) else np.zeros(len(found))
    renamed = view.iou.max(0) if len(view.labels) else np.zeros(len(found))
    taken: list[int] = []
    for row in np.argsort(-found.score, kind="stable"):
        near = pairwise_iou(found.box[[row]], found.box[taken])[0] if taken else np.zeros(0)
        if renamed[row] >= MATCH_IOU or (near >= MATCH_IOU).any():
            continue
        taken.append(int(row))
        suspicion = found.score[row] * (1 - covered[row] / MATCH_IOU)
        yield view.suspect(
            suspicion, "overlooked", found, int(row), f" found with {found.score[row]:.2f}, not labelled"
        )


def _against_found(view: _Image, found: NamedBoxes) -> Iterator[Suspect]:
    """Labels that the model contradicts: it found another position, another category, or nothing."""
    same, other = view.same_found * found.score, ~view.same_found * found.score
    for row in range(len(view.labels)):
        overlap = view.iou[row]
        renamed = OTHER_WEIGHT * other[row] * (overlap >= MATCH_IOU) * (1 - view.support[row])
        # A box of the model that overlaps another label of the category more belongs to that one.
        rest = np.delete(view.iou * view.same_found, row, axis=0)
        free = overlap >= (rest.max(0) if len(rest) else 0.0)
        placed = same[row] * free * (overlap >= TOUCHES) * (1 - overlap) * (view.support[row] == 0)
        if len(found) and renamed.max() > 0:
            best = int(renamed.argmax())
            words = f", {found.name[best]} found there with {found.score[best]:.2f}"
            name = str(found.name[best])
            yield view.suspect(renamed[best], "wrong category", view.labels, row, words, name)
        if len(found) and placed.max() > 0:
            best = int(placed.argmax())
            words = f", found with {found.score[best]:.2f} at IoU {overlap[best]:.2f}"
            yield view.suspect(placed[best], "badly placed", view.labels, row, words)
        anything = float((found.score * np.minimum(1.0, overlap / MATCH_IOU)).max()) if len(found) else 0.0
        doubt = NOTHING_WEIGHT * (1 - max(anything, np.nan_to_num(view.labels.score[row]) / 2))
        yield view.suspect(doubt, "nothing there", view.labels, row, ", nothing found there")
