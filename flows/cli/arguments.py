"""Options and helpers shared by several commands."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from formats.io.errors import InputError, did_you_mean
from formats.io.settings import declared_settings, flag_of
from formats.label_map import read_category_names

Settings = TypeVar("Settings")


def command(commands, name: str, run: Callable, summary: str, example: str) -> argparse.ArgumentParser:
    """A parser for one command. summary: what it does, as a clause. example: a command line that works."""
    parser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run, parser=parser)
    return parser


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", metavar="D", help="auto, cpu, cuda, cuda:1 …")


def add_settings(
    parser: argparse.ArgumentParser, *parts: type, without: Sequence[str] = (), unset: bool = False
) -> None:
    """Adds an option for each setting of these classes (formats.io.settings), with its default and its help.

    unset: options that are not given are None, so that the caller can replace the defaults.
    """
    for part in parts:
        types = get_type_hints(part)
        for declared in declared_settings(part):
            if declared.name not in without:
                _add_setting(parser, declared, types[declared.name], unset)


def settings_of(options: argparse.Namespace, part: type[Settings]) -> Settings:
    """The settings of a class that the command line gives; the others keep their defaults."""
    values = vars(options)
    return part(**{each.name: values[each.name] for each in fields(part) if each.name in values})  # type: ignore[arg-type]


def _add_setting(parser: argparse.ArgumentParser, declared: Field, type_hint: Any, unset: bool) -> None:
    flag, text = flag_of(declared), declared.metadata["help"]
    if type_hint is bool:
        parser.add_argument(flag, dest=declared.name, action="store_true", help=text)
        return
    kind = next(each for each in (get_args(type_hint) or (type_hint,)) if each is not type(None))
    is_choice, is_pair = get_origin(type_hint) is Literal, get_origin(kind) is tuple
    is_said = "(default" in text or (declared.default is None and not unset)
    parser.add_argument(
        flag,
        dest=declared.name,
        type=_scale if is_pair else str if is_choice else kind,
        choices=get_args(type_hint) if is_choice else None,
        default=None if unset else declared.default,
        metavar="SHORT,LONG" if is_pair else declared.metadata["metavar"] or None,
        help=text if is_said else f"{text} (default {'off' if declared.default is None else declared.default})",
    )


def add_overrides(parser: argparse.ArgumentParser, example: str = "optimizer.learning_rate=1e-4") -> None:
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help=f"change a setting, e.g. {example}",
    )


def seed(text: str) -> int:
    """A random seed, from 0."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):
        raise argparse.ArgumentTypeError(f"{text[:40]!r}; expected a whole number from 0")
    return int(text)


def _scale(text: str) -> tuple[int, int]:
    try:
        short, long = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}; expected SHORT,LONG such as 800,1333") from None
    return short, long


def names(text: str, option: str = "--categories") -> list[str]:
    """Names separated by commas or lines, those in a file (one per line, YOLO's YAML, a label map), or '$: coco'.

    Quotation marks around a name or the whole text, and brackets around a list, are removed: they come from another
    program's list, or a shell left them. option: the name of the option, for messages. Raises InputError for an empty
    name, an unclosed quotation mark, a missing file, and names that are separated as in a prompt: "cat. dog".
    """
    if text.strip().startswith("$:"):
        from grounding_model.inputs.category_lists import read_category_list

        return list(read_category_list(text.strip()[2:]))
    if _names_a_file(text):
        path = Path(text).expanduser()
        if not path.is_file() and (meant := did_you_mean(_files_in(path.parent), path.name)):
            raise InputError(text, "does not exist", meant)
        return list(read_category_names(path))
    listed = [_unquoted(name.strip()) for name in re.split(r"[,\n]", _unquoted(_unbracketed(text.strip())))]
    if not all(listed):
        what = "is empty" if len(listed) == 1 else "has an empty name"
        raise InputError(option, f"{text!r} {what}", "expected names separated by commas (cat,dog), or a file of names")
    if opened := next((name for name in listed if name[0] in _OPENING), None):
        what = f"{opened!r} has an unclosed quotation mark"
        raise InputError(option, what, "expected names without quotation marks, or a file with one name per line")
    if prompt := next((name for name in listed if _PROMPT.search(name)), None):
        separated = ",".join(part.strip() for part in re.split("[.;]", prompt) if part.strip())
        remedy = f"expected commas ({separated}), or an existing file of names"
        raise InputError(option, f"{prompt!r} has a {'semicolon' if ';' in prompt else 'full stop'}", remedy)
    return listed


NAME_FILES = (".txt", ".names", ".yaml", ".yml", ".json", ".csv")
_PROMPT = re.compile(r";|\.(\s|$)|\w\.[a-zA-Z]")  # "cat. dog", "cat.dog", "classes.md"; not "2.5 l bottle"

_QUOTES = ('""', "''", "``", "“”", "‘’", "„“", "«»")
_OPENING = '"“„«'  # an apostrophe may begin a name


def _unquoted(text: str) -> str:
    """Removes a pair of quotation marks around the whole text; several quoted names are unchanged."""
    for opening, closing in map(tuple, _QUOTES):
        inner = text[1:-1]
        if len(text) > 1 and text[0] == opening and text[-1] == closing and not {opening, closing} & set(inner):
            return inner.strip()
    return text


def _unbracketed(text: str) -> str:
    """Removes the brackets of a list in TOML, JSON or Python, such as ["cat", "dog"], but not of the name "[UNK]"."""
    inner = text[1:-1].strip()
    listed = text[:1] == "[" and text[-1:] == "]" and not {"[", "]"} & set(inner)
    is_list = not inner or "," in inner or inner[0] in {pair[0] for pair in _QUOTES}
    return inner.rstrip(",") if listed and is_list else text


def _names_a_file(text: str) -> bool:
    path = Path(text)
    if "\n" in text or not text.strip():
        return False
    try:
        there = path.is_file()
    except OSError:  # a list of names, longer than a file name can be
        return False
    in_a_folder = path.parent != Path() and path.parent.is_dir()  # "Monitor/TV" is a name, "data/classes" a file
    starts_as_path = text.startswith(("./", "../", "~/", "/"))
    return there or in_a_folder or starts_as_path or path.suffix.lower() in NAME_FILES


def _files_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []


def quoted(text: str) -> str:
    """A TOML string, whatever the text looks like: a folder may be called 2024."""
    return json.dumps(text)  # TOML's basic strings have JSON's escapes


def print_problems(problems: str) -> None:
    if problems:
        print(problems, file=sys.stderr)
