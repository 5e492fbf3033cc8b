"""Selecting images and publishing a data set: `groundhog select` and `groundhog publish`."""

from __future__ import annotations

import argparse
from pathlib import Path

from flows.cli.arguments import command
from formats.dataset_names import label_map_beside
from formats.io.errors import InputError
from formats.io.plurals import many


def add(commands) -> None:
    _add_select(commands)
    _add_publish(commands)


def _add_select(commands) -> None:
    parser = command(
        commands,
        "select",
        _select,
        "choose the images to label or review first: a set that represents them all, or those most like an example",
        "groundhog select data/cat/images -n 200 --diverse --out data/cat_first/cat_first_od.json",
    )
    parser.add_argument("source", metavar="SOURCE", nargs="?", help="image folder, or an ODVG file with --images")
    parser.add_argument(
        "--work-dir",
        metavar="DIR",
        help="instead of SOURCE: a work_dir of `groundhog infer`; compares the model's image features",
    )
    parser.add_argument("--images", metavar="DIR", help="image folder of an ODVG file")
    parser.add_argument("-n", "--count", type=int, required=True, metavar="N", help="number of images to select")
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--diverse", action="store_true", help="select images so that every image resembles one of them")
    how.add_argument(
        "--like", metavar="IMAGE", help="select the images most like this one: a file, or a name in SOURCE"
    )
    parser.add_argument(
        "--beside", metavar="FILE", help="with --diverse: images of this ODVG file count as selected already"
    )
    parser.add_argument("--out", metavar="FILE", help="write the selected lines as ODVG (default: print file names)")
    parser.add_argument("--overwrite", action="store_true", help="replace FILE even if it contains labels")


def _select(options: argparse.Namespace) -> int:
    from flows.curation.select import select_images, select_labelled
    from formats.label_map import write_label_map
    from formats.odvg import write_odvg
    from formats.overwrite import refuse_to_lose_labels

    if (options.source is None) == (options.work_dir is None):
        raise InputError("select", "neither SOURCE nor --work-dir, or both", "expected one of them")
    if options.count < 1:
        raise InputError("-n", f"{options.count}", "expected at least one image")
    names = _label_map_of(options)
    if options.out and not options.overwrite:
        refuse_to_lose_labels(options.out, names)
    how = {"like": options.like, "beside": options.beside}
    if options.work_dir:
        records = select_labelled(options.work_dir, options.count, **how)
    else:
        records = select_images(options.source, options.count, images=options.images, **how)
    if options.out:
        write_odvg(options.out, records)
        print(f"{options.out}: {many(len({record.filename for record in records}), 'image')}")
        if names is not None:
            write_label_map(label_map_beside(options.out), names)
    else:
        print("\n".join(dict.fromkeys(record.filename for record in records)))
    return 0


def _label_map_of(options: argparse.Namespace) -> dict[int, str] | None:
    """The label map beside the source; None if there is none, or if the source is a folder of images."""
    from flows.labelling.manifest import read_manifest
    from formats.label_map import read_label_map

    source = read_manifest(options.work_dir).source if options.work_dir else Path(options.source)
    beside = label_map_beside(source)
    return read_label_map(beside) if source.is_file() and beside.is_file() else None


def _add_publish(commands) -> None:
    parser = command(
        commands,
        "publish",
        _publish,
        "write a folder that others can use: images, Hugging Face layout, COCO, YOLO, data card, Croissant, a page",
        "groundhog publish data/cat/cat_od_v3.json outputs/cat --images data/cat/images --license cc-by-4.0",
    )
    parser.add_argument(
        "labels", metavar="LABELS", help="ODVG labels of the split `train`, with their label map beside"
    )
    parser.add_argument("out", type=Path, metavar="DIR", help="a new folder")
    parser.add_argument("--images", required=True, metavar="DIR", help="image folder")
    parser.add_argument(
        "--split",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="labels of one more split, e.g. test=cat_test_od.json",
    )
    parser.add_argument("--name", metavar="TEXT", help="name of the data set (default: taken from LABELS)")
    parser.add_argument(
        "--license",
        default="other",
        metavar="L",
        help="licence of the images and labels, e.g. cc-by-4.0, mit (default: other)",
    )
    parser.add_argument("--cite", metavar="TEXT", help="how to cite the data set: BibTeX, or a file that contains it")
    parser.add_argument("--link", action="store_true", help="hard-link the images instead of copying them")


def _publish(options: argparse.Namespace) -> int:
    from flows.curation.publish import publish
    from formats.omissions import describe_omissions

    splits = {"train": options.labels}
    for text in options.split:
        name, separator, path = text.partition("=")
        if not separator or not name.isidentifier() or name in splits:
            raise InputError(
                "--split", text, "expected NAME=FILE with another name for each, such as test=cat_test_od.json"
            )
        splits[name] = path
    how = {"name": options.name, "license": options.license, "citation": _citation(options.cite), "link": options.link}
    done = publish(splits, options.images, options.out, **how)
    for split in done.splits:
        print(f"{split.name}: {many(split.images, 'image')}, {many(sum(split.boxes.values()), 'box')}")
    for old, new in done.renamed.items():
        print(f"{old} is published as {new}: another image has its name with another suffix")
    for format_name, omissions in done.left_out.items():
        if omissions:
            print(f"{format_name} cannot store:\n{describe_omissions(omissions)}")
    print(done.folder)
    return 0


def _citation(text: str | None) -> str:
    from formats.io.files import read_text

    if text and "\n" not in text and len(text) < 255 and Path(text).is_file():
        return read_text(text, "expected BibTeX")
    if text and text.endswith((".bib", ".txt")):
        raise InputError("--cite", f"{text} does not exist", "expected BibTeX, or a file that contains it")
    return text or ""
