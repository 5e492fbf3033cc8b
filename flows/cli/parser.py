"""An argument parser with nested commands, which suggests the right name for a misspelt one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

from formats.io.errors import did_you_mean


class CommandParser(argparse.ArgumentParser):
    """A parser of one command.

    subcommands: recognized by name as the first argument; any other first argument belongs to the command itself, as in
    `evaluate compare A B` and `evaluate CONFIG`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.subcommands: dict[str, CommandParser] = {}
        self._commands: Any = None
        self.add_options: Callable[[argparse.ArgumentParser], None] | None = None

    def add_subparsers(self, **kwargs: Any) -> Any:
        self._commands = super().add_subparsers(**kwargs)
        return self._commands

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        arguments = list(sys.argv[1:] if args is None else args)
        if arguments and arguments[0] in self.subcommands:
            return self.subcommands[arguments[0]].parse_known_args(arguments[1:], namespace)
        if self.add_options:
            self.add_options(self)
            self.add_options = None
        if self._commands and arguments and not arguments[0].startswith("-"):
            self._check_command(arguments[0])
        return super().parse_known_args(arguments, namespace)

    def _check_command(self, name: str) -> None:
        known = self._commands.choices
        if name not in known:
            remedy = did_you_mean(known, name) or f"`{self.prog} --help` lists the commands"
            self.error(f"unknown command {name!r}; {remedy}")


class Subcommands:
    """Adds subcommands to a command that also works without one; used like the result of add_subparsers."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        assert isinstance(parser, CommandParser)  # since add_subparsers uses the class of its parser
        self._parser = parser

    def add_parser(self, name: str, *, help: str, **kwargs: Any) -> CommandParser:
        subcommand = CommandParser(f"{self._parser.prog} {name}", **kwargs)
        self._parser.subcommands[name] = subcommand
        title = "" if "\nsubcommands:\n" in (self._parser.epilog or "") else "\n\nsubcommands:"
        self._parser.epilog = f"{self._parser.epilog or ''}{title}\n  {name:12} {help}"
        return subcommand


def add_options_later(parser: argparse.ArgumentParser, add_options: Callable[[argparse.ArgumentParser], None]) -> None:
    """Declares the options of a command only when it is used, because importing their module is slow."""
    assert isinstance(parser, CommandParser)
    parser.add_options = add_options
