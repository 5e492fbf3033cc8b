"""`groundhog browse` and `groundhog browse serve`: look at labels, and review them in the browser."""

from __future__ import annotations

import argparse

from flows.cli.arguments import command
from flows.cli.parser import Subcommands, add_options_later


def add(commands) -> None:
    parser = command(
        commands,
        "browse",
        _browse,
        "draw the labels of an ODVG file on its images; serve: review them in the browser",
        "groundhog browse data/cat cat_od_v1.json images -m cat_label_map.json -o outputs/drawn --not-show",
    )
    add_options_later(parser, _browse_options)
    serve = command(
        Subcommands(parser),
        "serve",
        _serve,
        "review labels in the browser; every change is saved at once, in a file beside the labels",
        "groundhog browse serve data/cat cat_od_v1.json images --order uncertain",
    )
    add_options_later(serve, _serve_options)


def _browse_options(parser: argparse.ArgumentParser) -> None:
    from browse.__main__ import add_options

    add_options(parser)


def _serve_options(parser: argparse.ArgumentParser) -> None:
    from browse.review.serve import add_options

    add_options(parser)


def _browse(options: argparse.Namespace) -> int:
    from browse.__main__ import run

    return run(options)


def _serve(options: argparse.Namespace) -> int:
    from browse.review.serve import serve

    serve(options)
    return 0
