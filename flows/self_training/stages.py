"""The stages that a loop calls, as functions that a scheduler can replace, and their run names there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from flows.distillation.distill import DistillResult, distill
from flows.labelling.bootstrap import bootstrap_od, bootstrap_vg
from flows.labelling.filter import FilterResult, filter_candidates
from flows.labelling.infer import infer
from flows.labelling.manifest import Manifest
from flows.labelling.plan import plan
from flows.self_training.report import write_run_report
from flows.self_training.scores import evaluate_weights
from flows.training.mixture import merge
from flows.training.train import train

Stage = Callable[..., Any]


@dataclass(frozen=True)
class RunName:
    """The round and the further view that a stage runs for; both None outside a loop."""

    round: int | None = None
    view: int | None = None

    def __str__(self) -> str:
        """ "v2", for a further view "v2, view 1", outside a loop ""."""
        parts = ("v", self.round), ("view ", self.view)
        return ", ".join(f"{word}{number}" for word, number in parts if number is not None)


class Stages(NamedTuple):
    """The stages of the loop; a scheduler replaces them with its own wrappers.

    named: returns the stage with this run name in the scheduler; plain functions have no run names.
    """

    bootstrap_od: Stage = bootstrap_od
    bootstrap_vg: Stage = bootstrap_vg
    plan: Callable[..., Manifest] = plan
    infer: Stage = infer
    filter_candidates: Callable[..., FilterResult] = filter_candidates
    merge: Stage = merge
    train: Callable[..., Path] = train
    evaluate: Callable[..., dict[str, Any]] = evaluate_weights
    report: Callable[..., Path] = write_run_report
    distill: Callable[..., DistillResult] = distill
    named: Callable[[Stage, RunName], Stage] = lambda stage, name: stage

    def run_as(self, name: RunName) -> Stages:
        """These stages with the run names of one round or of one view."""
        return self._replace(
            plan=self.named(self.plan, name),
            infer=self.named(self.infer, name),
            filter_candidates=self.named(self.filter_candidates, name),
            merge=self.named(self.merge, name),
            train=self.named(self.train, name),
            evaluate=self.named(self.evaluate, name),
        )


PLAIN_STAGES = Stages()
