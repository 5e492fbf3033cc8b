"""`groundhog audit`: how good labels are, from a reviewed sample. `groundhog suspects`: which are probably wrong."""

from __future__ import annotations

import argparse
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from browse.review.arguments import DEFAULT_PORT
from flows.audit import defaults
from flows.cli.arguments import command, seed
from formats.io.errors import InputError
from formats.io.plurals import many

if TYPE_CHECKING:
    from flows.audit.sample import Audit


def add(commands) -> None:
    _add_audit(commands)
    _add_suspects(commands)


def _add_audit(commands) -> None:
    parser = command(
        commands,
        "audit",
        _audit,
        "measure precision and recall of labels, with confidence intervals, on a sample that you review in the browser",
        "groundhog audit data/cat/cat_od_v1.json -n 60     # Ctrl+C when you are done; again to continue",
    )
    _add_labels(parser)
    parser.add_argument(
        "-n",
        dest="reviews",
        type=int,
        metavar="N",
        help=f"total number of images to review (default {defaults.REVIEWS})",
    )
    parser.add_argument("--report", action="store_true", help="do not open the page; report on the reviews so far")
    parser.add_argument(
        "--no-review",
        action="store_true",
        help="do not open the page; only write the sample, an ODVG file for another tool",
    )
    parser.add_argument(
        "--reviewed",
        type=Path,
        metavar="FILE",
        help="reviewed ODVG lines (default: X_od_reviewed.json beside LABELS)",
    )
    parser.add_argument(
        "--iou",
        type=float,
        default=defaults.IOU,
        metavar="IOU",
        help="minimum IoU of a correct label with an object (default %(default)s)",
    )
    parser.add_argument(
        "--precision",
        type=float,
        default=defaults.PRECISION,
        metavar="P",
        help="precision to find a score threshold for (default %(default)s)",
    )
    parser.add_argument(
        "--half-width",
        type=float,
        default=defaults.HALF_WIDTH,
        metavar="E",
        help="estimate how many reviews are needed for intervals of ± E (default %(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=seed,
        metavar="S",
        help=f"random seed of the sample (default {defaults.SEED}, or that of the audit that is continued)",
    )
    parser.add_argument("--new", action="store_true", help="draw a new sample; existing reviews are kept")
    _add_page(parser)


def _add_labels(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("labels", type=Path, metavar="LABELS", help="labels that a model made, such as X_od_v1.json")
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="folder of the images (default: images/ beside LABELS)"
    )
    parser.add_argument(
        "-m", "--label-map", type=Path, metavar="FILE", help="label map (default: X_label_map.json beside LABELS)"
    )
    parser.add_argument("--work-dir", type=Path, metavar="DIR", help="where groundhog infer stored the candidates")


def _add_page(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--port", type=int, default=DEFAULT_PORT, help="port of the review page (default %(default)s; 0: any free port)"
    )
    parser.add_argument("--no-open", action="store_true", help="do not open the browser")


def _audit(options: argparse.Namespace) -> int:
    from flows.audit.sample import draw_audit, read_audit

    _check(options)
    if options.report:
        return _report(read_audit(options.labels, options.reviewed), options)
    audit = draw_audit(options.labels, options.reviews, options.seed, options.reviewed, options.new)
    truth = audit.truth()
    done = sum((each.filename, each.caption) in truth for each in (audit.records[image] for image in audit.drawn))
    drawn = f"{audit.settings.drawn} of {many(len(audit.records), 'image')} drawn"
    print(f"{drawn}, {done} of them reviewed: {audit.sample_path}")
    if options.no_review:
        print(f"correct a copy of it, then: groundhog audit {quote(str(options.labels))} --report --reviewed COPY")
        return 0
    if code := _review(audit, options):
        return code
    return _report(audit, options)


def _check_labels(labels: Path) -> None:
    if not labels.is_file():
        what = "is a folder" if labels.is_dir() else "does not exist"
        raise InputError(labels, what, "expected labels, such as X_od_v1.json")


def _check(options: argparse.Namespace) -> None:
    _check_labels(options.labels)
    for name in ("iou", "precision", "half_width"):
        if not 0.0 < (value := getattr(options, name)) < 1.0:
            raise InputError(f"--{name.replace('_', '-')}", f"{value}", "expected a fraction between 0 and 1")
    if options.reviewed is not None and not options.reviewed.is_file() and options.report:
        raise InputError(options.reviewed, "does not exist", "expected a file of reviewed ODVG lines")


def _review(audit: Audit, options: argparse.Namespace) -> int:
    return _open_page(options, audit.sample_path, ["-o", str(audit.reviewed)])


def _open_page(options: argparse.Namespace, annotations: Path, more: list[str]) -> int:
    """Serves the review page of the annotations until it is interrupted; returns its exit code."""
    from browse.__main__ import main
    from formats.dataset_names import label_map_beside

    known = options.label_map or label_map_beside(options.labels)
    label_map = ["-m", str(known.absolute())] if known.is_file() or options.label_map else []
    folders = [str(options.labels.parent), str(annotations.absolute()), str(_images(options).absolute())]
    work_dir = _work_dir(options)
    candidates = [] if work_dir is None else ["--candidates", str(work_dir.absolute())]
    page = ["--port", str(options.port), *(["--no-open"] if options.no_open else [])]
    return main(["serve", *folders, *label_map, *candidates, *more, *page], "groundhog browse")


def _images(options: argparse.Namespace) -> Path:
    """The image folder: as given, that of the plan that made the labels, or images/ beside them."""
    from flows.labelling.manifest import read_manifest

    if options.images is not None:
        return options.images
    work_dir = _work_dir(options)
    if work_dir is not None and (root := Path(read_manifest(work_dir).image_root)).is_dir():
        return root
    beside = options.labels.parent / "images"
    if not beside.is_dir():
        raise InputError(beside, "does not exist", "expected --images with the folder of the images")
    return beside


def _work_dir(options: argparse.Namespace) -> Path | None:
    """The work_dir of the plan that made the labels: as given, as in their .meta.json, or in work_dirs/."""
    from browse.review.candidates import find_plan

    plan = find_plan(options.labels, options.work_dir)
    return None if plan is None else plan.folder


def _report(audit: Audit, options: argparse.Namespace) -> int:
    from flows.audit.messages import describe_audit
    from flows.audit.report import report_audit, write_audit_report

    work_dir = _work_dir(options)
    report = report_audit(
        audit, options.iou, options.precision, options.half_width, "" if work_dir is None else str(work_dir)
    )
    print(describe_audit(report))
    print(f"written to {write_audit_report(audit, report)}")
    return 0


def _add_suspects(commands) -> None:
    parser = command(
        commands,
        "suspects",
        _suspects,
        "rank labels that are probably wrong, and review them in this order",
        "groundhog suspects data/cat/cat_od_v1.json --against data/cat/cat_od_v2.json",
    )
    _add_labels(parser)
    parser.add_argument(
        "--against",
        type=Path,
        metavar="FILE",
        help="ODVG labels with scores of another model (default: the candidates of the plan that made LABELS)",
    )
    parser.add_argument(
        "--max-count", action="append", default=[], metavar="NAME=N", help="an image contains at most N boxes of NAME"
    )
    parser.add_argument(
        "-n", dest="shown", type=int, default=20, metavar="N", help="suspicious boxes to print (default %(default)s)"
    )
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        metavar="FILE",
        help="file for the review order (default: X_od_v1_suspects.jsonl beside LABELS)",
    )
    parser.add_argument(
        "--no-review", action="store_true", help="do not open the page; only print and write the ranking"
    )
    _add_page(parser)


def _suspects(options: argparse.Namespace) -> int:
    from flows.audit.suspects import (
        SuspectRules,
        find_suspects,
        rank_images,
        write_review_order,
        write_suspects_summary,
    )
    from formats.dataset_names import suspects_path
    from formats.odvg import read_odvg
    from formats.reviewed import key_of

    _check_labels(options.labels)
    out = options.out or suspects_path(options.labels)
    if out.suffix != ".jsonl":
        raise InputError("--out", f"{out}", "expected a name that ends with .jsonl")
    rules = SuspectRules(dict(map(_max_count, options.max_count)))
    records, evidence = list(read_odvg(options.labels)), _evidence(options)
    if not (compared := sum(key_of(record) in evidence.found for record in records)):
        what = f"has none of the images of {options.labels.name}"
        raise InputError(options.against or "candidates", what, "expected predictions for the same images")
    suspects = find_suspects(records, evidence, rules)
    for each in suspects[: options.shown]:
        box = ", ".join(f"{side:g}" for side in each.box)
        print(f"{each.suspicion:.2f}  {each.filename}  {each.reason}  ({box})")
    ranked = rank_images(suspects)
    write_review_order(out, ranked)
    against = "the candidates of the model that made them" if options.against is None else options.against.name
    write_suspects_summary(options.labels, suspects, against, compared)
    print(f"{compared} of {many(len(records), 'image')} compared with {against}")
    print(f"{many(len(suspects), 'suspicious box')} in {many(len(ranked), 'image')}: {out}")
    if options.no_review or not ranked:
        return 0
    return _open_page(options, options.labels, ["--order", str(out.absolute())])


def _evidence(options: argparse.Namespace):
    from flows.audit.evidence import second_model, stored_candidates
    from flows.labelling.manifest import read_manifest

    if options.against is not None:
        if not options.against.is_file():
            raise InputError(options.against, "does not exist", "expected ODVG labels of another model")
        return second_model(options.against)
    work_dir = _work_dir(options)
    if work_dir is None:
        remedy = (
            "expected --work-dir with the folder that groundhog infer wrote, or --against with another model's labels"
        )
        raise InputError(options.labels, "their plan was not found", remedy)
    return stored_candidates(read_manifest(work_dir))


def _max_count(text: str) -> tuple[str, int]:
    name, _, value = text.rpartition("=")
    if not name or not value.isdecimal():
        raise InputError("--max-count", f"{text!r}", "expected NAME=N such as nose=1")
    return name, int(value)
