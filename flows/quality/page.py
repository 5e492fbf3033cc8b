"""quality.html: the report of an ablation as one self-contained page."""

from __future__ import annotations

import html
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean, stdev

from browse import page_parts as pages
from browse.changes import CORRECTNESS, CORRECTNESS_LEGEND, box_changes, draw_changes
from browse.contact_sheet import side_by_side
from browse.images.pictures import reduced_picture
from browse.page_style import headlines_of
from flows.quality.ablation import Piece, QualityConfig, Variant, piece_folder
from formats.dataset_names import annotation_path, label_map_path, labels_path
from formats.images import safe_join
from formats.io.errors import InputError
from formats.io.files import write_whole
from formats.io.plurals import many
from formats.odvg import read_odvg
from formats.record import Record
from grounding_model.data.sources import OdvgData

PAGE_NAME = "quality.html"
PICTURES = 8  # of each variant that is drawn
# Quantiles of Student's t distribution at 97.5 %, for 2, 3 … degrees of freedom: means over few seeds.
STUDENT = (4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


def write_quality_page(config: QualityConfig, pieces: Sequence[Piece], software: str) -> Path:
    """Writes quality.html for the finished pieces into the work_dir, which contains the plots; returns its path."""
    by_variant = {name: [piece for piece in pieces if piece.variant == name] for name in config.variants}
    by_variant = {name: pieces for name, pieces in by_variant.items() if pieces}
    folder = config.train.work_dir
    sections = [
        _figures(config, by_variant),
        _review(config, by_variant),
        _gains(config, by_variant),
        _labels(by_variant),
        _forgotten(by_variant),
        *(_plot(folder / name, title) for name, title in PLOTS),
        *_drawn(config, by_variant),
        _variants(config),
        _settings(config, sorted({piece.seed for piece in pieces})),
    ]
    path = folder / PAGE_NAME
    with write_whole(path) as file:
        file.write(pages.page(f"Label quality: {config.name}", "\n".join(filter(None, sections)), software))
    return path


PLOTS = (
    ("precision_recall.png", "Precision and recall of the policies"),
    ("retrained.png", "AP of the retrained models, by seed"),
)
ByVariant = dict[str, list[Piece]]


def interval(values: Sequence[float], signed: bool = False) -> str:
    """The mean with its 95 % interval (Student's t) over three seeds or more; of two, with both values.

    signed: for differences, which may be negative; otherwise the interval is clipped to 0..1.
    """
    if not values:
        return pages.fraction(None)
    if len(values) < 3:
        both = f" ({min(values):.3f} and {max(values):.3f})" if len(values) == 2 else ""
        return f"{fmean(values):.3f}{both}"
    half = STUDENT[min(len(values) - 2, len(STUDENT)) - 1] * stdev(values) / len(values) ** 0.5
    low, high = fmean(values) - half, fmean(values) + half
    low, high = (low, high) if signed else (max(low, 0.0), min(high, 1.0))
    return f"{fmean(values):.3f} ({low:.3f} to {high:.3f})"


def _gain(pieces: Sequence[Piece]) -> list[float]:
    """The gain in AP on the target of each seed, from before the first round to after the last."""
    return [piece.target[-1] - piece.target[0] for piece in pieces if piece.target]


def _best(by_variant: ByVariant) -> str | None:
    """The variant with a policy whose models gained most; without training, the one with the highest AP of labels."""
    with_labels = {name: pieces for name, pieces in by_variant.items() if any(piece.labels for piece in pieces)}
    trained = {name: fmean(_gain(pieces)) for name, pieces in with_labels.items() if _gain(pieces)}
    scored = trained or {
        name: fmean(p.labels[0].ap for p in pieces if p.labels) for name, pieces in with_labels.items()
    }
    return max(scored, key=lambda name: scored[name]) if scored else None


def _figures(config: QualityConfig, by_variant: ByVariant) -> str:
    best = _best(by_variant)
    if best is None:
        return ""
    pieces, figures = by_variant[best], []
    if gains := _gain(pieces):
        before = fmean(piece.target[0] for piece in pieces)
        figures.append((f"AP after {best}", *_headline([piece.target[-1] for piece in pieces], f"{before:.3f} before")))
        figures.append(("gained", *_headline(gains, many(len(gains), "seed"), "+.3f")))
        base = {piece.seed: piece.target[-1] for piece in by_variant.get(config.baseline, ()) if piece.target}
        over = [piece.target[-1] - base[piece.seed] for piece in pieces if piece.seed in base]
        if over and best != config.baseline:
            figures.append((f"over {config.baseline}", *_headline(over, "of the same seeds", "+.3f")))
    labels = [piece.labels[0] for piece in pieces if piece.labels]
    figures.append((f"precision of {best}'s labels", *_headline([each.precision for each in labels], "at IoU 0.5")))
    figures.append(("their recall", *_headline([each.recall for each in labels], "at IoU 0.5")))
    return headlines_of(figures)


def _headline(values: Sequence[float], note: str, form: str = ".3f") -> tuple[str, str]:
    spread = interval(values, form.startswith("+")).partition("(")[2].rstrip(")")
    title = "95 % interval " if len(values) > 2 else ""
    return f"{fmean(values):{form}}", f"{title}{spread}; {note}" if spread else note


def _review(config: QualityConfig, by_variant: ByVariant) -> str:
    """The command that shows the labels of the best variant on top of the truth."""
    best = _best(by_variant)
    found = next(_labelled(config, best, by_variant[best]), None) if best else None
    if found is None:
        return ""
    labels, truth, images = found
    words = ["groundhog", "browse", "serve", labels.parent, labels.name, images.resolve(), "-m", _label_map(truth)]
    command = shlex.join(map(str, [*words, "--compare", truth.resolve()]))
    return pages.review_command(f"Labels of {html.escape(str(best))} on top of the truth:", command)


def _label_map(truth: Path) -> Path:
    return label_map_path(truth.parent, "x").resolve()


def _labelled(config: QualityConfig, name: str, pieces: Sequence[Piece]) -> Iterator[tuple[Path, Path, Path]]:
    """Yields (labels of the first round, truth, images) for each seed that has them on disk."""
    for piece in pieces:
        folder = config.train.work_dir / f"seed-{piece.seed}" / "data"
        labels = annotation_path(piece_folder(config, name, piece.seed) / "round-1", "labels", "od")
        labels = labels if labels.is_file() else labels_path(labels, 1)
        truth = annotation_path(folder, "truth", "od")
        images = config.data.image_root if isinstance(config.data, OdvgData) else folder / "images"
        if labels.is_file() and truth.is_file():
            yield labels, truth, images


def _gains(config: QualityConfig, by_variant: ByVariant) -> str:
    rows = []
    base = {piece.seed: piece.target for piece in by_variant.get(config.baseline, ()) if piece.target}
    for name, pieces in by_variant.items():
        for number in range(1, config.variants[name].rounds + 1):
            done = [piece for piece in pieces if len(piece.target) > number]
            over = [p.target[number] - base[p.seed][: number + 1][-1] for p in done if p.seed in base]
            rows.append(
                [
                    name if config.variants[name].rounds == 1 else f"{name}, round {number}",
                    interval([piece.target[number] for piece in done]),
                    interval([piece.target[number] - piece.target[0] for piece in done], signed=True),
                    interval([] if name == config.baseline else over, signed=True),
                    str(len(done)),
                ]
            )
    if not any(row[4] != "0" for row in rows):
        return ""
    head = ["", "AP on the target", "Gained", f"Over {config.baseline}", "Seeds"]
    intro = pages.paragraph("Means over the seeds; with three or more seeds, with 95 % intervals.")
    return pages.section("What does a model gain from the labels?", intro + pages.page_table(head, rows))


def _labels(by_variant: ByVariant) -> str:
    rows = []
    for name, pieces in by_variant.items():
        labels = [piece.labels[0] for piece in pieces if piece.labels]
        if labels:
            parts = [interval([getattr(each, part) for each in labels]) for part in ("precision", "recall", "ap")]
            rows.append([name, *parts, f"{fmean(each.boxes for each in labels):,.0f}"])
    if not rows:
        return ""
    head = ["", "Precision", "Recall", "AP of the labels", "Boxes"]
    intro = pages.paragraph("Labels of the first round; a label is right at an IoU of 0.5 with a true box.")
    return pages.section("How good are the labels?", intro + pages.page_table(head, rows))


def _forgotten(by_variant: ByVariant) -> str:
    rows = []
    for name, pieces in by_variant.items():
        measured = [piece.source for piece in pieces if piece.source]
        if measured:
            after = interval([source[-1] for source in measured])
            rows.append([name, after, interval([source[0] - source[-1] for source in measured], signed=True)])
    if not rows:
        return ""
    return pages.section(
        "What does it forget?", pages.page_table(["", "AP on the source, all categories", "Lost"], rows)
    )


def _plot(path: Path, title: str) -> str:
    if not path.is_file():
        return ""
    return pages.section(title, pages.inline(path.read_bytes(), "png", title, "plot"))


def _drawn(config: QualityConfig, by_variant: ByVariant) -> Iterator[str]:
    """Yields drawings of the labels of the best variant and of the baseline, coloured by right and wrong."""
    for name in dict.fromkeys((_best(by_variant), config.baseline)):
        found = next(_labelled(config, name, by_variant[name]), None) if name in by_variant else None
        drawings = [] if found is None else list(_drawings(*found))
        if drawings and name is not None:
            intro = pages.paragraph("Truth on the left, labels on the right.") + pages.legend(CORRECTNESS_LEGEND)
            shown = pages.gallery(drawings, f"labels-{list(config.variants).index(name)}", wide=True)
            yield pages.section(f"What do the labels of {name} look like?", intro + shown)


def _drawings(labels: Path, truth: Path, images: Path) -> Iterator[pages.Drawing]:
    pairs = list(zip(read_odvg(truth), read_odvg(labels), strict=False))
    for true, made in pairs[:: max(1, len(pairs) // PICTURES)][:PICTURES]:
        if true.filename == made.filename and (image := _image(images, true)) is not None:
            changes = box_changes(made, true)
            wrong = changes.count("gained", "lost", "relabelled")
            left = draw_changes(image, true, changes.others, CORRECTNESS)
            right = draw_changes(image, made, changes.ours, CORRECTNESS)
            note = many(wrong, "mistake") if wrong else "all right"
            yield pages.Drawing(side_by_side(left, right, ("truth", "labels")), true.filename, note)


def _image(images: Path, record: Record):
    try:
        return reduced_picture(safe_join(images, record.filename), pages.DRAWN_SIDE)
    except (OSError, InputError):  # it has moved since it was labelled
        return None


def _variants(config: QualityConfig) -> str:
    """A table of the variants and their settings."""
    return pages.section(
        "What was compared?",
        pages.page_table(
            ["Variant", ""], [[name, _in_words(each)] for name, each in config.variants.items()], numbers=False
        ),
    )


def _in_words(variant: Variant) -> str:
    if variant.labels != "policy":
        return {"none": "no labels, only the pretraining data", "truth": "the true labels"}[variant.labels]
    plain, parts = vars(type(variant.policy)()), vars(variant.policy)
    changed = [
        f"{name.replace('_', ' ')} {pages.setting_in_words(each)}"
        for name, each in parts.items()
        if each != plain[name]
    ]
    changed += [f"{len(variant.views)} views"] if len(variant.views) > 1 else []
    changed += [many(variant.rounds, "round")] if variant.rounds > 1 else []
    changed += [f"interpolated, {variant.student:g} of the trained model"] if variant.student < 1 else []
    return "; ".join(changed) or "default policy"


def _settings(config: QualityConfig, seeds: Sequence[int]) -> str:
    train = config.train
    rows = [
        ["start", str(config.start.source)], ["categories", pages.setting_in_words(config.categories)],
        ["seeds", pages.setting_in_words(tuple(seeds))], ["training steps", pages.setting_in_words(train.steps)],
        ["batch size", pages.setting_in_words(train.batch_size)], ["baseline", config.baseline],
        ["pretraining images per labelled image", pages.setting_in_words(config.ratio)],
        ["score floor", pages.setting_in_words(config.score_floor)], ["work dir", str(train.work_dir)],
    ]  # fmt: skip
    return pages.section("Settings", pages.page_table(["Setting", ""], rows, numbers=False))
