"""Computes thresholds from the scores of a category's candidates without duplicates. N scores, in any order."""

from __future__ import annotations

import numpy as np

from flows.policies.policy import Mixture

_STEPS = 200  # of expectation maximisation; it converges in tens
_MIN_DEVIATION = 0.01  # of a component, since equal scores would give it infinite density


def quantile_threshold(scores: np.ndarray, expected: float) -> float:
    """The threshold that the `expected` best scores exceed; 0 if there are no more than that.

    It is halfway between the lowest kept score and the next one.
    """
    count = round(expected)
    ranked = np.sort(scores)[::-1]
    if count >= len(ranked):
        return 0.0
    return float((ranked[count - 1] + ranked[count]) / 2) if count else float(ranked[0])


def mixture_threshold(scores: np.ndarray, settings: Mixture) -> float | None:
    """The lowest score at which the upper of two normal distributions has `settings.share` of the density.

    None if there are fewer than `settings.least` candidates, or if the distributions do not separate. The fit starts
    from the lowest and the highest score, as in Consistent-Teacher (arXiv 2209.01589, section 3.3). There the threshold
    is the likeliest score of the upper distribution; a share of the density can be adjusted.
    """
    if len(scores) < settings.least or np.ptp(scores) < 4 * _MIN_DEVIATION:
        return None
    weights, means, deviations = _fit_two_normals(scores)
    if means[1] - means[0] < max(deviations):
        return None
    between = np.linspace(means[0], means[1], 1001)
    upper = _densities(between, weights, means, deviations)
    share = upper[1] / upper.sum(0)
    return float(between[np.argmax(share >= settings.share)]) if share[-1] >= settings.share else None


def _fit_two_normals(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N,) -> weights, means and standard deviations, (2,) each, by expectation maximisation; the lower one first."""
    weights, means = np.array([0.5, 0.5]), np.array([scores.min(), scores.max()], dtype=np.float64)
    deviations = np.full(2, max(scores.std(), _MIN_DEVIATION))
    for _ in range(_STEPS):
        densities = _densities(scores, weights, means, deviations)
        shares = densities / densities.sum(0)  # (2, N)
        mass = shares.sum(1)
        weights, means = mass / len(scores), shares @ scores / mass
        variances = (shares * (scores - means[:, None]) ** 2).sum(1) / mass
        deviations = np.maximum(np.sqrt(variances), _MIN_DEVIATION)
    order = np.argsort(means)
    return weights[order], means[order], deviations[order]


def _densities(scores: np.ndarray, weights: np.ndarray, means: np.ndarray, deviations: np.ndarray) -> np.ndarray:
    """(N,) -> (2, N), the density of each component; never exactly 0, so that shares are defined."""
    distance = (scores - means[:, None]) / deviations[:, None]
    return weights[:, None] * np.exp(-0.5 * distance**2) / deviations[:, None] + 1e-300
