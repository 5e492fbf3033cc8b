"""MM-Grounding-DINO: model, training, evaluation. Names are loaded on first use, so that importing costs nothing."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grounding_model.detector import Detector, load_detector
    from grounding_model.inputs.prompt import Prompt

__all__ = ["Detector", "Prompt", "load_detector"]

_HOMES = {"Detector": "detector", "Prompt": "inputs.prompt", "load_detector": "detector"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
