"""Reads a TOML file into a dataclass: every value is checked against its annotation, and unknown keys are refused.

The dataclass alone declares a setting: its name, type and default. Supported annotations:
int, float, bool, str, Path, Any, X | None, Literal, list[X], tuple[X, ...], tuple[X, Y], Sequence[X], dict[str, X],
Mapping[str, X], dataclasses, and unions of dataclasses distinguished by their field `kind: Literal["..."]`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, Union

from formats.io.errors import InputError, expected_one_of
from formats.io.files import write_whole
from formats.io.ranges import range_problems
from formats.io.storage import as_path
from formats.io.values import describe_value

Config = TypeVar("Config")

_UNIONS = (Union, types.UnionType)
_SCALARS = {int: "a whole number", float: "a number", bool: "true or false", str: "a string", Path: "a path (a string)"}


class _Location(NamedTuple):
    """Where a value is: its file and dotted key."""

    file: str
    key: str = ""

    def at(self, key: object) -> _Location:
        return _Location(self.file, f"{self.key}.{key}" if self.key else str(key))

    def error(self, what: str, remedy: str = "") -> InputError:
        return InputError(f"{self.file}: {self.key}" if self.key else self.file, what, remedy)


def read_config(path: str | Path, config_type: type[Config], overrides: Sequence[str] = ()) -> Config:
    """The settings of a file as a `config_type`.

    overrides: such as "optimizer.learning_rate=1e-4", applied in order before anything is checked. The value is TOML;
    if it does not parse it is a string, so `device=cuda` needs no quotes. Numbers in a key index lists of tables.
    Relative paths are not changed. Raises InputError, naming the file and the dotted key, for a missing file, invalid
    TOML, an unknown or missing key, and a value of the wrong type or refused by the dataclass itself.
    """
    location = _Location(str(path))
    try:
        table = tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise location.error("does not exist", "expected a TOML file") from None
    except IsADirectoryError:
        raise location.error("is a folder", "expected a TOML file") from None
    except (ValueError, RecursionError) as error:  # also bytes that are not UTF-8, and values that are too deep or long
        raise location.error(f"is not TOML ({error})") from error
    for override in overrides:
        _apply_override(table, override, location)
    return _dataclass_value(config_type, table, location)


def config_from_table(table: Any, config_type: type[Config], location: object) -> Config:
    """The settings of a table from another kind of file, as a `config_type`; raises the errors of read_config."""
    return _dataclass_value(config_type, table, _Location(str(location)))


# Overrides


def _apply_override(table: dict, override: str, location: _Location) -> None:
    key, equals, text = override.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not equals or not all(parts):
        raise location.error(
            f"override {override!r} is not of the form key=value", "expected e.g. optimizer.learning_rate=1e-4"
        )
    node: Any = table
    for part in parts[:-1]:
        node = _step(node, part, override, location)
    if isinstance(node, list):
        node[_list_index(node, parts[-1], override, location)] = _override_value(text.strip())
    else:
        node[parts[-1]] = _override_value(text.strip())


def _step(node: Any, part: str, override: str, location: _Location) -> Any:
    """The table or list under `part`, created if it is missing."""
    child = node[_list_index(node, part, override, location)] if isinstance(node, list) else node.setdefault(part, {})
    if not isinstance(child, (dict, list)):
        raise location.error(f"override {override!r}: {part} is {_described(child)}", "expected a table there")
    return child


def _list_index(node: list, part: str, override: str, location: _Location) -> int:
    if not part.isdecimal() or int(part) >= len(node):
        raise location.error(f"override {override!r}: no item {part} in a list of {len(node)}")
    return int(part)


def _override_value(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return parsed["value"] if parsed.keys() == {"value"} else text  # a line break in the text could add more keys


# Values by annotation


def _value(annotation: Any, value: Any, location: _Location) -> Any:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Any:
        return value
    if dataclasses.is_dataclass(annotation):
        return _dataclass_value(annotation, value, location)
    if annotation in _SCALARS:
        return _scalar(annotation, value, location)
    if origin is Literal:
        return _literal(arguments, value, location)
    if origin in _UNIONS:
        return _union(arguments, value, location)
    if origin is tuple or annotation is tuple:
        return _tuple(arguments or (Any, ...), value, location)
    if origin in (list, Sequence) or annotation is list:
        items = _items(arguments[0] if arguments else Any, value, location)
        return tuple(items) if origin is Sequence else items
    if origin in (dict, Mapping) or annotation is dict:
        return _mapping(arguments[1] if arguments else Any, value, location)
    raise TypeError(f"{location.key}: annotation {annotation} is not understood by read_config")


def _scalar(annotation: type, value: Any, location: _Location) -> Any:
    wanted: tuple[type, ...] = {float: (int, float), Path: (str,)}.get(annotation, (annotation,))
    if type(value) not in wanted:  # exact types: in Python a bool is an int, in a configuration it is not
        raise location.error(f"is {_described(value)}", f"expected {_SCALARS[annotation]}")
    try:
        return _path(value, location) if annotation is Path else annotation(value)
    except OverflowError:
        raise location.error(f"is {_described(value)}", f"expected {_SCALARS[annotation]}") from None


def _path(text: str, location: _Location) -> Path:
    """Expands ~ as a shell does. Raises InputError for a string that cannot be a path."""
    if not text or "\0" in text:
        raise location.error(f"is {_described(text)}", "expected a path")
    return as_path(os.path.expanduser(text))


def _literal(choices: tuple, value: Any, location: _Location) -> Any:
    for choice in choices:
        if type(choice) is type(value) and choice == value:
            return choice
    raise location.error(f"is {_described(value)}", expected_one_of(choices, value))


def _union(members: tuple, value: Any, location: _Location) -> Any:
    if value is None and type(None) in members:
        return None
    members = tuple(member for member in members if member is not type(None))
    tables = [member for member in members if dataclasses.is_dataclass(member)]
    if isinstance(value, dict) and tables:
        return _dataclass_value(tables[0] if len(tables) == 1 else _of_kind(tables, value, location), value, location)
    if len(members) == 1:
        return _value(members[0], value, location)
    # The member with exactly the value's type is tried first: 1 stays an int in `float | int`.
    for member in sorted(members, key=lambda member: member is not type(value)):
        try:
            return _value(member, value, location)
        except InputError:
            continue
    raise location.error(f"is {_described(value)}", "expected " + " or ".join(map(_annotation_text, members)))


def _of_kind(members: Sequence[Any], table: dict, location: _Location) -> Any:
    """The dataclass whose `kind` is that of the table."""
    by_kind = {kind: member for member in members for kind in typing.get_args(_annotations(member).get("kind"))}
    if len(by_kind) < len(members):
        raise TypeError(f'{location.key}: each of {members} needs its own `kind: Literal["..."]` to be distinguished')
    if "kind" not in table:
        raise location.at("kind").error("is missing", expected_one_of(by_kind, None))
    if not isinstance(table["kind"], str) or table["kind"] not in by_kind:
        raise location.at("kind").error(f"is {_described(table['kind'])}", expected_one_of(by_kind, table["kind"]))
    return by_kind[table["kind"]]


def _tuple(arguments: tuple, value: Any, location: _Location) -> tuple:
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(_items(arguments[0], value, location))
    if not isinstance(value, list) or len(value) != len(arguments):
        raise location.error(f"is {_described(value)}", f"expected a list of {len(arguments)}")
    return tuple(_value(each, item, location.at(index)) for index, (each, item) in enumerate(zip(arguments, value)))


def _items(annotation: Any, value: Any, location: _Location) -> list:
    if not isinstance(value, list):
        raise location.error(f"is {_described(value)}", "expected a list")
    return [_value(annotation, item, location.at(index)) for index, item in enumerate(value)]


def _mapping(annotation: Any, value: Any, location: _Location) -> dict:
    if not isinstance(value, dict):
        raise location.error(f"is {_described(value)}", "expected a table")
    return {key: _value(annotation, item, location.at(key)) for key, item in value.items()}


def _dataclass_value(config_type: Any, table: Any, location: _Location) -> Any:
    if not isinstance(table, dict):
        raise location.error(f"is {_described(table)}", "expected a table")
    fields = {field.name: field for field in dataclasses.fields(config_type) if field.init}
    for key in table:
        if key not in fields:
            raise location.at(key).error("is not a setting", expected_one_of(fields, key))
    missing = [name for name, field in fields.items() if name not in table and not _has_default(field)]
    if missing:
        raise location.at(missing[0]).error("is missing", "expected a value; it has no default")
    annotations = _annotations(config_type)
    values = {key: _value(annotations[key], value, location.at(key)) for key, value in table.items()}
    for key, what, remedy in range_problems(config_type, values):
        raise location.at(key).error(what, remedy)
    try:
        return config_type(**values)
    except ValueError as error:
        raise location.error(str(error)) from error


@cache
def _annotations(config_type: Any) -> dict[str, Any]:
    return typing.get_type_hints(config_type)


def _has_default(field: dataclasses.Field) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


# Wording


def _annotation_text(annotation: Any) -> str:
    return _SCALARS.get(annotation) or (annotation.__name__ if isinstance(annotation, type) else str(annotation))


def _described(value: Any) -> str:
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, bool):
        return str(value).lower()
    text = describe_value(value)
    return f"the string {text}" if isinstance(value, str) else f"the {type(value).__name__} {text}"


# Writing


def write_config(path: str | Path, config: Any) -> None:
    """Writes the settings of a dataclass as TOML, one per line; read_config reads an equal one. Skips None."""
    with write_whole(path) as stream:
        for key, value in _table_of(config).items():
            stream.write(f"{key} = {_toml(value)}\n")


def _table_of(config: Any) -> dict[str, Any]:
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config) if field.init}
    return {name: value for name, value in values.items() if value is not None}


def _toml(value: Any) -> str:
    if dataclasses.is_dataclass(value):
        value = _table_of(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, bool | int | float):
        return str(value).lower()
    return json.dumps(str(value))  # TOML's basic strings have the escapes of JSON
