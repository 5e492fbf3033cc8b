"""The report of a run: one self-contained HTML file.

It is made from the files of the stages (rounds.json, manifests, candidates, labels and their .meta.json, evaluations),
so that it can be written at any time, also for a run that has not finished.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from browse import page_parts as pages
from browse.changes import CHANGES, CORRECTNESS, CORRECTNESS_LEGEND, box_changes, draw_changes
from browse.contact_sheet import contact_sheet, side_by_side
from browse.draw import draw_record
from browse.images.colours import css_of
from browse.images.pictures import reduced_picture
from browse.page_style import headlines_of
from flows.distillation.distill import RESULT_NAME
from flows.labelling.manifest import MANIFEST_NAME, Manifest, read_manifest
from flows.self_training.drift import changed_records
from flows.self_training.messages import ending, model_of, score_title, state_rows
from flows.self_training.review import browse_command
from flows.self_training.state import PRETRAINED, ROUNDS_NAME, STUDENT_FOLDER, LoopState, read_loop_state
from formats.candidates import read_candidates
from formats.dataset_names import labels_path, metadata_path
from formats.images import safe_join
from formats.io.errors import InputError
from formats.io.files import sha256_of, write_whole
from formats.io.plots import new_figure
from formats.io.plurals import first_of, many
from formats.odvg import read_odvg
from formats.record import Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REPORT_NAME = "report.html"
LABEL_PICTURES = 12  # of each round's labels
QUARANTINE_ROWS = 100
COUNT_ROWS = 12  # most categories or phrases in the table of label drift
CHANGED_PICTURES = 8
MAX_CHANGED = 400  # changed images that the pictures are chosen from
BOX_CHANGES = ("gained", "lost", "moved", "same")
SCORE_BINS = np.linspace(0.0, 1.0, 51)


@dataclass(frozen=True)
class ImageComparison:
    """One labelled image and its predictions: title ("before", "after") -> record."""

    image: np.ndarray  # (H, W, 3) uint8 RGB
    truth: Record
    predictions: Mapping[str, Record]


@dataclass
class RoundOnDisk:
    """The files of one round. evaluations: file stem ("evaluation", "evaluation-source") -> metrics."""

    number: int
    manifest: Manifest
    labels: Path | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    evaluations: dict[str, dict[str, Any]] = field(default_factory=dict)


def write_run_report(
    run_dir: str | Path,
    out: str | Path | None = None,
    *,
    title: str | None = None,
    comparisons: Mapping[str, Sequence[ImageComparison]] | None = None,
    curve_names: Mapping[str, str] | None = None,
) -> Path:
    """Writes a report on a self-training run, or on one labelling, to RUN_DIR/report.html or `out`; returns the path.

    run_dir: the work_dir of flows.self_train, or of flows.plan. comparisons: title -> labelled images.
    curve_names: stem of an evaluation file -> its name in the report.
    Raises InputError if no round has been planned.
    """
    run_dir = Path(run_dir)
    loop = read_loop_state(run_dir) if (run_dir / ROUNDS_NAME).is_file() else None
    rounds = read_rounds(run_dir, loop)
    names = {"evaluation": "labelled test images"} | dict(curve_names or {})
    sections = [
        _headlines(rounds, names),
        _review(rounds),
        _outcome(loop),
        _overview(rounds, names, loop),
        _student(run_dir / STUDENT_FOLDER / RESULT_NAME, rounds),
        _audits(rounds),
        _curves(rounds, names),
        _drift(loop),
        _changed(rounds),
        _counts(rounds),
        _scores(rounds),
        *(
            _comparisons(shown, heading, f"compared-{number}")
            for number, (heading, shown) in enumerate((comparisons or {}).items(), start=1)
        ),
        *(_label_sheet(entry) for entry in rounds),
        _quarantined(rounds),
        _settings(rounds),
    ]
    body = "\n".join(section for section in sections if section)
    out = Path(out) if out is not None else run_dir / REPORT_NAME
    heading = title or f"Groundhog: {_name_of(run_dir)}"
    out.parent.mkdir(parents=True, exist_ok=True)
    with write_whole(out) as file:
        file.write(pages.page(heading, body, rounds[0].manifest.software))
    return out


def read_rounds(run_dir: Path, loop: LoopState | None = None) -> list[RoundOnDisk]:
    """Every round that has a plan, finished or not. Raises InputError if there is none.

    loop: its state; rounds that it does not list are from an earlier run, except for the one in progress.
    """
    folders = {int(path.parent.name.removeprefix("round-")): path.parent for path in _round_manifests(run_dir)}
    if not folders and (run_dir / MANIFEST_NAME).is_file():
        folders = {1: run_dir}
    if not folders:
        raise InputError(run_dir, f"no {MANIFEST_NAME} there or in round-1", "expected the work_dir of a run")
    last = max(folders) if loop is None else len(loop.rounds) + (loop.state == "running")
    return [_read_round(number, folder) for number, folder in sorted(folders.items()) if number <= last]


def _round_manifests(run_dir: Path) -> list[Path]:
    found = run_dir.glob(f"round-*/{MANIFEST_NAME}")
    return [path for path in found if path.parent.name.removeprefix("round-").isdigit()]


def _read_round(number: int, folder: Path) -> RoundOnDisk:
    entry = RoundOnDisk(number, read_manifest(folder))
    labels = labels_path(entry.manifest.source, number)
    meta = _json(metadata_path(labels))
    if labels.is_file() and meta.get("plan") == entry.manifest.key:  # else they are from an earlier run
        entry.labels, entry.meta = labels, meta
    for path in sorted(folder.glob("evaluation*.json")):
        payload = _json(path)
        metrics = payload.get("metrics", payload)
        if isinstance(metrics, dict) and isinstance(metrics.get(_headline(metrics)), int | float):
            entry.evaluations[path.stem] = metrics
    return entry


def _headline(metrics: Mapping[str, Any]) -> str:
    return metrics.get("headline", "ap")


def _json(path: Path) -> dict[str, Any]:
    """The content of a JSON file; {} if it is missing or broken, as in an unfinished run."""
    try:
        payload = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return payload if isinstance(payload, dict) else {}


def _name_of(run_dir: Path) -> str:
    return str(_json(run_dir / ROUNDS_NAME).get("name") or run_dir.resolve().name)


# The sections, in the order of the page; each returns "" if it has no content


def _headlines(rounds: Sequence[RoundOnDisk], names: Mapping[str, str]) -> str:
    """The key figures: the last model's scores with their intervals, and the number of labels."""
    figures = []
    for stem in _evaluation_stems(rounds):
        measured = [entry for entry in rounds if stem in entry.evaluations]
        first, last = measured[0], measured[-1]
        metrics = last.evaluations[stem]
        name = _headline(metrics)
        low, high = metrics.get("interval") or (None, None)
        note = "" if low is None else f"95 % interval {low:.3f} to {high:.3f}"
        if first is not last:
            note += f"{'; ' if note else ''}v{first.number}: {pages.fraction(first.evaluations[stem].get(name))}"
        figures.append(
            (f"{score_title(name)}, {_curve_name(stem, names)}, v{last.number}", f"{metrics[name]:.3f}", note)
        )
    labelled = [entry for entry in rounds if entry.meta]
    if labelled:
        last, counts = labelled[-1], labelled[-1].meta.get("counts", {})
        ignored, without = counts.get("ignored"), pages.number(counts.get("lines_without_labels"))
        note = f"{ignored:,} more ignored; {without} images without any" if ignored else f"{without} images without one"
        figures.append((f"boxes in v{last.number}", pages.number(_boxes_in(counts)), note))
        reviewed = pages.number(counts.get("reviewed"))
        figures.append((f"images in v{last.number}", pages.number(counts.get("lines")), f"{reviewed} of them reviewed"))
    return headlines_of(figures) if figures else ""


def _review(rounds: Sequence[RoundOnDisk]) -> str:
    """The command that opens the newest labels."""
    labelled = [entry for entry in rounds if entry.labels is not None]
    if not labelled:
        return ""
    labels = labelled[-1].labels
    assert labels is not None
    command = browse_command(labels, Path(labelled[-1].manifest.image_root))
    return pages.review_command("Review these labels in the browser:", command)


def _outcome(loop: LoopState | None) -> str:
    """How the loop ended, and which labels and weights to use."""
    if loop is None:
        return ""
    best = loop.best
    use = f"Best: labels v{best.round}, <code>{html.escape(str(best.labels))}</code>, made by the model "
    use += f"<code>{html.escape(best.weights)}</code> ({model_of(best.round, loop.first_model)})."
    state = {"finished": "All rounds are done.", "running": "The loop is running."}.get(loop.state, "")
    if loop.state == "waiting":
        state = f"The loop is waiting for a person: {loop.reason}."
    if loop.state == "stopped":
        state = f"The loop {ending(loop.state, loop.rounds[-1].round, loop.reason)}."
    rejected = [(each.round, reason) for each in loop.rounds for reason in each.verdict.reasons]
    if loop.state == "finished" and rejected:
        state += " " + " ".join(f"v{number}: {reason}." for number, reason in rejected)
    head, *rows = state_rows(loop)
    return pages.section(
        "Outcome",
        pages.paragraph(html.escape(state))
        + pages.paragraph(use)
        + pages.page_table([_capital(cell) for cell in head], rows, numbers=False),
    )


def _overview(rounds: Sequence[RoundOnDisk], names: Mapping[str, str], loop: LoopState | None) -> str:
    stems = _evaluation_stems(rounds)
    columns = [(stem, metric) for stem in stems for metric in _shown_metrics(rounds, stem)]
    head = ["Labels", "Made by", "Boxes", "Images without", "Quarantined"]
    head += [_capital(f"{_curve_name(stem, names)}: {score_title(metric)}") for stem, metric in columns]
    rows = []
    for entry in rounds:
        counts = entry.meta.get("counts", {})
        made_by = model_of(entry.number, PRETRAINED if loop is None else loop.first_model)
        row = [f"v{entry.number}" if entry.labels else "not yet", made_by]
        row.append(pages.number(_boxes_in(counts)))
        row += [pages.number(counts.get(key)) for key in ("lines_without_labels", "quarantined")]
        row += [pages.fraction(entry.evaluations.get(stem, {}).get(metric)) for stem, metric in columns]
        rows.append(row)
    return pages.section("Rounds", pages.page_table(head, rows))


def _boxes_in(counts: Mapping[str, Any]) -> int | None:
    """The number of boxes in the label file: the kept ones of the model and those of a person."""
    return None if "kept" not in counts else counts["kept"] + counts.get("reviewed_boxes", 0)


def _student(result: Path, rounds: Sequence[RoundOnDisk]) -> str:
    """A comparison of teacher and student; empty if no student was trained on the labels of these rounds."""
    payload = _json(result)
    facts = payload.get("facts", {})
    labels = {entry.labels.name: entry.labels for entry in rounds if entry.labels is not None}
    used = labels.get(facts.get("labels", ""))
    if used is None or sha256_of(used) != facts.get("labels_sha256"):
        return ""
    rows = [
        [row["name"], pages.fraction(row["ap"]), f"{row['milliseconds']:.1f}", f"{row['megabytes']:.1f}"]
        for row in payload["rows"]
    ]
    intro = pages.paragraph(f"Trained on <code>{html.escape(used.name)}</code>. Times are per image on the CPU.")
    return pages.section("Student", intro + pages.page_table(["", "AP", "ms per image", "MB"], rows))


def _audits(rounds: Sequence[RoundOnDisk]) -> str:
    """Precision and recall of the labels, estimated from reviewed samples (`groundhog audit`)."""
    rows = []
    for entry in rounds:
        audit = entry.meta.get("audit") or {}
        parts = {"all": audit, **audit.get("categories", {})} if audit else {}
        for name, part in parts.items():
            shares = [_interval(part.get(kind)) for kind in ("precision", "recall")]
            rows.append([f"v{entry.number}", name, *shares, f"{audit['reviews']} of {audit['images']}"])
    if not rows:
        return ""
    intro = pages.paragraph(
        "Estimated from reviewed samples, with 95 % confidence intervals and the number of images they are based on."
    )
    head = ["", "", "Precision", "Recall", "Reviewed images"]
    return pages.section("Audited labels", intro + pages.page_table(head, rows))


def _interval(estimate: Mapping[str, Any] | None) -> str:
    if estimate is None:
        return "–"
    return f"{estimate['value']:.3f} ({estimate['low']:.3f} … {estimate['high']:.3f}; {estimate['images']} images)"


def _shown_metrics(rounds: Sequence[RoundOnDisk], stem: str) -> list[str]:
    metrics = next(entry.evaluations[stem] for entry in rounds if stem in entry.evaluations)
    return [name for name in dict.fromkeys((_headline(metrics), "ap50", "recall@5")) if name in metrics]


def _curves(rounds: Sequence[RoundOnDisk], names: Mapping[str, str]) -> str:
    stems = _evaluation_stems(rounds)
    if sum(bool(entry.evaluations) for entry in rounds) < 2:
        return ""  # a single point is in the headline
    curves = {
        f"{score_title(_headline(next(e.evaluations[stem] for e in rounds if stem in e.evaluations)))}, "
        f"{_curve_name(stem, names)}": {e.number: e.evaluations[stem] for e in rounds if stem in e.evaluations}
        for stem in stems
    }
    intro = pages.paragraph("Bars are 95 % confidence intervals from a bootstrap over the test images.")
    return pages.section("Held-out scores", intro + pages.plot(plot_rounds(curves), "scores of each round's model"))


def plot_rounds(curves: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> Figure:
    """The headline metric of every round with its interval. curves: title -> number of the labels -> metrics."""
    figure = new_figure(6.4, 3.2)
    axes = figure.subplots()
    numbers = sorted({number for points in curves.values() for number in points})
    for index, (title, points) in enumerate(curves.items()):
        values = [metrics[_headline(metrics)] for metrics in points.values()]
        axes.plot(list(points), values, marker="o", label=title)
        for x, (y, metrics) in zip(points, zip(values, points.values())):
            if metrics.get("interval"):
                axes.vlines(x, *metrics["interval"], color=f"C{index}", alpha=0.4, linewidth=5)
            offset = (9, -10 if index % 2 else 4)
            axes.annotate(f"{y:.3f}", (x, y), textcoords="offset points", xytext=offset, fontsize=8)
    axes.set_xticks(numbers, [f"v{number}" for number in numbers])
    axes.set(xlabel="labels, by the model that made them", ylim=(0, 1))
    axes.margins(x=0.15)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, loc="best", fontsize=8)
    return figure


def _drift(loop: LoopState | None) -> str:
    """What changed in the labels from round to round."""
    compared = [] if loop is None else [each for each in loop.rounds if each.verdict.drift is not None]
    if not compared:
        return ""
    head = ["", *(f"v{each.round - 1} to v{each.round}" for each in compared)]
    drifts = [each.verdict.drift for each in compared if each.verdict.drift is not None]
    rows = [["images whose labels changed", *(f"{drift.changed_share:.0%}" for drift in drifts)]]
    rows += [[f"boxes {name}", *(f"{getattr(drift, name):,}" for drift in drifts)] for name in BOX_CHANGES]
    names = sorted({name for drift in drifts for name in drift.counts})
    changes = {name: [drift.counts.get(name, (0, 0)) for drift in drifts] for name in names}
    largest = sorted(names, key=lambda name: -sum(abs(after - before) for before, after in changes[name]))[:COUNT_ROWS]
    rows += [[f"{name}: boxes", *(f"{before:,} to {after:,}" for before, after in changes[name])] for name in largest]
    return pages.section("Label drift", pages.page_table(head, rows))


def _changed(rounds: Sequence[RoundOnDisk]) -> str:
    """Images whose labels changed in the last round, spread over the file: before and after."""
    labelled = [entry for entry in rounds if entry.labels is not None]
    if len(labelled) < 2:
        return ""
    before, after = labelled[-2:]
    assert before.labels is not None
    assert after.labels is not None
    pairs = list(islice(changed_records(before.labels, after.labels), MAX_CHANGED))
    shown = pairs[:: max(1, len(pairs) // CHANGED_PICTURES)][:CHANGED_PICTURES]
    titles = (f"v{before.number}", f"v{after.number}")
    drawings = [each for pair in shown if (each := _changed_drawing(*pair, after.manifest.image_root, titles))]
    if not drawings:
        return ""
    intro = pages.paragraph(
        "Each image is shown with its boxes of the round before and of this one; colours show what changed. "
        "Dashed boxes are ignored in training."
    )
    colours = pages.legend([(word, css_of(colour)) for word, colour in CHANGES.values()])
    heading = f"Changed labels, v{before.number} to v{after.number}"
    return pages.section(heading, intro + colours + pages.gallery(drawings, "changed", wide=True))


def _changed_drawing(before: Record, after: Record, root: Path, titles: tuple[str, str]) -> pages.Drawing | None:
    try:
        image = reduced_picture(safe_join(root, after.filename), pages.DRAWN_SIDE)
    except (OSError, InputError):  # it has moved since it was labelled
        return None
    changes = box_changes(after, before, excused=False)
    drawn = [
        draw_changes(image, record, of_boxes, CHANGES)
        for record, of_boxes in ((before, changes.others), (after, changes.ours))
    ]
    counted = ((changes.count(change), word) for change, (word, _) in CHANGES.items() if change != "same")
    note = ", ".join(f"{count} {word}" for count, word in counted if count)
    return pages.Drawing(side_by_side(drawn[0], drawn[1], titles), after.filename, note)


def _counts(rounds: Sequence[RoundOnDisk]) -> str:
    labelled = [entry for entry in rounds if entry.meta]
    reasons = sorted({reason for entry in labelled for reason in entry.meta["counts"].get("dropped", {})})
    if not labelled:
        return ""
    head = ["", *(f"v{entry.number}" for entry in labelled)]
    rows = [["images", *(pages.number(entry.meta["counts"].get("lines")) for entry in labelled)]]
    rows.append(
        ["candidates above the floor", *(pages.number(entry.meta["counts"].get("candidates")) for entry in labelled)]
    )
    for reason in reasons:
        rows.append(
            [f"dropped: {reason}", *(pages.number(e.meta["counts"]["dropped"].get(reason, 0)) for e in labelled)]
        )
    rows.append(["kept", *(pages.number(entry.meta["counts"].get("kept")) for entry in labelled)])
    rows.append(
        ["ignored, between the thresholds", *(pages.number(entry.meta["counts"].get("ignored")) for entry in labelled)]
    )
    if any(entry.meta["counts"].get("reviewed") for entry in labelled):
        reviewed = [pages.number(entry.meta["counts"].get("reviewed_boxes", 0)) for entry in labelled]
        rows.append(["boxes by a person, replacing the model's", *reviewed])
        rows.append(["boxes in the file", *(pages.number(_boxes_in(entry.meta["counts"])) for entry in labelled)])
    by_name = _kept_by_name(labelled)
    return pages.section("What became of the candidates", pages.page_table(head, rows) + by_name)


def _kept_by_name(labelled: Sequence[RoundOnDisk], max_rows: int = 30) -> str:
    """The most frequent categories or phrases; empty if there is only one."""
    totals: dict[str, int] = {}
    for entry in labelled:
        for name, count in entry.meta["counts"].get("kept_by_name", {}).items():
            totals[name] = totals.get(name, 0) + count
    if len(totals) < 2:
        return ""
    shown = sorted(totals, key=lambda name: (-totals[name], name))[:max_rows]
    counts = [entry.meta["counts"].get("kept_by_name", {}) for entry in labelled]
    rows = [[name, *(pages.number(count.get(name, 0)) for count in counts)] for name in shown]
    rest = (
        pages.paragraph(f"{len(totals) - max_rows} more names are in the .meta.json files.")
        if len(totals) > max_rows
        else ""
    )
    return "<h3>Kept, by name</h3>" + pages.page_table(["", *(f"v{entry.number}" for entry in labelled)], rows) + rest


def _scores(rounds: Sequence[RoundOnDisk]) -> str:
    counted = [(entry, counts) for entry in rounds if (counts := _score_counts(entry.manifest)).any()]
    if not counted:
        return ""
    figure = new_figure(3.4 * min(3, len(counted)) + 0.4, 2.5)
    panels = figure.subplots(1, len(counted), squeeze=False, sharey=True)[0]
    for axes, (entry, counts) in zip(panels, counted):
        axes.bar(SCORE_BINS[:-1], counts, width=np.diff(SCORE_BINS), align="edge", color="#5b8def")
        threshold = entry.meta.get("policy", {}).get("score_threshold")
        if threshold is not None:
            axes.axvline(threshold, color="#d1495b", linestyle="--", label=f"threshold {threshold:g}")
            axes.legend(frameon=False, fontsize=8)
        axes.set(title=f"v{entry.number}", xlabel="score", xlim=(0, 1), yscale="log")
    panels[0].set_ylabel("candidates (log)")
    intro = pages.paragraph(
        "All candidates above the floor are stored, so the threshold can be changed without running the model again."
    )
    return pages.section("Scores of the candidates", intro + pages.plot(figure, "Histogram of candidate scores"))


def _score_counts(manifest: Manifest) -> np.ndarray:
    """(bins,) histogram of the candidate scores, reading one shard at a time; missing shards are skipped."""
    counts = np.zeros(len(SCORE_BINS) - 1, dtype=np.int64)
    for shard in manifest.shards:
        path = manifest.shard_path(shard.index)
        if path.is_file():
            try:
                counts += np.histogram(read_candidates(path).score, SCORE_BINS)[0]
            except InputError:  # a broken shard is labelled again when the run resumes
                continue
    return counts


def _comparisons(comparisons: Sequence[ImageComparison], title: str, key: str) -> str:
    if not comparisons:
        return ""
    drawings = []
    for one in comparisons:
        tiles = comparison_tiles(one)
        wrong = box_changes(list(one.predictions.values())[-1], one.truth).count("gained", "lost", "relabelled")
        sheet = contact_sheet(
            list(tiles.values()), columns=len(tiles), cell=(pages.DRAWN_SIDE, pages.DRAWN_SIDE), titles=list(tiles)
        )
        drawings.append(pages.Drawing(sheet, one.truth.filename, many(wrong, "mistake") if wrong else "no mistakes"))
    return pages.section(title, pages.legend(CORRECTNESS_LEGEND) + pages.gallery(drawings, key, wide=True))


def comparison_tiles(one: ImageComparison) -> dict[str, np.ndarray]:
    """Title -> (H, W, 3) uint8 RGB: the truth, and each prediction with correct and wrong boxes in different colours.

    In the truth, boxes that the last prediction missed are coloured too.
    """
    last = box_changes(list(one.predictions.values())[-1], one.truth)
    tiles = {"truth": draw_changes(one.image, one.truth, last.others, CORRECTNESS)}
    for title, prediction in one.predictions.items():
        tiles[title] = draw_changes(one.image, prediction, box_changes(prediction, one.truth).ours, CORRECTNESS)
    return tiles


def comparison_sheet(comparisons: Sequence[ImageComparison], columns: int = 4) -> np.ndarray:
    """(H, W, 3) uint8 RGB: one column per image, with its truth and each prediction below one another."""
    tiles, titles = [], []
    columns = min(columns, len(comparisons))
    for start in range(0, len(comparisons), columns):
        block = [comparison_tiles(one) for one in comparisons[start : start + columns]]
        for version in block[0]:
            tiles += [shown[version] for shown in block]
            titles += [version] * len(block)
            empty = columns - len(block)
            tiles += [np.full((1, 1, 3), 255, np.uint8)] * empty
            titles += [""] * empty
    return contact_sheet(tiles, columns=columns, cell=(320, 320), titles=titles)


def _label_sheet(entry: RoundOnDisk) -> str:
    """Drawings of labels with their scores, taken at even distances from the file."""
    if entry.labels is None:
        return ""
    total = max(1, int(entry.meta["counts"].get("lines", 0)) - int(entry.meta["counts"].get("quarantined", 0)))
    records = islice(read_odvg(entry.labels, on_problem=lambda problem: None), 0, None, max(1, total // LABEL_PICTURES))
    drawings = list(islice(_drawn(records, entry.manifest.image_root), LABEL_PICTURES))
    if not drawings:
        return ""
    intro = pages.paragraph(
        f"{len(drawings)} of {many(total, 'image')} of <code>{html.escape(entry.labels.name)}</code>."
    )
    return pages.section(f"Labels v{entry.number}", intro + pages.gallery(drawings, f"labels-{entry.number}"))


def _drawn(records: Iterable[Record], image_root: Path) -> Iterable[pages.Drawing]:
    for record in records:
        try:
            image = reduced_picture(safe_join(image_root, record.filename), pages.DRAWN_SIDE)
        except (OSError, InputError):  # it has moved since it was labelled
            continue
        yield pages.Drawing(draw_record(image, record), record.filename, _boxes_in_words(record))


def _boxes_in_words(record: Record) -> str:
    """ "2 boxes, 3 ignored"; "3 ignored" where all are."""
    boxes = [(1, each.ignore) for each in record.instances or ()]
    boxes += [(len(region.boxes), region.ignore) for region in record.regions or ()]
    kept, ignored = (sum(count for count, ignore in boxes if ignore is which) for which in (False, True))
    return ", ".join([many(kept, "box")] * (kept > 0 or not ignored) + [f"{ignored:,} ignored"] * (ignored > 0))


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]


def _quarantined(rounds: Sequence[RoundOnDisk]) -> str:
    last = next((entry for entry in reversed(rounds) if entry.meta), None)
    if last is None:
        return ""
    problems = last.meta.get("quarantined", [])
    if not problems:
        return pages.section("Quarantined", pages.paragraph("None: all lines and images could be used."))
    rows = [[str(p.get("line", "")), str(p.get("filename") or "?"), str(p.get("reason"))] for p in problems]
    rest = f" The first {QUARANTINE_ROWS}:" if len(rows) > QUARANTINE_ROWS else ""
    intro = pages.paragraph(f"Lines or images that could not be used: {len(rows)}.{rest}")
    return pages.section(
        "Quarantined", intro + pages.page_table(["Line", "File", "Reason"], rows[:QUARANTINE_ROWS], numbers=False)
    )


def _settings(rounds: Sequence[RoundOnDisk]) -> str:
    """How the labels were made; a setting that differs between rounds has one column per round."""
    columns = []
    for entry in rounds:
        manifest = entry.manifest
        settings = {
            "source": str(manifest.source),
            "source SHA-256": manifest.source_sha256[:16],
            "images": str(manifest.image_root),
            "weights": manifest.weights,
            "weights SHA-256": manifest.weights_sha256[:16],
            "prompt": _prompt(manifest),
            "score floor": f"{manifest.score_floor:g}",
            "scale": "the model's own" if manifest.scale is None else " x ".join(map(str, manifest.scale)),
            "maximum boxes per image": str(manifest.max_per_image),
            "number format": manifest.dtype,
            "labels": str(entry.labels or "not yet"),
        }
        settings |= {
            f"policy: {pages.name_in_words(name)}": pages.setting_in_words(value)
            for name, value in entry.meta.get("policy", {}).items()
        }
        columns.append(settings)
    keys = list(dict.fromkeys(key for settings in columns for key in settings))
    rows = []
    for key in keys:
        values = [settings.get(key, "") for settings in columns]
        rows.append([key, *([values[0]] if len(set(values)) == 1 else values)])
    head = ["Setting", *(f"v{entry.number}" for entry in rounds)]
    return pages.section("Settings and provenance", pages.page_table(head, rows, numbers=False, spread=True))


def _prompt(manifest: Manifest, max_names: int = 40) -> str:
    if manifest.label_map is None:
        return "each line's caption"
    return first_of(manifest.label_map.values(), max_names)


def _evaluation_stems(rounds: Sequence[RoundOnDisk]) -> list[str]:
    return sorted({stem for entry in rounds for stem in entry.evaluations})


def _curve_name(stem: str, names: Mapping[str, str]) -> str:
    return names.get(stem, stem.removeprefix("evaluation-").replace("-", " "))
