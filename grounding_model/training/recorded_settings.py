"""Settings as text in a training's state and key, which stay the same when the code that declares them changes.

The text is the repr of the time when the first states were written, so that those can be resumed. When you rename a
class or field of the settings, add its first name here, so that older trainings are still recognised.
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FIRST_CLASS_NAMES: dict[str, str] = {}  # class -> its name in the first states, where that is another
FIRST_FIELD_NAMES: dict[str, str] = {}  # "Class.field" -> its name there; Class: as it is called now


def settings_text(value: Any) -> str:
    """One setting as text; nested settings with the names of their fields."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        name = type(value).__name__
        fields = [entry.name for entry in dataclasses.fields(value) if entry.repr]
        entries = (f"{first_field_name(name, field)}={settings_text(getattr(value, field))}" for field in fields)
        return f"{FIRST_CLASS_NAMES.get(name, name)}({', '.join(entries)})"
    if isinstance(value, Path):
        return f"PosixPath({str(value)!r})"  # on every system
    if type(value) is tuple:
        return f"({', '.join(map(settings_text, value))}{',' if len(value) == 1 else ''})"
    if type(value) is list:
        return f"[{', '.join(map(settings_text, value))}]"
    if type(value) is dict:
        return "{" + ", ".join(f"{settings_text(key)}: {settings_text(item)}" for key, item in value.items()) + "}"
    return repr(value)


def first_field_name(class_name: str, field: str) -> str:
    """What a field was called in the first states."""
    return FIRST_FIELD_NAMES.get(f"{class_name}.{field}", field)


def differing(settings: Mapping[str, str], saved: Mapping[str, str]) -> list[str]:
    """The names of settings whose values are not the same. Names of classes and the order of fields do not count."""
    names = sorted(settings.keys() | saved.keys())
    return [name for name in names if not _same(settings.get(name), saved.get(name))]


def _same(text: str | None, other: str | None) -> bool:
    if text is None or other is None:
        return text is other
    return text == other or _parsed(text) == _parsed(other)


def _parsed(text: str) -> Any:
    """Values of a recorded text, settings as dicts; the text itself where it is none, such as a hash."""
    try:
        return _value(ast.parse(text, mode="eval").body)
    except (ValueError, SyntaxError, RecursionError):
        return text


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and node.args:
        return [_value(each) for each in node.args]  # a path
    if isinstance(node, ast.Call):
        return {str(each.arg): _value(each.value) for each in node.keywords}
    if isinstance(node, ast.Tuple | ast.List):
        return [_value(each) for each in node.elts]
    if isinstance(node, ast.Dict) and None not in node.keys:
        return [(_value(key), _value(item)) for key, item in zip(node.keys, node.values) if key is not None]
    return ast.literal_eval(node)
