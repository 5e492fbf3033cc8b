"""The public functions of `grounding_model.metrics` in one place.

Each takes records with the ground truth and records with the predictions of a detector.
"""

from __future__ import annotations

from grounding_model.metrics.bootstrap import Interval, bootstrap_interval
from grounding_model.metrics.coco import CocoResult, evaluate_coco
from grounding_model.metrics.described_objects import DescribedObjectsResult, evaluate_described_objects
from grounding_model.metrics.expressions import (
    GeneralizedResult,
    evaluate_generalized_expressions,
    expression_precision,
)
from grounding_model.metrics.lvis import Federation, LvisResult, evaluate_lvis
from grounding_model.metrics.phrases import recall_at

__all__ = [
    "CocoResult",
    "DescribedObjectsResult",
    "Federation",
    "GeneralizedResult",
    "Interval",
    "LvisResult",
    "bootstrap_interval",
    "evaluate_coco",
    "evaluate_described_objects",
    "evaluate_generalized_expressions",
    "evaluate_lvis",
    "expression_precision",
    "recall_at",
]
