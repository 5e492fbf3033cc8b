"""From candidates to labels, by a policy: pure, cheap, and without the model.

Whatever is dropped is counted by reason. The labels stand beside their source, in its order, one line an input line;
beside them a .meta.json says who made them and how.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flows.inference import missing_shards, parse_line
from flows.planning import Manifest, check_source, read_lines, read_manifest
from flows.quarantine import requarantined_line
from flows.reviewing import Key, corrections_for, reviewed_line
from formats.candidates import ImageCandidates, ImageProblem, read_candidates
from formats.files import sha256_of, write_whole
from formats.odvg import record_to_line
from formats.problems import InputError
from formats.record import Instance, Record, Region


@dataclass(frozen=True)
class Policy:
    """Which candidates become labels."""

    score_threshold: float = 0.3  # a label scores more than this
    class_thresholds: dict[str, float] = field(default_factory=dict)  # by category name, instead of the one above
    ignore_from: float | None = None  # boxes between this and the threshold are written with `ignore`; None: no band
    nms_iou: float = 0.5  # of two boxes of one category that overlap more, the better scored stays
    min_size: float = 1.0  # pixels of the shorter side; training would drop smaller boxes anyway
    max_per_image: int = 300

    def __post_init__(self) -> None:
        thresholds = {"score_threshold": self.score_threshold, "nms_iou": self.nms_iou, **self.class_thresholds}
        if self.ignore_from is not None:
            thresholds["ignore_from"] = self.ignore_from
        for name, value in thresholds.items():
            if not 0.0 <= value <= 1.0:
                raise InputError(f"policy.{name}", f"{value} is outside 0..1", "want a fraction")
        highest = max([self.score_threshold, *self.class_thresholds.values()])
        if self.ignore_from is not None and self.ignore_from >= highest:
            raise InputError("policy.ignore_from", f"{self.ignore_from} is no lower than {highest}", "want it lower")
        if not self.min_size >= 0:
            raise InputError("policy.min_size", f"{self.min_size}", "want pixels, 0 or more")
        if self.max_per_image < 1:
            raise InputError("policy.max_per_image", f"{self.max_per_image} is less than one", "want a positive number")

    def threshold(self, category: str) -> float:
        """The score that a label of this category has to exceed."""
        return self.class_thresholds.get(category, self.score_threshold)


class Candidate(NamedTuple):
    """One box of one image. region: index of its category in the prompt, or of its phrase. box: pixels."""

    region: int
    box: tuple[float, float, float, float]
    score: float


class Label(NamedTuple):
    """A candidate that stays. ignore: it fell into the ignore band."""

    candidate: Candidate
    ignore: bool


class FilterResult(NamedTuple):
    """labels: the _v1 file. meta: the file beside it. counts: what meta says under "counts". quarantined: the lines
    that are not labelled."""

    labels: Path
    meta: Path
    counts: dict[str, Any]
    quarantined: tuple[ImageProblem, ...]


def filter_candidates(
    manifest: Manifest | str | Path,
    policy: Policy = Policy(),
    out: str | Path | None = None,
    *,
    reviewed: str | Path | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> FilterResult:
    """Writes the labels of a plan that is labelled whole, and the .meta.json beside them.

    out: default is `X_od_v1.json` beside the source `X_od.json`.
    reviewed: lines that a person corrected, as flows.reviewing has them; they stand in place of the model's.
    provenance: what else the .meta.json tells: which round of a loop this is, and what its model was trained on.
    Raises InputError while shards are missing, and for a threshold of a category that the plan does not know.
    """
    manifest = manifest if isinstance(manifest, Manifest) else read_manifest(manifest)
    out = Path(out) if out is not None else versioned(manifest.source, 1)
    _check(manifest, policy, out)
    tally = _Tally()
    corrections = corrections_for(reviewed, (provenance or {}).get("round"))
    out.parent.mkdir(parents=True, exist_ok=True)
    with write_whole(out) as file:
        for line in _label_lines(manifest, policy, corrections, tally):
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    counts = tally.counts()
    meta = out.with_suffix(".meta.json")
    with write_whole(meta) as file:
        told = _meta(manifest, policy, out, counts, tally.quarantined) | dict(provenance or {})
        json.dump(told, file, indent=2, ensure_ascii=False)
        file.write("\n")
    return FilterResult(out, meta, counts, tuple(tally.quarantined))


def versioned(source: str | Path, version: int) -> Path:
    """X_od.json, 1 -> X_od_v1.json beside it."""
    source = Path(source)
    return source.with_name(f"{source.stem}_v{version}{source.suffix}")


def apply_policy(
    candidates: Sequence[Candidate], names: Sequence[str], policy: Policy, reasons: Counter[str]
) -> list[Label]:
    """The labels among one image's candidates, best first. names: of each candidate's region, its category or phrase.

    Every candidate that goes adds one to its reason: "score", "small", "duplicate" or "over the limit".
    """
    ranked = sorted(candidates, key=lambda candidate: -candidate.score)
    staying = []
    for candidate in ranked:
        if reason := too_weak(candidate, names, policy) or too_small(candidate, policy):
            reasons[reason] += 1
        else:
            staying.append(candidate)
    unique = suppress_duplicates(
        np.array([candidate.box for candidate in staying], dtype=np.float64).reshape(-1, 4),
        np.array([candidate.region for candidate in staying], dtype=np.int64),
        policy.nms_iou,
    )
    reasons["duplicate"] += len(staying) - int(unique.sum())
    kept = [candidate for candidate, stays in zip(staying, unique) if stays]
    reasons["over the limit"] += max(0, len(kept) - policy.max_per_image)
    return [
        Label(candidate, candidate.score <= policy.threshold(names[candidate.region]))
        for candidate in kept[: policy.max_per_image]
    ]


def too_weak(candidate: Candidate, names: Sequence[str], policy: Policy) -> str | None:
    """ "score" where the candidate is below its threshold, and below the ignore band if there is one."""
    threshold = policy.threshold(names[candidate.region])
    if policy.ignore_from is not None:
        threshold = min(threshold, policy.ignore_from)
    return "score" if candidate.score <= threshold else None


def too_small(candidate: Candidate, policy: Policy) -> str | None:
    """ "small" where a side is shorter than min_size."""
    x1, y1, x2, y2 = candidate.box
    return "small" if min(x2 - x1, y2 - y1) < policy.min_size else None


def suppress_duplicates(boxes: np.ndarray, labels: np.ndarray, iou: float) -> np.ndarray:
    """Greedy NMS, class by class: (N, 4) pixels and (N,) labels, best first -> (N,) True for the boxes that stay."""
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    stays = np.ones(len(boxes), dtype=bool)
    for best in range(len(boxes)):
        if not stays[best]:
            continue
        corner, far = np.maximum(boxes[best, :2], boxes[:, :2]), np.minimum(boxes[best, 2:], boxes[:, 2:])
        overlap = np.prod(np.clip(far - corner, 0.0, None), axis=1)
        union = areas[best] + areas - overlap
        duplicates = (overlap > iou * union) & (labels == labels[best])
        duplicates[: best + 1] = False
        stays &= ~duplicates
    return stays


@dataclass
class _Tally:
    """What happened to every line and every candidate."""

    lines: int = 0
    candidates: int = 0
    kept: Counter[str] = field(default_factory=Counter)  # by category or phrase
    ignored: int = 0
    empty: int = 0  # lines that were looked at and have no label
    dropped: Counter[str] = field(default_factory=Counter)  # by reason
    reviewed: int = 0  # lines that a person corrected; their candidates are dropped for this reason
    reviewed_boxes: int = 0
    quarantined: list[ImageProblem] = field(default_factory=list)

    def counts(self, names: int = 1000) -> dict[str, Any]:
        """For .meta.json. names: so many of the most frequent categories or phrases are listed."""
        return {
            "lines": self.lines,
            "lines_without_labels": self.empty,
            "quarantined": len(self.quarantined),
            "candidates": self.candidates,
            "kept": self.kept.total(),
            "ignored": self.ignored,
            "reviewed": self.reviewed,
            "reviewed_boxes": self.reviewed_boxes,
            "dropped": {reason: count for reason, count in sorted(self.dropped.items()) if count},
            "kept_by_name": dict(sorted(self.kept.items(), key=lambda item: (-item[1], item[0]))[:names]),
        }


def _label_lines(
    manifest: Manifest, policy: Policy, corrections: Mapping[Key, Record], tally: _Tally
) -> Iterator[dict[str, Any]]:
    """The lines of the label file, one an input line, a shard in memory at a time."""
    for shard in manifest.shards:
        found = read_candidates(manifest.shard_path(shard.index))
        by_line = {image.line: image for image in found.by_line()}
        problems = {problem.line: problem for problem in found.problems}
        for line in read_lines(manifest.source, shard):
            tally.lines += 1
            if line.number in problems:
                tally.quarantined.append(problems[line.number])
                yield requarantined_line(problems[line.number].reason, line.text)
            else:
                record = parse_line(line, manifest.source)
                candidates = _candidates(by_line.get(line.number))
                if (corrected := corrections.get((record.filename, record.caption))) is None:
                    yield record_to_line(_label(manifest, policy, record, candidates, tally))
                else:
                    _count_corrected(corrected, candidates, tally)
                    yield reviewed_line(corrected)


def _count_corrected(record: Record, candidates: Sequence[Candidate], tally: _Tally) -> None:
    boxes = len(record.instances or ()) + sum(len(region.boxes) for region in record.regions or ())
    tally.reviewed += 1
    tally.reviewed_boxes += boxes
    tally.empty += not boxes
    tally.candidates += len(candidates)
    tally.dropped["reviewed"] += len(candidates)


def _candidates(image: ImageCandidates | None) -> list[Candidate]:
    if image is None:
        return []
    return [Candidate(*row) for row in zip(image.region.tolist(), map(tuple, image.box.tolist()), image.score.tolist())]


def _label(
    manifest: Manifest, policy: Policy, record: Record, candidates: Sequence[Candidate], tally: _Tally
) -> Record:
    names = _names(manifest, record)
    labels = apply_policy(candidates, names, policy, tally.dropped)
    tally.candidates += len(candidates)
    tally.ignored += sum(label.ignore for label in labels)
    tally.empty += not labels
    tally.kept.update(names[label.candidate.region] for label in labels if not label.ignore)
    if manifest.label_map is None:
        return replace(record, instances=None, regions=_regions(record, labels))
    keys = [int(key) for key in manifest.label_map]
    instances = tuple(
        Instance(
            label.candidate.box,
            keys[label.candidate.region],
            names[label.candidate.region],
            score=label.candidate.score,
            ignore=label.ignore,
        )
        for label in labels
    )
    return replace(record, instances=instances, caption=None, regions=None)


def _regions(record: Record, labels: Sequence[Label]) -> tuple[Region, ...]:
    """The phrases that were found, in the caption's order, boxes best first; ignored boxes stand in a region apart."""
    found = []
    for index, region in enumerate(record.regions or ()):
        for ignore in (False, True):
            mine = [label.candidate for label in labels if label.candidate.region == index and label.ignore is ignore]
            if mine:
                boxes = tuple(candidate.box for candidate in mine)
                scores = tuple(candidate.score for candidate in mine)
                found.append(replace(region, boxes=boxes, scores=scores, ignore=ignore))
    return tuple(found)


def _names(manifest: Manifest, record: Record) -> list[str]:
    """Of every label that a candidate of this record can have, the category or phrase."""
    if manifest.label_map is not None:
        return list(manifest.label_map.values())
    return [" ".join(region.phrase) for region in record.regions or ()]


def _check(manifest: Manifest, policy: Policy, out: Path) -> None:
    check_source(manifest)
    if missing := missing_shards(manifest):
        raise InputError(
            manifest.work_dir, f"{len(missing)} of {len(manifest.shards)} shards are not labelled", "run infer again"
        )
    if out.resolve() == Path(manifest.source):
        raise InputError(out, "would overwrite the source of the labels", "want another file")
    if manifest.label_map is not None:
        known = sorted(manifest.label_map.values())
        for name in policy.class_thresholds:
            if name not in known:
                raise InputError("policy.class_thresholds", f"no category {name!r}", f"want one of {known}")


def _meta(
    manifest: Manifest, policy: Policy, out: Path, counts: dict[str, Any], quarantined: Sequence[ImageProblem]
) -> dict[str, Any]:
    """Who made these labels and how. No date and no folder of this machine: equal runs write equal files."""
    categories = None if manifest.label_map is None else list(manifest.label_map.values())
    return {
        "labels": out.name,
        "labels_sha256": sha256_of(out),
        "source": Path(manifest.source).name,
        "source_sha256": manifest.source_sha256,
        "weights": Path(manifest.weights).name,
        "weights_sha256": manifest.weights_sha256,
        "prompt": "the phrases of each caption" if categories is None else categories,
        "score_floor": manifest.score_floor,
        "scale": manifest.entries()["scale"],
        "max_per_image": manifest.max_per_image,
        "chunk_size": manifest.chunk_size,
        "plan": manifest.key,
        "policy": asdict(policy),
        "counts": counts,
        "quarantined": [
            {"line": problem.line + 1, "filename": problem.filename, "reason": problem.reason}
            for problem in quarantined
        ],
        "software": manifest.software,
    }
