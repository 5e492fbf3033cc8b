"""The `groundhog` command. Nothing heavy is imported before the command line is parsed.

Exit codes: 0 done, 1 a run failed, 2 a wrong command, configuration or input, 130 interrupted.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence

import flows
from flows.cli.commands import (
    audit,
    browse,
    datasets,
    demo,
    detect,
    distill,
    evaluate,
    init,
    labelling,
    publish,
    quality,
    reviews,
    rounds,
    train,
    weights,
)
from flows.cli.parser import CommandParser
from formats.io.errors import InputError

# In the order of `groundhog --help`.
MODULES = (
    demo,
    browse,
    init,
    labelling,
    reviews,
    rounds,
    detect,
    evaluate,
    train,
    distill,
    quality,
    audit,
    datasets,
    publish,
    weights,
)

# Errors of a path that the user passed. Any other OSError, such as a full disk, is a failed run.
WRONG_PATHS = (FileExistsError, FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)

DESCRIPTION = """\
Turns a folder of unlabelled images into a labelled data set and a better detector, round after round.

  groundhog demo                                     the whole loop on the embedded model, offline
  groundhog detect photo.jpg --texts 'cat. dog' -c   find objects in images
  groundhog COMMAND --help                           the arguments of a command, with an example
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    options = argparse.Namespace()
    try:
        options = build_parser().parse_args(argv)
        return options.run(options) or 0
    except InputError as error:
        print(f"groundhog: {in_options(error, options)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("groundhog: interrupted; run the same command again to continue", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # the program that reads our output, such as `head`, has ended
        return 1
    except (RuntimeError, OSError) as error:
        if isinstance(error, WRONG_PATHS) and error.filename is not None:
            path = error.filename2 or error.filename
            print(f"groundhog: {path}: {error.strerror}; expected a path that you may read and write", file=sys.stderr)
            return 2
        print(f"groundhog: failed: {error}", file=sys.stderr)
        return 1


QUOTES = "'\""
# How messages of functions name arguments: overwrite=True, text_encoder='bert-base-uncased', images=FOLDER.
_ARGUMENT = re.compile(r"""(?<![\w.])([a-z][a-z_]*)=(True\b|False\b|[A-Z][A-Z_]*\b|'[^']*'|"[^"]*")""")


def in_options(error: InputError, options: argparse.Namespace) -> str:
    """A message with Python arguments replaced by the command's options: --overwrite for overwrite=True."""
    parser = getattr(options, "parser", None)
    if parser is None:
        return str(error)
    flags = {action.dest: action.option_strings[-1] for action in parser._actions if action.option_strings}
    if "set" in flags and "overwrite" not in flags:
        flags["overwrite"] = f"{flags['set']} labelling.overwrite=true"

    def as_option(found: re.Match) -> str:
        name, value = found.groups()
        if value == "False":
            return flags.get(f"no_{name}", found[0])
        if name not in flags:
            return found[0]
        return flags[name] if value == "True" else f"{flags[name]} {value.strip(QUOTES)}"

    location = flags.get(error.location, error.location)
    return str(InputError(location, _ARGUMENT.sub(as_option, error.what), _ARGUMENT.sub(as_option, error.remedy)))


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = CommandParser("groundhog", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=f"groundhog {flows.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in MODULES:
        module.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
