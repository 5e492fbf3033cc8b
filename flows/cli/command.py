"""The `groundhog` command. Nothing heavy is imported before it is known what is asked for.

Exit codes: 0 done, 1 a run failed, 2 a wrong command, configuration or input, 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from flows.cli import datasets as data
from flows.cli import detect, evaluate, forgetting, init, quality, rounds, train, weights
from flows.cli import labelling as pipeline
from formats.io.errors import InputError

# In the order of `groundhog --help`.
FAMILIES = (init, pipeline, rounds, detect, evaluate, train, forgetting, quality, data, weights)

# A place was named that cannot be what it is named for. Any other OSError, such as a full disk, is a run that failed.
WRONG_PLACES = (FileExistsError, FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)

DESCRIPTION = """\
Turns a folder of unlabelled images into a labelled data set and a better detector, round after round.

  groundhog demo                                     the whole loop on the embedded model, offline
  groundhog detect photo.jpg --texts 'cat. dog' -c   find things in pictures
  groundhog COMMAND --help                           what a command takes, with an example
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; gives the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if arguments and arguments[0] in PASSED_ON:
            return PASSED_ON[arguments[0]](arguments[1:]) or 0
        options = build_parser().parse_args(arguments)
        return options.run(options) or 0
    except InputError as error:
        print(f"groundhog: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("groundhog: interrupted; run the command again to go on", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output went away
        return 1
    except (RuntimeError, OSError) as error:
        if isinstance(error, WRONG_PLACES) and error.filename is not None:
            place = error.filename2 or error.filename
            print(
                f"groundhog: {place}: {error.strerror}; expected a place that you may read and write", file=sys.stderr
            )
            return 2
        print(f"groundhog: failed: {error}", file=sys.stderr)
        return 1


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        "groundhog", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, (told, _) in PASSED_ON_HELP.items():
        commands.add_parser(name, help=told, add_help=False)
    for family in FAMILIES:
        family.add(commands)
    return parser


def _demo(argv: list[str]) -> int:
    from flows.self_training.demo import main as demo

    return demo(argv)


def _browse(argv: list[str]) -> int:
    from browse.__main__ import main as browse

    return browse(argv)


# Commands that read their own arguments: the same as `python -m browse`.
PASSED_ON_HELP: dict[str, tuple[str, Callable[[list[str]], int]]] = {
    "demo": ("the whole loop offline: bootstrap, v1, retrain, v2, AP a round, report", _demo),
    "browse": ("look at labels, review labels", _browse),
}
PASSED_ON = {name: run for name, (_, run) in PASSED_ON_HELP.items()}


if __name__ == "__main__":
    sys.exit(main())
