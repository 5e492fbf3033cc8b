"""The configuration of `groundhog evaluate`: what is measured, of which model, and how its boxes are predicted."""

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
EVERY_BOX = LabellingSettings(score_floor=0.0)  # an AP needs the boxes of every score


@dataclass(frozen=True)
class EvaluateConfig(LabellingSettings, Execution):
    """An evaluation, with the settings of the labelling whose boxes it scores.

    metric: None takes the usual metric of the truth. categories: None takes all of the truth's.
    score_threshold, first_box_alone: for the metric generalized_expressions only. first_box_alone scores an expression
    by its first true box, as mmdet 3.3.0 does and the published numbers of gRefCOCO need it.
    resamples: of the bootstrap interval; 0 leaves it out.
    work_dir: for candidates, JSON, CSV and plots; overwrite replaces what another evaluation left in it.
    get: where to find the data and how to lay them out, shown when they are missing. published: known scores, shown
    below the table.
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
