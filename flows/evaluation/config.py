"""The configuration of `groundhog evaluate`: ground truth, metric, model, and how boxes are predicted."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from flows.evaluation.benchmarks import BenchmarkData, Metric, OdinwSuite
from flows.labelling.settings import Execution, LabellingSettings
from formats.io.errors import InputError
from formats.io.ranges import CountOrZero, Share, check_ranges
from grounding_model.metrics.bootstrap import RESAMPLES
from grounding_model.metrics.expressions import EXPRESSION_SCORE

EVALUATION_NAME, SAMPLES_NAME = "evaluation.json", "samples.npz"  # in the work_dir
EVERY_BOX = LabellingSettings(score_floor=0.0)  # AP needs boxes of all scores


@dataclass(frozen=True)
class EvaluateConfig(LabellingSettings, Execution):
    """An evaluation, including the settings for predicting the boxes.

    metric: None for the usual one of the ground truth. categories: None for all of the ground truth.
    score_threshold, first_box_alone: only for the metric generalized_expressions. first_box_alone scores an expression
    by its first true box, as mmdet 3.3.0 does for the published results on gRefCOCO.
    resamples: for the bootstrap interval; 0 omits it.
    work_dir: for candidates, JSON, CSV and plots; overwrite replaces another evaluation in it.
    get: where to get the data and how to arrange them, shown if they are missing. published: known scores, shown below
    the table.
    """

    truth: BenchmarkData | OdinwSuite
    metric: Metric | None = None
    categories: tuple[str, ...] | None = None
    score_floor: float = field(default=EVERY_BOX.score_floor, kw_only=True)
    score_threshold: Share = EXPRESSION_SCORE
    first_box_alone: bool = False
    resamples: CountOrZero = RESAMPLES
    work_dir: Path = Path("work_dirs/evaluation")
    get: str = ""
    published: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        LabellingSettings.__post_init__(self)
        Execution.__post_init__(self)
        if self.workers.runner != "threads":
            raise InputError("workers.runner", f"'{self.workers.runner}' cannot evaluate", 'expected "threads"')
        check_ranges(self)
