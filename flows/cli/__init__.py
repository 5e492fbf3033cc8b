"""The `groundhog` command, with one module for each task. Arguments are parsed before anything heavy is imported."""

from flows.cli.command import build_parser, main

__all__ = ["build_parser", "main"]
