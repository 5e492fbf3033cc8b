"""Estimates shares of boxes, such as precision and recall, from a stratified sample of images. Only numpy and scipy.

n reviewed images in H strata of N_h images each; any leading axes are independent audits.

Estimate: the ratio of two totals in which each image has the weight N_h / n_h (Horvitz and Thompson 1952; for a ratio,
Hájek's estimator), minus a control variate computed from scores, whose mean over all images is known to be zero, with
the coefficient that minimises the variance. This is prediction-powered inference (arXiv 2301.09633; with a tuned
coefficient arXiv 2311.01453) for a ratio. Sampling images in proportion to their expected number of errors is active
testing (arXiv 2103.05331); flows.audit.sampling does it with strata, so that all probabilities are known.

Interval: that of a binomial share with the effective number of boxes (Korn and Graubard, Survey Methodology 24, 1998;
Franco et al., Journal of Survey Statistics and Methodology 7, 2019), with limits between Clopper and Pearson's exact
ones and Jeffreys's. The linearised variance between images takes the boxes of an image as one cluster. Where few errors
were seen it says little, and nothing where none was; there the variance of a binomial share is mixed in, with boxes
correlated inside images: Kish's design effect, with the correlation that pairs of reviewed boxes show (Ridout et al.,
Biometrics 55, 1999), shrunk to a high one where few images show any. What is mixed in is not random, so the variance
has more degrees of freedom. It has fewer where some images hold many more boxes than others, whose residuals make up
most of it: as many as equal images that tell as much (the effective number of clusters: Carter, Schnepel and
Steigerwald, Review of Economics and Statistics 99, 2017). The constants were chosen by simulation:
benchmarks/audit_coverage.py, docs/auditing.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from flows.audit.defaults import CONFIDENCE

CORRELATION = 0.7  # prior correlation of errors between boxes of an image; 1: all correct or all wrong
PRIOR_IMAGES = 4.0  # weight of that prior, as a number of images with an error and other boxes
PRIOR_ERRORS = 4.0  # weight of the binomial variance, as a number of images with errors
MIN_LEFT = 0.3  # minimum share of the binomial variance that remains, however much scores seem to explain
MAX_DEGREES = 1e6  # degrees of freedom at which t is practically normal
MIN_FOR_CONTROL = 8  # images with boxes of the share; with fewer, the coefficient of the control variate is noise
GARROTE = 4.0  # a coefficient with a smaller squared t value becomes 0; a larger one is scaled by 1 - 4 / t ** 2


@dataclass(frozen=True, eq=False)
class Strata:
    """stratum: (n,) int, the stratum of each reviewed image, from 0. sizes: (H,) images per stratum, drawn or not."""

    stratum: np.ndarray
    sizes: np.ndarray

    @property
    def taken(self) -> np.ndarray:
        """(H,) number of reviewed images per stratum."""
        return np.bincount(self.stratum, minlength=len(self.sizes))

    @property
    def weight(self) -> np.ndarray:
        """(n,) number of images that each reviewed one represents: the inverse of its sampling probability."""
        return (self.sizes / np.maximum(self.taken, 1))[self.stratum]

    def per_stratum(self, values: np.ndarray) -> np.ndarray:
        """(..., n) -> (..., H): sums per stratum."""
        return values @ (self.stratum[:, None] == np.arange(len(self.sizes))).astype(float)

    def centred(self, values: np.ndarray) -> np.ndarray:
        """(..., n), each value minus the mean of its stratum."""
        return values - (self.per_stratum(values) / np.maximum(self.taken, 1))[..., self.stratum]


class Share(NamedTuple):
    """A share with its interval. Fields are floats, or arrays over the leading axes.

    value, low, high: 0..1; without any box, value is NaN and the interval 0..1. effective: number of boxes of a simple
    random sample with the same information. images: reviewed images with a box of the share.
    """

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    effective: np.ndarray
    images: np.ndarray


class Moments(NamedTuple):
    """The statistics of a sample from which intervals are computed. Arrays over the leading axes.

    value: the share. total: boxes in all images, estimated. spread: (..., H) variance between images of a stratum.
    boxes, pairs: (..., H) mean over a stratum's images of boxes, and of ordered pairs of boxes of one image, both times
    the share of the variance that the control leaves.
    evenness: (..., H) effective number of images over that of all: 1 where each holds as many boxes.
    correlation: of right and wrong between boxes of one image, as `witnesses` images show it.
    errors: (..., H) images with an error; with a hit where these are fewer. images: with a box.
    degrees: of freedom, at most.
    """

    value: np.ndarray
    total: np.ndarray
    spread: np.ndarray
    boxes: np.ndarray
    pairs: np.ndarray
    evenness: np.ndarray
    correlation: np.ndarray
    witnesses: np.ndarray
    errors: np.ndarray
    images: np.ndarray
    degrees: np.ndarray


def estimate_share(
    hits: np.ndarray,
    boxes: np.ndarray,
    strata: Strata,
    control: np.ndarray | None = None,
    confidence: float = CONFIDENCE,
) -> Share:
    """The share of hits among boxes, with its interval.

    hits, boxes: (..., n) numbers in each reviewed image, hits <= boxes. control: (..., n) values of a quantity that is
    known for every image and sums to zero over all images, reviewed or not.
    """
    return stratified_interval(moments_of(hits, boxes, strata, control), strata.sizes, strata.taken, confidence)


def moments_of(hits: np.ndarray, boxes: np.ndarray, strata: Strata, control: np.ndarray | None = None) -> Moments:
    """The moments of a sample; arguments as in estimate_share."""
    hits, boxes, weight, taken = np.asarray(hits, float), np.asarray(boxes, float), strata.weight, strata.taken
    images = (boxes > 0).sum(-1)
    total = (weight * boxes).sum(-1)
    value = (weight * hits).sum(-1) / np.where(total > 0, total, 1.0)
    correlation, witnesses = _correlation(hits, boxes, value, weight)
    residual = hits - value[..., None] * boxes
    spread, left = strata.per_stratum(strata.centred(residual) ** 2), np.ones_like(value)
    if control is not None:
        explained = _explained(residual, np.where((images >= MIN_FOR_CONTROL)[..., None], control, 0.0), strata)
        value = np.clip(value - (weight * explained).sum(-1) / np.where(total > 0, total, 1.0), 0.0, 1.0)
        before, spread = spread, strata.per_stratum(strata.centred(residual - explained) ** 2)
        left = _share_left(spread, before, strata)
        free = len(strata.stratum) - len(taken)
        spread = spread * (free / max(1, free - 1) if free > 0 else 1.0)  # the coefficient costs a degree of freedom
    part = left[..., None] / np.maximum(taken, 1)
    in_boxes, in_pairs = part * strata.per_stratum(boxes), part * strata.per_stratum(_pairs(boxes))
    errors = np.minimum(strata.per_stratum(boxes > hits), strata.per_stratum(hits > 0))
    degrees = np.maximum(1, images - (strata.per_stratum(boxes > 0) > 0).sum(-1) - (control is not None))
    spread, evenness = spread / np.maximum(taken - 1, 1), _evenness(boxes, _shrunk(correlation, witnesses), strata)
    return Moments(value, total, spread, in_boxes, in_pairs, evenness, correlation, witnesses, errors, images, degrees)


def _share_left(after: np.ndarray, before: np.ndarray, strata: Strata) -> np.ndarray:
    """(...,) the share of the variance that the control leaves, at least MIN_LEFT. after, before: (..., H) sums of
    squares.
    """
    scale = strata.sizes * (strata.sizes - strata.taken) / np.maximum(strata.taken * (strata.taken - 1), 1)
    left, whole = (after * scale).sum(-1), (before * scale).sum(-1)
    return np.clip(np.where(whole > 0, left / np.where(whole > 0, whole, 1.0), 1.0), MIN_LEFT, 1.0)


def _pairs(boxes: np.ndarray) -> np.ndarray:
    """The number of ordered pairs among so many boxes."""
    return boxes * np.maximum(boxes - 1, 0)


def _correlation(
    hits: np.ndarray, boxes: np.ndarray, value: np.ndarray, weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(...,) the correlation of errors within images, 0..1, and the number of images from which it was estimated.

    It follows from how often another box of an image is wrong, given that one is (or right, if fewer are right). The
    images are those with such a box and at least one other box.
    """
    rarer = np.where((value > 0.5)[..., None], boxes - hits, hits)
    share = np.minimum(value, 1 - value)
    others = (weight * rarer * np.maximum(boxes - 1, 0)).sum(-1)
    agreement = (weight * _pairs(rarer)).sum(-1) / np.where(others > 0, others, 1.0)
    return np.clip((agreement - share) / (1 - share), 0.0, 1.0), ((rarer > 0) & (boxes > 1)).sum(-1)


def _shrunk(correlation: np.ndarray, witnesses: np.ndarray) -> np.ndarray:
    """(...,) the correlation, less what few images may show at random."""
    return (PRIOR_IMAGES * CORRELATION + witnesses * correlation) / (PRIOR_IMAGES + witnesses)


def _evenness(boxes: np.ndarray, correlation: np.ndarray, strata: Strata) -> np.ndarray:
    """(..., H) from the variances that the images' residuals have by their numbers of boxes."""
    variance = boxes + correlation[..., None] * _pairs(boxes)
    square = strata.per_stratum(variance**2) * np.maximum(strata.taken, 1)
    return np.where(square > 0, strata.per_stratum(variance) ** 2 / np.where(square > 0, square, 1.0), 1.0)


def _explained(residual: np.ndarray, control: np.ndarray, strata: Strata) -> np.ndarray:
    """(..., n) the control times its coefficient, which minimises the variance within strata, shrunk towards 0.

    Without shrinkage (Breiman's non-negative garrote, Technometrics 37, 1995) a few images would also fit noise, and
    the interval would be too narrow.
    """
    scale = strata.weight**2 * (1 - strata.taken / strata.sizes)[strata.stratum]
    centred, residual = strata.centred(control), strata.centred(residual)
    variance = (scale * centred**2).sum(-1)
    covariance = (scale * centred * residual).sum(-1)
    coefficient = np.where(variance > 1e-12, covariance / np.maximum(variance, 1e-12), 0.0)
    left = (scale * (residual - coefficient[..., None] * centred) ** 2).sum(-1)
    free = max(1, len(strata.stratum) - len(strata.taken) - 1)
    t_squared = free * coefficient**2 * variance / np.maximum(left, 1e-12)
    kept = coefficient * np.clip(1 - GARROTE / np.maximum(t_squared, 1e-9), 0.0, 1.0)
    return kept[..., None] * control


def stratified_interval(
    moments: Moments, sizes: np.ndarray, taken: np.ndarray, confidence: float = CONFIDENCE, growth: float = 1.0
) -> Share:
    """The share with its interval, if `taken` (H,) images of each stratum are reviewed.

    growth: ratio of that sample size to that of the moments; above 1, the result is the interval to expect from a
    larger sample.
    """
    from scipy import special

    scale = sizes**2 * (1 - taken / sizes) / np.maximum(taken, 1)
    parts, square = scale * moments.spread, np.where(moments.total > 0, moments.total, 1.0) ** 2
    correlation = _shrunk(moments.correlation, growth * moments.witnesses)
    assumed = (scale * (moments.boxes + correlation[..., None] * moments.pairs)).sum(-1) / square
    binomial = moments.value * (1 - moments.value)
    seen = np.where(binomial > 1e-9, parts.sum(-1) / square / np.where(binomial > 1e-9, binomial, 1.0), 0.0)
    errors = growth * (moments.errors * (taken < sizes)).sum(-1)  # completely reviewed strata add no variance
    trust = errors / (errors + PRIOR_ERRORS)
    per_box = np.maximum(seen, trust * seen + (1 - trust) * assumed)
    random = trust * seen / np.maximum(per_box, 1e-12)  # the random part of the variance, which Satterthwaite squares
    degrees = _degrees(moments, parts, taken, growth) / np.maximum(random, MAX_DEGREES**-0.5) ** 2
    quantile, student = special.ndtri(0.5 + confidence / 2), special.stdtrit(degrees, 0.5 + confidence / 2)
    effective = (quantile / student) ** 2 / np.maximum(per_box, 1e-12)
    low, high = binomial_interval(moments.value, effective, confidence)
    step = 0.5 / np.maximum(moments.total, 1.0)  # continuity correction, which matters when few images are left
    low, high = np.maximum(0.0, low - step), np.minimum(1.0, high + step)
    if (taken >= sizes).all():  # every image is reviewed
        low = high = moments.value
    seen_any = moments.total > 0
    value = np.where(seen_any, moments.value, np.nan)
    return Share(value, np.where(seen_any, low, 0.0), np.where(seen_any, high, 1.0), effective, moments.images)


def _degrees(moments: Moments, parts: np.ndarray, taken: np.ndarray, growth: float) -> np.ndarray:
    """Of freedom of the variance: Satterthwaite's (Biometrics Bulletin 2, 1946) of the strata's effective numbers of
    images, and at most the images that hold boxes of the share less the strata that they are of.
    """
    at_most = growth * moments.degrees
    squares = (parts**2 / np.maximum(moments.evenness * taken - 1, 1)).sum(-1)
    satterthwaite = np.where(squares > 0, parts.sum(-1) ** 2 / np.where(squares > 0, squares, 1.0), at_most)
    return np.maximum(1.0, np.minimum(satterthwaite, at_most))


def binomial_interval(share: np.ndarray, count: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """The interval of a share of `count` independent boxes, which need not be an integer. One-sided at 0 and 1.

    The lower limit of Clopper and Pearson is a quantile of beta(hits, misses + 1), that of Jeffreys one of
    beta(hits + 1/2, misses + 1/2). This one is between them, and equals the former if there are hardly any hits.
    """
    from scipy import special

    tail = (1 - confidence) / 2
    hits, misses = share * count, (1 - share) * count
    few_hits, few_misses = (np.maximum(each, 1e-9) + 0.5 * each / (each + 1) for each in (hits, misses))
    low = np.where(hits > 1e-9, special.betaincinv(few_hits, misses + 1.0, tail), 0.0)
    high = np.where(misses > 1e-9, special.betaincinv(hits + 1.0, few_misses, 1 - tail), 1.0)
    return np.minimum(low, share), np.maximum(high, share)
