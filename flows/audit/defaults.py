"""Defaults of an audit, in a module that is fast to import for the command line."""

from __future__ import annotations

CONFIDENCE = 0.95  # of every interval, and of the threshold
IOU = 0.5  # with an object, from which a label is right, as in PASCAL VOC
SEED = 0
REVIEWS = 60  # images in a sample; their intervals were measured (docs/auditing.md)
PRECISION = 0.9  # to find a score threshold for
HALF_WIDTH = 0.05  # of an interval, to estimate the reviews for
