"""`groundhog reviews`: corrections that a person made in another program."""

from __future__ import annotations

import argparse
from pathlib import Path

from flows.cli.arguments import command, names
from formats.export_tools import TITLES, TOLERANCE
from formats.io.errors import InputError


def add(commands) -> None:
    summary = "import corrections that were made in Label Studio, CVAT, FiftyOne or another program"
    parser = commands.add_parser("reviews", help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
    verbs = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_import(verbs)


def _add_import(verbs) -> None:
    parser = command(
        verbs,
        "import",
        _import,
        "import what a person changed or finished into the corrections file beside the labels",
        "groundhog reviews import data/cat/cat_od_v1.json export.json --from labelstudio",
    )
    known = "\n".join(f"  {name:12} {title}" for name, title in TITLES.items())
    parser.epilog = f"{parser.epilog}\n\nformats of --from:\n{known}\nfrom our labels to each tool and back: "
    parser.epilog += "docs/reviewing_elsewhere.md"
    parser.add_argument("labels", metavar="LABELS", type=Path, help="the labels that were exported: X_od_v1.json")
    parser.add_argument("export", metavar="EXPORT", type=Path, help="file or folder that the program wrote")
    parser.add_argument(
        "--from", dest="tool", required=True, choices=tuple(TITLES), metavar="TOOL", help="format of EXPORT"
    )
    parser.add_argument(
        "-m", "--label-map", type=Path, metavar="FILE", help="label map (default: the one beside LABELS)"
    )
    parser.add_argument(
        "-o", "--out", type=Path, metavar="FILE", help="corrections file to write (default: X_od_reviewed.json)"
    )
    parser.add_argument("--images", type=Path, metavar="DIR", help="image folder, for an export without image sizes")
    parser.add_argument(
        "--categories",
        metavar="A,B,C",
        help="yolo: names in the order of the classes, or a file (default: found in EXPORT)",
    )
    parser.add_argument(
        "--all",
        action="store_true",
        help="every labelled image of the export was reviewed, not only those with other boxes",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=TOLERANCE,
        metavar="PX",
        help=f"pixels by which the sides of an unchanged box may differ (default {TOLERANCE:g})",
    )
    parser.add_argument("--skip", action="store_true", help="skip images of EXPORT that match no image of LABELS")
    parser.add_argument("--overwrite", action="store_true", help="replace corrections made since LABELS were exported")


def _import(options: argparse.Namespace) -> int:
    from flows.reviews.review_import import ImportOptions, describe_import, import_reviews
    from formats.exported import ExportOptions

    if options.images is not None and not options.images.is_dir():
        raise InputError(options.images, "no such folder", "expected the folder of the images")
    if not 0 <= options.tolerance < float("inf"):
        raise InputError("--tolerance", f"{options.tolerance:g}", "expected a number of pixels, from 0")
    categories = None if options.categories is None else names(options.categories)
    imported = import_reviews(
        options.labels,
        options.export,
        options.tool,
        ImportOptions(
            ExportOptions(options.images, categories),
            options.label_map,
            options.out,
            options.tolerance,
            options.all,
            options.skip,
            options.overwrite,
        ),
    )
    print(describe_import(imported, options.labels))
    return 0
