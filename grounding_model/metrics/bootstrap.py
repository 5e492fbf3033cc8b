"""The confidence interval of an average precision, by drawing images anew.

I images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from formats.problems import InputError
from formats.record import Record
from grounding_model.metrics.coco import ALL_AREAS, judged
from grounding_model.metrics.ranking import Match, Ranking


class Interval(NamedTuple):
    """Where a number lies, both ends included."""

    low: float
    high: float


def bootstrap_interval(
    truth: Sequence[Record],
    predictions: Sequence[Record],
    categories: Sequence[str],
    *,
    baseline: Sequence[Record] | None = None,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The percentile bootstrap interval of AP (Efron and Tibshirani 1993, chapter 13): images are drawn anew with
    replacement, so it tells how much of a number is owed to the choice of test images.

    baseline: other predictions of the same images; the interval is then of the gain in AP over them, both judged on
    the same draws, which is far narrower than the difference of two intervals. Draws without a box to find are left
    out. Boxes are matched once, by pycocotools; a draw only weighs the matches. Raises InputError as evaluate_coco.
    """
    draws = image_draws(len(truth), resamples, seed)
    samples = resampled_ap(rankings(truth, predictions, categories), draws)
    if baseline is not None:
        samples = samples - resampled_ap(rankings(truth, baseline, categories), draws)
    samples = samples[np.isfinite(samples)]
    if not len(samples):
        raise InputError("truth", f"no box of {', '.join(categories)}", "want at least one labelled object to find")
    low, high = np.quantile(samples, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))


def rankings(truth: Sequence[Record], predictions: Sequence[Record], categories: Sequence[str]) -> list[Ranking]:
    """One for each category, from pycocotools' matches."""
    judge = judged(truth, predictions, categories, (1, 10, 100))
    images, areas = len(truth), len(judge.params.areaRng)
    made = []
    for place in range(len(categories)):
        start = (place * areas + judge.params.areaRngLbl.index(ALL_AREAS)) * images
        kept = enumerate(judge.evalImgs[start : start + images])
        matches = [_match(image, found) for image, found in kept if found is not None]
        made.append(Ranking.of(matches, images, judge.params.recThrs))
    return made


def _match(image: int, found: Mapping[str, Any]) -> Match:
    return Match(
        image,
        np.asarray(found["dtScores"], dtype=np.float64),
        np.asarray(found["dtMatches"]) > 0,
        np.asarray(found["dtIgnore"]) != 0,
        int(np.count_nonzero(np.asarray(found["gtIgnore"]) == 0)),
    )


def image_draws(images: int, resamples: int, seed: int) -> np.ndarray:
    """(resamples, I) int64: how often each draw holds each image."""
    if images == 0:
        raise InputError("truth", "no images", "want at least one")
    return np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), size=resamples)


def resampled_ap(ranked: Sequence[Ranking], draws: np.ndarray) -> np.ndarray:
    """(resamples,) AP of each draw, the mean over categories that it has boxes of; NaN where it has none at all."""
    values = np.array([[_average_precision(ranking, draw) for ranking in ranked] for draw in draws])
    defined = np.isfinite(values)
    count = defined.sum(1)
    return np.where(count > 0, np.where(defined, values, 0).sum(1) / np.maximum(count, 1), np.nan)


def _average_precision(ranking: Ranking, draw: np.ndarray) -> float:
    """NaN without a box to find."""
    levels = ranking.precision_at_recall(draw)
    return float("nan") if levels is None else float(levels.mean())
