"""`groundhog up`, `self-train`, and the single stages: `bootstrap`, `infer`, `filter`."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from shlex import quote

from flows.cli.arguments import (
    add_device,
    add_overrides,
    add_settings,
    command,
    names,
    print_problems,
    settings_of,
)
from flows.cli.commands import filter
from flows.labelling.settings import Execution, LabellingSettings, Workers
from formats.dataset_names import metadata_path
from formats.io.errors import InputError
from formats.io.plurals import many


def add(commands) -> None:
    _add_up(commands)
    _add_self_train(commands)
    _add_bootstrap(commands)
    _add_infer(commands)
    filter.add(commands)


def _add_up(commands) -> None:
    parser = command(
        commands,
        "up",
        _up,
        "start a Prefect server, or use a running one, and serve all deployments",
        "groundhog up     # then, in another terminal: prefect deployment run self-train/glyphs --watch",
    )
    parser.add_argument(
        "--limit",
        metavar="N",
        type=int,
        default=1,
        help="concurrent flow runs (default %(default)s, because they share the device)",
    )


def _up(options: argparse.Namespace) -> int:
    from flows.orchestration.deployments import up

    return up(options.limit)


def _add_self_train(commands) -> None:
    from flows.cli.commands.train import add_start_and_work_dir

    parser = command(
        commands,
        "self-train",
        _self_train,
        "run the whole loop of a configuration: label, train, label again; without Prefect",
        "groundhog self-train configs/self_train_glyphs.toml --set rounds=2",
    )
    parser.add_argument("config", metavar="CONFIG", help="TOML file, such as configs/self_train_glyphs.toml")
    add_start_and_work_dir(parser)
    add_overrides(parser)


def _self_train(options: argparse.Namespace) -> int:
    from flows.cli.commands.train import overrides_of
    from flows.self_training.config import read_self_train
    from flows.self_training.loop import self_train
    from flows.self_training.messages import status
    from flows.self_training.report import REPORT_NAME
    from formats import quarantine

    result = self_train(read_self_train(options.config, tuple(overrides_of(options, "train."))), _print_event)
    print(status(result.summary.parent))
    print(f"report:  {result.summary.with_name(REPORT_NAME)}")
    print_problems(quarantine.quarantine_summary(result.quarantined, metadata_path(result.rounds[-1].labels)))
    return 0


def _print_event(event) -> None:
    from flows.self_training.messages import message_of_event

    if event["state"] != "progress" and event["stage"] != "loop" and (words := message_of_event(event)):
        print(words, flush=True)


def _add_bootstrap(commands) -> None:
    parser = command(
        commands,
        "bootstrap",
        _bootstrap,
        "list a folder of images as an ODVG file without boxes",
        "groundhog bootstrap data/cat/images data/cat/cat_od.json --categories cat",
    )
    parser.add_argument("images", metavar="IMAGES", help="image folder")
    parser.add_argument("out", metavar="OUT", help="file to write: X_od.json, or X_vg.json for captions")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--categories", metavar="A,B,C", help="names to detect, or a text file with one name per line")
    what.add_argument("--captions", metavar="FILE", help="captions of the images: CSV, JSON or a folder of .txt files")
    parser.add_argument(
        "--phrases",
        metavar="FILE",
        help="with --captions: JSON that maps captions to phrases (default: their noun phrases)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace OUT even if it contains labels")


def _bootstrap(options: argparse.Namespace) -> int:
    from flows.labelling.bootstrap import bootstrap_od, bootstrap_vg
    from formats import quarantine

    if options.phrases and not options.captions:
        raise InputError("--phrases", "there are no captions", "expected --captions as well")
    overwrite = options.overwrite
    if options.captions:
        made = bootstrap_vg(options.images, options.captions, options.out, options.phrases, overwrite=overwrite)
    else:
        made = bootstrap_od(options.images, names(options.categories), options.out, overwrite=overwrite)
    print(f"{many(made.lines, 'line')}: {made.annotations}" + (f", {made.label_map}" if made.label_map else ""))
    print_problems(quarantine.quarantine_summary(made.quarantined, made.annotations))
    return 0


def _add_infer(commands) -> None:
    parser = command(
        commands,
        "infer",
        _infer,
        "run the detector on an ODVG file; every candidate box above a low score is stored in WORK_DIR",
        "groundhog infer data/cat/cat_od.json data/cat/images work_dirs/cat --label-map data/cat/cat_label_map.json",
    )
    parser.add_argument("source", metavar="SOURCE", help="ODVG file, X_od.json or X_vg.json")
    parser.add_argument("image_root", metavar="IMAGES", help="folder that the filenames are relative to")
    parser.add_argument("work_dir", metavar="WORK_DIR", help="folder for manifest.json and candidates/")
    parser.add_argument(
        "--label-map",
        metavar="FILE",
        help="categories to detect (default: X_label_map.json beside X_od.json, otherwise the caption of each line)",
    )
    add_settings(parser, LabellingSettings, Execution)
    add_device(parser)
    parser.add_argument(
        "--devices",
        metavar="A,B",
        help="run a process on each device, such as cuda:0,cuda:1 (cpu,cpu: two processes); auto: every GPU",
    )
    parser.add_argument(
        "--distractors", metavar="A,B", help="more names for the prompt, whose boxes `groundhog filter` rejects"
    )


def _infer(options: argparse.Namespace) -> int:
    from flows.labelling.detector_pool import devices_of
    from flows.labelling.infer import infer
    from flows.labelling.plan import plan, prompt_label_map
    from flows.labelling.process_executor import ProcessExecutor
    from flows.labelling.shards import problems_of
    from formats import quarantine
    from formats.dataset_names import label_map_beside

    label_map = options.label_map
    if options.distractors is not None:
        known = Path(label_map or label_map_beside(options.source))
        label_map = prompt_label_map(known, names(options.distractors, "--distractors"), Path(options.work_dir))
    workers = Workers(devices=tuple(options.devices.split(",")) if options.devices else (options.device,))
    manifest = plan(
        options.source,
        options.image_root,
        work_dir=options.work_dir,
        label_map=label_map,
        settings=settings_of(options, LabellingSettings),
        execution=replace(settings_of(options, Execution), workers=workers),
    )
    devices = tuple(devices_of(workers.devices))
    executor = ProcessExecutor(devices) if len(devices) > 1 else None
    infer(manifest, workers=workers, batch_size=options.batch_size, executor=executor)
    labelled = f"{many(len(manifest.shards), 'shard')}: {manifest.work_dir}"
    print(f"{labelled}; next: groundhog filter {quote(str(manifest.work_dir))}")
    print_problems(quarantine.quarantine_summary(problems_of(manifest), manifest.work_dir / "candidates"))
    return 0
