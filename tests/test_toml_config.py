"""A TOML file becomes the dataclass that declares it, or an error that names the key."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from formats import InputError, read_config


@dataclass(frozen=True)
class Step:
    kind: Literal["step"] = "step"
    at: tuple[int, ...] = (8, 11)


@dataclass(frozen=True)
class Cosine:
    kind: Literal["cosine"] = "cosine"
    final: float = 0.0


@dataclass(frozen=True)
class Optimizer:
    learning_rate: float
    name: Literal["adamw", "sgd"] = "adamw"
    multipliers: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate {self.learning_rate} is not positive; expected more than 0")


@dataclass(frozen=True)
class Config:
    optimizer: Optimizer
    epochs: int = 12
    resume: bool = False
    scale: tuple[int, int] = (800, 1333)
    data: tuple[Path, ...] = ()
    weights: Path | None = None
    schedule: Step | Cosine = field(default_factory=Step)
    stages: list[Step | Cosine] = field(default_factory=list)
    note: str = ""
    batch: int | Literal["auto"] = 4


@pytest.fixture
def read(tmp_path):
    def read_text(text: str, *overrides: str) -> Config:
        path = tmp_path / "train.toml"
        path.write_text(text)
        return read_config(path, Config, overrides)

    return read_text


def test_every_kind_of_value(read):
    config = read("""
        epochs = 3
        resume = true
        scale = [400, 600]
        data = ["a.json", "../b.json"]
        weights = "glyph-tiny"
        batch = "auto"
        [optimizer]
        learning_rate = 1
        multipliers = {backbone = 0.1, "a.b" = 1}
        [schedule]
        kind = "cosine"
        final = 0.5
        [[stages]]
        kind = "step"
        at = [1]
        [[stages]]
        kind = "cosine"
    """)
    assert config == Config(
        Optimizer(1.0, multipliers={"backbone": 0.1, "a.b": 1.0}),
        epochs=3,
        resume=True,
        scale=(400, 600),
        data=(Path("a.json"), Path("../b.json")),
        weights=Path("glyph-tiny"),
        schedule=Cosine(final=0.5),
        stages=[Step(at=(1,)), Cosine()],
        batch="auto",
    )
    assert type(config.optimizer.learning_rate) is float


def test_defaults_live_in_the_dataclass_alone(read):
    assert read("[optimizer]\nlearning_rate = 0.5") == Config(Optimizer(0.5))


def test_overrides_are_applied_in_order_and_make_tables(read):
    config = read(
        '[[stages]]\nkind = "step"',
        "optimizer.learning_rate=1",
        "optimizer.learning_rate=1e-4",
        "schedule.kind=cosine",
        "stages.0.at=[7]",
        "note=two words = one",
        "resume=true",
        "weights='a b.pth'",
    )
    assert config == Config(
        Optimizer(1e-4),
        resume=True,
        schedule=Cosine(),
        stages=[Step(at=(7,))],
        note="two words = one",
        weights=Path("a b.pth"),
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epoch=3", r"epoch: is not a setting; did you mean 'epochs'\?"),
        ("optimizer.learning_rat=3", r"optimizer.learning_rat: is not a setting; did you mean 'learning_rate'\?"),
        ("zzz=3", "zzz: is not a setting; expected one of optimizer, epochs"),
        ("epochs=3.0", "epochs: is the float 3.0; expected a whole number"),
        ("epochs=true", "epochs: is true; expected a whole number"),
        ("epochs=many", "epochs: is the string 'many'; expected a whole number"),
        ("resume=1", "resume: is the int 1; expected true or false"),
        ("note=1", "note: is the int 1; expected a string"),
        ("optimizer.name=adam", r"optimizer.name: is the string 'adam'; did you mean 'adamw'\?"),
        ("optimizer=3", "optimizer: is the int 3; expected a table"),
        ("optimizer.multipliers.neck=big", "optimizer.multipliers.neck: is the string 'big'; expected a number"),
        ("scale=[1, 2, 3]", "scale: is a list of 3; expected a list of 2"),
        ("data=a.json", "data: is the string 'a.json'; expected a list"),
        ("data=['a', 1]", "data.1: is the int 1; expected a path"),
        ("schedule.final=1", "schedule.kind: is missing; expected one of step, cosine"),
        ("schedule.kind=cosin", r"schedule.kind: is the string 'cosin'; did you mean 'cosine'\?"),
        ("batch=1.5", "batch: is the float 1.5; expected a whole number or"),
        ("optimizer.learning_rate=-1", "optimizer: learning_rate -1.0 is not positive"),
        ("stages.0.at=[1]", "override 'stages.0.at=.*'|stages: is a table; expected a list"),
        ("schedule=3", "schedule: is the int 3; expected Step or Cosine$"),
        ("epochs", "override 'epochs' is not of the form key=value"),
        ("epochs.deep.er=1", "epochs is the int 5; expected a table there"),
    ],
)
def test_errors_name_the_file_the_key_and_the_remedy(read, override, message):
    with pytest.raises(InputError, match=message) as caught:
        read("epochs = 5\n[optimizer]\nlearning_rate = 1", override)
    assert "train.toml: " in str(caught.value)


def test_a_missing_setting_is_named(read):
    with pytest.raises(InputError, match=r"train.toml: optimizer.learning_rate: is missing"):
        read("[optimizer]\nname = 'sgd'")


def test_a_value_cannot_bring_further_keys(read):
    config = read("[optimizer]\nlearning_rate = 1", "note='a'\nepochs=9")
    assert (config.note, config.epochs) == ("'a'\nepochs=9", 12)


def test_files_that_are_no_toml(read, tmp_path):
    with pytest.raises(InputError, match=r"is not TOML .*end of document"):
        read("epochs = ")
    with pytest.raises(InputError, match="does not exist"):
        read_config(tmp_path / "none.toml", Config)
