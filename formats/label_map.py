"""Label maps, {"0": "cat", "1": "dog"}, which give each label its category name; and files with lists of names."""

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
    """Label -> category name, in the order of the labels.

    Raises InputError if the file is missing, is not a label map, or lists a label twice.
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
            raise InputError(path, f"label {key} has the name {name!r}", "expected a non-empty string")
        names[label] = name
    return dict(sorted(names.items()))


def write_label_map(path: str | Path, mapping: Mapping[int, str]) -> None:
    """Writes label -> category name in the order of the labels, atomically."""
    names = {str(label): mapping[label] for label in sorted(mapping)}
    write_json(path, names, indent=None, ensure_ascii=False)


class _Pairs(list):
    """A JSON object as (key, value) pairs, so that duplicate keys are noticed."""


def _label(path: str | Path, key: str) -> int:
    # isdecimal alone also accepts digits of other scripts, which int() would turn into the same label.
    if not (key.isascii() and key.isdecimal()):
        raise InputError(path, f"label {key[:40]!r} is not a whole number", _REMEDY)
    number = small_number(key)
    if number is None:
        raise InputError(path, f"label {key[:40]!r} is above {MAX_LABEL}", "expected the number of a category, from 0")
    return number


def small_number(text: str) -> int | None:
    """The label in a string of digits; None for anything else, and above MAX_LABEL."""
    digits = text.lstrip("0") or text[-1:]
    fits = text.isascii() and text.isdecimal() and len(digits) <= len(str(MAX_LABEL))
    return int(digits) if fits else None


def merge_label_maps(maps: Sequence[Mapping[int, str]]) -> tuple[dict[int, str], list[dict[int, int]]]:
    """Merges maps into one with every name once; also returns, for each map, its label -> the merged label.

    Names that differ only in letter case or surrounding white space are the same, since the detector's text is in
    lower case; the first spelling is kept. The first map keeps its labels; new names get the next free labels.
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
    """The record with the labels changed by `move`, and their names from `names`.

    Raises InputError for a label that is not in `move`.
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
    """Raises InputError if a box's category differs from the name of its label in the label map.

    Names are compared as a detector reads them, ignoring case, brackets and underscores. annotations: the record's
    file, for the message.
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
    """Yields errors for names that a detector cannot distinguish, and names without a word. location: their file.

    A detector reads a name in lower case, without the part in brackets, and with spaces for underscores.
    """
    first: dict[str, int] = {}
    for label, name in names.items():
        words = _words(name)
        if not any(map(str.isalnum, words.replace("[unk]", ""))):
            yield InputError(location, f"label {label}, {name!r}, has no word to detect", "expected a name in words")
            continue
        other = first.setdefault(words, label)
        if names[other] == name and other != label:
            what = f"labels {other} and {label} are both {name!r}"
            remedy = "expected every name once: `groundhog convert --join-names` joins them; or rename one"
            yield InputError(location, what, remedy)
        elif other != label:
            what = f"labels {other} and {label}, {names[other]!r} and {name!r}, are the same words to a detector"
            remedy = "expected names that differ in more than case and brackets; otherwise every box gets both labels: "
            remedy += "`groundhog convert --join-names` gives them one label; or rename one"
            yield InputError(location, what, remedy)


def _words(name: str) -> str:
    return " ".join(re.sub(r"\(.*\)", "", name).replace("_", " ").lower().split())


def join_same_names(names: Mapping[int, str]) -> tuple[dict[int, str], dict[int, int]]:
    """Gives one label to names that are the same words to a detector; also returns old label -> new label.

    The first spelling is kept. The remaining labels keep their order and are numbered from 0.
    """
    joined: dict[str, int] = {}
    move = {label: joined.setdefault(_words(name) or name, len(joined)) for label, name in sorted(names.items())}
    spelling: dict[int, str] = {}
    for label, name in sorted(names.items()):
        spelling.setdefault(move[label], name)
    return spelling, move


def warn_of_names(names: Mapping[int, str], location: object, listed: int = 5) -> None:
    """Logs the first `listed` of name_problems as warnings; the names are used anyway."""
    problems = list(name_problems(names, location))
    for problem in problems[:listed]:
        _log.warning("%s", problem)
    if len(problems) > listed:
        _log.warning("%s: and %d more; `groundhog check` lists them all", location, len(problems) - listed)


def read_category_names(path: str | Path) -> tuple[str, ...]:
    """The names in the order of the labels, from YAML with `names` as for YOLO, a label map, or a name per line.

    Raises InputError if the file is missing or has no names.
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
        raise InputError(path, "has no names", "expected `names:` with the categories in order, each a string")
    if isinstance(count := _yaml_value(path, "nc"), str) and small_number(count) != len(names):
        raise InputError(path, f"nc is {str(count)[:20]}, and names has {len(names)}", "expected the same number")
    return tuple(names)


def keypoint_shape(path: Path) -> tuple[int, int] | None:
    """kpt_shape in the YAML of a YOLO data set: (points, numbers per point); None if it has none."""
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
    """One name per line. A blank line is refused, since it would shift the labels of all names after it."""
    lines = [line.strip() for line in read_text(path, "save it as UTF-8").rstrip().splitlines()]
    if "" in lines:
        remedy = "expected a name on every line: its line number is its class"
        raise InputError(f"{path}:{lines.index('') + 1}", "is blank, with names after it", remedy)
    commas = {line.count(",") for line in lines}
    if len(commas) == 1 and commas != {0} and (len(lines) == 1 or path.suffix.lower() in (".csv", ".tsv")):
        raise InputError(f"{path}:1", f"{lines[0][:40]!r} has commas", "expected one name per line and nothing else")
    return tuple(lines)


def _yaml_value(path: Path, wanted: str) -> Any:
    """The value of a key: a string, or a list or dict of strings. Unparsed, since `no`, null and 07 can be names.

    None if the key is missing, and in place of anything nested deeper.
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
            raise InputError(line, f"{_yaml_text(key)!r} is listed twice, or is not a string", "expected unique keys")
        table[key.value] = value
    return table


def _yaml_text(node: Any) -> str | None:
    return node.value if isinstance(node.value, str) else None
