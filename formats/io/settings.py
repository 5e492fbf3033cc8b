"""How a setting that is also an option of the command line is declared: once, with its default and its help."""

from __future__ import annotations

from dataclasses import Field, field, fields
from typing import Any


def setting(default: Any, help: str, *, flag: str = "", metavar: str = "", added_later: bool = False) -> Any:
    """A dataclass field with its help text. flag: its option on the command line, if different from the name.

    added_later: the first plans did not have it. At its default it is then not recorded, so that work begun before it
    existed keeps its key.
    """
    metadata = {"help": help, "flag": flag, "metavar": metavar, "added_later": added_later}
    return field(default=default, metadata=metadata)


def declared_settings(part: type) -> list[Field]:
    """The fields of a dataclass that are declared by `setting`, in their order."""
    return [each for each in fields(part) if "help" in each.metadata]


def flag_of(declared: Field) -> str:
    """The option of a setting: "--nms-iou"."""
    return declared.metadata["flag"] or "--" + declared.name.replace("_", "-")
