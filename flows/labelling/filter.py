"""Turns candidates into labels by a policy: deterministic, fast, and without the model.

Dropped candidates are counted by reason. The labels are written beside their source, in the same order, with a
.meta.json that records how they were made.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from flows.labelling.adaptive import adaptive_thresholds, reviewed_truth
from flows.labelling.candidate_lines import decide, lines_with_candidates, names_of_regions
from flows.labelling.corrections import check_corrections
from flows.labelling.manifest import Manifest, PlanOrPath, as_manifest, check_source
from flows.labelling.settings import settings_payload
from flows.labelling.shards import missing_shards, share_warning, unusable_error
from flows.policies.apply import Candidate, Label, Reasons
from flows.policies.policy import Policy, TargetPrecision
from formats.candidates import ImageProblem
from formats.dataset_names import labels_path, metadata_path
from formats.io.errors import InputError, expected_one_of
from formats.io.files import load_json, sha256_of, write_json, write_whole
from formats.io.notebook import html_table
from formats.io.plurals import many
from formats.io.storage import absolute, as_path
from formats.label_map import warn_of_names
from formats.odvg import record_to_line
from formats.overwrite import contains_labels
from formats.quarantine import requarantined_line
from formats.record import Instance, Record, Region
from formats.reviewed import Key, corrections_for, reviewed_line

logger = logging.getLogger(__name__)

DEFAULT_POLICY = Policy()
MADE_BY = ("plan", "policy", "thresholds_found")  # labels for which these are equal differ only by corrections


class FilterResult(NamedTuple):
    """labels: the _v1 file. meta: its .meta.json. counts: "counts" in meta. quarantined: the unlabelled lines."""

    labels: Path
    meta: Path
    counts: dict[str, Any]
    quarantined: tuple[ImageProblem, ...]

    def _repr_html_(self) -> str:
        dropped = [(f"dropped: {reason}", count) for reason, count in self.counts["dropped"].items()]
        rows = [("images", self.counts["lines"]), ("boxes", self.counts["kept"]), *dropped]
        return html_table(str(self.labels), (), rows)


def filter_candidates(
    manifest: PlanOrPath,
    policy: Policy = DEFAULT_POLICY,
    out: str | Path | None = None,
    *,
    views: Sequence[PlanOrPath] = (),
    reviewed: str | Path | None = None,
    provenance: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> FilterResult:
    """Writes the labels of a completely labelled plan, and their .meta.json.

    out: by default `X_od_v1.json` beside the source `X_od.json`.
    views: plans for the same images, model and prompt at another scale or mirrored, whose boxes are merged with those
    of the plan.
    reviewed: file of corrections (formats.reviewed), which replace the model's lines.
    provenance: further entries for the .meta.json: the round of a loop, and what its model was trained on.
    overwrite: replace labels of another plan or of unknown origin.
    Raises InputError if shards are missing, for a view that does not belong to the plan, and for a category that is not
    in the plan.
    """
    manifest, *others = map(as_manifest, (manifest, *views))
    out = as_path(out) if out is not None else labels_path(manifest.source, 1)
    check_plans(manifest, others, policy)
    if absolute(out) == absolute(manifest.source):
        raise InputError(out, "would overwrite the source of the labels", "expected another file")
    if not overwrite:
        refuse_other_labels(manifest, out, provenance or {})
    if manifest.label_map is not None and policy.cross_class_iou is None:
        warn_of_names({int(label): name for label, name in manifest.label_map.items()}, manifest.path)
    plans = (manifest, *others)
    tally = _Tally()
    corrections, found = prepare_filter(plans, policy, reviewed, provenance)
    settled = policy.with_thresholds(found)
    digest = hashlib.sha256()
    with write_whole(out) as file:
        for line in _label_lines(plans, settled, corrections, tally):
            text = json.dumps(line, ensure_ascii=False) + "\n"
            digest.update(text.encode())
            file.write(text)
        if tally.lines and len(tally.quarantined) == tally.lines:
            raise unusable_error(manifest.source, tally.quarantined)
        if not overwrite:
            _refuse_edited_labels(out, digest.hexdigest())
    if warning := share_warning(len(tally.quarantined), tally.lines):
        logger.warning("%s", warning)
    counts = tally.counts()
    meta = metadata_path(out)
    payload = _meta(plans, policy, found, out, counts, tally.quarantined) | dict(provenance or {})
    write_json(meta, payload | _kept_audit(meta, payload), ensure_ascii=False)
    return FilterResult(out, meta, counts, tuple(tally.quarantined))


def prepare_filter(
    plans: Sequence[Manifest], policy: Policy, reviewed: str | Path | None, provenance: Mapping[str, Any] | None
) -> tuple[Mapping[Key, Record], dict[str, float]]:
    """The corrected lines, and category -> threshold as found by an adaptive policy."""
    number = (provenance or {}).get("round")
    check = partial(check_corrections, plans[0])
    corrections = corrections_for(reviewed, number, check)
    if reviewed is not None and not corrections and provenance is None:
        raise InputError(reviewed, "contains no line", "expected ODVG lines corrected by a person")
    return corrections, adaptive_thresholds(plans, policy, reviewed_truth(policy, corrections, number, check))


@dataclass
class _Tally:
    """Counts of what happened to lines and candidates."""

    lines: int = 0
    candidates: int = 0
    kept: Counter[str] = field(default_factory=Counter)  # by category or phrase
    ignored: int = 0
    empty: int = 0  # labelled lines without a box
    dropped: Reasons = field(default_factory=Reasons)
    reviewed: int = 0  # lines corrected by a person, whose candidates are dropped for this reason
    reviewed_boxes: int = 0
    quarantined: list[ImageProblem] = field(default_factory=list)

    def counts(self, names: int = 1000) -> dict[str, Any]:
        """The counts for .meta.json. names: maximum number of categories or phrases to list, most frequent first."""
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
    views: Sequence[Manifest], policy: Policy, corrections: Mapping[Key, Record], tally: _Tally
) -> Iterator[dict[str, Any]]:
    """Yields the lines of the label file, one per line of the source."""
    for line in lines_with_candidates(views):
        tally.lines += 1
        if line.problem is not None:
            tally.quarantined.append(line.problem)
            yield requarantined_line(line.problem.reason, line.text)
            continue
        assert line.record is not None
        tally.candidates += sum(map(len, line.views))
        if (corrected := corrections.get((line.record.filename, line.record.caption))) is None:
            yield record_to_line(_label(views[0], policy, line.record, line.views, tally))
        else:
            _count_corrected(corrected, sum(map(len, line.views)), tally)
            yield reviewed_line(corrected)


def _count_corrected(record: Record, candidates: int, tally: _Tally) -> None:
    boxes = len(record.instances or ()) + sum(len(region.boxes) for region in record.regions or ())
    tally.reviewed += 1
    tally.reviewed_boxes += boxes
    tally.empty += not boxes
    tally.dropped["reviewed"] += candidates


def _label(
    manifest: Manifest, policy: Policy, record: Record, views: Sequence[Sequence[Candidate]], tally: _Tally
) -> Record:
    names = names_of_regions(manifest, record)
    labels = decide(views, names, policy, tally.dropped)
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
            weight=label.weight,
            ignore=label.ignore,
        )
        for label in labels
    )
    return replace(record, instances=instances, caption=None, regions=None)


def _regions(record: Record, labels: Sequence[Label]) -> tuple[Region, ...]:
    """The detected phrases in the order of the caption, boxes best first; ignored boxes become separate regions."""
    found = []
    for index, region in enumerate(record.regions or ()):
        for ignore in (False, True):
            of_region = [label for label in labels if label.candidate.region == index and label.ignore is ignore]
            if of_region:
                boxes = tuple(label.candidate.box for label in of_region)
                scores = tuple(label.candidate.score for label in of_region)
                weight = sum(label.weight for label in of_region) / len(of_region)  # one weight for all boxes
                found.append(replace(region, boxes=boxes, scores=scores, weight=weight, ignore=ignore))
    return tuple(found)


def refuse_other_labels(manifest: Manifest, out: Path, provenance: Mapping[str, Any]) -> None:
    """Raises InputError if `out` has other labels than those of this plan, or of this round of a loop."""
    remedy = "expected another file for these labels, or overwrite=True"
    meta = metadata_path(out)
    if not out.is_file():
        return
    if not meta.is_file():
        if not provenance and contains_labels(out):  # a loop may have been killed before it wrote the second file
            raise InputError(out, "contains labels, but no .meta.json beside it shows that this plan made them", remedy)
        return
    made_by = load_json(meta, remedy)
    if not isinstance(made_by, dict) or made_by.get("plan") != manifest.key:
        same_round = isinstance(made_by, dict) and made_by.get("folder", ()) == provenance.get("folder")
        if not same_round:
            raise InputError(out, f"contains the labels of another plan, according to {meta.name}", remedy)


def _refuse_edited_labels(out: Path, new_sha256: str) -> None:
    """Raises InputError if a person has changed the labels since they were written.

    Labels that equal the new ones are accepted: filter may have been killed before it wrote the .meta.json.
    """
    meta = metadata_path(out)
    if not out.is_file() or not meta.is_file():
        return
    recorded, there = load_json(meta, "remove it").get("labels_sha256"), sha256_of(out)
    if recorded not in (None, there) and there != new_sha256:
        remedy = f"pass the corrections as reviewed, keep a copy and use overwrite=True, or move {out.name} away"
        raise InputError(out, f"was edited since it was written, according to {meta.name}", remedy)


def check_plans(manifest: Manifest, views: Sequence[Manifest], policy: Policy) -> None:
    """Raises InputError if shards are missing, for a view of another plan, and for unknown categories."""
    check_source(manifest)
    for plan in (manifest, *views):
        if missing := missing_shards(plan):
            raise InputError(
                plan.work_dir,
                f"has no candidates for {len(missing)} of {many(len(plan.shards), 'shard')}",
                "run infer again",
            )
    for view in views:
        for name in ("source_sha256", "weights_sha256", "label_map", "shards"):
            if getattr(view, name) != getattr(manifest, name):
                raise InputError(
                    view.work_dir, f"has a different {name} than the plan", "expected views of the same plan"
                )
    if manifest.label_map is not None:
        check_policy_names(manifest.label_map.values(), policy)


def check_policy_names(prompt: Iterable[str], policy: Policy) -> None:
    """Raises InputError if the policy has a setting for a category that is not in the prompt, or drops all of them."""
    known = sorted(prompt)
    for setting in ("class_thresholds", "distractors"):
        for name in getattr(policy, setting):
            if name not in known:
                location, what = f"policy.{setting}", f"{name!r} is not in the prompt"
                raise InputError(location, what, expected_one_of(known, name))
    if not set(known) - set(policy.distractors):
        raise InputError("policy.distractors", "are all categories of the prompt", "expected one to keep")


def _meta(
    views: Sequence[Manifest],
    policy: Policy,
    thresholds: Mapping[str, float],
    out: Path,
    counts: dict[str, Any],
    quarantined: Sequence[ImageProblem],
) -> dict[str, Any]:
    """How these labels were made. Has no date and no local paths, so that equal runs write equal files."""
    manifest = views[0]
    categories = None if manifest.label_map is None else list(manifest.label_map.values())
    return {
        "labels": out.name,
        "labels_sha256": sha256_of(out),
        "source": manifest.source.name,
        "source_sha256": manifest.source_sha256,
        "weights": Path(manifest.weights).name,
        "weights_sha256": manifest.weights_sha256,
        "prompt": "the phrases of each caption" if categories is None else categories,
        "score_floor": manifest.score_floor,
        "scale": manifest.entries()["scale"],
        "max_per_image": manifest.max_per_image,
        "chunk_size": manifest.chunk_size,
        "dtype": manifest.dtype,
        "plan": manifest.key,
        "views": [view.key for view in views[1:]],
        "policy": _as_json(policy),
        "thresholds_found": dict(thresholds),
        "counts": counts,
        "quarantined": [
            {"line": problem.line + 1, "filename": problem.filename, "reason": problem.reason}
            for problem in quarantined
        ],
        "software": manifest.software,
    }


def _kept_audit(meta: Path, payload: Mapping[str, Any]) -> dict[str, Any]:
    """The audit in the old .meta.json, if plan and policy are the same, so that only corrections may differ."""
    try:
        before = load_json(meta, "remove it, and filter again") if meta.is_file() else {}
    except InputError:  # only with overwrite=True; otherwise an invalid .meta.json was refused before
        return {}
    if not isinstance(before, dict) or "audit" not in before:
        return {}
    now = json.loads(json.dumps({name: payload[name] for name in MADE_BY}))
    return {"audit": before["audit"]} if all(before.get(name) == now[name] for name in MADE_BY) else {}


def _as_json(policy: Policy) -> dict[str, Any]:
    """The settings of the policy, in which a file of reviewed labels is only its name."""
    payload = settings_payload(policy)
    if isinstance(policy.adaptive, TargetPrecision) and policy.adaptive.reviewed is not None:
        payload["adaptive"]["reviewed"] = policy.adaptive.reviewed.name
    return payload
