"""The output of `groundhog quality`: a table, two plots, and a page with all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, stdev
from typing import TYPE_CHECKING

import numpy as np

from flows.labelling.plan import software_version
from flows.quality.ablation import Piece, QualityConfig
from flows.quality.page import write_quality_page
from formats.io.files import write_whole
from formats.io.plots import new_figure, write_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TABLE_NAME, LABELS_NAME = "quality.md", "labels.md"
CURVES_NAME, LADDER_NAME = "precision_recall.png", "retrained.png"
NOTHING = "–"


def write_quality_report(config: QualityConfig, pieces: Sequence[Piece]) -> str:
    """Writes table, plots and page into the work_dir; returns the table."""
    table_text = quality_table(config, pieces)
    with write_whole(config.train.work_dir / TABLE_NAME) as file:
        file.write(table_text + "\n")
    write_figure(config.train.work_dir / CURVES_NAME, _curves(config, pieces))
    if pieces:
        write_figure(config.train.work_dir / LADDER_NAME, _ladder(config, pieces))
    write_quality_page(config, pieces, software_version())
    return table_text


def write_labels_report(config: QualityConfig, pieces: Sequence[Piece]) -> str:
    """Like write_quality_report, for pieces without trained models."""
    lines = ["| variant | seeds | boxes | precision | recall | AP of labels |", "|:--" + "|--:" * 5 + "|"]
    for name, group in _by_variant(pieces).items():
        cells = [_spread([getattr(piece.labels[0], part) for piece in group]) for part in ("precision", "recall", "ap")]
        boxes = _spread([piece.labels[0].boxes for piece in group], ".0f")
        lines.append("| " + " | ".join([name, str(len(group)), boxes, *cells]) + " |")
    table_text = "\n".join(lines)
    with write_whole(config.train.work_dir / LABELS_NAME) as file:
        file.write(table_text + "\n")
    write_figure(config.train.work_dir / CURVES_NAME, _curves(config, pieces))
    write_quality_page(config, pieces, software_version())
    return table_text


def quality_table(config: QualityConfig, pieces: Sequence[Piece]) -> str:
    """A line for each round of a variant: quality of its labels, and AP of the model after it, over the seeds.

    Cells are mean ± standard deviation. "gain" compares with the model before the first round, "over baseline" with the
    baseline after the same round, or after its last round if it has fewer.
    """
    columns = "variant seeds precision recall AP-of-labels AP-target gain over-baseline AP-source lost".split()
    lines = [f"| {' | '.join(columns)} |".replace("-", " "), "|:--" + "|--:" * (len(columns) - 1) + "|"]
    by_variant = _by_variant(pieces)
    base = {piece.seed: piece.target[1:] for piece in by_variant.get(config.baseline, ())}
    for name, group in by_variant.items():
        for number in range(1, config.variants[name].rounds + 1):
            labels = [piece.labels[number - 1] for piece in group if piece.labels]
            over = [piece.target[number] - base[piece.seed][:number][-1] for piece in group if piece.seed in base]
            cells = [
                _round_name(config, name, number),
                str(len(group)),
                *(_spread([getattr(each, part) for each in labels]) for part in ("precision", "recall", "ap")),
                _spread([piece.target[number] for piece in group]),
                _spread([piece.target[number] - piece.target[0] for piece in group], "+.3f"),
                _spread([] if name == config.baseline else over, "+.3f"),
                _spread([piece.source[number] for piece in group if piece.source]),
                _spread([piece.source[0] - piece.source[number] for piece in group if piece.source], "+.3f"),
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _round_name(config: QualityConfig, variant: str, number: int) -> str:
    """The name of a row: the variant, and if it has several rounds the labels that the model was trained on, "v1"."""
    return variant if config.variants[variant].rounds == 1 else f"{variant}, v{number}"


def _spread(values: Sequence[float], form: str = ".3f") -> str:
    """Mean and standard deviation, 0.412 ± 0.013; of a single value, only the value."""
    if not values:
        return NOTHING
    mean = f"{fmean(values):{form}}"
    return f"{mean} ± {stdev(values):{form.removeprefix('+')}}" if len(values) > 1 else mean


def _by_variant(pieces: Sequence[Piece]) -> Mapping[str, list[Piece]]:
    by_variant: dict[str, list[Piece]] = {}
    for piece in pieces:
        by_variant.setdefault(piece.variant, []).append(piece)
    return by_variant


def _curves(config: QualityConfig, pieces: Sequence[Piece]) -> Figure:
    """Precision against recall of the first labels, mean over the seeds; a dot marks the labels of the policy.

    A curve ends at the highest recall that all seeds reach.
    """
    figure = new_figure(7, 5)
    axes = figure.add_subplot()
    colours: dict[tuple[float, ...], str] = {}  # policies that differ only in thresholds share a curve
    dots: dict[tuple[float, float], list[str]] = {}  # policies that differ only in marks of boxes share a dot
    for name, group in _by_variant(pieces).items():
        labelled = [piece.labels[0] for piece in group if piece.labels]
        if not labelled:
            continue
        each = np.array([quality.curve for quality in labelled])
        curve = np.where((each > 0).all(axis=0), each.mean(axis=0), np.nan)
        colour = colours.setdefault(tuple(each.mean(axis=0)), f"C{len(colours)}")
        axes.plot(np.linspace(0, 1, len(curve)), curve, color=colour, linewidth=1.2)
        dot = (fmean(quality.recall for quality in labelled), fmean(quality.precision for quality in labelled))
        axes.plot(*dot, "o", color=colour)
        dots.setdefault(dot, []).append(name)
    for dot, names in dots.items():
        axes.annotate(", ".join(names), dot, textcoords="offset points", xytext=(6, 4), fontsize=8)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0.3, 1.02), ylim=(0.3, 1.02))
    axes.set_title(f"{config.name}: first labels at IoU 0.5")
    axes.grid(alpha=0.3)
    return figure


def _ladder(config: QualityConfig, pieces: Sequence[Piece]) -> Figure:
    """AP of the retrained models on the target, and on the source if it was measured; a dot is a seed."""
    parts: list[tuple[str, Callable[[Piece], Sequence[float]]]] = [("target", lambda piece: piece.target)]
    if any(piece.source for piece in pieces):
        parts.append(("source, all categories", lambda piece: piece.source))
    rows = [
        (_round_name(config, name, number), number, group)
        for name, group in _by_variant(pieces).items()
        for number in range(1, config.variants[name].rounds + 1)
    ][::-1]
    figure = new_figure(11, 0.35 * len(rows) + 1.6)
    panels = figure.subplots(1, len(parts), squeeze=False)[0]
    for axes, (title, scores_of) in zip(panels, parts):
        for height, (_, number, group) in enumerate(rows):
            after = [scores_of(piece)[number] for piece in group]
            # Dots, since bars would have to begin at 0 and would hide the differences.
            axes.plot(after, [height] * len(after), "o", color="C0", alpha=0.7, markersize=5)
            axes.plot(fmean(after), height, "|", color="black", markersize=13, markeredgewidth=2)
        before = fmean(scores_of(piece)[0] for piece in pieces)
        axes.axvline(before, color="C3", linestyle="--", linewidth=1, label="before")
        axes.set(title=title, xlabel="COCO AP after retraining")
        axes.set_yticks(range(len(rows)), [name for name, _, _ in rows])
        axes.grid(alpha=0.3)
        axes.locator_params(axis="x", nbins=6)
        axes.legend(fontsize=8, loc="best")
    return figure
