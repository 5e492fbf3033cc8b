"""Bootstrap confidence intervals of metrics, by resampling images. I images, S resamples of I images, N samples."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from formats.io.errors import InputError
from formats.io.files import write_whole
from formats.record import Record
from grounding_model.metrics.coco import evaluate_coco_with_rankings
from grounding_model.metrics.ranking import Ranking

DRAWS_TOGETHER = 100  # of 20,000 images they take 16 MB
RESAMPLES = 1000
CONFIDENCE = 0.95
# The arrays of a Ranking in a file of samples; older files must stay readable when a field is renamed.
STORED_NAMES = ("images", "counted", "places", "correct", "to_find", "recall_steps")


class Interval(NamedTuple):
    """A confidence interval, both ends included."""

    low: float
    high: float


def bootstrap_interval(
    truth: Sequence[Record],
    predictions: Sequence[Record],
    categories: Sequence[str],
    *,
    baseline: Sequence[Record] | None = None,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Interval:
    """The percentile bootstrap interval of AP (Efron and Tibshirani 1993, chapter 13).

    Images are resampled with replacement, so the interval shows how much AP depends on the choice of test images.

    baseline: other predictions for the same images; the interval is then that of the gain in AP over them, with both
    scored on the same resamples, which makes it far narrower than the difference of two intervals. Resamples without a
    true box are left out. Boxes are matched once; a resample only changes the weights of the matches. Raises InputError
    as evaluate_coco does.
    """
    found = evaluate_coco_with_rankings(truth, predictions, categories).rankings
    known = None if baseline is None else evaluate_coco_with_rankings(truth, baseline, categories).rankings
    return samples_interval(found, known, resamples=resamples, confidence=confidence, seed=seed)


class Shares(NamedTuple):
    """Samples (phrases, expressions) whose score is the share of correct ones."""

    images: np.ndarray  # (N,) int64, index of the image of each sample
    right: np.ndarray  # (N,) bool
    image_count: int


Samples = Sequence[Ranking] | Shares


def samples_interval(
    found: Samples,
    baseline: Samples | None = None,
    *,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Interval:
    """Like bootstrap_interval, from existing matches. baseline: matches of other predictions for the same images."""
    return interval_within(drawn(found, baseline, resamples=resamples, seed=seed), confidence)


def drawn(found: Samples, baseline: Samples | None = None, *, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """(resamples,): the metric on each resample, minus that of the baseline if given; NaN without a true box."""
    values = resampled(found, image_draws(image_count(found), resamples, seed))
    if baseline is None:
        return values
    return values - resampled(baseline, image_draws(image_count(found), resamples, seed))


def interval_within(values: np.ndarray, confidence: float = CONFIDENCE) -> Interval:
    """The central part of the resampled values. Raises InputError if all of them are NaN."""
    values = values[np.isfinite(values)]
    if not len(values):
        raise InputError("truth", "no box of the categories", "expected at least one labelled object to find")
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))


def resampled(samples: Samples, draws: Iterable[np.ndarray]) -> np.ndarray:
    """S resamples of (I,) counts -> (S,): the AP or share on each resample, NaN without a true box.

    Draws are processed in blocks, since S x I numbers would take too much memory.
    """
    if isinstance(samples, Shares):
        return np.array([_share(samples, draw) for draw in draws])
    draws, blocks = iter(draws), list[np.ndarray]()
    while block := list(islice(draws, DRAWS_TOGETHER)):
        blocks.append(_mean_average_precisions(samples, np.stack(block)))
    return np.concatenate(blocks)


def _share(samples: Shares, draw: np.ndarray) -> float:
    weights = draw[samples.images]  # (N,)
    count = weights.sum()
    return float(weights @ samples.right / count) if count else float("nan")


def _mean_average_precisions(ranked: Sequence[Ranking], draws: np.ndarray) -> np.ndarray:
    """(S, I) -> (S,): the mean over the categories that a draw has boxes of; NaN where it has none at all."""
    sums, counts = np.zeros(len(draws)), np.zeros(len(draws))
    for ranking in ranked:
        values = ranking.average_precisions(draws)
        known = np.isfinite(values)
        sums[known] += values[known]
        counts += known
    return np.divide(sums, counts, out=np.full(len(draws), np.nan), where=counts > 0)


def image_count(samples: Samples) -> int:
    """The number of images of the samples."""
    return samples.image_count if isinstance(samples, Shares) else len(samples[0].to_find)


def write_samples(path: str | Path, samples: Samples) -> None:
    """Writes matches as a NumPy archive, atomically, for later comparison with another run."""
    tables: dict[str, np.ndarray] = {}
    if isinstance(samples, Shares):
        tables = {"images": samples.images, "right": samples.right, "image_count": np.array(samples.image_count)}
    else:
        for index, ranking in enumerate(samples):
            tables |= {f"{index}/{name}": table for name, table in zip(STORED_NAMES, ranking, strict=True)}
    with write_whole(path, "wb") as file:
        np.savez_compressed(file, allow_pickle=False, **tables)


def read_samples(path: str | Path) -> Samples:
    """Reads what write_samples wrote. Raises InputError for any other file."""
    try:
        with np.load(path, allow_pickle=False) as tables:
            if "image_count" in tables:
                return Shares(tables["images"], tables["right"], int(tables["image_count"]))
            count = len(tables.files) // len(STORED_NAMES)
            return [Ranking(*(tables[f"{index}/{name}"] for name in STORED_NAMES)) for index in range(count)]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(
            path, f"cannot be read ({error})", "expected the samples of an evaluation; run it again"
        ) from None


def image_draws(images: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yields resamples, (I,) int64: how often each image is drawn. Raises InputError if there are no images."""
    if images == 0:
        raise InputError("truth", "no images", "expected at least one")
    rng, chances = np.random.default_rng(seed), np.full(images, 1 / images)
    return (rng.multinomial(images, chances) for _ in range(resamples))
