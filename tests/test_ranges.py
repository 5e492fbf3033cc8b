"""A setting outside its range is refused where it is read, with file, key, value and range."""

from __future__ import annotations

import dataclasses
import math
import typing
from pathlib import Path

import pytest

from flows.quality.ablation import QualityConfig
from flows.self_training.config import SelfTrainConfig
from formats.io.errors import InputError
from formats.io.ranges import Name, PositiveShare, Share, check_ranges
from formats.io.toml_config import read_config
from grounding_model.training.config import TrainConfig
from grounding_model.training.settings import OptimizerConfig

CONFIGS = Path(__file__).parent.parent / "configs"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.learning_rate=nan", r"optimizer.learning_rate: is nan; expected a number from 0 to 10"),
        ("optimizer.learning_rate=1e30", r"optimizer.learning_rate: is 1e\+30; expected a number from 0 to 10"),
        ("optimizer.clip_norm=-0.1", r"optimizer.clip_norm: is -0.1; expected a number from 0 to 1e\+06"),
        ("optimizer.betas=[0.9, 2.0]", r"optimizer.betas.1: is 2.0; expected a number from 0 to 1"),
        ("optimizer.multipliers={backbone = -1}", r"optimizer.multipliers.backbone: is -1"),
        ("steps=0", r"steps: is 0; expected a number from 1 to 1e\+09"),
        ("batch_size=-4", r"batch_size: is -4"),
        ("losses.matching.giou=inf", r"losses.matching.giou: is inf"),
        ("work_dir=''", r"work_dir: is the string ''; expected a path"),
    ],
)
def test_the_message_names_file_key_value_and_range(override, message):
    with pytest.raises(InputError, match=r"finetune_glyphs.toml: " + message):
        read_config(CONFIGS / "finetune_glyphs.toml", TrainConfig, [override])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("labelling.shard_size=0", r"labelling.shard_size: is 0; expected a number from 1"),
        ("name=../../evil", r"name: is '../../evil'; expected a file name"),
        ("student=0.0", r"student: is 0.0; expected a number above 0 to 1"),
        ("rounds=-1", r"rounds: is -1; expected a number from 0"),
    ],
)
def test_a_self_training_has_ranges_too(override, message):
    with pytest.raises(InputError, match=message):
        read_config(CONFIGS / "self_train_glyphs.toml", SelfTrainConfig, [override])


def test_a_setting_made_in_python_is_checked_as_well():
    with pytest.raises(InputError, match="learning_rate: is nan"):
        OptimizerConfig(learning_rate=math.nan)


def test_a_path_in_a_file_may_begin_with_the_users_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    config = read_config(CONFIGS / "finetune_glyphs.toml", TrainConfig, ["work_dir=~/runs/one"])
    assert config.work_dir == Path("/home/somebody/runs/one")


@pytest.mark.parametrize("name", ["cat", "größe 1", "a.b-c_d", "cat (2)"])
def test_names_that_make_one_file_pass(name):
    _Named(name)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", "\0", "x" * 101, " a", "C:"])
def test_names_that_would_lead_elsewhere_are_refused(name):
    with pytest.raises(InputError, match="expected a file name"):
        _Named(name)


@dataclasses.dataclass(frozen=True)
class _Named:
    name: Name
    shares: tuple[Share, ...] = ()
    share: PositiveShare | None = None

    def __post_init__(self) -> None:
        check_ranges(self)


@pytest.mark.parametrize("config", [TrainConfig, SelfTrainConfig, QualityConfig])
def test_every_number_of_a_configuration_has_a_range(config):
    """But for settings of others, which check theirs themselves."""
    bare = [name for name in _bare_numbers(config) if name.split(".")[0] in _CHECKED]
    assert bare == []


_CHECKED = {"TrainConfig", "OptimizerConfig", "LossSettings", "MatchingCosts", "RegionWords", "AugmentConfig"}
_CHECKED |= {"RandomCrop", "Photometric", "OdvgData", "CocoData", "GlyphData", "SelfTrainConfig", "QualityConfig"}


def _bare_numbers(config: type) -> set[str]:
    found: set[str] = set()
    for name, hint in typing.get_type_hints(config, include_extras=True).items():
        for part in _parts(hint):
            if part in (int, float) and name != "moving_average":  # which is checked beside it
                found.add(f"{config.__name__}.{name}")
            elif dataclasses.is_dataclass(part):
                found |= _bare_numbers(part)
    return found


def _parts(hint: object) -> list:
    if hasattr(hint, "__metadata__"):
        return []
    return [part for each in typing.get_args(hint) for part in _parts(each)] or [hint]
