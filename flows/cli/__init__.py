"""The `groundhog` command, a module for each thing a user does. Arguments are parsed before anything heavy loads."""

from flows.cli.command import build_parser, main

__all__ = ["build_parser", "main"]
