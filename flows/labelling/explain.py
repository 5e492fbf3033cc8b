"""Explains why each box of an image became a label or was dropped, by running the filter on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from flows.labelling.candidate_lines import CandidateLine, decide, lines_with_candidates, names_of_regions
from flows.labelling.filter import check_plans, prepare_filter
from flows.labelling.manifest import Manifest
from flows.policies.apply import Candidate, DropLog, Label, Reason
from flows.policies.policy import Policy
from formats.boxes import pairwise_iou
from formats.dataset_names import metadata_path
from formats.io.errors import InputError
from formats.io.files import load_json
from formats.io.plurals import many
from formats.io.toml_config import config_from_table
from formats.record import Box, Record

# Reasons for which a box is dropped before it can suppress others.
WITHOUT_EFFECT = {"score", "small", "of a distractor", "distractor", "duplicate"}


@dataclass(frozen=True)
class Decision:
    """The decision on a candidate. outcome: "label", "ignored in training" or "dropped: REASON". why: details."""

    name: str
    box: Box
    score: float
    outcome: str
    why: str = ""


@dataclass(frozen=True)
class Explanation:
    """The decisions on one line of the source, by descending score. note: about the whole line."""

    filename: str
    caption: str | None
    decisions: tuple[Decision, ...]
    note: str = ""

    def __str__(self) -> str:
        caption = "" if self.caption is None else f" ({self.caption})"
        lines = [f"{self.filename}{caption}: {many(len(self.decisions), 'box')}"]
        lines += [self.note] if self.note else []
        width = max((len(each.name) for each in self.decisions), default=0)
        for each in self.decisions:
            x1, y1, x2, y2 = (f"{side:.0f}" for side in each.box)
            why = f": {each.why}" if each.why else ""
            lines.append(f"  {each.score:.3f}  {each.name:<{width}}  {f'{x1},{y1},{x2},{y2}':<19}  {each.outcome}{why}")
        return "\n".join(lines)


def explain_image(
    plans: Sequence[Manifest],
    image: str,
    policy: Policy,
    reviewed: str | Path | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> list[Explanation]:
    """Explains what the policy does with every candidate of an image; an explanation for each of its lines.

    plans: the plan and further views of it. policy, reviewed, provenance: as for filter_candidates.
    image: file name in the source, or the end of it. Raises InputError as filter_candidates does, and for an image that
    is not in the source or is ambiguous.
    """
    check_plans(plans[0], plans[1:], policy)
    corrections, found = prepare_filter(plans, policy, reviewed, provenance)
    settled = policy.with_thresholds(found)
    explanations = []
    for line in _lines_of(plans, image):
        assert line.record is not None
        corrected = (line.record.filename, line.record.caption) in corrections
        names = names_of_regions(plans[0], line.record)
        explanations.append(_explain(line, line.record, names, settled, corrected))
    return explanations


def policy_of_labels(labels: Path, plans: Sequence[Manifest]) -> Policy | None:
    """The policy that made labels, from their .meta.json; None if there is none of this plan.

    Raises InputError if they were made with other views than plans[1:].
    """
    meta = metadata_path(labels)
    if not meta.is_file():
        return None
    payload = load_json(meta, "expected the file that filter writes beside the labels")
    if not isinstance(payload, dict) or payload.get("plan") != plans[0].key:
        return None
    if payload.get("views", []) != [view.key for view in plans[1:]]:
        what = f"these labels were made with {many(len(payload['views']), 'more view')}"
        raise InputError(meta, what, "expected the same ones, each as --view WORK_DIR")
    policy = config_from_table({**payload["policy"], "adaptive": None}, Policy, f"{meta}: policy")
    return policy.with_thresholds(payload.get("thresholds_found", {}))


def _lines_of(plans: Sequence[Manifest], image: str) -> list[CandidateLine]:
    """The lines of an image, found by its full name or the end of it."""
    parts = PurePosixPath(image).parts
    ending: list[tuple[str, CandidateLine]] = []
    for line in lines_with_candidates(plans):
        name = line.filename
        if name and PurePosixPath(name).parts[-len(parts) :] == parts:
            ending.append((name, line))
    names = sorted({name for name, _ in ending})
    if image in names:
        names = [image]
    if len(names) != 1:
        what = f"has no image {image!r}" if not names else f"{image!r} matches {', '.join(names[:3])}"
        raise InputError(plans[0].source, what, "expected the file name of one image, as in its line")
    lines = [line for name, line in ending if name == names[0]]
    if lines[0].problem is not None:
        raise InputError(image, f"was not labelled: {lines[0].problem.reason}", "expected an image that could be read")
    return lines


def _explain(line: CandidateLine, record: Record, names: Sequence[str], policy: Policy, corrected: bool) -> Explanation:
    log = DropLog()
    labels = decide(line.views, names, policy, log)
    decisions = [_of_label(label, names, policy) for label in labels]
    decisions += [_of_dropped(candidate, reason, names, policy, labels, log) for candidate, reason in log.dropped]
    notes = []
    if len(line.views) > 1:
        notes.append(f"{many(log['merged'], 'box')} of {len(line.views)} views merged into others")
    if corrected:
        notes.append("a person corrected this line: the labels contain that person's boxes instead of these")
    ranked = sorted(decisions, key=lambda each: -each.score)
    return Explanation(record.filename, record.caption, tuple(ranked), "; ".join(notes))


def _of_label(label: Label, names: Sequence[str], policy: Policy) -> Decision:
    region, box, score = label.candidate
    name = names[region]
    if not label.ignore:
        return Decision(name, box, score, "label")
    if score > policy.threshold(name):
        why = f"no box of the image scores {policy.confident_from:g}"
    else:
        why = f"between {policy.min_score(name):g} and the threshold {policy.threshold(name):g}"
    return Decision(name, box, score, "ignored in training", why)


def _of_dropped(
    candidate: Candidate, reason: Reason, names: Sequence[str], policy: Policy, labels: Sequence[Label], log: DropLog
) -> Decision:
    name = names[candidate.region]
    if reason in OVERLAPPED:
        why = _overlap(candidate, reason, names, policy, labels, log)
    else:
        why = WORDS[reason](candidate, name, policy)
    return Decision(name, candidate.box, candidate.score, f"dropped: {reason}", why)


def _small(candidate: Candidate, name: str, policy: Policy) -> str:
    x1, y1, x2, y2 = candidate.box
    return f"its shorter side has {min(x2 - x1, y2 - y1):.1f} pixels, the minimum is {policy.min_size:g}"


# Reason -> the IoU above which a better box wins.
OVERLAPPED: Mapping[Reason, Callable[[Policy], float | None]] = {
    "distractor": lambda policy: policy.distractor_iou,
    "duplicate": lambda policy: policy.nms_iou,
    "other category": lambda policy: policy.cross_class_iou,
}
# The other reasons in words, of a candidate, its category or phrase, and the policy. What is merged has no own box.
WORDS: Mapping[Reason, Callable[[Candidate, str, Policy], str]] = {
    "score": lambda candidate, name, policy: f"not above {policy.min_score(name):g}",
    "small": _small,
    "of a distractor": lambda candidate, name, policy: f"{name} is a distractor",
    "lonely": lambda candidate, name, policy: f"found in less than {policy.consensus.least_share:g} of the views",
    "over the limit": lambda candidate, name, policy: f"the image has {many(policy.max_per_image, 'better box')}",
}


def _overlap(
    candidate: Candidate, reason: Reason, names: Sequence[str], policy: Policy, labels: Sequence[Label], log: DropLog
) -> str:
    """The better box that a dropped one overlaps most, in words."""
    limit = OVERLAPPED[reason](policy)
    standing = [label.candidate for label in labels]
    standing += [each for each, why in log.dropped if why not in WITHOUT_EFFECT or reason == "distractor"]
    rivals = [each for each in standing if each.score >= candidate.score and each is not candidate]
    if reason == "distractor":
        rivals = [each for each in rivals if names[each.region] in policy.distractors]
    elif reason == "duplicate":
        rivals = [each for each in rivals if each.region == candidate.region]
    if not rivals:
        return f"overlaps a better box by more than IoU {limit:g}"
    overlaps = pairwise_iou([candidate.box], [each.box for each in rivals])[0]
    best = int(overlaps.argmax())
    return (
        f"IoU {overlaps[best]:.2f} with {names[rivals[best].region]} {rivals[best].score:.3f}, the limit is {limit:g}"
    )
