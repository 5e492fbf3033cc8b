"""The report of a run: one HTML file with everything inside, readable without a network.

It reads what the stages leave on disk (rounds.json, manifests, candidates, labels and their .meta.json, evaluations),
so that it can be written for a run that is not finished, or long over.
"""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from browse.draw import draw_record
from browse.sheet import contact_sheet
from flows.filtering import versioned
from flows.planning import MANIFEST_NAME, Manifest, read_manifest
from flows.rounds import ROUNDS_NAME
from formats.candidates import read_candidates
from formats.files import write_whole
from formats.images import safe_join
from formats.odvg import read_odvg
from formats.problems import InputError
from formats.record import Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REPORT_NAME = "report.html"
LABEL_PICTURES = 12  # of each round's labels
QUARANTINE_ROWS = 100
SHEET_QUALITY = 82  # JPEG; a report stays under some megabytes
SCORE_BINS = np.linspace(0.0, 1.0, 51)


@dataclass(frozen=True)
class Comparison:
    """One labelled image and what models say of it. predictions: title ("before", "after") -> record."""

    image: np.ndarray  # (H, W, 3) uint8 RGB
    truth: Record
    predictions: Mapping[str, Record]


@dataclass
class RoundOnDisk:
    """What one round left. evaluations: file stem ("evaluation", "evaluation-source") -> metrics."""

    number: int
    manifest: Manifest
    labels: Path | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    evaluations: dict[str, dict[str, Any]] = field(default_factory=dict)


def write_report(
    run_dir: str | Path,
    out: str | Path | None = None,
    *,
    title: str | None = None,
    comparisons: Mapping[str, Sequence[Comparison]] | None = None,
    curve_names: Mapping[str, str] | None = None,
) -> Path:
    """Writes RUN_DIR/report.html (or `out`) about a self-training run, or about one labelling, and gives its path.

    run_dir: the work_dir of flows.self_train, or of flows.plan. comparisons: title -> labelled images.
    curve_names: stem of an evaluation file -> what the reader should know it as.
    Raises InputError where no round has been planned.
    """
    run_dir = Path(run_dir)
    rounds = read_rounds(run_dir)
    names = {"evaluation": "labelled test images"} | dict(curve_names or {})
    sections = [
        _overview(rounds, names),
        _curves(rounds, names),
        _counts(rounds),
        _scores(rounds),
        *(_comparisons(shown, heading) for heading, shown in (comparisons or {}).items()),
        *(_label_sheet(entry) for entry in rounds),
        _quarantined(rounds),
        _settings(rounds),
    ]
    body = "\n".join(section for section in sections if section)
    out = Path(out) if out is not None else run_dir / REPORT_NAME
    heading = title or f"Groundhog: {_name_of(run_dir)}"
    out.parent.mkdir(parents=True, exist_ok=True)
    with write_whole(out) as file:
        file.write(
            PAGE.format(title=html.escape(heading), body=body, software=html.escape(rounds[0].manifest.software))
        )
    return out


def read_rounds(run_dir: Path) -> list[RoundOnDisk]:
    """Every round that has a plan, as far as it got. Raises InputError when there is none."""
    folders = {int(path.parent.name.removeprefix("round-")): path.parent for path in _round_manifests(run_dir)}
    if not folders and (run_dir / MANIFEST_NAME).is_file():
        folders = {1: run_dir}
    if not folders:
        raise InputError(run_dir, f"no {MANIFEST_NAME} there or in round-1", "want the work_dir of a run")
    return [_read_round(number, folder) for number, folder in sorted(folders.items())]


def _round_manifests(run_dir: Path) -> list[Path]:
    found = run_dir.glob(f"round-*/{MANIFEST_NAME}")
    return [path for path in found if path.parent.name.removeprefix("round-").isdigit()]


def _read_round(number: int, folder: Path) -> RoundOnDisk:
    entry = RoundOnDisk(number, read_manifest(folder))
    labels = versioned(entry.manifest.source, number)
    meta = _json(labels.with_suffix(".meta.json"))
    if labels.is_file() and meta.get("plan") == entry.manifest.key:  # else they are of an earlier run
        entry.labels, entry.meta = labels, meta
    for path in sorted(folder.glob("evaluation*.json")):
        told = _json(path)
        metrics = told.get("metrics", told)
        if isinstance(metrics, dict) and isinstance(metrics.get("ap"), int | float):
            entry.evaluations[path.stem] = metrics
    return entry


def _json(path: Path) -> dict[str, Any]:
    """An unfinished run lacks some files; that is no reason for no report."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def _name_of(run_dir: Path) -> str:
    return str(_json(run_dir / ROUNDS_NAME).get("name") or run_dir.resolve().name)


# The sections, in the order of the page; "" where there is nothing to say


def _overview(rounds: Sequence[RoundOnDisk], names: Mapping[str, str]) -> str:
    stems = _evaluation_stems(rounds)
    head = ["Round", "Labels", "Boxes kept", "Images without", "Quarantined"]
    head += [f"{_curve_name(stem, names)}: {metric}" for stem in stems for metric in ("AP", "AP50")]
    rows = []
    for entry in rounds:
        counts = entry.meta.get("counts", {})
        row = [str(entry.number - 1), f"v{entry.number}" if entry.labels else "not yet"]
        row += [_number(counts.get(key)) for key in ("kept", "lines_without_labels", "quarantined")]
        row += [_fraction(entry.evaluations.get(stem, {}).get(key)) for stem in stems for key in ("ap", "ap50")]
        rows.append(row)
    told = "Round 0 is the model as it came; round N has been trained on the labels of the round before."
    return _section("Rounds", _paragraph(told) + _table(head, rows))


def _curves(rounds: Sequence[RoundOnDisk], names: Mapping[str, str]) -> str:
    from matplotlib.ticker import MaxNLocator

    stems = _evaluation_stems(rounds)
    if not stems:
        return ""
    figure = _figure(6.4, 3.2)
    axes = figure.subplots()
    for place, stem in enumerate(stems):
        points = [(e.number - 1, e.evaluations[stem]["ap"]) for e in rounds if stem in e.evaluations]
        axes.plot(*zip(*points), marker="o", label=_curve_name(stem, names))
        for x, y in points:
            axes.annotate(
                f"{y:.3f}",
                (x, y),
                textcoords="offset points",
                xytext=(0, -14 if place % 2 else 7),
                ha="center",
                fontsize=8,
            )
    axes.set(xlabel="round", ylabel="COCO AP", ylim=(0, 1))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(x=0.1)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, loc="best", fontsize=8)
    return _section("AP a round", _plot(figure, "COCO AP of each round's model"))


def _counts(rounds: Sequence[RoundOnDisk]) -> str:
    told = [entry for entry in rounds if entry.meta]
    reasons = sorted({reason for entry in told for reason in entry.meta["counts"].get("dropped", {})})
    if not told:
        return ""
    head = ["", *(f"v{entry.number}" for entry in told)]
    rows = [["images", *(_number(entry.meta["counts"].get("lines")) for entry in told)]]
    rows.append(["candidates above the floor", *(_number(entry.meta["counts"].get("candidates")) for entry in told)])
    for reason in reasons:
        rows.append([f"dropped: {reason}", *(_number(e.meta["counts"]["dropped"].get(reason, 0)) for e in told)])
    rows.append(["kept", *(_number(entry.meta["counts"].get("kept")) for entry in told)])
    rows.append(["of these in the ignore band", *(_number(entry.meta["counts"].get("ignored")) for entry in told)])
    by_name = _kept_by_name(told)
    return _section("What became of the candidates", _table(head, rows) + by_name)


def _kept_by_name(told: Sequence[RoundOnDisk], most: int = 30) -> str:
    """The most frequent categories or phrases; nothing where there is but one."""
    totals: dict[str, int] = {}
    for entry in told:
        for name, count in entry.meta["counts"].get("kept_by_name", {}).items():
            totals[name] = totals.get(name, 0) + count
    if len(totals) < 2:
        return ""
    shown = sorted(totals, key=lambda name: (-totals[name], name))[:most]
    counts = [entry.meta["counts"].get("kept_by_name", {}) for entry in told]
    rows = [[name, *(_number(count.get(name, 0)) for count in counts)] for name in shown]
    rest = _paragraph(f"{len(totals) - most} more names are in the .meta.json files.") if len(totals) > most else ""
    return "<h3>Kept, by name</h3>" + _table(["", *(f"v{entry.number}" for entry in told)], rows) + rest


def _scores(rounds: Sequence[RoundOnDisk]) -> str:
    counted = [(entry, counts) for entry in rounds if (counts := _score_counts(entry.manifest)).any()]
    if not counted:
        return ""
    figure = _figure(3.4 * min(3, len(counted)) + 0.4, 2.5)
    panels = figure.subplots(1, len(counted), squeeze=False, sharey=True)[0]
    for axes, (entry, counts) in zip(panels, counted):
        axes.bar(SCORE_BINS[:-1], counts, width=np.diff(SCORE_BINS), align="edge", color="#5b8def")
        threshold = entry.meta.get("policy", {}).get("score_threshold")
        if threshold is not None:
            axes.axvline(threshold, color="#d1495b", linestyle="--", label=f"threshold {threshold:g}")
            axes.legend(frameon=False, fontsize=8)
        axes.set(title=f"v{entry.number}", xlabel="score", xlim=(0, 1), yscale="log")
    panels[0].set_ylabel("candidates (log)")
    told = _paragraph("Every box above the floor is kept; moving the threshold does not run the model again.")
    return _section("Scores of the candidates", told + _plot(figure, "Histogram of candidate scores"))


def _score_counts(manifest: Manifest) -> np.ndarray:
    """(bins,) candidates of each score, a shard in memory at a time; shards that are missing count nothing."""
    counts = np.zeros(len(SCORE_BINS) - 1, dtype=np.int64)
    for shard in manifest.shards:
        path = manifest.shard_path(shard.index)
        if path.is_file():
            try:
                counts += np.histogram(read_candidates(path).score, SCORE_BINS)[0]
            except InputError:  # a broken shard is labelled again when the run goes on
                continue
    return counts


def _comparisons(comparisons: Sequence[Comparison], title: str) -> str:
    return _section(title, _picture(comparison_sheet(comparisons), "truth beside predictions")) if comparisons else ""


def comparison_sheet(comparisons: Sequence[Comparison], columns: int = 4) -> np.ndarray:
    """(H, W, 3) uint8 RGB: an image a column, below one another its truth and each prediction."""
    tiles, titles = [], []
    columns = min(columns, len(comparisons))
    for start in range(0, len(comparisons), columns):
        block = [{"truth": one.truth} | dict(one.predictions) for one in comparisons[start : start + columns]]
        for version in block[0]:
            for one, shown in zip(comparisons[start:], block):
                tiles.append(draw_record(one.image, shown[version]))
                titles.append(version)
            empty = columns - len(block)
            tiles += [np.full((1, 1, 3), 255, np.uint8)] * empty
            titles += [""] * empty
    return contact_sheet(tiles, columns=columns, cell=(320, 320), titles=titles)


def _label_sheet(entry: RoundOnDisk) -> str:
    """Labels spread evenly over the file, with their scores."""
    if entry.labels is None:
        return ""
    total = max(1, int(entry.meta["counts"].get("lines", 0)) - int(entry.meta["counts"].get("quarantined", 0)))
    records = islice(read_odvg(entry.labels, on_problem=lambda problem: None), 0, None, max(1, total // LABEL_PICTURES))
    tiles = list(islice(_drawn(records, Path(entry.manifest.image_root)), LABEL_PICTURES))
    if not tiles:
        return ""
    sheet = contact_sheet(tiles, columns=4, cell=(320, 320))
    told = _paragraph(f"{len(tiles)} of {total} images of <code>{html.escape(entry.labels.name)}</code>.")
    return _section(f"Labels v{entry.number}", told + _picture(sheet, f"labels v{entry.number}"))


def _drawn(records: Iterable[Record], image_root: Path) -> Iterable[np.ndarray]:
    from PIL import Image, ImageOps

    for record in records:
        try:
            with Image.open(safe_join(image_root, record.filename)) as file:
                file.draft("RGB", (640, 640))
                image = ImageOps.exif_transpose(file).convert("RGB")
            image.thumbnail((640, 640))
            yield draw_record(np.asarray(image), record)
        except (OSError, InputError):  # it has moved since it was labelled
            continue


def _quarantined(rounds: Sequence[RoundOnDisk]) -> str:
    last = next((entry for entry in reversed(rounds) if entry.meta), None)
    if last is None:
        return ""
    problems = last.meta.get("quarantined", [])
    if not problems:
        return _section("Quarantined", _paragraph("Nothing: every line and every image could be used."))
    rows = [[str(p.get("line", "")), str(p.get("filename") or "?"), str(p.get("reason"))] for p in problems]
    rest = f" The first {QUARANTINE_ROWS} are:" if len(rows) > QUARANTINE_ROWS else ""
    told = _paragraph(f"{len(rows)} lines or images could not be used and were set aside.{rest}")
    return _section("Quarantined", told + _table(["Line", "File", "Reason"], rows[:QUARANTINE_ROWS], numbers=False))


def _settings(rounds: Sequence[RoundOnDisk]) -> str:
    """Who made these labels, and how: what differs between rounds has a column each."""
    columns = []
    for entry in rounds:
        manifest = entry.manifest
        told = {
            "source": manifest.source,
            "source SHA-256": manifest.source_sha256[:16],
            "images": manifest.image_root,
            "weights": manifest.weights,
            "weights SHA-256": manifest.weights_sha256[:16],
            "prompt": _prompt(manifest),
            "score floor": f"{manifest.score_floor:g}",
            "scale": "the model's own" if manifest.scale is None else " x ".join(map(str, manifest.scale)),
            "most boxes an image": str(manifest.max_per_image),
            "labels": str(entry.labels or "not yet"),
        }
        told |= {f"policy: {name}": str(value) for name, value in entry.meta.get("policy", {}).items()}
        columns.append(told)
    keys = list(dict.fromkeys(key for told in columns for key in told))
    rows = []
    for key in keys:
        values = [told.get(key, "") for told in columns]
        rows.append([key, *([values[0]] if len(set(values)) == 1 else values)])
    head = ["Setting", *(f"v{entry.number}" for entry in rounds)]
    return _section("Settings and provenance", _table(head, rows, numbers=False, spread=True))


def _prompt(manifest: Manifest, most: int = 40) -> str:
    if manifest.label_map is None:
        return "each line's caption"
    names = list(manifest.label_map.values())
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


# Words, numbers and pictures as HTML


def _evaluation_stems(rounds: Sequence[RoundOnDisk]) -> list[str]:
    return sorted({stem for entry in rounds for stem in entry.evaluations})


def _curve_name(stem: str, names: Mapping[str, str]) -> str:
    return names.get(stem, stem.removeprefix("evaluation-").replace("-", " "))


def _number(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else "–"


def _fraction(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, int | float) else "–"


def _section(title: str, content: str) -> str:
    return f"<section><h2>{html.escape(title)}</h2>{content}</section>"


def _paragraph(content: str) -> str:
    """content: HTML already."""
    return f"<p>{content}</p>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: bool = True, spread: bool = False) -> str:
    """numbers: all columns but the first stand to the right. spread: a row's single value goes over all columns."""
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    lines = []
    for first, *rest in rows:
        over = f' colspan="{len(head) - 1}"' if spread and len(rest) == 1 else ""
        cells = "".join(f"<td{over}>{html.escape(cell)}</td>" for cell in rest)
        lines.append(f'<tr><th scope="row">{html.escape(first)}</th>{cells}</tr>')
    kind = "numbers" if numbers else "words"
    table = f'<table class="{kind}"><thead><tr>{top}</tr></thead><tbody>{"".join(lines)}</tbody></table>'
    return f'<div class="wide">{table}</div>'


def _figure(width: float, height: float) -> Figure:
    """A matplotlib figure without pyplot: no global state, no window. width, height: inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _plot(figure: Figure, told: str) -> str:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=150)
    return _inline(stream.getvalue(), "png", told, "plot")


def _picture(picture: np.ndarray, told: str) -> str:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, format="JPEG", quality=SHEET_QUALITY)
    return _inline(stream.getvalue(), "jpeg", told, "sheet")


def _inline(content: bytes, kind: str, told: str, role: str) -> str:
    encoded = base64.b64encode(content).decode("ascii")
    return f'<img class="{role}" alt="{html.escape(told)}" src="data:image/{kind};base64,{encoded}">'


PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light; --ink: #1f2328; --faint: #656d76; --line: #d8dee4; }}
body {{ margin: 2.5rem auto; max-width: 70rem; padding: 0 1.5rem; color: var(--ink); background: #fff;
        font: 15px/1.55 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }}
h1 {{ font-size: 1.7rem; margin: 0 0 .2rem; }}
h2 {{ font-size: 1.15rem; margin: 2.4rem 0 .6rem; border-bottom: 1px solid var(--line); padding-bottom: .3rem; }}
h3 {{ font-size: 1rem; margin: 1.2rem 0 .4rem; }}
p, footer {{ color: var(--faint); margin: .3rem 0 .8rem; max-width: 46rem; }}
code {{ font: .92em ui-monospace, "DejaVu Sans Mono", monospace; color: var(--ink); }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }}
thead th {{ color: var(--faint); font-weight: 600; }}
tbody th {{ font-weight: 500; }}
.numbers td, .numbers thead th:not(:first-child) {{ text-align: right; padding: .3rem .9rem; }}
.words td {{ overflow-wrap: anywhere; }}
img.plot {{ max-width: 100%; height: auto; max-height: 24rem; }}
img.sheet {{ width: 100%; height: auto; }}
footer {{ margin-top: 3rem; font-size: .85rem; }}
@media print {{ section {{ break-inside: avoid; }} }}
</style>
</head>
<body>
<h1>{title}</h1>
{body}
<footer>Written by {software}.</footer>
</body>
</html>
"""
