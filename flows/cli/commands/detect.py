"""`groundhog detect`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from flows.cli.arguments import add_device, add_settings, command, settings_of
from flows.detection.options import DetectOptions
from flows.labelling.settings import LabellingSettings
from formats.io.plurals import many


def add(commands) -> None:
    parser = command(
        commands,
        "detect",
        _detect,
        "detect objects in images: categories, phrases of a caption, or a referring expression",
        "groundhog detect photo.jpg --weights mm_swin-t.pth --text-encoder bert-base-uncased --texts '$: coco'",
    )
    parser.add_argument("images", nargs="+", metavar="IMAGES", help="files, folders or patterns; URLs with --fetch")
    parser.add_argument(
        "--texts",
        metavar="T",
        help="the prompt: a caption, whose noun phrases are detected, or '$: coco' for the categories of a data set; "
        "-c and --tokens-positive read it in other ways. A small detector of `groundhog distill` reads a list of "
        "categories, and detects all of its classes without --texts",
    )
    parser.add_argument(
        "-c", "--custom-entities", action="store_true", help="read T as a list of categories: 'cat. dog. bird'"
    )
    parser.add_argument(
        "--tokens-positive",
        metavar="J",
        help="-1: read T as one referring expression; '[[[21,31]], [[45,59]]]': detect these character ranges of T",
    )
    add_settings(parser, LabellingSettings, without=("score_floor",))
    parser.add_argument(
        "--batch-size",
        type=int,
        default=DetectOptions.batch_size,
        metavar="N",
        help="images per batch (default %(default)s)",
    )
    add_device(parser)
    parser.add_argument(
        "--pred-score-thr",
        type=float,
        default=DetectOptions.score_threshold,
        metavar="S",
        help="minimum score of a box (default %(default)s)",
    )
    parser.add_argument(
        "--palette",
        default=DetectOptions.palette,
        metavar="P",
        help="colours of the boxes: %(default)s (default), random, or one such as red or #ff8800",
    )
    parser.add_argument("--fetch", action="store_true", help="download images whose URL is among IMAGES")
    parser.add_argument("--all-scores", action="store_true", help="write the scores of all categories for each box")
    parser.add_argument(
        "--out-dir",
        type=Path,
        default=DetectOptions.out_dir,
        metavar="DIR",
        help="output folder (default: %(default)s)",
    )
    parser.add_argument("--no-save-vis", action="store_true", help="do not draw pictures")
    parser.add_argument("--no-save-pred", action="store_true", help="do not write JSON files")


def _detect(options: argparse.Namespace) -> int:
    from flows.detection.detect import detect

    result = detect(
        options.images,
        _prompt(options),
        DetectOptions(
            settings=settings_of(options, LabellingSettings),
            score_threshold=options.pred_score_thr,
            batch_size=options.batch_size,
            device=options.device,
            palette=options.palette,
            out_dir=options.out_dir,
            save_vis=not options.no_save_vis,
            save_pred=not options.no_save_pred,
            all_scores=options.all_scores,
            fetch=options.fetch,
        ),
    )
    written = "" if options.no_save_vis and options.no_save_pred else f": {options.out_dir}"
    print(f"{many(result.boxes, 'box')} in {many(result.images, 'image')}{written}")
    for reason in result.failures.values():
        print(f"not labelled: {reason}", file=sys.stderr)
    return 1 if result.failures and not result.images else 0


def _prompt(options: argparse.Namespace):
    """The prompt; None, which means all classes, for a small detector without --texts."""
    from formats.io.errors import InputError
    from grounding_model.checkpoints.locations import locate
    from grounding_model.inputs.prompt import Prompt
    from grounding_model.students.config import has_own_classes

    closed = has_own_classes(options.weights)
    if options.texts is None and not closed:
        locate(options.weights)  # missing weights are the more likely mistake
        remedy = "expected a prompt, such as --texts 'a red car' or --texts 'cat. dog' -c"
        raise InputError("--texts", "is missing", remedy)
    if options.texts is None:
        return None
    categories = options.custom_entities or (closed and options.tokens_positive is None)
    return Prompt.parse(options.texts, categories, options.tokens_positive)
