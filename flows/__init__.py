"""The pipeline: every stage a plain function, loaded when it is asked for.

`from flows import bootstrap_od, bootstrap_vg, plan, infer, filter_candidates, merge, train, evaluate, self_train`
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flows.bootstrapping import bootstrap_od, bootstrap_vg
    from flows.evaluation import evaluate
    from flows.filtering import Policy, filter_candidates
    from flows.inference import infer
    from flows.merging import merge
    from flows.planning import plan
    from flows.self_train_config import SelfTrainConfig
    from flows.self_training import self_train
    from flows.training import train

_MODULE_OF = {
    "bootstrap_od": "bootstrapping",
    "bootstrap_vg": "bootstrapping",
    "plan": "planning",
    "infer": "inference",
    "Policy": "filtering",
    "filter_candidates": "filtering",
    "merge": "merging",
    "train": "training",
    "evaluate": "evaluation",
    "SelfTrainConfig": "self_train_config",
    "self_train": "self_training",
}

__all__ = [
    "Policy",
    "SelfTrainConfig",
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
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
