"""The lowest score threshold at which labels have a wanted precision, with 95 % confidence.

Thresholds are tested from the highest down, each at the full level, until one fails (fixed-sequence testing, Maurer et
al. 1995; for thresholds of models: Learn then Test, arXiv 2110.01052): the chance that the result promises too much
stays below 5 % without a correction for the number of thresholds.
"""

from __future__ import annotations

import numpy as np

from flows.audit.estimation import Strata, estimate_share

STEPS = 16  # thresholds that are tested
FIRST_SHARE = 1 / 3  # of the labels score more than the first: with fewer, hardly any audit could certify it
DECIMALS = 3  # of a threshold
CONFIDENCE = 0.95


def threshold_grid(scores: np.ndarray) -> np.ndarray:
    """(K,) scores of labels -> (T,) thresholds, falling; the last keeps every label."""
    unit = 10.0**-DECIMALS
    steps = np.quantile(scores, np.linspace(1 - FIRST_SHARE, 0, STEPS))
    below = (np.ceil((steps / unit).round(6)) - 1) * unit  # the score at the step is above it
    return np.unique(np.maximum(below, 0.0).round(DECIMALS))[::-1]


def certified_threshold(hits: np.ndarray, labels: np.ndarray, strata: Strata, precision: float) -> int | None:
    """hits, labels: (n, T) of each reviewed image above each threshold -> the position of the lowest threshold at which
    the precision is at least `precision` with 95 % confidence; None where the highest fails already.
    """
    lower = estimate_share(hits.T, labels.T, strata, confidence=2 * CONFIDENCE - 1).low  # one-sided
    failed = np.flatnonzero(lower < precision)
    last = int(failed[0]) - 1 if len(failed) else len(lower) - 1
    return last if last >= 0 else None
