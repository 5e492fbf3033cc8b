"""What several commands share."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from flows.labelling.plan import MAX_PER_IMAGE
from formats.io.errors import InputError, did_you_mean
from formats.label_map import read_category_names


def command(commands, name: str, run: Callable, told: str, example: str) -> argparse.ArgumentParser:
    """A parser for one command. told: what it does, as a clause. example: a command line that works."""
    parser = commands.add_parser(
        name,
        help=told,
        description=f"{told[0].upper()}{told[1:]}.",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weights",
        default="glyph-tiny",
        metavar="W",
        help="mmdet .pth, Hugging Face folder or ours (default: glyph-tiny)",
    )
    parser.add_argument("--text-encoder", metavar="DIR", help="BERT folder, where the weights carry no tokenizer")
    parser.add_argument("--device", default="auto", metavar="D", help="auto, cpu, cuda, cuda:1 …")


def add_looking(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--scale", type=_scale, metavar="SHORT,LONG", help="resize to fit (default: the model's own)")
    parser.add_argument(
        "--max-per-img", type=int, default=MAX_PER_IMAGE, metavar="N", help="boxes an image (default %(default)s)"
    )
    parser.add_argument("--chunked-size", type=int, metavar="N", help="categories a prompt, for long lists")
    parser.add_argument("--batch-size", type=int, default=1, metavar="N", help="images at once (default %(default)s)")


def add_overrides(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a setting, e.g. optimizer.learning_rate=1e-4",
    )


def _scale(text: str) -> tuple[int, int]:
    try:
        short, long = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}; expected SHORT,LONG such as 800,1333") from None
    return short, long


def names(text: str) -> list[str]:
    """Names between commas, or those of a file: a text with a name a line, YOLO's YAML, or a label map.

    Raises InputError for a file that is not there, and for what is written as a prompt is: "cat. dog".
    """
    path = Path(text)
    if path.suffix and (path.is_file() or path.suffix.lower() in NAME_FILES):
        if not path.is_file() and (meant := did_you_mean(_files_in(path.parent), path.name)):
            raise InputError(text, "does not exist", meant)
        return list(read_category_names(text))
    listed = [name.strip() for name in text.split(",")]
    if prompt := next((name for name in listed if ". " in name or name.endswith(".")), None):
        separated = ",".join(part.strip() for part in prompt.split(".") if part.strip())
        raise InputError(repr(prompt), "has a full stop", f"expected commas ({separated}), or a file of names")
    return listed


NAME_FILES = (".txt", ".names", ".yaml", ".yml", ".json", ".csv")


def _files_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []


def quoted(text: str) -> str:
    """As a text of TOML, whatever it looks like: a folder may be called 2024."""
    return json.dumps(text)  # TOML's basic strings have JSON's escapes


def tell(problems: str) -> None:
    if problems:
        print(problems, file=sys.stderr)
