"""Shares of boxes, such as precision and recall, from a stratified sample of images. numpy and scipy only.

n images reviewed, of H strata with N_h images each; any leading axes are independent audits.

Estimate: a ratio of two weighted totals, each image weighted by N_h / n_h (Horvitz and Thompson 1952; the ratio is
Hájek's), less what the scores explain: a control variate whose mean over all images is known to be zero, with the
coefficient of least variance. That is prediction-powered inference (arXiv 2301.09633; with a tuned coefficient arXiv
2311.01453) for a ratio. Drawing images in proportion to what is expected to be wrong with them is active testing
(arXiv 2103.05331); flows.audit.sampling does it with strata, which keep every probability known.

Interval: that of a binomial share with the effective number of boxes (Korn and Graubard, Survey Methodology 24, 1998;
Franco et al., Journal of Survey Statistics and Methodology 7, 2019), with limits between Clopper and Pearson's exact
ones and Jeffreys's. The linearised variance between images takes the boxes of an image as one cluster. Where few errors
were seen it says little, and nothing where none was; there the variance of a binomial share is mixed in, with boxes
correlated inside images. The constants were chosen by simulation: benchmarks/audit_coverage.py, docs/auditing.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import stats

CORRELATION = 0.2  # of right and wrong between boxes of one image, assumed where too few errors tell
PRIOR_ERRORS = 4.0  # the assumption weighs as much as this many images with errors
MIN_FOR_CONTROL = 8  # images of the share; with fewer, the coefficient of the control variate would be noise


@dataclass(frozen=True, eq=False)
class Strata:
    """Of which stratum each reviewed image is. stratum: (n,) int, from 0. sizes: (H,) images of each, drawn or not."""

    stratum: np.ndarray
    sizes: np.ndarray

    @property
    def taken(self) -> np.ndarray:
        """(H,) reviewed images of each stratum."""
        return np.bincount(self.stratum, minlength=len(self.sizes))

    @property
    def weight(self) -> np.ndarray:
        """(n,) how many images each reviewed one stands for: one over its probability of being drawn."""
        return (self.sizes / np.maximum(self.taken, 1))[self.stratum]

    def per_stratum(self, values: np.ndarray) -> np.ndarray:
        """(..., n) -> (..., H): sums within strata."""
        return values @ (self.stratum[:, None] == np.arange(len(self.sizes))).astype(float)

    def centred(self, values: np.ndarray) -> np.ndarray:
        """(..., n) less the mean of each value's stratum."""
        return values - (self.per_stratum(values) / np.maximum(self.taken, 1))[..., self.stratum]


class Share(NamedTuple):
    """A share with its interval; fields are floats, or arrays over the leading axes.

    value, low, high: 0..1; value is NaN, and the interval 0..1, where no box was seen. effective: boxes of a simple
    random sample that would tell as much. images: reviewed ones that hold a box of the share.
    """

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    effective: np.ndarray
    images: np.ndarray


class Moments(NamedTuple):
    """What a sample says before an interval is made of it; arrays over the leading axes.

    value: the share. total: boxes in all images, estimated. spread: (..., H) variance between images of a stratum.
    clusters: (..., H) mean over a stratum's images of what boxes correlated by CORRELATION add to the variance.
    errors: (..., H) images with an error; with a hit where these are fewer. images: that hold a box.
    degrees: of freedom, at most.
    """

    value: np.ndarray
    total: np.ndarray
    spread: np.ndarray
    clusters: np.ndarray
    errors: np.ndarray
    images: np.ndarray
    degrees: np.ndarray


def estimate_share(
    hits: np.ndarray,
    boxes: np.ndarray,
    strata: Strata,
    control: np.ndarray | None = None,
    confidence: float = 0.95,
) -> Share:
    """hits, boxes: (..., n) of each reviewed image, hits <= boxes. control: (..., n) a quantity known for every image,
    whose total over all of them, reviewed or not, is zero.
    """
    return stratified_interval(moments_of(hits, boxes, strata, control), strata.sizes, strata.taken, confidence)


def moments_of(hits: np.ndarray, boxes: np.ndarray, strata: Strata, control: np.ndarray | None = None) -> Moments:
    """As estimate_share takes them."""
    hits, boxes, weight, taken = np.asarray(hits, float), np.asarray(boxes, float), strata.weight, strata.taken
    images = (boxes > 0).sum(-1)
    total = (weight * boxes).sum(-1)
    value = (weight * hits).sum(-1) / np.where(total > 0, total, 1.0)
    residual = hits - value[..., None] * boxes
    if control is not None:
        control = np.where((images >= MIN_FOR_CONTROL)[..., None], control, 0.0)
        coefficient = _coefficient(residual, control, strata)
        correction = coefficient * (weight * control).sum(-1) / np.where(total > 0, total, 1.0)
        value = np.clip(value - correction, 0.0, 1.0)
        residual = residual - coefficient[..., None] * control
    free = len(strata.stratum) - len(taken)
    lost = free / max(1, free - 1) if control is not None and free > 0 else 1.0  # a degree for the coefficient
    spread = lost * strata.per_stratum(strata.centred(residual) ** 2) / np.maximum(taken - 1, 1)
    clusters = strata.per_stratum(boxes * (1 + CORRELATION * np.maximum(boxes - 1, 0))) / np.maximum(taken, 1)
    errors = np.minimum(strata.per_stratum(boxes > hits), strata.per_stratum(hits > 0))
    degrees = images - (strata.per_stratum(boxes > 0) > 0).sum(-1) - (control is not None)
    return Moments(value, total, spread, clusters, errors, images, np.maximum(1, degrees))


def _coefficient(residual: np.ndarray, control: np.ndarray, strata: Strata) -> np.ndarray:
    """(...,) the multiple of the control that leaves the least variance within strata."""
    scale = strata.weight**2 * (1 - strata.taken / strata.sizes)[strata.stratum]
    centred = strata.centred(control)
    variance = (scale * centred**2).sum(-1)
    covariance = (scale * centred * residual).sum(-1)
    return np.where(variance > 1e-12, covariance / np.maximum(variance, 1e-12), 0.0)


def stratified_interval(
    moments: Moments, sizes: np.ndarray, taken: np.ndarray, confidence: float = 0.95, growth: float = 1.0
) -> Share:
    """The share with its interval, where `taken` (H,) images of each stratum are reviewed.

    growth: how many times as many that is as the moments are from: the interval to expect of a larger sample.
    """
    scale = sizes**2 * (1 - taken / sizes) / np.maximum(taken, 1)
    parts, square = scale * moments.spread, np.where(moments.total > 0, moments.total, 1.0) ** 2
    assumed = (scale * moments.clusters).sum(-1) / square
    binomial = moments.value * (1 - moments.value)
    seen = np.where(binomial > 1e-9, parts.sum(-1) / square / np.where(binomial > 1e-9, binomial, 1.0), 0.0)
    errors = growth * (moments.errors * (taken < sizes)).sum(-1)  # strata known whole tell nothing of the others
    trust = errors / (errors + PRIOR_ERRORS)
    per_box = np.maximum(seen, trust * seen + (1 - trust) * assumed)
    quantile = stats.norm.ppf(0.5 + confidence / 2)
    student = stats.t.ppf(0.5 + confidence / 2, _degrees(moments, parts, taken, growth))
    shrink = (quantile / student) ** 2
    effective = shrink / np.maximum(per_box, 1e-12)
    low, high = binomial_interval(moments.value, effective, confidence)
    step = 0.5 / np.maximum(moments.total, 1.0)  # a count of boxes moves by whole ones: felt where few images are left
    low, high = np.maximum(0.0, low - step), np.minimum(1.0, high + step)
    if (taken >= sizes).all():  # every image is reviewed
        low = high = moments.value
    seen_any = moments.total > 0
    value = np.where(seen_any, moments.value, np.nan)
    return Share(value, np.where(seen_any, low, 0.0), np.where(seen_any, high, 1.0), effective, moments.images)


def _degrees(moments: Moments, parts: np.ndarray, taken: np.ndarray, growth: float) -> np.ndarray:
    """Of freedom of the variance: Satterthwaite's (Biometrics Bulletin 2, 1946), and at most the images that hold boxes
    of the share less the strata that they are of.
    """
    at_most = growth * moments.degrees
    squares = (parts**2 / np.maximum(taken - 1, 1)).sum(-1)
    satterthwaite = np.where(squares > 0, parts.sum(-1) ** 2 / np.where(squares > 0, squares, 1.0), at_most)
    return np.maximum(1.0, np.minimum(satterthwaite, at_most))


def binomial_interval(share: np.ndarray, count: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Of a share of `count` independent boxes, which need not be whole. One-sided where the share is 0 or 1.

    Clopper and Pearson's lower limit is the quantile of beta(hits, misses + 1), Jeffreys's that of beta(hits + 1/2,
    misses + 1/2); this one's lies between them.
    """
    tail = (1 - confidence) / 2
    hits, misses = share * count, (1 - share) * count
    low = np.where(hits > 1e-9, stats.beta.ppf(tail, np.maximum(hits, 0) + 0.5, misses + 1.0), 0.0)
    high = np.where(misses > 1e-9, stats.beta.ppf(1 - tail, hits + 1.0, np.maximum(misses, 0) + 0.5), 1.0)
    return np.minimum(low, share), np.maximum(high, share)
