"""The report of an audit as text."""

from __future__ import annotations

from flows.audit.defaults import CONFIDENCE
from flows.audit.report import AuditReport, Estimate, Quality
from formats.io.plurals import first_of, many

MAX_LISTED = 10  # categories without estimates, and confusions


def describe_audit(report: AuditReport) -> str:
    """The report as text."""
    head = f"{report.labels}: {many(report.reviews, 'reviewed image')} of {report.images} (drawn: {report.drawn})"
    lines = [f"{head}; IoU {report.iou:g}, {100 * CONFIDENCE:g} % intervals"]
    if report.skipped:
        reviews = many(report.skipped, "review")
        lines.append(f"{reviews} not counted, since earlier images were skipped: review those too")
    rows = [("all", report.overall), *report.categories.items()]
    width = max(len(name) for name, _ in rows)
    for name, quality in rows:
        for kind in ("precision", "recall"):
            words = f"{_in_words(getattr(quality, kind), kind)}{_more(quality, kind, report.half_width)}"
            lines.append(f"  {name:{width}}  {kind:9}  {words}")
    if report.too_few:
        listed = first_of((f"{name} ({count})" for name, count in report.too_few.items()), MAX_LISTED)
        lines.append(f"too few reviewed images for separate estimates: {listed}")
    return "\n".join([*lines, *_confusion_lines(report), *_threshold_lines(report), *_more_lines(report)])


def _in_words(estimate: Estimate | None, kind: str) -> str:
    what = "label" if kind == "precision" else "object"
    if estimate is None:
        return f"unknown: no {what}s in the reviewed images"
    value, low, high, images, boxes = estimate
    return f"{value:.3f}  {low:.3f} … {high:.3f}  from {many(boxes, what)} in {many(images, 'reviewed image')}"


def _more(quality: Quality, kind: str, half_width: float) -> str:
    count = quality.more_reviews.get(kind)
    return f"; {many(count, 'more review')} for ± {half_width:g}" if count else ""


def _confusion_lines(report: AuditReport) -> list[str]:
    if not report.confusions:
        return []
    pairs = (f"{each.label} for {each.object} ({each.boxes})" for each in report.confusions)
    return [f"wrong category in {many(report.reviews, 'reviewed image')}: {first_of(pairs, MAX_LISTED)}"]


def _threshold_lines(report: AuditReport) -> list[str]:
    found = report.threshold
    if found is None:
        return ["no threshold: that takes labels that all have a score"]
    source = f"95 % confidence, {many(report.reviews, 'review')}"
    if found.score is None:
        return [f"no threshold could be shown to reach precision {found.precision:g} ({source})"]
    if found.own_suffices:
        return [f"precision is at least {found.precision:g} without a higher threshold ({source})"]
    return [
        f"to keep labels with precision {found.precision:g} or more ({source}), {100 * found.kept:.0f} % of them, "
        f"use score threshold {found.score:g}:",
        f"  {found.command}",
    ]


def _more_lines(report: AuditReport) -> list[str]:
    known = report.more_reviews
    if not known:
        return []
    if not (maximum := max(known.values())):
        return [f"both intervals are within ± {report.half_width:g} ({many(report.reviews, 'review')})"]
    command = f"groundhog audit … -n {report.reviews + maximum}"
    return [f"to reach ± {report.half_width:g} over all labels, review more images (an estimate): {command}"]
