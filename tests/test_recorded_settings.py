"""The settings of a training keep their text: states and finished trainings of older versions stay theirs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from formats.io.toml_config import read_config
from grounding_model.data.sources import OdvgData
from grounding_model.training import recorded_settings
from grounding_model.training.config import FromWeights, TrainConfig
from grounding_model.training.recorded_settings import differing, settings_text
from grounding_model.training.settings import OptimizerConfig

CONFIGS = ["configs/glyph_tiny.toml", "tests/kept/training/train.toml"]


@pytest.mark.parametrize("config", CONFIGS)
def test_the_text_is_what_the_first_states_have(config: str) -> None:
    settings = read_config(Path(__file__).parent.parent / config, TrainConfig)
    for entry in dataclasses.fields(settings):
        assert settings_text(getattr(settings, entry.name)) == repr(getattr(settings, entry.name))


def test_paths_and_tuples_of_one_have_the_text_that_repr_gives() -> None:
    value = (OdvgData(Path("a.json"), Path("b")),)
    assert settings_text(value) == repr(value)


def test_a_renamed_class_or_field_keeps_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclasses.dataclass(frozen=True)
    class Renamed:
        rate: float = 0.5

    monkeypatch.setitem(recorded_settings.FIRST_CLASS_NAMES, "Renamed", "Original")
    monkeypatch.setitem(recorded_settings.FIRST_FIELD_NAMES, "Renamed.rate", "learning_rate")
    assert settings_text((Renamed(),)) == "(Original(learning_rate=0.5),)"


def test_states_are_compared_by_values() -> None:
    saved = {"optimizer": "Adam(b=2, a=(1, 'x'), c={'k': PosixPath('/p')})", "start.sha256": "00ff", "seed": "1"}
    now = {"optimizer": "Optimizer(a=(1, 'x'), b=2, c={'k': PosixPath('/p')})", "start.sha256": "00ff", "seed": "1"}
    assert differing(now, saved) == []
    assert differing(now | {"optimizer": now["optimizer"].replace("b=2", "b=3")}, saved) == ["optimizer"]
    assert differing(now | {"start.sha256": "00fe", "new": "1"}, saved) == ["new", "start.sha256"]


def test_every_setting_counts() -> None:
    first, second = OptimizerConfig(), OptimizerConfig(warmup_from=0.1)
    assert differing({"optimizer": settings_text(first)}, {"optimizer": settings_text(second)}) == ["optimizer"]
    starts = [{"start": settings_text(FromWeights(text_encoder=Path(name)))} for name in "ab"]
    assert differing(*starts) == ["start"]
