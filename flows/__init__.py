"""The pipeline: every stage a plain function, loaded when it is asked for.

`from flows import bootstrap_od, bootstrap_vg, plan, infer, filter_candidates, merge, train, evaluate, self_train`
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flows.evaluation.evaluate import evaluate
    from flows.labelling.bootstrap import bootstrap_od, bootstrap_vg
    from flows.labelling.filter import filter_candidates
    from flows.labelling.infer import infer
    from flows.labelling.plan import plan
    from flows.policies.policy import Policy
    from flows.self_training.config import SelfTrainConfig
    from flows.self_training.loop import self_train
    from flows.training.mixture import merge
    from flows.training.train import train

_MODULE_OF = {
    "bootstrap_od": "labelling.bootstrap",
    "bootstrap_vg": "labelling.bootstrap",
    "plan": "labelling.plan",
    "infer": "labelling.infer",
    "Policy": "labelling.filter",
    "filter_candidates": "labelling.filter",
    "merge": "training.mixture",
    "train": "training.train",
    "evaluate": "evaluation.evaluate",
    "SelfTrainConfig": "self_training.config",
    "self_train": "self_training.loop",
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
    if name == "__version__":  # of the installed package
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("groundhog")
        except PackageNotFoundError:  # a checkout that was never installed
            return "(not installed)"
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
