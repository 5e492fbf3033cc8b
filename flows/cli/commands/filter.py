"""`groundhog filter`: candidates become labels, by a policy."""

from __future__ import annotations

import argparse
from typing import Any

from flows.cli.arguments import add_settings, command, names, print_problems
from flows.policies.policy import Mixture, Policy, Quantile, TargetPrecision
from formats.io.errors import InputError
from formats.io.plurals import many
from formats.io.settings import declared_settings
from formats.io.storage import as_path


def add(commands) -> None:
    parser = command(
        commands,
        "filter",
        _filter,
        "turn the candidates of a WORK_DIR into labels, without running the model",
        "groundhog filter work_dirs/cat --score-threshold 0.4 --class-threshold dog=0.5",
    )
    parser.add_argument("work_dir", metavar="WORK_DIR", help="folder that `groundhog infer` wrote")
    parser.add_argument(
        "-o", "--out", metavar="FILE", help="label file to write (default: X_od_v1.json beside X_od.json)"
    )
    add_settings(parser, Policy, unset=True)
    parser.add_argument(
        "--class-threshold",
        action="append",
        default=[],
        metavar="NAME=S",
        help="threshold of one category (repeatable)",
    )
    adaptive = parser.add_mutually_exclusive_group()
    adaptive.add_argument(
        "--boxes-per-image",
        type=float,
        metavar="N",
        help="per-category thresholds that keep N boxes per image on average",
    )
    adaptive.add_argument(
        "--mixture", action="store_true", help="per-category thresholds from a mixture of two normal distributions"
    )
    adaptive.add_argument(
        "--precision",
        type=float,
        metavar="P",
        help="per-category thresholds that reach this precision, estimated on the lines of --reviewed",
    )
    parser.add_argument(
        "--distractors",
        metavar="A,B",
        help="categories to drop, and with them every box that a better box of theirs overlaps (--distractor-iou)",
    )
    parser.add_argument(
        "--view",
        action="append",
        default=[],
        metavar="WORK_DIR",
        help="merge the candidates of another view of the images, such as one of `infer --mirrored`; repeatable",
    )
    parser.add_argument(
        "--reviewed", metavar="FILE", help="ODVG lines that a person corrected, to use instead of the model's"
    )
    parser.add_argument(
        "--explain",
        metavar="IMAGE",
        help="print each box of this image and why it was kept or dropped; writes nothing. Without policy options, "
        "uses the policy that made the existing labels",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace labels that were made from another WORK_DIR")


def _filter(options: argparse.Namespace) -> int:
    from flows.labelling.filter import filter_candidates
    from formats import quarantine

    policy = _policy(options)
    if options.reviewed and not as_path(options.reviewed).is_file():
        raise InputError(options.reviewed, "no such file", "expected the lines that a person corrected")
    if options.explain is not None:
        return _explain(options, policy)
    result = filter_candidates(
        options.work_dir,
        policy,
        options.out,
        views=options.view,
        reviewed=options.reviewed,
        overwrite=options.overwrite,
    )
    dropped = ", ".join(f"{reason} {count}" for reason, count in result.counts["dropped"].items())
    by_person = result.counts["reviewed_boxes"]
    boxes = many(result.counts["kept"] + by_person, "box")
    of_whom = f" ({by_person} of them a person's)" if result.counts["reviewed"] else ""
    print(f"{boxes}{of_whom} in {many(result.counts['lines'], 'line')}: {result.labels}")
    print(f"dropped: {dropped or 'nothing'}; more in {result.meta}")
    print_problems(quarantine.quarantine_summary(result.quarantined, result.meta))
    return 0


def _policy(options: argparse.Namespace) -> Policy:
    given = {each.name: getattr(options, each.name) for each in declared_settings(Policy)}
    settings: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return Policy(
        class_thresholds=dict(map(_class_threshold, options.class_threshold)),
        adaptive=_adaptive(options),
        distractors=() if options.distractors is None else tuple(names(options.distractors, "--distractors")),
        **settings,
    )


def _explain(options: argparse.Namespace, policy: Policy) -> int:
    from flows.labelling.explain import explain_image, policy_of_labels
    from flows.labelling.manifest import read_manifest
    from formats.dataset_names import labels_path

    plans = [read_manifest(path) for path in (options.work_dir, *options.view)]
    labels = as_path(options.out) if options.out is not None else labels_path(plans[0].source, 1)
    recorded = policy_of_labels(labels, plans) if policy == Policy() else None
    for explanation in explain_image(plans, options.explain, recorded or policy, options.reviewed):
        print(explanation)
    print(f"policy: {f'that of {labels}' if recorded else 'the options of this command'}")
    return 0


def _adaptive(options: argparse.Namespace) -> Any:
    if options.boxes_per_image is not None:
        return Quantile(options.boxes_per_image)
    if options.precision is not None:
        return TargetPrecision(precision=options.precision)
    return Mixture() if options.mixture else None


def _class_threshold(text: str) -> tuple[str, float]:
    name, _, value = text.rpartition("=")
    try:
        return name, float(value)
    except ValueError:
        raise InputError("--class-threshold", f"{text!r}", "expected NAME=SCORE such as dog=0.5") from None
