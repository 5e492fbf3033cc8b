"""The `groundhog` command. Nothing heavy is imported before the command line is parsed.

Exit codes: 0 done, 1 a run failed, 2 a wrong command, configuration or input, 130 interrupted.
"""

from __future__ import annotations

import argparse
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

# The user named a path that cannot be used as such. Any other OSError, such as a full disk, is a run that failed.
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
        print(f"groundhog: {in_options(str(error), options)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("groundhog: interrupted; run the same command again to continue", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output, such as `head`, has ended
        return 1
    except (RuntimeError, OSError) as error:
        if isinstance(error, WRONG_PATHS) and error.filename is not None:
            path = error.filename2 or error.filename
            print(f"groundhog: {path}: {error.strerror}; expected a path that you may read and write", file=sys.stderr)
            return 2
        print(f"groundhog: failed: {error}", file=sys.stderr)
        return 1


def in_options(message: str, options: argparse.Namespace) -> str:
    """A message with Python's argument as the option that the command has for it."""
    option = "--overwrite" if hasattr(options, "overwrite") else "--set labelling.overwrite=true"
    return message.replace("overwrite=True", option)


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
