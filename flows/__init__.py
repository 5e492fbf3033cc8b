"""The pipeline: every stage is a plain function, imported on first use.

`from flows import bootstrap_od, bootstrap_vg, plan, infer, filter_candidates, merge, train, evaluate, self_train`

The types of their arguments can be imported too:

`from flows import LabellingSettings, Execution, Workers, Policy, OdvgData, TrainConfig`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flows.evaluation.config import EvaluateConfig
    from flows.evaluation.evaluate import evaluate
    from flows.labelling.bootstrap import bootstrap_od, bootstrap_vg
    from flows.labelling.filter import filter_candidates
    from flows.labelling.infer import infer
    from flows.labelling.plan import plan
    from flows.labelling.settings import Execution, LabellingSettings, Workers
    from flows.policies.policy import Policy
    from flows.self_training.config import SelfTrainConfig
    from flows.self_training.loop import self_train
    from flows.training.mixture import merge
    from flows.training.train import train
    from grounding_model.data.sources import CocoData, GlyphData, OdvgData
    from grounding_model.training.config import FromWeights, TrainConfig

_MODULE_OF = {
    "bootstrap_od": "flows.labelling.bootstrap",
    "bootstrap_vg": "flows.labelling.bootstrap",
    "plan": "flows.labelling.plan",
    "infer": "flows.labelling.infer",
    "Execution": "flows.labelling.settings",
    "LabellingSettings": "flows.labelling.settings",
    "Workers": "flows.labelling.settings",
    "Policy": "flows.policies.policy",
    "filter_candidates": "flows.labelling.filter",
    "merge": "flows.training.mixture",
    "CocoData": "grounding_model.data.sources",
    "GlyphData": "grounding_model.data.sources",
    "OdvgData": "grounding_model.data.sources",
    "FromWeights": "grounding_model.training.config",
    "TrainConfig": "grounding_model.training.config",
    "train": "flows.training.train",
    "EvaluateConfig": "flows.evaluation.config",
    "evaluate": "flows.evaluation.evaluate",
    "SelfTrainConfig": "flows.self_training.config",
    "self_train": "flows.self_training.loop",
    "__version__": "flows.version",
}

__all__ = [
    "CocoData",
    "EvaluateConfig",
    "Execution",
    "FromWeights",
    "GlyphData",
    "LabellingSettings",
    "OdvgData",
    "Policy",
    "SelfTrainConfig",
    "TrainConfig",
    "Workers",
    "bootstrap_od",
    "bootstrap_vg",
    "evaluate",
    "filter_candidates",
    "infer",
    "merge",
    "plan",
    "self_train",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
