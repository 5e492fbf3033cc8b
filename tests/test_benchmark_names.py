"""Benchmarks that time private functions name functions that exist."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from grounding_model import load_detector


def test_the_functions_that_a_labelling_is_divided_into_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    labelling = importlib.import_module("labelling")
    functions = labelling.measured_functions(load_detector(device="cpu").model)
    assert functions
    assert not [name for owner, name in functions if not hasattr(owner, name)]
