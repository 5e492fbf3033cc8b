"""An audit's report as text."""

from __future__ import annotations

from flows.audit.report import CONFIDENCE, AuditReport, Estimate

NAMED = 10  # categories without numbers that are listed


def describe(report: AuditReport) -> str:
    """The report as text."""
    head = f"{report.labels}: {report.reviews} reviewed images of {report.images} (drawn: {report.drawn})"
    lines = [f"{head}; IoU {report.iou:g}, {100 * CONFIDENCE:g} % intervals"]
    if report.skipped:
        lines.append(f"{report.skipped} more are reviewed but come after skipped ones: review those to count them")
    rows = [("all", report.overall), *report.categories.items()]
    width = max(len(name) for name, _ in rows)
    for name, quality in rows:
        for kind in ("precision", "recall"):
            lines.append(f"  {name:{width}}  {kind:9}  {_in_words(getattr(quality, kind), kind)}")
    if report.too_few:
        more = f" and {len(report.too_few) - NAMED} more" if len(report.too_few) > NAMED else ""
        lines.append(f"too few reviews for numbers of their own: {', '.join(report.too_few[:NAMED])}{more}")
    return "\n".join([*lines, *_threshold_lines(report), *_more_lines(report)])


def _in_words(estimate: Estimate | None, kind: str) -> str:
    what = "labels" if kind == "precision" else "objects"
    if estimate is None:
        return f"unknown: no {what} in the reviewed images"
    value, low, high, images, boxes = estimate
    return f"{value:.3f}  {low:.3f} … {high:.3f}  from {boxes} {what} in {images} reviewed images"


def _threshold_lines(report: AuditReport) -> list[str]:
    found = report.threshold
    if found is None:
        return ["no threshold: the labels have no scores"]
    source = f"95 % confidence, {report.reviews} reviews"
    if found.score is None:
        return [f"no threshold is known to reach precision {found.precision:g} ({source})"]
    if found.own_suffices:
        return [f"precision is at least {found.precision:g} without a higher threshold ({source})"]
    return [
        f"labels that score more than {found.score:g} have precision {found.precision:g} or more ({source}); "
        f"they are {100 * found.kept:.0f} % of the labels:",
        f"  {found.command}",
    ]


def _more_lines(report: AuditReport) -> list[str]:
    wanting = {kind: count for kind, count in report.more_reviews.items() if count}
    if not wanting:
        return [f"intervals are within ± {report.half_width:g}"] if report.more_reviews else []
    most = max(wanting.values())
    told = ", ".join(f"{kind} {count}" for kind, count in wanting.items())
    return [f"more reviews for ± {report.half_width:g}: {told}  (groundhog audit … -n {report.reviews + most})"]
