"""Label maps, {"0": "cat", "1": "dog"}: the category name of each label; and lists of names."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from formats.io.errors import InputError
from formats.io.files import read_text, write_json
from formats.io.storage import as_path
from formats.io.values import MAX_DEPTH, parse_json
from formats.record import MAX_LABEL, Record

_log = logging.getLogger(__name__)

_REMEDY = 'expected {"0": "cat", "1": "dog"}'


def read_label_map(path: str | Path) -> dict[int, str]:
    """label -> category name, in the order of the labels.

    Raises InputError when the file is missing or not a label map, or lists a label twice.
    """
    try:
        pairs = parse_json(as_path(path).read_text(encoding="utf-8-sig"), path, _REMEDY, _Pairs)
    except FileNotFoundError:
        raise InputError(
            path, "does not exist", "expected a label map such as " + _REMEDY.removeprefix("expected ")
        ) from None
    except UnicodeDecodeError as error:
        raise InputError(path, f"is not JSON ({error})", _REMEDY) from error
    if not isinstance(pairs, _Pairs):
        raise InputError(path, f"contains a JSON {type(pairs).__name__}", _REMEDY)
    names: dict[int, str] = {}
    for key, name in pairs:
        label = _label(path, key)
        if label in names:
            raise InputError(path, f"label {key} is listed twice", "expected unique labels")
        if not isinstance(name, str) or not name.strip():
            raise InputError(path, f"label {key} has the name {name!r}", "expected a non-empty text")
        names[label] = name
    return dict(sorted(names.items()))


def write_label_map(path: str | Path, mapping: Mapping[int, str]) -> None:
    """Writes label -> category name, whole, in the order of the labels."""
    names = {str(label): mapping[label] for label in sorted(mapping)}
    write_json(path, names, indent=None, ensure_ascii=False)


class _Pairs(list):
    """A JSON object as its (key, value) pairs, so that a key that is listed twice is seen."""


def _label(path: str | Path, key: str) -> int:
    # isdecimal alone also takes other scripts' digits, which int() would turn into the same label.
    if not (key.isascii() and key.isdecimal()):
        raise InputError(path, f"label {key[:40]!r} is not a whole number", _REMEDY)
    number = small_number(key)
    if number is None:
        raise InputError(path, f"label {key[:40]!r} is above {MAX_LABEL}", "expected the number of a category, from 0")
    return number


def small_number(text: str) -> int | None:
    """The label in a text of digits; None for anything else, and above MAX_LABEL."""
    digits = text.lstrip("0") or text[-1:]
    fits = text.isascii() and text.isdecimal() and len(digits) <= len(str(MAX_LABEL))
    return int(digits) if fits else None


def merge_label_maps(maps: Sequence[Mapping[int, str]]) -> tuple[dict[int, str], list[dict[int, int]]]:
    """One map with every name once, and for each map: its label -> the label in the one.

    Names are the same if they differ only by letter case or surrounding blanks, since the detector's text is in
    lower case; the first spelling is kept. The first map keeps its labels; new names get the next free ones.
    """
    merged: dict[int, str] = {}
    labels: dict[str, int] = {}
    moves: list[dict[int, int]] = []
    for labels_of_map in maps:
        moves.append({})
        for label, name in sorted(labels_of_map.items()):
            key = name.strip().casefold()
            if key not in labels:
                labels[key] = label if not moves[1:] else max(merged, default=-1) + 1
                merged[labels[key]] = name
            moves[-1][label] = labels[key]
    return merged, moves


def relabelled(record: Record, move: Mapping[int, int], names: Mapping[int, str]) -> Record:
    """The record with each instance's label moved, and named as `names` names it.

    Raises InputError for a label that `move` does not have.
    """
    if record.instances is None:
        return record
    for instance in record.instances:
        if instance.label not in move:
            raise InputError(
                record.filename,
                f"label {instance.label} is not in its label map",
                "expected every label of the file in its label map",
            )
    moved = tuple(
        replace(instance, label=move[instance.label], category=names[move[instance.label]])
        for instance in record.instances
    )
    return replace(record, instances=moved)


def check_names(record: Record, names: Mapping[int, str], annotations: object) -> None:
    """Raises InputError where a box has another name than its label map gives its label: one of them is wrong.

    Case, brackets and underscores aside, as a detector reads names. annotations: the file of the record.
    """
    for instance in record.instances or ():
        name = names.get(instance.label)
        if name is None:
            what = f"label {instance.label} is not in the label map"
        elif name != instance.category and _words(name) != _words(instance.category):
            what = f"label {instance.label} is {instance.category!r}, in the label map it is {name!r}"
        else:
            continue
        raise InputError(f"{annotations}: {record.filename}", what, "expected the label map of this file")


def name_problems(names: Mapping[int, str], location: object) -> Iterator[InputError]:
    """Labels that a detector cannot tell apart, and names that say nothing to it. location: the file of the names.

    A detector reads a name in lower case, without what is in brackets and with a blank for each underscore.
    """
    first: dict[str, int] = {}
    for label, name in names.items():
        words = _words(name)
        if not any(map(str.isalnum, words.replace("[unk]", ""))):
            yield InputError(location, f"label {label}, {name!r}, has no word to look for", "expected a name in words")
            continue
        other = first.setdefault(words, label)
        if names[other] == name and other != label:
            what = f"labels {other} and {label} are both {name!r}"
            remedy = "expected every name once: `groundhog convert --join-names` joins them; or rename one"
            yield InputError(location, what, remedy)
        elif other != label:
            what = f"labels {other} and {label}, {names[other]!r} and {name!r}, are the same words to a detector"
            remedy = "expected names that differ beyond case and brackets, since every box comes under both labels: "
            remedy += "`groundhog convert --join-names` gives them one label; or rename one"
            yield InputError(location, what, remedy)


def _words(name: str) -> str:
    return " ".join(re.sub(r"\(.*\)", "", name).replace("_", " ").lower().split())


def join_same_names(names: Mapping[int, str]) -> tuple[dict[int, str], dict[int, int]]:
    """One label for all names that are the same words to a detector, with the first's spelling; and label -> label.

    The labels that are left keep their order and are numbered from 0.
    """
    joined: dict[str, int] = {}
    move = {label: joined.setdefault(_words(name) or name, len(joined)) for label, name in sorted(names.items())}
    spelling: dict[int, str] = {}
    for label, name in sorted(names.items()):
        spelling.setdefault(move[label], name)
    return spelling, move


def warn_of_names(names: Mapping[int, str], location: object, listed: int = 5) -> None:
    """Logs what name_problems finds, the first `listed` of them: names are taken as they are all the same."""
    problems = list(name_problems(names, location))
    for problem in problems[:listed]:
        _log.warning("%s", problem)
    if len(problems) > listed:
        _log.warning("%s: and %d more; `groundhog check` lists all", location, len(problems) - listed)


def read_category_names(path: str | Path) -> tuple[str, ...]:
    """The names in the order of the labels: of a YAML with `names`, as YOLO has it, a label map, or a line each.

    Raises InputError when the file is missing or has no names.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(path, what, "expected the category names: YAML with `names`, or one name per line")
    if path.suffix.lower() == ".json":
        labels = read_label_map(path)
        if list(labels) != list(range(len(labels))):
            raise InputError(path, f"has the labels {', '.join(map(str, labels))}", "expected 0, 1, 2, … without a gap")
        return tuple(labels.values())
    if path.suffix.lower() not in _YAML:
        return _names_by_line(path)
    names = _yaml_value(path, "names")
    if isinstance(names, dict):
        by_number = {small_number(key): name for key, name in names.items()}
        numbers = sorted(-1 if number is None else number for number in by_number)
        if numbers != list(range(len(names))):
            listed = ", ".join(key[:20] for key in list(names)[:20])
            raise InputError(path, f"names has the classes {listed}", f"expected 0..{len(names) - 1}")
        names = [by_number[label] for label in numbers]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise InputError(path, "has no names", "expected `names:` with the categories in order, each a text")
    if isinstance(count := _yaml_value(path, "nc"), str) and small_number(count) != len(names):
        raise InputError(path, f"nc is {str(count)[:20]}, and names has {len(names)}", "expected one number of classes")
    return tuple(names)


def keypoint_shape(path: Path) -> tuple[int, int] | None:
    """kpt_shape of a YOLO data set's YAML, (points, numbers a point), where it has one."""
    shape = _yaml_value(path, "kpt_shape")
    if shape is None:
        return None
    numbers = [small_number(each) if isinstance(each, str) else None for each in shape]
    if not isinstance(shape, list) or len(numbers) != 2 or not numbers[0] or numbers[1] not in (2, 3):
        raise InputError(path, f"kpt_shape is {str(shape)[:80]}", "expected a shape such as [17, 3]")
    return numbers[0], numbers[1]


def check_yaml_depth(text: str) -> None:
    """Raises ValueError for brackets within brackets without end, at which the C library crashes the interpreter."""
    depth = 0
    # The C loader is ten times as fast, and with nested brackets a thousand.
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ValueError(f"nested more than {MAX_DEPTH} deep")


_YAML = (".yaml", ".yml")


def _names_by_line(path: Path) -> tuple[str, ...]:
    """A name's line is its label, so a blank line between names would move all that follow."""
    lines = [line.strip() for line in read_text(path, "save it as UTF-8").rstrip().splitlines()]
    if "" in lines:
        remedy = "expected a name on every line: its line number is its class"
        raise InputError(f"{path}:{lines.index('') + 1}", "is blank, with names behind it", remedy)
    commas = {line.count(",") for line in lines}
    if len(commas) == 1 and commas != {0} and (len(lines) == 1 or path.suffix.lower() in (".csv", ".tsv")):
        raise InputError(f"{path}:1", f"{lines[0][:40]!r} has commas", "expected one name per line and nothing else")
    return tuple(lines)


def _yaml_value(path: Path, wanted: str) -> Any:
    """A key's value: a text, a list or a table of the values as text, since YAML's `no`, null and 07 are names.

    None where the key or the table is missing, and in place of anything deeper.
    """
    text = read_text(path, "save it as UTF-8")
    try:
        check_yaml_depth(text)
        root = yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise InputError(path, f"is not YAML ({' '.join(str(error).split())})", "expected `names:`") from error
    node = _yaml_table(root, path).get(wanted)
    if node is None or isinstance(node.value, str):
        return None if node is None else node.value
    if node.id == "sequence":
        return [_yaml_text(each) for each in node.value]
    return {key: _yaml_text(each) for key, each in _yaml_table(node, path).items()}


def _yaml_table(node: Any, path: Path) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for key, value in node.value if node is not None and node.id == "mapping" else ():
        if not isinstance(key.value, str) or key.value in table:
            line = f"{path}:{key.start_mark.line + 1}"
            raise InputError(line, f"{_yaml_text(key)!r} is listed twice, or is not a text", "expected unique keys")
        table[key.value] = value
    return table


def _yaml_text(node: Any) -> str | None:
    return node.value if isinstance(node.value, str) else None
