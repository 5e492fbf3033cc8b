"""Annotation files, and synthetic ones: `groundhog convert`, `check`, `stats`, `glyphs`."""

from __future__ import annotations

import argparse
from pathlib import Path

from flows.cli.arguments import command, names, seed
from formats.io.errors import InputError
from formats.io.plurals import many
from formats.io.storage import as_path


def add(commands) -> None:
    _add_convert(commands)
    _add_check(commands)
    _add_stats(commands)
    _add_glyphs(commands)


def _add_convert(commands) -> None:
    import formats

    parser = command(
        commands,
        "convert",
        _convert,
        "convert annotations from one format to another",
        "groundhog convert voc odvg data/raccoon/annotations data/raccoon/raccoon_od.json",
    )
    known = f"from: {', '.join(formats.READERS)}\nto:   {', '.join(formats.WRITERS)}"
    parser.epilog = f"{parser.epilog}\n\n{known}\noptions that each format needs: docs/formats.md"
    parser.add_argument("source_format", metavar="FROM", help="format of SOURCE", choices=tuple(formats.READERS))
    parser.add_argument("target_format", metavar="TO", help="format of OUT", choices=tuple(formats.WRITERS))
    parser.add_argument("source", metavar="SOURCE", help="annotation file, or folder of them")
    parser.add_argument("out", metavar="OUT", help="file, or a new folder")
    _add_source(parser)
    parser.add_argument(
        "--without", metavar="FILE", action="append", default=[], help="leave out the images of this ODVG or COCO file"
    )
    parser.add_argument(
        "--label-map",
        metavar="FILE",
        help="number the categories as in this label map; other names get the next free numbers",
    )
    parser.add_argument(
        "--join-names",
        action="store_true",
        help="one label for names that a detector cannot distinguish: Cat and cat, bat (animal) and bat (sports)",
    )
    parser.add_argument("--sample", type=int, metavar="N", help="keep N random images")
    parser.add_argument("--parts", metavar="A=0.8,B=0.2", help="split the images at random into OUT_A, OUT_B …")
    parser.add_argument(
        "--seed", type=seed, default=0, metavar="S", help="random seed of --sample and --parts (default %(default)s)"
    )
    parser.add_argument(
        "--for",
        dest="loader",
        choices=("mmdet", "open-groundingdino"),
        help="odvg: leave out, and count, what this program would misread or fail on (ignored boxes, …)",
    )
    parser.add_argument(
        "--with-scores",
        action="store_const",
        const=True,
        help="yolo: write each box's score too, as its predictions have it; training on such files drops their images",
    )
    parser.add_argument(
        "--image-prefix",
        metavar="P",
        help="labelstudio: prefix of file names, such as a folder of its local storage, https://… or s3://bucket/…",
    )
    parser.add_argument(
        "--model-version",
        metavar="NAME",
        help="labelstudio: version of the predictions (default: name of SOURCE)",
    )
    parser.add_argument(
        "--save-images", metavar="DIR", help="huggingface: write the images inside Parquet files into this folder"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace OUT even if it contains labels")


def _convert(options: argparse.Namespace) -> int:
    from formats.convert import Selection, convert
    from formats.selection import parse_parts

    selection = Selection(
        options.without,
        options.label_map,
        options.sample,
        parse_parts(options.parts) if options.parts else None,
        options.seed,
        options.join_names,
    )
    formats_and_paths = options.source_format, options.target_format, options.source, options.out
    chosen = {**_given_source(options), "loader": options.loader, "with_scores": options.with_scores}
    chosen |= _labelstudio_options(options)
    if options.save_images and options.source_format != "huggingface":
        raise InputError("--save-images", f"{options.source_format} does not take this option", "leave it out")
    kept: set[str] = set()
    keep = (lambda record: kept.add(record.filename)) if options.save_images else None
    print(convert(*formats_and_paths, selection=selection, overwrite=options.overwrite, on_record=keep, **chosen))
    if options.save_images:
        _save_images(options, kept)
    return 0


def _save_images(options: argparse.Namespace, kept: set[str]) -> None:
    from formats.huggingface import save_images
    from formats.overwrite import refuse_to_lose_images

    if not options.overwrite:
        refuse_to_lose_images(options.save_images)
    count = save_images(options.source, options.save_images, options.split, kept)
    print(f"{options.save_images}: {many(count, 'image')}")


def _labelstudio_options(options: argparse.Namespace) -> dict:
    """By the parameter names of its writer; others refuse them."""
    chosen = {"image_prefix": options.image_prefix, "model_version": options.model_version}
    if options.target_format == "labelstudio" and options.model_version is None:
        chosen["model_version"] = Path(options.source).stem
    return chosen


def _add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--images", metavar="DIR", dest="image_dir", help="image folder, for formats without image sizes"
    )
    parser.add_argument(
        "--categories", metavar="A,B,C", help="names in the order of their labels, or a file with one name per line"
    )
    parser.add_argument(
        "--truth", metavar="FILE", help="coco-results: the COCO annotation file that the results belong to"
    )
    parser.add_argument("--classes", metavar="FILE", help="openimages: class-descriptions-boxable.csv")
    parser.add_argument(
        "--frequencies", metavar="F,C", help="lvis: only categories that are f(requent), c(ommon) or r(are)"
    )
    parser.add_argument("--refs", metavar="FILE", help="refcoco: refs(unc).p, or grefs(unc).json")
    parser.add_argument(
        "--split", metavar="S", help="huggingface, refcoco: train, val, testA …; flickr30k: a file with image IDs"
    )
    parser.add_argument(
        "--box-format", metavar="F", help="huggingface: xywh (default), or xyxy for data sets that store two corners"
    )


def _given_source(options: argparse.Namespace) -> dict:
    """The options of readers and writers, by their parameter names."""
    if options.image_dir and not as_path(options.image_dir).is_dir():
        raise InputError(options.image_dir, "no such folder", "expected the folder of the images")
    return {
        "image_dir": options.image_dir,
        "categories": None if options.categories is None else names(options.categories),
        "truth": options.truth,
        "classes": options.classes,
        "frequencies": options.frequencies,
        "refs": options.refs,
        "split": options.split,
        "box_format": options.box_format,
    }


def _add_check(commands) -> None:
    parser = command(
        commands,
        "check",
        _check,
        "list every problem of an annotation file with its line, the fault and what was expected, and with --images "
        "duplicates, leaks, unreadable, blurred, dark, oddly sized images; exit code 1 for problems, leaks, unreadable",
        "groundhog check data/cat/cat_od_v1.json --images data/cat/images",
    )
    _add_inspected(parser, optional=True)
    parser.add_argument(
        "--against",
        metavar="SET",
        action="append",
        default=[],
        help="image folder that must share no picture with --images, such as a test set's, or an annotation file: its "
        "images in --images must not be those of FILE; repeatable: the sets are compared with each other too",
    )
    parser.add_argument(
        "--quick", action="store_true", help="do not decode the images; check only their names and sizes"
    )


def _check(options: argparse.Namespace) -> int:
    if options.source is None and options.image_dir is None:
        raise InputError("check", "nothing to check", "expected an annotation file, or --images DIR, or both")
    if options.against and (options.quick or not options.image_dir):
        raise InputError("--against", "needs to decode the images", "expected --images DIR, and no --quick")
    failed = _check_labels(options) if options.source else False
    if options.image_dir and not options.quick:
        failed |= _check_pictures(options)
    return 1 if failed else 0


def _check_labels(options: argparse.Namespace) -> bool:
    from formats.inspect import check
    from formats.omissions import Omissions, describe_omissions

    problems, omissions = 0, Omissions()
    for problem in check(options.source, options.source_format, omissions=omissions, **_given_source(options)):
        print(problem)
        problems += 1
    print(f"{options.source}: {problems or 'no'} problem{'' if problems == 1 else 's'}")
    if unread := describe_omissions(omissions):
        print(f"not read, since records have no field for it:\n{unread}")
    return problems > 0


def _check_pictures(options: argparse.Namespace) -> bool:
    from flows.curation.check import check_images, describe_report, image_sets

    report = check_images(image_sets(options.image_dir, options.source, options.against))
    print(describe_report(report))
    return bool(report.leaks) or any(finding.kind == "unreadable" for finding in report.findings)


def _add_stats(commands) -> None:
    parser = command(
        commands,
        "stats",
        _stats,
        "print statistics of an annotation file: images, boxes, categories, sizes, scores",
        "groundhog stats data/cat/cat_od_v1.json --out cat.png",
    )
    _add_inspected(parser)
    parser.add_argument("--out", type=Path, metavar="PNG", help="also plot them to this file")


def _stats(options: argparse.Namespace) -> int:
    from formats.inspect import statistics
    from formats.statistics import draw_statistics, statistics_table

    counted = statistics(options.source, options.source_format, **_given_source(options))
    if not counted.records and not counted.quarantined:
        raise InputError(options.source, "has no image", "expected annotations of at least one")
    print(statistics_table(counted))
    if options.out:
        draw_statistics(counted, options.out)
        print(options.out)
    return 0


def _add_inspected(parser: argparse.ArgumentParser, optional: bool = False) -> None:
    import formats

    parser.add_argument(
        "source", metavar="FILE", nargs="?" if optional else None, help="annotation file, or folder of them"
    )
    parser.add_argument(
        "--format",
        dest="source_format",
        choices=tuple(formats.READERS),
        metavar="F",
        help="a format of `groundhog convert` (default: detect it)",
    )
    _add_source(parser)


def _add_glyphs(commands) -> None:
    parser = command(
        commands,
        "glyphs",
        _glyphs,
        "draw synthetic scenes of pictograms, with their annotations",
        "groundhog glyphs data/glyphs --domain cats --count 200",
    )
    parser.add_argument("folder", metavar="FOLDER", help="output folder")
    parser.add_argument(
        "--domain", default="source", metavar="D", help="source (default), dense, or cats on hard backgrounds"
    )
    parser.add_argument(
        "--task", default="od", metavar="T", help="kind of annotations: od (default), colours, captions or expressions"
    )
    parser.add_argument("--count", type=int, default=100, metavar="N", help="number of scenes (default %(default)s)")
    parser.add_argument("--seed", type=seed, default=0, metavar="S", help="random seed (default %(default)s)")
    parser.add_argument("--unlabelled", action="store_true", help="write images without annotations")
    parser.add_argument("--overwrite", action="store_true", help="replace the images and labels of FOLDER")


def _glyphs(options: argparse.Namespace) -> int:
    from formats.dataset_names import annotation_path
    from formats.overwrite import refuse_to_lose_images, refuse_to_lose_labels
    from grounding_model.glyphs import write_scenes

    if options.count < 1:
        raise InputError("--count", f"{options.count}", "expected at least one scene")
    if not options.overwrite:
        refuse_to_lose_images(Path(options.folder, "images"))
        for task in ("od", "vg"):
            refuse_to_lose_labels(annotation_path(options.folder, options.domain, task))
    annotations = write_scenes(
        options.folder, options.domain, options.count, options.seed, options.task, labelled=not options.unlabelled
    )
    print(f"{many(options.count, 'scene')}: {annotations or options.folder}")
    return 0
