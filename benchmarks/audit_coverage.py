"""Do audits' intervals hold the truth, and how many reviews do they save? Simulated, where the truth is known.

    python benchmarks/audit_coverage.py --coco128 data/coco128

Labels are true boxes disturbed in known ways (benchmarks/disturbed_labels.py). For each setting, 1,000 audits are drawn
as `groundhog audit` draws them, and their intervals are compared with the precision and recall of the whole label file.
Prints Markdown: the share of intervals that hold the truth, their mean width, and how many uniformly drawn reviews give
the same width. Without --coco128 only drawn scenes are used. Takes minutes on one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from disturbed_labels import Disturbance, disturb, drawn_scenes, read_coco128, repeated

from flows.audit.estimation import Share, Strata, estimate_share
from flows.audit.judging import judge_labels, labels_by_name
from flows.audit.report import ENOUGH_BOXES, ENOUGH_IMAGES
from flows.audit.sampling import Design, design, expected_errors
from flows.audit.thresholds import certified_threshold, threshold_grid
from formats.record import Record

AUDITS = 1000
REVIEWS = (10, 30, 60, 120)
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
        for name, outcome in judge_labels(label, true).items():
            column = column_of[name]
            hits[row, column], counts[row, column] = outcome.hits, outcome.labels
            objects[row, column], scores[row, column] = outcome.objects, outcome.score.sum()
            boxes += [(row, score, right) for score, right in zip(outcome.score, outcome.right)]
    by_name = [{name: [box.score for box in boxes] for name, boxes in labels_by_name(each).items()} for each in labels]
    image, score, right = map(np.array, zip(*boxes))
    keys = [each.filename for each in labels]
    return World(hits, counts, objects, scores, expected_errors(by_name), keys, image, score, right)


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
    sizes = np.ones(len(world.sizes)) if uniform else world.sizes
    return design(sizes, world.keys, 1 if uniform else reviews, seed=0)


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


def coverage_row(world: World, reviews: int) -> list[str]:
    """Coverage and mean width of precision and recall, and the categories' coverage."""
    images, strata = draw(planned(world, reviews), reviews, AUDITS, seed=1)
    row = []
    for share, truth in zip(shares(world, images, strata), truths(world)):
        row += [f"{truth:.3f}", f"{100 * holds(share, truth).mean():.1f}", f"{(share.high - share.low).mean():.3f}"]
    return row + category_columns(world, images, strata)


def category_columns(world: World, images: np.ndarray, strata: Strata) -> list[str]:
    """How often the intervals of categories hold, of those with enough reviews, all and the rarer half of them."""
    held: dict[str, list[np.ndarray]] = {"all": [], "rare": []}
    counts = world.objects.sum(0)
    rare = np.median(counts[counts > 0])
    for category in np.flatnonzero(world.labels.sum(0)):
        seen = [table[:, category][images] for table in (world.labels, world.objects)]
        for share, truth, boxes in zip(shares(world, images, strata, category), truths(world, category), seen):
            enough = (share.images >= ENOUGH_IMAGES) & (boxes.sum(1) >= ENOUGH_BOXES)
            if np.isfinite(truth):
                held["all"].append(holds(share, truth)[enough])
                held["rare"] += [holds(share, truth)[enough]] if counts[category] <= rare else []
    return [_percent(np.concatenate(held[kind] or [np.zeros(0)])) for kind in held]


def _percent(held: np.ndarray) -> str:
    return f"{100 * held.mean():.1f} ({len(held) / AUDITS:.1f})" if len(held) else "–"


def reviews_row(world: World, reviews: int) -> list[str]:
    """Mean widths at this many reviews, and how many uniformly drawn ones without scores give the same."""
    images, strata = draw(planned(world, reviews), reviews, AUDITS, seed=1)
    widths = [(share.high - share.low).mean() for share in shares(world, images, strata)]
    grid = sorted({min(len(world.sizes), round(reviews * factor)) for factor in np.geomspace(0.6, 6, 25)})
    widths = np.array([uniform_widths(world, count) for count in grid])
    cells = []
    for index, width in enumerate(widths):
        needed = float(np.interp(-width, -widths[:, index], grid))
        cells += [f"{width:.3f}", f"{needed:.0f}", f"{reviews / needed:.2f}"]
    return cells


def uniform_widths(world: World, reviews: int) -> list[float]:
    images, strata = draw(planned(world, reviews, uniform=True), reviews, AUDITS // 4, seed=2)
    return [float((share.high - share.low).mean()) for share in shares(world, images, strata, control=False)]


def threshold_row(world: World, reviews: int, audits: int = 300) -> list[str]:
    """How often a threshold was found, how often it keeps what it promises, and how many labels it keeps."""
    images, strata = draw(planned(world, reviews), reviews, audits, seed=3)
    grid = threshold_grid(world.box_score)
    above = [world.box_score > threshold for threshold in grid]
    labels = np.stack([np.bincount(world.box_image[kept], minlength=len(world.keys)) for kept in above], 1)
    hits = np.stack([np.bincount(world.box_image[k & world.box_right], minlength=len(world.keys)) for k in above], 1)
    true = hits.sum(0) / np.maximum(1, labels.sum(0))
    found = [certified_threshold(hits[drawn], labels[drawn], strata, PRECISION) for drawn in images]
    kept = [index for index in found if index is not None]
    if not kept:
        return ["0", "–", "–", f"{true[-1]:.3f}"]
    broken = sum(true[index] < PRECISION for index in kept) / audits
    share = np.mean([labels.sum(0)[index] / len(world.box_score) for index in kept])
    return [f"{100 * len(kept) / audits:.0f}", f"{100 * broken:.1f}", f"{100 * share:.0f}", f"{true[-1]:.3f}"]


def whole_images_row(boxes: int, reviews: int, images: int = 300, wrong: float = 0.1) -> list[str]:
    """held %, width of precision where all labels of an image are right, or all are wrong; another truth each audit."""
    shares, truths = [], []
    for seed in range(AUDITS):
        rng = np.random.default_rng(seed)
        labels = rng.poisson(boxes, images)
        hits = labels * (rng.random(images) >= wrong)
        chosen = rng.permutation(images)[:reviews]
        shares.append(estimate_share(hits[chosen], labels[chosen], Strata(np.zeros(reviews, int), np.array([images]))))
        truths.append(hits.sum() / labels.sum())
    held = [share.low <= truth <= share.high for share, truth in zip(shares, truths)]
    return [f"{100 * np.mean(held):.1f}", f"{np.mean([share.high - share.low for share in shares]):.3f}"]


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head), *map(list, rows)]
    marks = ["|" + "|".join([":--", *["--:"] * (len(lines[0]) - 1)]) + "|"]
    text = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([text[0], *marks, *text[1:]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--coco128", type=Path, metavar="DIR", help="coco128 with images, labels and classes.yaml")
    parser.add_argument("--scenes", type=int, default=400, help="drawn scenes (default 400)")
    parser.add_argument("--whole-images", action="store_true", help="only images that are wholly right or wrong")
    options = parser.parse_args()
    if options.whole_images:
        cases = [(boxes, n) for boxes in (1, 3, 8) for n in (10, 20, 30, 60, 120)]
        rows = ([str(boxes), str(n), *whole_images_row(boxes, n)] for boxes, n in cases)
        print(table(["labels of an image", "reviews", "held %", "width"], rows))
        return
    sets: dict[str, tuple[list[Record], tuple[str, ...]]] = {}
    if options.coco128 is not None:
        records, names = read_coco128(options.coco128)
        sets = {"coco128": (records, names), "coco128, ten times": (repeated(records, 10), names)}
    sets[f"{options.scenes} scenes"] = drawn_scenes(options.scenes, domain="dense")
    worlds = {
        (data, kind): build_world(*arguments, settings, seed=5)
        for data, arguments in sets.items()
        for kind, settings in DISTURBANCES.items()
    }
    head = ["labels", "errors", "reviews", "precision", "held %", "width", "recall", "held %", "width"]
    counted = [(key, world, n) for key, world in worlds.items() for n in REVIEWS if n < len(world.keys)]
    print(table([*head, "categories", "rare ones"], ([*k, str(n), *coverage_row(w, n)] for k, w, n in counted)))
    few = [(key, world, n) for key, world, n in counted if n in (30, 60)]
    head = ["labels", "errors", "reviews", "precision ±", "uniform", "ratio", "recall ±", "uniform", "ratio"]
    print("\n" + table(head, ([*k, str(n), *reviews_row(w, n)] for k, w, n in few)))
    head = ["labels", "errors", "reviews", "found %", "broken %", "labels kept %", "precision of all"]
    print("\n" + table(head, ([*k, str(n), *threshold_row(w, n)] for k, w, n in counted if n >= 60)))


if __name__ == "__main__":
    main()
