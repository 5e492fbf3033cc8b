"""The lowest score threshold at which labels have a wanted precision, with 95 % confidence.

Thresholds are tested from the highest down, each at the full level, until one fails (fixed-sequence testing, Maurer et
al. 1995; for thresholds of models: Learn then Test, arXiv 2110.01052): the chance that the result promises too much
stays below 5 % without a correction for the number of thresholds.
"""

from __future__ import annotations

import numpy as np

from flows.audit.defaults import CONFIDENCE
from flows.audit.estimation import Strata, estimate_share

STEPS = 16  # thresholds that are tested
FIRST_SHARE = 1 / 3  # of the labels score more than the first: with fewer, hardly any audit could certify it
DECIMALS = 3  # of a threshold


def threshold_grid(scores: np.ndarray) -> np.ndarray:
    """(K,) scores of labels -> (T,) thresholds, falling; the last keeps every label."""
    unit = 10.0**-DECIMALS
    steps = np.quantile(scores, np.linspace(1 - FIRST_SHARE, 0, STEPS))
    below = (np.ceil((steps / unit).round(6)) - 1) * unit  # the score at the step is above it
    return np.unique(np.maximum(below, 0.0).round(DECIMALS))[::-1]


def certified_threshold(hits: np.ndarray, labels: np.ndarray, strata: Strata, precision: float) -> int | None:
    """hits, labels: (n, T) of each reviewed image above each threshold -> the position of the lowest threshold at which
    the precision is at least `precision` with 95 % confidence; None where the first that is tested fails already.

    Thresholds above which so few labels are reviewed that not even all right ones would do are not tested. Which these
    are does not depend on what is right, so that the order stays one that was fixed before.
    """
    level = 2 * CONFIDENCE - 1  # of a two-sided interval, whose lower end is one-sided
    lower = estimate_share(hits.T, labels.T, strata, confidence=level).low
    if not len(tested := np.flatnonzero(estimate_share(labels.T, labels.T, strata, confidence=level).low >= precision)):
        return None
    failed = tested[lower[tested] < precision]
    passed = tested[tested < failed[0]] if len(failed) else tested
    return int(passed[-1]) if len(passed) else None
