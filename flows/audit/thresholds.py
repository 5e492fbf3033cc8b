"""Finds the lowest score threshold at which labels have a required precision with 95 % confidence.

Thresholds are tested from the highest to the lowest, each at the full level, until one fails (fixed-sequence testing,
Maurer et al. 1995; for thresholds of models: Learn then Test, arXiv 2110.01052). The probability that the result has a
lower precision stays below 5 % without a correction for the number of tests.
"""

from __future__ import annotations

import numpy as np

from flows.audit.defaults import CONFIDENCE
from flows.audit.estimation import Strata, estimate_share

STEPS = 16  # number of thresholds
FIRST_SHARE = 1 / 3  # share of the labels above the first threshold; with fewer, hardly any audit could certify it
DECIMALS = 3  # of the thresholds


def threshold_grid(scores: np.ndarray) -> np.ndarray:
    """(K,) scores of labels -> (T,) thresholds, descending; the last one keeps every label."""
    unit = 10.0**-DECIMALS
    steps = np.quantile(scores, np.linspace(1 - FIRST_SHARE, 0, STEPS))
    below = (np.ceil((steps / unit).round(6)) - 1) * unit  # just below the step, so that its score is kept
    return np.unique(np.maximum(below, 0.0).round(DECIMALS))[::-1]


def certified_threshold(hits: np.ndarray, labels: np.ndarray, strata: Strata, precision: float) -> int | None:
    """The index of the lowest threshold with at least this precision, with 95 % confidence; None if no test passes.

    hits, labels: (n, T) right labels and labels of each reviewed image above each threshold. Thresholds with too few
    reviewed labels above them to pass even if all were right are not tested. Which these are does not depend on the
    hits, so the sequence of tests is still fixed in advance.
    """
    level = 2 * CONFIDENCE - 1  # of the two-sided interval whose lower limit has one-sided confidence CONFIDENCE
    lower = estimate_share(hits.T, labels.T, strata, confidence=level).low
    if not len(tested := np.flatnonzero(estimate_share(labels.T, labels.T, strata, confidence=level).low >= precision)):
        return None
    failed = tested[lower[tested] < precision]
    passed = tested[tested < failed[0]] if len(failed) else tested
    return int(passed[-1]) if len(passed) else None
