"""The report of an audit: precision and recall with intervals, a threshold, and how many more reviews are needed.

Every estimate comes with the number of reviews behind it.
"""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flows.audit import defaults
from flows.audit.estimation import Moments, Share, Strata, moments_of, stratified_interval
from flows.audit.outcomes import Outcome, confused_labels, label_outcomes, labels_by_name, totals
from flows.audit.sample import MIN_REVIEWS, Audit
from flows.audit.sampling import MIN_OF_STRATUM
from flows.audit.thresholds import certified_threshold, threshold_grid
from flows.policies import Policy
from formats.dataset_names import labels_path, metadata_path
from formats.io.errors import InputError
from formats.io.files import load_json, write_json
from formats.io.plurals import many
from formats.io.settings import declared_settings, flag_of
from formats.record import Record
from formats.reviewed import Key, key_of

REPORT_NAME = "report.json"
ENOUGH_IMAGES, ENOUGH_BOXES = 5, 10  # minimum reviewed images and boxes of a category for separate estimates


class Estimate(NamedTuple):
    """An estimated share. value, low, high: 0..1. images, boxes: numbers of reviewed ones behind it."""

    value: float
    low: float
    high: float
    images: int
    boxes: int


@dataclass(frozen=True)
class Quality:
    """Precision and recall of all labels or of a category; None if no box was reviewed.

    more_reviews: "precision" or "recall" -> number of further images to review to reach the requested half width.
    """

    precision: Estimate | None
    recall: Estimate | None
    more_reviews: Mapping[str, int] = field(default_factory=dict)


class Confusion(NamedTuple):
    """label: category of labels. object: category of the reviewer. boxes: how many in the reviewed images."""

    label: str
    object: str
    boxes: int


@dataclass(frozen=True)
class CertifiedThreshold:
    """Labels with a higher score than `score` have at least this precision, with 95 % confidence.

    score: None if no threshold could be shown to reach it. kept: share of the labels above it. reviews: images behind
    it. own_suffices: whether all labels reach it. command: applies the threshold.
    """

    precision: float
    score: float | None
    kept: float
    reviews: int
    own_suffices: bool = False
    command: str = ""


@dataclass(frozen=True)
class AuditReport:
    """The results of an audit.

    reviews: reviewed images that count. drawn: images in the sample. images: those that could be drawn. skipped:
    reviews that do not count, since an earlier image of their stratum is not reviewed. too_few: categories without
    separate estimates -> number of reviewed images with one. half_width: the target of more_reviews. confusions: most
    frequent first.
    """

    labels: str
    iou: float
    reviews: int
    drawn: int
    images: int
    skipped: int
    overall: Quality
    categories: Mapping[str, Quality]
    too_few: Mapping[str, int]
    threshold: CertifiedThreshold | None
    half_width: float
    confusions: tuple[Confusion, ...] = ()

    @property
    def more_reviews(self) -> Mapping[str, int]:
        """Further reviews to reach ± half_width over all labels, for "precision" and "recall"."""
        return self.overall.more_reviews

    def payload(self) -> dict[str, Any]:
        """The report as a dict for JSON."""
        return {
            "labels": self.labels,
            "iou": self.iou,
            "confidence": defaults.CONFIDENCE,
            "reviews": self.reviews,
            "drawn": self.drawn,
            "images": self.images,
            **_payload_of(self.overall),
            "categories": {name: _payload_of(each) for name, each in self.categories.items()},
            "categories_with_too_few_reviews": dict(self.too_few),
            "threshold": None if self.threshold is None else vars(self.threshold),
            "half_width": self.half_width,
            "confusions": [each._asdict() for each in self.confusions],
        }


@dataclass(frozen=True, eq=False)
class _Sample:
    """outcomes: by category, for each reviewed image. label_count, score_sum: by category, over all images; score_sum
    only for categories whose labels all have a score. scores: of all labels; empty unless all have one.
    """

    outcomes: Sequence[Mapping[str, Outcome]]
    known: Sequence[Mapping[str, tuple[int, float]]]  # category -> labels and their summed score, per reviewed image
    strata: Strata
    label_count: Mapping[str, int]
    score_sum: Mapping[str, float]
    scores: np.ndarray


def report_audit(
    audit: Audit,
    iou: float = defaults.IOU,
    precision: float = defaults.PRECISION,
    half_width: float = defaults.HALF_WIDTH,
    work_dir: str = "",
) -> AuditReport:
    """The report on the reviews so far. precision: find a threshold for it. half_width: plan further reviews for it.

    work_dir: of the candidates, for the printed command. Raises InputError with fewer than MIN_REVIEWS reviews.
    """
    truth = audit.truth()
    images, strata, skipped = audit.sample(truth)
    if len(images) < min(MIN_REVIEWS, len(audit.records)):
        uncounted = f", not counting {skipped} after a skipped image" if skipped else ""
        what = f"{len(images)} of {audit.settings.drawn} sampled images are reviewed{uncounted}"
        wanted = min(MIN_REVIEWS, len(audit.records))
        raise InputError(audit.reviewed, what, f"expected at least {wanted}, reviewed in the order of the page")
    _check_every_stratum(audit, strata, truth)
    reviewed = [(audit.records[image], truth[key_of(audit.records[image])]) for image in images]
    per_image = [label_outcomes(labels, objects, iou) for labels, objects in reviewed]
    sample = _sample_of(audit.records, [labels for labels, _ in reviewed], per_image, strata)

    def quality(moments: _Moments, name: str | None = None) -> Quality:
        return _quality(moments, sample, _Reviews(audit, strata, half_width), name)

    names = _by_objects(per_image)
    by_name = {name: _moments(sample, name) for name in names} if len(names) > 1 else {}
    return AuditReport(
        audit.labels.name,
        iou,
        len(images),
        audit.settings.drawn,
        len(audit.records),
        skipped,
        quality(_moments(sample)),
        {name: quality(moments, name) for name, moments in by_name.items() if _enough(moments, sample, name)},
        {name: _images(per_image, name) for name, moments in by_name.items() if not _enough(moments, sample, name)},
        _threshold(audit, sample, precision, work_dir),
        half_width,
        _confusions(reviewed, iou),
    )


def _check_every_stratum(audit: Audit, strata: Strata, truth: Mapping[Key, Record]) -> None:
    """Raises InputError if a stratum has too few reviews because its first images were skipped.

    A stratum with fewer than two reviews would be missing in every estimate, or have no variance.
    """
    unknown = np.flatnonzero(strata.taken < np.minimum(strata.sizes, MIN_OF_STRATUM))
    if not len(unknown):
        return
    drawn = [image for image in audit.drawn if audit.design.stratum[image] in unknown]
    skipped = [audit.records[image].filename for image in drawn if key_of(audit.records[image]) not in truth]
    first = list(dict.fromkeys(skipped))[: MIN_OF_STRATUM * len(unknown)]
    like = many(int(strata.sizes[unknown].sum()), "image")
    what = f"the estimates for {like} depend on images that were skipped"
    raise InputError(audit.reviewed, what, f"review {', '.join(first)} first")


def _images(per_image: Sequence[Mapping[str, Outcome]], name: str) -> int:
    """The number of images with a label or an object of the category."""
    return sum(name in outcomes for outcomes in per_image)


def _confusions(reviewed: Sequence[tuple[Record, Record]], iou: float) -> tuple[Confusion, ...]:
    counts: Counter[tuple[str, str]] = Counter()
    for labels, objects in reviewed:
        counts.update(confused_labels(labels, objects, iou))
    return tuple(
        Confusion(*pair, count) for pair, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    )


def write_audit_report(audit: Audit, report: AuditReport) -> Path:
    """Writes report.json into the audit's folder, and adds it as "audit" to the labels' .meta.json if there is one."""
    path = audit.folder / REPORT_NAME
    write_json(path, report.payload(), ensure_ascii=False)
    meta = metadata_path(audit.labels)
    if meta.is_file():
        metadata = load_json(meta, "remove it, or filter again")
        write_json(meta, metadata | {"audit": report.payload()}, ensure_ascii=False)
    return path


def _payload_of(quality: Quality) -> dict[str, Any]:
    return {
        kind: None if interval is None else interval._asdict()
        for kind, interval in (("precision", quality.precision), ("recall", quality.recall))
    } | {"more_reviews": dict(quality.more_reviews)}


def _sample_of(
    records: Sequence[Record], reviewed: Sequence[Record], outcomes: Sequence[Mapping[str, Outcome]], strata: Strata
) -> _Sample:
    counts: dict[str, int] = {}
    sums: dict[str, float] = {}
    scores: list[float] = []
    for record in records:
        for name, (count, total) in _label_sums(record).items():
            counts[name], sums[name] = counts.get(name, 0) + count, sums.get(name, 0.0) + total
            scores += [each.score for each in labels_by_name(record)[name] if each.score is not None]
    known = {name: total for name, total in sums.items() if np.isfinite(total)}
    every = np.array(scores if len(scores) == sum(counts.values()) else [])
    return _Sample(outcomes, [_label_sums(each) for each in reviewed], strata, counts, known, every)


def _label_sums(record: Record) -> dict[str, tuple[int, float]]:
    """Category -> (number of labels, sum of their scores, or NaN if one has no score)."""
    return {
        name: (len(labels), sum(np.nan if each.score is None else each.score for each in labels))
        for name, labels in labels_by_name(record).items()
    }


_Moments = tuple[Moments | None, Moments | None]  # for precision and recall


class _Reviews(NamedTuple):
    """What an interval depends on besides the moments."""

    audit: Audit
    strata: Strata
    half_width: float


def _moments(sample: _Sample, name: str | None = None) -> _Moments:
    """The moments for precision and recall; None without any box. name: of a category; None for all."""
    chosen = [_chosen(outcomes, name) for outcomes in sample.outcomes]
    hits, labels, objects = np.array([totals(each) for each in chosen], float).reshape(-1, 3).T
    control = _control(sample, name)
    found = (moments_of(hits, boxes, sample.strata, control) if boxes.any() else None for boxes in (labels, objects))
    precision, recall = found
    return precision, recall


def _chosen(outcomes: Mapping[str, Outcome], name: str | None) -> Mapping[str, Outcome]:
    return outcomes if name is None else {key: each for key, each in outcomes.items() if key == name}


def _control(sample: _Sample, name: str | None) -> np.ndarray | None:
    """(n,) the control variate: the summed scores of an image's labels, minus their number times the mean score.

    It sums to zero over all images. None if labels have no scores.
    """
    wanted = list(sample.label_count) if name is None else [name]
    if not wanted or not all(each in sample.score_sum for each in wanted):
        return None
    mean = sum(sample.score_sum[each] for each in wanted) / sum(sample.label_count[each] for each in wanted)
    rows = [[known[each] for each in wanted if each in known] for known in sample.known]
    return np.array([sum(total - mean * count for count, total in row) for row in rows])


def _enough(moments: _Moments, sample: _Sample, name: str) -> bool:
    boxes = _boxes(sample, name)
    return any(
        each is not None and each.images >= ENOUGH_IMAGES and count >= ENOUGH_BOXES
        for each, count in zip(moments, boxes)
    )


def _boxes(sample: _Sample, name: str | None) -> tuple[int, int]:
    """The numbers of reviewed labels and objects."""
    chosen = [totals(_chosen(outcomes, name)) for outcomes in sample.outcomes]
    return sum(each[1] for each in chosen), sum(each[2] for each in chosen)


def _quality(moments: _Moments, sample: _Sample, reviews: _Reviews, name: str | None = None) -> Quality:
    sizes, taken = reviews.strata.sizes, reviews.strata.taken
    precision, recall = (
        None if each is None else _estimate(stratified_interval(each, sizes, taken, defaults.CONFIDENCE), count)
        for each, count in zip(moments, _boxes(sample, name))
    )
    more = {
        kind: _more_reviews(each, *reviews) for kind, each in zip(("precision", "recall"), moments) if each is not None
    }
    return Quality(precision, recall, more)


def _estimate(share: Share, boxes: int) -> Estimate:
    return Estimate(float(share.value), float(share.low), float(share.high), int(share.images), boxes)


def _more_reviews(moments: Moments, audit: Audit, strata: Strata, half_width: float) -> int:
    """The number of further reviews to reach the half width, if those images resemble the reviewed ones; may be 0."""
    now, order = len(strata.stratum), audit.design.stratum[audit.design.order]
    low, high = now, len(order)
    while low < high:
        middle = (low + high) // 2
        taken = np.maximum(np.bincount(order[:middle], minlength=len(strata.sizes)), strata.taken)
        share = stratified_interval(moments, strata.sizes, taken, defaults.CONFIDENCE, growth=middle / now)
        low, high = (low, middle) if (share.high - share.low) / 2 <= half_width else (middle + 1, high)
    return low - now


def _threshold(audit: Audit, sample: _Sample, precision: float, work_dir: str) -> CertifiedThreshold | None:
    """The certified threshold; None if labels have no scores."""
    if not len(sample.scores):
        return None
    grid = threshold_grid(sample.scores)
    scores = [np.concatenate([each.score for each in image.values()] or [np.zeros(0)]) for image in sample.outcomes]
    right = [
        np.concatenate([each.right for each in image.values()] or [np.zeros(0, bool)]) for image in sample.outcomes
    ]
    labels = np.array([(of_image[:, None] > grid).sum(0) for of_image in scores])
    hits = np.array([(of_image[ok][:, None] > grid).sum(0) for of_image, ok in zip(scores, right)])
    position = certified_threshold(hits, labels, sample.strata, precision)
    if position is None:
        return CertifiedThreshold(precision, None, 0.0, len(sample.outcomes))
    score, kept = float(grid[position]), float((sample.scores > grid[position]).mean())
    command = _filter_command(audit, score, work_dir)
    return CertifiedThreshold(precision, score, kept, len(sample.outcomes), kept == 1.0, command)


def _filter_command(audit: Audit, score: float, work_dir: str) -> str:
    metadata = load_json(meta, "filter again") if (meta := metadata_path(audit.labels)).is_file() else {}
    if not work_dir and "folder" in metadata:
        work_dir = os.path.normpath(audit.labels.parent / metadata["folder"])
    policy = metadata.get("policy", {})
    thresholds = {**metadata.get("thresholds_found", {}), **policy.get("class_thresholds", {})}
    words = ["groundhog", "filter", work_dir or "WORK_DIR", "--score-threshold", f"{score:g}"]
    for name, value in sorted(thresholds.items()):
        words += ["--class-threshold", f"{name}={value:g}"] if value > score else []
    words += [word for _ in metadata.get("views", ()) for word in ("--view", "WORK_DIR_OF_VIEW")]
    return shlex.join([*words, *_other_options(policy), *_output_option(audit, metadata)])


def _other_options(policy: Mapping[str, Any]) -> list[str]:
    """Options for the rest of the policy that made the labels; without them, filter would keep unaudited boxes."""
    words: list[str] = []
    for each in declared_settings(Policy):
        value = policy.get(each.name, each.default)
        if each.name != "score_threshold" and value not in (None, each.default):
            words += [flag_of(each)] if value is True else [flag_of(each), f"{value:g}"]
    if policy.get("distractors"):
        words += ["--distractors", ",".join(policy["distractors"])]
    return words


def _output_option(audit: Audit, metadata: Mapping[str, Any]) -> list[str]:
    """The option -o, if filter would by default write to another file than the audited one."""
    source = metadata.get("source")
    usual = source is None or labels_path(source, 1).name == audit.labels.name
    return [] if usual else ["-o", str(audit.labels)]


def _by_objects(per_image: Sequence[Mapping[str, Outcome]]) -> list[str]:
    """The categories in the reviewed images, those with the most objects first."""
    counts: dict[str, int] = {}
    for outcomes in per_image:
        for name, each in outcomes.items():
            counts[name] = counts.get(name, 0) + each.objects
    return sorted(counts, key=lambda name: (-counts[name], name))
