"""Coverage of audits' confidence intervals, and how many reviews an audit saves, in simulations with known truth.

    python benchmarks/audit_coverage.py --coco128 data/coco128

Labels are true boxes with known errors (benchmarks/disturbed_labels.py). For each setting, 1,000 audits are sampled
like `groundhog audit` does, and their intervals are compared with the precision and recall of the whole label file.
With --files 10, they are taken from ten label files of each kind with different errors.
Prints Markdown: the share of intervals that contain the true value, their mean width, and how many uniformly sampled
reviews give the same width. Without --coco128 only drawn scenes are used. Takes minutes on one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from disturbed_labels import Disturbance, disturb, drawn_scenes, read_coco128, repeated

from flows.audit.estimation import Share, Strata, estimate_share
from flows.audit.outcomes import label_outcomes, labels_by_name
from flows.audit.report import ENOUGH_BOXES, ENOUGH_IMAGES
from flows.audit.sampling import Design, design, expected_errors
from flows.audit.thresholds import certified_threshold, threshold_grid
from formats.record import Record

AUDITS = 1000
THRESHOLD_AUDITS = 300
REVIEWS = (10, 20, 30, 60, 120)
DISTURBANCES = {
    "usual": Disturbance(),
    "nearly clean": Disturbance(0.01, 0.004, 0.004, 0.003, 0.005),
    "confidently wrong": Disturbance(0.15, 0.08, 0.08, 0.06, 0.15, confident=True),
    "errors in 15 % of the images": Disturbance(0.1, 0.04, 0.04, 0.03, 0.05, clustered=0.15),
}
PRECISION = 0.9  # that a threshold has to reach


@dataclass(frozen=True, eq=False)
class World:
    """A label file whose truth is known. N images, C categories; hits, labels, objects, scores: (N, C), scores are
    summed. box_image, box_score, box_right: one a label.
    """

    hits: np.ndarray
    labels: np.ndarray
    objects: np.ndarray
    scores: np.ndarray
    sizes: np.ndarray
    keys: list[str]
    box_image: np.ndarray
    box_score: np.ndarray
    box_right: np.ndarray


def build_world(truth: list[Record], names: tuple[str, ...], settings: Disturbance, seed: int) -> World:
    labels, _ = disturb(truth, names, settings, seed)
    column_of = {name: index for index, name in enumerate(names)}
    hits, counts, objects, scores = (np.zeros((len(truth), len(names))) for _ in range(4))
    boxes: list[tuple[int, float, bool]] = []
    for row, (label, true) in enumerate(zip(labels, truth)):
        for name, outcome in label_outcomes(label, true).items():
            column = column_of[name]
            hits[row, column], counts[row, column] = outcome.hits, outcome.labels
            objects[row, column], scores[row, column] = outcome.objects, outcome.score.sum()
            boxes += [(row, score, right) for score, right in zip(outcome.score, outcome.right)]
    by_name = [{name: [box.score for box in boxes] for name, boxes in labels_by_name(each).items()} for each in labels]
    image, score, right = map(np.array, zip(*boxes))
    keys = [each.filename for each in labels]
    return World(hits, counts, objects, scores, expected_errors(by_name), keys, image, score, right)


Worlds = Sequence[World]  # label files of one kind


# Many audits at once


def draw(plan: Design, reviews: int, audits: int, seed: int) -> tuple[np.ndarray, Strata]:
    """(audits, n) images, as other seeds of the design would have given them, and their strata."""
    rng = np.random.default_rng(seed)
    stratum = plan.stratum[plan.order[:reviews]]
    images = np.empty((audits, len(stratum)), dtype=int)
    for value in np.unique(stratum):
        places, members = np.flatnonzero(stratum == value), np.flatnonzero(plan.stratum == value)
        images[:, places] = members[rng.random((audits, len(members))).argsort(1)[:, : len(places)]]
    return images, Strata(stratum, np.bincount(plan.stratum))


def planned(world: World, reviews: int, uniform: bool = False) -> Design:
    if uniform:
        return design(np.ones(len(world.sizes)), world.keys, 1, seed=0)
    return design(world.sizes, world.keys, reviews, seed=0, empty=world.labels.sum(1) == 0)


def shares(
    world: World, images: np.ndarray, strata: Strata, category: int | None = None, control: bool = True
) -> tuple[Share, Share]:
    """Precision and recall of each audit."""
    chosen = slice(None) if category is None else slice(category, category + 1)
    hits, labels, objects, scores = (
        table[:, chosen].sum(1) for table in (world.hits, world.labels, world.objects, world.scores)
    )
    explained = scores - scores.sum() / max(1.0, labels.sum()) * labels if control else np.zeros(len(hits))
    known = explained[images] if control else None
    precision = estimate_share(hits[images], labels[images], strata, known)
    return precision, estimate_share(hits[images], objects[images], strata, known)


def truths(world: World, category: int | None = None) -> tuple[float, float]:
    chosen = slice(None) if category is None else slice(category, category + 1)
    hits, labels, objects = (table[:, chosen].sum() for table in (world.hits, world.labels, world.objects))
    return hits / labels if labels else np.nan, hits / objects if objects else np.nan


def holds(share: Share, truth: float) -> np.ndarray:
    return (share.low <= truth) & (truth <= share.high)


# The tables


def coverage_row(worlds: Worlds, reviews: int) -> list[str]:
    """Truth, coverage and mean width of precision and recall."""
    seen: list[list[list[np.ndarray]]] = [[], []]
    for number, world in enumerate(worlds):
        images, strata = draw(planned(world, reviews), reviews, AUDITS // len(worlds), seed=number)
        for share, truth, kept in zip(shares(world, images, strata), truths(world), seen):
            kept.append([np.full(len(images), truth), holds(share, truth), share.high - share.low])
    row = []
    for kept in seen:
        truth, held, width = (np.concatenate(column).mean() for column in zip(*kept))
        row += [f"{truth:.3f}", f"{100 * held:.1f}", f"{width:.3f}"]
    return row


def category_columns(worlds: Worlds, reviews: int) -> list[str]:
    """The categories' coverage and width."""
    categories: dict[str, list[np.ndarray]] = {"all": [np.zeros((0, 2))], "rare": [np.zeros((0, 2))]}
    for number, world in enumerate(worlds):
        images, strata = draw(planned(world, reviews), reviews, AUDITS // len(worlds), seed=number)
        for kind, found in category_intervals(world, images, strata):
            categories[kind].append(found)
    return [cell for found in categories.values() for cell in _percent(np.concatenate(found))]


def category_intervals(world: World, images: np.ndarray, strata: Strata) -> Iterator[tuple[str, np.ndarray]]:
    """(K, 2) whether the intervals of a category hold, and their width, in audits with enough reviews of it; for "all"
    and for the "rare" half of the categories.
    """
    counts = world.objects.sum(0)
    rare = np.median(counts[counts > 0])
    for category in np.flatnonzero(world.labels.sum(0)):
        seen = [table[:, category][images] for table in (world.labels, world.objects)]
        for share, truth, boxes in zip(shares(world, images, strata, category), truths(world, category), seen):
            enough = (share.images >= ENOUGH_IMAGES) & (boxes.sum(1) >= ENOUGH_BOXES)
            if np.isfinite(truth):
                found = np.stack([holds(share, truth), share.high - share.low], 1)[enough]
                yield "all", found
                if counts[category] <= rare:
                    yield "rare", found


def _percent(found: np.ndarray) -> list[str]:
    if not len(found):
        return ["–", "–"]
    held, width = found.mean(0)
    return [f"{100 * held:.1f} ({len(found) / AUDITS:.1f})", f"{width:.3f}"]


def reviews_row(worlds: Worlds, reviews: int) -> list[str]:
    """Mean widths at this many reviews, and how many uniformly drawn ones without scores give the same."""
    audited = mean_widths(worlds, reviews)
    count = len(worlds[0].sizes)
    grid = sorted({min(count, round(reviews * factor)) for factor in np.geomspace(0.6, 6, 25)})
    widths = np.array([mean_widths(worlds, uniform, uniform=True) for uniform in grid])
    cells = []
    for index, width in enumerate(audited):
        needed = float(np.interp(-width, -widths[:, index], grid))
        cells += [f"{width:.3f}", f"{needed:.0f}", f"{reviews / needed:.2f}"]
    return cells


def mean_widths(worlds: Worlds, reviews: int, uniform: bool = False) -> np.ndarray:
    """(2,) of precision and recall. uniform: drawn uniformly, without scores, with a quarter of the audits."""
    audits = AUDITS // len(worlds) // (4 if uniform else 1)
    widths = []
    for number, world in enumerate(worlds):
        images, strata = draw(planned(world, reviews, uniform), reviews, audits, seed=number)
        widths.append([(each.high - each.low).mean() for each in shares(world, images, strata, control=not uniform)])
    return np.mean(widths, 0)


def threshold_row(worlds: Worlds, reviews: int) -> list[str]:
    """How often a threshold was found, how often it keeps what it promises, and how many labels it keeps."""
    audits = THRESHOLD_AUDITS // len(worlds)
    found = [each for world in worlds for each in thresholds_found(world, reviews, audits)]
    precision = f"{np.mean([world.box_right.mean() for world in worlds]):.3f}"
    if not found:
        return ["0", "–", "–", precision]
    true, kept = np.transpose(found)
    count = audits * len(worlds)
    broken = (true < PRECISION).sum() / count
    return [f"{100 * len(found) / count:.0f}", f"{100 * broken:.1f}", f"{100 * kept.mean():.0f}", precision]


def thresholds_found(world: World, reviews: int, audits: int) -> Iterator[tuple[float, float]]:
    """The precision above each threshold that an audit certified, and the share of labels that it keeps."""
    images, strata = draw(planned(world, reviews), reviews, audits, seed=3)
    grid = threshold_grid(world.box_score)
    above = [world.box_score > threshold for threshold in grid]
    labels = np.stack([np.bincount(world.box_image[kept], minlength=len(world.keys)) for kept in above], 1)
    hits = np.stack([np.bincount(world.box_image[k & world.box_right], minlength=len(world.keys)) for k in above], 1)
    for own in images:
        if (index := certified_threshold(hits[own], labels[own], strata, PRECISION)) is not None:
            yield hits[:, index].sum() / labels[:, index].sum(), labels[:, index].sum() / len(world.box_score)


# Errors that come in whole images


def whole_images_row(boxes: int, reviews: int, wrong: float, images: int = 300, worlds: int = 40) -> list[str]:
    """held %, width of precision where all labels of an image are right or all are wrong; drawn uniformly, without
    scores. The mean over label files of that kind.
    """
    held, width = [], []
    for seed in range(worlds):
        rng = np.random.default_rng(seed)
        labels = rng.poisson(boxes, images)
        hits = labels * (rng.random(images) >= wrong)
        chosen = rng.random((AUDITS // worlds, images)).argsort(1)[:, :reviews]
        strata = Strata(np.zeros(reviews, int), np.array([images]))
        share = estimate_share(hits[chosen], labels[chosen], strata)
        held.append(holds(share, hits.sum() / labels.sum()))
        width.append(share.high - share.low)
    return [f"{100 * np.mean(held):.1f}", f"{np.mean(width):.3f}"]


def overlooked_row(truth: list[Record], reviews: int, wrong: float, worlds: int = 40) -> list[str]:
    """held %, width of recall where no object of a share of the images is labelled and every other one is; drawn as an
    audit is. The mean over label files of that kind.
    """
    objects = np.array([len(each.instances or ()) for each in truth])
    held, width = [], []
    for seed in range(worlds):
        rng = np.random.default_rng(seed)
        missed = rng.random(len(truth)) < wrong
        scores = [0.3 + 0.7 * rng.beta(6, 2, len(each.instances or ())) for each in truth]
        boxes = [{} if gone else _by_name(each, own) for each, own, gone in zip(truth, scores, missed)]
        hits = np.where(missed, 0, objects)
        total = np.array([0.0 if gone else own.sum() for own, gone in zip(scores, missed)])
        keys = [each.filename for each in truth]
        plan = design(expected_errors(boxes), keys, reviews, seed=0, empty=np.array([not each for each in boxes]))
        chosen, strata = draw(plan, reviews, AUDITS // worlds, seed)
        share = estimate_share(hits[chosen], objects[chosen], strata, (total - total.sum() / hits.sum() * hits)[chosen])
        held.append(holds(share, hits.sum() / objects.sum()))
        width.append(share.high - share.low)
    return [f"{100 * np.mean(held):.1f}", f"{np.mean(width):.3f}"]


def _by_name(record: Record, scores: np.ndarray) -> dict[str, list[float | None]]:
    found: dict[str, list[float | None]] = {}
    for instance, score in zip(record.instances or (), scores):
        found.setdefault(instance.category, []).append(float(score))
    return found


def print_whole_images(sets: dict[str, tuple[list[Record], tuple[str, ...]]]) -> None:
    counts = (10, 20, 30, 60, 120)
    head = [f"{title} {n}" for n in counts for title in ("held %", "width")]
    cases = [(boxes, wrong) for boxes in (1, 3, 8) for wrong in (0.03, 0.1, 0.3)]
    rows = [[str(b), f"{100 * w:.0f}", *(cell for n in counts for cell in whole_images_row(b, n, w))] for b, w in cases]
    print(table(["labels of an image", "wrong images %", *head], rows))
    cases = [(name, wrong) for name in sets for wrong in (0.03, 0.1, 0.3)]
    rows = [
        [name, f"{100 * w:.0f}", *(cell for n in counts for cell in overlooked_row(sets[name][0], n, w))]
        for name, w in cases
        if len(sets[name][0]) > max(counts)
    ]
    print("\n" + table(["labels", "overlooked images %", *head], rows))


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head), *map(list, rows)]
    marks = ["|" + "|".join([":--", *["--:"] * (len(lines[0]) - 1)]) + "|"]
    text = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([text[0], *marks, *text[1:]])


def print_overall(sets: dict[tuple[str, str], Worlds]) -> None:
    """How often the overall intervals hold, of precision and of recall, at each number of reviews."""
    rows = []
    for key, worlds in sets.items():
        counts = [n for n in REVIEWS if n < len(worlds[0].keys)]
        cells = [coverage_row(worlds, n) for n in counts]
        rows.append([*key, *(f"{row[1]}, {row[4]}" for row in cells)])
    print(table(["labels", "errors", *(f"{n} reviews" for n in REVIEWS)], rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--coco128", type=Path, metavar="DIR", help="coco128 with images, labels and classes.yaml")
    parser.add_argument("--scenes", type=int, default=400, help="drawn scenes (default 400)")
    parser.add_argument("--whole-images", action="store_true", help="only errors that come in whole images")
    parser.add_argument("--files", type=int, default=1, help="label files of each kind; more: overall coverage alone")
    options = parser.parse_args()
    sets: dict[str, tuple[list[Record], tuple[str, ...]]] = {}
    if options.coco128 is not None:
        records, names = read_coco128(options.coco128)
        sets = {"coco128": (records, names), "coco128, ten times": (repeated(records, 10), names)}
    sets[f"{options.scenes} scenes"] = drawn_scenes(options.scenes, domain="dense")
    if options.whole_images:
        print_whole_images(sets)
        return
    worlds = {
        (data, kind): [build_world(*given, settings, seed=5 + number) for number in range(options.files)]
        for data, given in sets.items()
        for kind, settings in DISTURBANCES.items()
    }
    head = ["labels", "errors", "reviews", "precision", "held %", "width", "recall", "held %", "width"]
    counted = [(key, world, n) for key, world in worlds.items() for n in REVIEWS if n < len(world[0].keys)]
    if options.files > 1:
        print_overall(worlds)
        return
    rows = ([*k, str(n), *coverage_row(w, n), *category_columns(w, n)] for k, w, n in counted)
    print(table([*head, "categories", "width", "rare ones", "width"], rows))
    few = [(key, world, n) for key, world, n in counted if n in (30, 60)]
    head = ["labels", "errors", "reviews", "precision ±", "uniform", "ratio", "recall ±", "uniform", "ratio"]
    print("\n" + table(head, ([*k, str(n), *reviews_row(w, n)] for k, w, n in few)))
    head = ["labels", "errors", "reviews", "found %", "broken %", "labels kept %", "precision of all"]
    print("\n" + table(head, ([*k, str(n), *threshold_row(w, n)] for k, w, n in counted if n >= 60)))


if __name__ == "__main__":
    main()
