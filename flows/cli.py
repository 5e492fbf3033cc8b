"""The `groundhog` command. Nothing heavy is imported before it is known what is asked for.

Exit codes: 0 done, 1 a run failed, 2 a wrong command, configuration or input, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from formats.files import read_text
from formats.problems import InputError

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
    _add_up(commands)
    _add_self_train(commands)
    _add_detect(commands)
    _add_bootstrap(commands)
    _add_infer(commands)
    _add_filter(commands)
    _add_evaluate(commands)
    _add_train(commands)
    _add_convert(commands)
    _add_check(commands)
    _add_stats(commands)
    _add_weights(commands)
    _add_glyphs(commands)
    return parser


def _demo(argv: list[str]) -> int:
    from flows.demo import main as demo

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


def _command(commands, name: str, run: Callable, told: str, example: str) -> argparse.ArgumentParser:
    command = commands.add_parser(
        name,
        help=told,
        description=f"{told[0].upper()}{told[1:]}.",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run)
    return command


# up, self-train


def _add_up(commands) -> None:
    command = _command(
        commands,
        "up",
        _up,
        "start Prefect (or reuse a healthy server) and serve all deployments",
        "groundhog up     # then, in another terminal: prefect deployment run self-train/glyphs --watch",
    )
    command.add_argument("--limit", type=int, default=1, help="flow runs at once (default 1: they share the device)")


def _up(options: argparse.Namespace) -> int:
    from flows.deployments import up

    return up(options.limit)


def _add_self_train(commands) -> None:
    command = _command(
        commands,
        "self-train",
        _self_train,
        "label, train and label again as a configuration says, without Prefect",
        "groundhog self-train configs/self_train_glyphs.toml --set rounds=2",
    )
    command.add_argument("config", metavar="CONFIG", help="a TOML file")
    _add_overrides(command)


def _self_train(options: argparse.Namespace) -> int:
    from flows import quarantine
    from flows.self_training import read_self_train, self_train

    result = self_train(read_self_train(options.config, options.set), _print_event)
    for done in result.rounds:
        ap = "" if done.ap is None else f", AP {done.ap:.3f} of the model that made them"
        print(f"v{done.round}: {done.labels} ({done.counts['kept']} boxes{ap})")
    print(f"weights: {result.weights}\nsummary: {result.summary}")
    _tell(quarantine.summary(result.quarantined, result.rounds[-1].labels.with_suffix(".meta.json")))
    return 0


def _print_event(event) -> None:
    if event["state"] != "progress":
        details = ", ".join(
            f"{key} {value:.3f}" if isinstance(value, float) else f"{key} {value}"
            for key, value in (event.get("counts") or event.get("metrics") or event).items()
            if key not in ("round", "stage", "state") and value is not None and not isinstance(value, dict)
        )
        print(f"round {event['round']}: {event['stage']} {event['state']}" + (f" ({details})" if details else ""))


# detect


def _add_detect(commands) -> None:
    command = _command(
        commands,
        "detect",
        _detect,
        "find things in pictures: categories, phrases of a caption, or a referring expression",
        "groundhog detect photo.jpg --weights mm_swin-t.pth --text-encoder bert-base-uncased --texts '$: coco'",
    )
    command.add_argument("images", nargs="+", metavar="IMAGES", help="files, folders, patterns; addresses with --fetch")
    command.add_argument(
        "--texts",
        required=True,
        metavar="T",
        help="what to look for: a caption, whose noun phrases are found; '$: coco', the categories of a data set; "
        "or see the next two",
    )
    command.add_argument("-c", "--custom-entities", action="store_true", help="T is a list 'cat. dog. bird'")
    command.add_argument(
        "--tokens-positive",
        metavar="J",
        help="-1: T is a referring expression; '[[[21,31]], [[45,59]]]': phrases of T, by their characters",
    )
    _add_model(command)
    _add_looking(command)
    command.add_argument("--pred-score-thr", type=float, default=0.3, metavar="S", help="least score (default 0.3)")
    command.add_argument(
        "--palette", default="category", metavar="P", help="category (default), random, or one colour: red, #ff8800"
    )
    command.add_argument("--fetch", action="store_true", help="download images that are given as addresses")
    command.add_argument("--all-scores", action="store_true", help="write each box's scores of everything looked for")
    command.add_argument("--out-dir", type=Path, default=Path("outputs"), metavar="DIR", help="default: outputs")
    command.add_argument("--no-save-vis", action="store_true", help="draw no pictures")
    command.add_argument("--no-save-pred", action="store_true", help="write no JSON")


def _detect(options: argparse.Namespace) -> int:
    from flows.detection import DetectOptions, detect
    from grounding_model.prompt import Prompt

    prompt = Prompt.parse(options.texts, options.custom_entities, options.tokens_positive)
    result = detect(
        options.images,
        prompt,
        DetectOptions(
            weights=options.weights,
            text_encoder=options.text_encoder,
            score_threshold=options.pred_score_thr,
            max_per_image=options.max_per_img,
            scale=options.scale,
            chunk_size=options.chunked_size,
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
    print(f"{result.boxes} boxes in {result.images} images{written}")
    for reason in result.failures.values():
        print(f"not labelled: {reason}", file=sys.stderr)
    return 1 if result.failures and not result.images else 0


# The stages by themselves


def _add_bootstrap(commands) -> None:
    command = _command(
        commands,
        "bootstrap",
        _bootstrap,
        "make an ODVG file without boxes of a folder of images",
        "groundhog bootstrap data/cat/images data/cat/cat_od.json --categories cat",
    )
    command.add_argument("images", metavar="IMAGES", help="folder")
    command.add_argument("out", metavar="OUT", help="X_od.json, or X_vg.json with captions")
    what = command.add_mutually_exclusive_group(required=True)
    what.add_argument("--categories", metavar="A,B,C", help="names to look for, or a text file with one name a line")
    what.add_argument("--captions", metavar="FILE", help="CSV, JSON or a folder of .txt files")
    command.add_argument(
        "--phrases", metavar="FILE", help="with --captions: JSON, caption -> phrases; otherwise noun phrases are found"
    )


def _bootstrap(options: argparse.Namespace) -> int:
    from flows import quarantine
    from flows.bootstrapping import bootstrap_od, bootstrap_vg

    if options.phrases and not options.captions:
        raise InputError("--phrases", "there are no captions to find them in", "want --captions too")
    if options.captions:
        made = bootstrap_vg(options.images, options.captions, options.out, options.phrases)
    else:
        made = bootstrap_od(options.images, _names(options.categories), options.out)
    print(f"{made.lines} lines: {made.annotations}" + (f", {made.label_map}" if made.label_map else ""))
    _tell(quarantine.summary(made.quarantined, made.annotations))
    return 0


def _add_infer(commands) -> None:
    command = _command(
        commands,
        "infer",
        _infer,
        "label an ODVG file: every candidate box above a low floor, kept in WORK_DIR",
        "groundhog infer data/cat/cat_od.json data/cat/images work_dirs/cat --label-map data/cat/cat_label_map.json",
    )
    command.add_argument("source", metavar="SOURCE", help="X_od.json or X_vg.json")
    command.add_argument("image_root", metavar="IMAGES", help="folder that its filenames are relative to")
    command.add_argument("work_dir", metavar="WORK_DIR", help="manifest.json and candidates/ go there")
    command.add_argument(
        "--label-map",
        metavar="FILE",
        help="its names are looked for (default: X_label_map.json beside X_od.json); else each line's caption",
    )
    _add_model(command)
    _add_looking(command)
    command.add_argument("--score-floor", type=float, default=0.05, metavar="S", help="candidates above it are kept")
    command.add_argument("--shard-size", type=int, default=64, metavar="N", help="lines a shard (default 64)")
    command.add_argument("--overwrite", action="store_true", help="throw away another plan that lies in WORK_DIR")


def _infer(options: argparse.Namespace) -> int:
    from flows import quarantine
    from flows.inference import infer, problems_of
    from flows.planning import plan

    manifest = plan(
        options.source,
        options.image_root,
        options.weights,
        options.work_dir,
        label_map=options.label_map,
        text_encoder=options.text_encoder,
        score_floor=options.score_floor,
        scale=options.scale,
        max_per_image=options.max_per_img,
        chunk_size=options.chunked_size,
        shard_size=options.shard_size,
        overwrite=options.overwrite,
    )
    infer(manifest, device=options.device, batch_size=options.batch_size)
    print(f"{len(manifest.shards)} shards: {manifest.work_dir}; next: groundhog filter {manifest.work_dir}")
    _tell(quarantine.summary(problems_of(manifest), manifest.work_dir / "candidates"))
    return 0


def _add_filter(commands) -> None:
    command = _command(
        commands,
        "filter",
        _filter,
        "turn the candidates of a WORK_DIR into labels; the model is not run again",
        "groundhog filter work_dirs/cat --score-threshold 0.4 --class-threshold dog=0.5",
    )
    command.add_argument("work_dir", metavar="WORK_DIR", help="of groundhog infer")
    command.add_argument("-o", "--out", metavar="FILE", help="default: X_od_v1.json beside X_od.json")
    command.add_argument("--score-threshold", type=float, metavar="S", help="a label scores more (default 0.3)")
    command.add_argument("--class-threshold", action="append", default=[], metavar="NAME=S", help="of one category")
    command.add_argument("--ignore-from", type=float, metavar="S", help="boxes from here to the threshold are ignored")
    command.add_argument("--nms-iou", type=float, metavar="IOU", help="overlap of duplicates (default 0.5)")
    command.add_argument("--min-size", type=float, metavar="PX", help="shorter side in pixels (default 1)")
    command.add_argument("--max-per-img", type=int, dest="max_per_image", metavar="N", help="default 300")


def _filter(options: argparse.Namespace) -> int:
    from flows import quarantine
    from flows.filtering import Policy, filter_candidates

    settings = ("score_threshold", "ignore_from", "nms_iou", "min_size", "max_per_image")
    given = {name: getattr(options, name) for name in settings if getattr(options, name) is not None}
    policy = Policy(class_thresholds=dict(map(_class_threshold, options.class_threshold)), **given)
    result = filter_candidates(options.work_dir, policy, options.out)
    dropped = ", ".join(f"{reason} {count}" for reason, count in result.counts["dropped"].items())
    print(f"{result.counts['kept']} boxes in {result.counts['lines']} lines: {result.labels}")
    print(f"dropped: {dropped or 'nothing'}; more in {result.meta}")
    _tell(quarantine.summary(result.quarantined, result.meta))
    return 0


def _class_threshold(text: str) -> tuple[str, float]:
    name, _, value = text.rpartition("=")
    try:
        return name, float(value)
    except ValueError:
        raise InputError("--class-threshold", f"{text!r}", "want NAME=SCORE such as dog=0.5") from None


# evaluate, train


def _add_evaluate(commands) -> None:
    command = _command(
        commands,
        "evaluate",
        _evaluate,
        "measure a detector on labelled images, as a configuration says; compare two measurements",
        "groundhog evaluate configs/evaluate_glyphs.toml --weights work_dirs/glyphs/model.safetensors",
    )
    command.usage = (
        "groundhog evaluate CONFIG [--weights W] [--show-dir D] [--set KEY=VALUE]\n"
        "       groundhog evaluate compare A B"
    )
    command.add_argument("config", metavar="CONFIG", help="a TOML file; or the word compare, with two work_dirs")
    command.add_argument("runs", metavar="A B", nargs="*", help="work_dirs of two evaluations of the same truth")
    command.add_argument("--weights", metavar="W", help="instead of the configuration's")
    command.add_argument("--show-dir", metavar="D", help="draw truth and prediction there, the worst images first")
    _add_overrides(command)


def _evaluate(options: argparse.Namespace) -> int:
    if options.config == "compare":
        return _compare(options.runs)
    from flows.evaluation import evaluate_config

    if options.runs:
        raise InputError("evaluate", f"{len(options.runs)} more arguments after CONFIG", "want one configuration")
    given = [f"weights={_quoted(options.weights)}"] if options.weights else []
    print(evaluate_config(options.config, (*options.set, *given), options.show_dir))
    return 0


def _compare(runs: Sequence[str]) -> int:
    from flows.comparing import compare

    if len(runs) != 2:
        raise InputError("evaluate compare", f"{len(runs)} evaluations", "want two work_dirs: compare A B")
    first, second = runs
    print(compare(first, second).table())
    return 0


def _add_train(commands) -> None:
    command = _command(
        commands,
        "train",
        _train,
        "train a model, as a configuration says; an interrupted run goes on with --resume",
        "groundhog train configs/glyph_tiny.toml --work-dir work_dirs/glyph-tiny --set steps=2000",
    )
    command.add_argument("config", metavar="CONFIG", help="a TOML file")
    command.add_argument("--weights", metavar="W", help="start from these, instead of the configuration's start")
    command.add_argument("--work-dir", metavar="D", help="instead of the configuration's")
    command.add_argument("--gpus", type=int, default=1, metavar="N", help="processes (only 1 for now)")
    told = "go on with an interrupted run in the work_dir; start where there is none"
    command.add_argument("--resume", action="store_true", help=told)
    _add_overrides(command)


def _train(options: argparse.Namespace) -> int:
    from flows.training import train_config

    if options.gpus != 1:
        raise InputError("--gpus", f"{options.gpus}", "want 1: training on several GPUs is not there yet")
    overrides = list(options.set)
    overrides += [f"work_dir={_quoted(options.work_dir)}"] if options.work_dir else []
    overrides += [f'start={{kind="weights", source={_quoted(options.weights)}}}'] if options.weights else []
    print(f"weights: {train_config(options.config, overrides, options.resume)}")
    return 0


# convert, weights, glyphs


def _add_convert(commands) -> None:
    import formats

    command = _command(
        commands,
        "convert",
        _convert,
        "turn annotations of one format into another",
        "groundhog convert voc odvg data/raccoon/annotations data/raccoon/raccoon_od.json",
    )
    known = f"from: {', '.join(formats.READERS)}\nto:   {', '.join(formats.WRITERS)}"
    command.epilog = f"{command.epilog}\n\n{known}\nwhat each one needs: docs/formats.md"
    command.add_argument("source_format", metavar="FROM", choices=tuple(formats.READERS))
    command.add_argument("target_format", metavar="TO", choices=tuple(formats.WRITERS))
    command.add_argument("source", metavar="SOURCE", help="annotation file, or folder of them")
    command.add_argument("out", metavar="OUT", help="file, or the folder to be made")
    _add_source(command)
    command.add_argument(
        "--without", metavar="FILE", action="append", default=[], help="leave out the images of this ODVG or COCO file"
    )
    command.add_argument(
        "--label-map", metavar="FILE", help="labels by this map's names; names that it lacks get the next free labels"
    )
    command.add_argument("--sample", type=int, metavar="N", help="N images at random")
    command.add_argument("--parts", metavar="A=0.8,B=0.2", help="a file each: OUT_A, OUT_B, images at random")
    command.add_argument("--seed", type=int, default=0, metavar="S", help="decides --sample and --parts (default 0)")


def _convert(options: argparse.Namespace) -> int:
    from flows.converting import Selection, convert
    from formats.selection import parse_parts

    selection = Selection(
        options.without,
        options.label_map,
        options.sample,
        parse_parts(options.parts) if options.parts else None,
        options.seed,
    )
    formats_and_paths = options.source_format, options.target_format, options.source, options.out
    print(convert(*formats_and_paths, selection=selection, **_given_source(options)))
    return 0


def _add_source(command: argparse.ArgumentParser) -> None:
    command.add_argument("--images", metavar="DIR", help="the image folder, where sizes are read from it")
    command.add_argument("--categories", metavar="A,B,C", help="names in the order of labels, or a file with them")
    command.add_argument("--truth", metavar="FILE", help="coco-results: the COCO file whose ids it uses")
    command.add_argument("--classes", metavar="FILE", help="openimages: class-descriptions-boxable.csv")
    command.add_argument("--refs", metavar="FILE", help="refcoco: refs(unc).p, or grefs(unc).json")
    command.add_argument("--split", metavar="S", help="refcoco: train, val, testA …; flickr30k: a file with image IDs")


def _given_source(options: argparse.Namespace) -> dict:
    """What the readers and writers of formats ask for, by their own names."""
    return {
        "image_dir": options.images,
        "categories": _names(options.categories) if options.categories else None,
        "truth": options.truth,
        "classes": options.classes,
        "refs": options.refs,
        "split": options.split,
    }


def _add_check(commands) -> None:
    command = _command(
        commands,
        "check",
        _check,
        "find every problem of an annotation file: its line, what is wrong and what would be right; exit code 1 if any",
        "groundhog check data/cat/cat_od_v1.json --images data/cat/images",
    )
    _add_inspected(command)


def _check(options: argparse.Namespace) -> int:
    from flows.inspecting import check

    problems = 0
    for problem in check(options.source, options.format, **_given_source(options)):
        print(problem)
        problems += 1
    print(f"{options.source}: {problems or 'no'} problem{'' if problems == 1 else 's'}")
    return 1 if problems else 0


def _add_stats(commands) -> None:
    command = _command(
        commands,
        "stats",
        _stats,
        "count what is in an annotation file: images, boxes, categories, sizes, scores",
        "groundhog stats data/cat/cat_od_v1.json --out cat.png",
    )
    _add_inspected(command)
    command.add_argument("--out", type=Path, metavar="PNG", help="draw the counts too")


def _stats(options: argparse.Namespace) -> int:
    from flows.inspecting import statistics
    from formats.statistics import draw_statistics, statistics_table

    counted = statistics(options.source, options.format, **_given_source(options))
    print(statistics_table(counted))
    if options.out:
        draw_statistics(counted, options.out)
        print(options.out)
    return 0


def _add_inspected(command: argparse.ArgumentParser) -> None:
    import formats

    command.add_argument("source", metavar="FILE", help="annotation file, or folder of them")
    command.add_argument(
        "--format",
        choices=tuple(formats.READERS),
        metavar="F",
        help="as `convert` calls it (default: odvg, coco or voc)",
    )
    _add_source(command)


def _add_weights(commands) -> None:
    command = _command(
        commands,
        "weights",
        _weights,
        "turn weights into ours or into a Hugging Face folder, or say what they are",
        "groundhog weights grounding_dino_swin-t.pth swin-t.safetensors --text-encoder bert-base-uncased",
    )
    command.usage = (
        "groundhog weights SRC DST [--text-encoder DIR] [--half]\n"
        "       groundhog weights inspect SRC [--text-encoder DIR]"
    )
    command.add_argument("source", metavar="SRC", help="mmdet .pth, Hugging Face folder or hub name, or ours")
    command.add_argument("target", metavar="DST", nargs="?", help="NAME.safetensors, or a folder to be made")
    command.add_argument("--text-encoder", metavar="DIR", help="tokenizer and configuration that SRC lacks")
    command.add_argument("--half", action="store_true", help="write 16-bit numbers")


def _weights(options: argparse.Namespace) -> int:
    from grounding_model import weights

    if options.source == "inspect" and options.target:
        print(weights.inspect(options.target, options.text_encoder))
    elif options.target:
        weights.convert(options.source, options.target, options.text_encoder, options.half)
        print(options.target)
    else:
        print(weights.inspect(options.source, options.text_encoder))
    return 0


def _add_glyphs(commands) -> None:
    command = _command(
        commands,
        "glyphs",
        _glyphs,
        "draw scenes of the glyph world with their truth",
        "groundhog glyphs data/glyphs --domain cats --count 200",
    )
    command.add_argument("folder", metavar="FOLDER")
    command.add_argument(
        "--domain", default="source", metavar="D", help="source (default), dense, or cats on hard backgrounds"
    )
    command.add_argument(
        "--task", default="od", metavar="T", help="od (default), colours, captions or expressions: what the truth tells"
    )
    command.add_argument("--count", type=int, default=100, metavar="N", help="scenes (default 100)")
    command.add_argument("--seed", type=int, default=0, metavar="S", help="other scenes (default 0)")
    command.add_argument("--unlabelled", action="store_true", help="images alone")


def _glyphs(options: argparse.Namespace) -> int:
    from grounding_model.glyphs import write_scenes

    if options.count < 1:
        raise InputError("--count", f"{options.count}", "want at least one scene")
    annotations = write_scenes(
        options.folder, options.domain, options.count, options.seed, options.task, labelled=not options.unlabelled
    )
    print(f"{options.count} scenes: {annotations or options.folder}")
    return 0


# What several commands share


def _add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--weights",
        default="glyph-tiny",
        metavar="W",
        help="mmdet .pth, Hugging Face folder or ours (default: glyph-tiny)",
    )
    command.add_argument("--text-encoder", metavar="DIR", help="BERT folder, where the weights carry no tokenizer")
    command.add_argument("--device", default="auto", metavar="D", help="auto, cpu, cuda, cuda:1 …")


def _add_looking(command: argparse.ArgumentParser) -> None:
    command.add_argument("--scale", type=_scale, metavar="SHORT,LONG", help="resize to fit (default: the model's own)")
    command.add_argument("--max-per-img", type=int, default=300, metavar="N", help="boxes an image (default 300)")
    command.add_argument("--chunked-size", type=int, metavar="N", help="categories a prompt, for long lists")
    command.add_argument("--batch-size", type=int, default=1, metavar="N", help="images at once (default 1)")


def _add_overrides(command: argparse.ArgumentParser) -> None:
    command.add_argument(
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
        raise argparse.ArgumentTypeError(f"{text!r}; want SHORT,LONG such as 800,1333") from None
    return short, long


def _names(text: str) -> list[str]:
    """Names between commas, or the lines of a text file."""
    path = Path(text)
    if path.suffix == ".txt" and path.is_file():
        lines = read_text(path, "want it saved as UTF-8, a name a line").splitlines()
        return [line.strip() for line in lines if line.strip()]
    return [name.strip() for name in text.split(",")]


def _quoted(text: str) -> str:
    """As a text of TOML, whatever it looks like: a folder may be called 2024."""
    return json.dumps(text)  # TOML's basic strings have JSON's escapes


def _tell(problems: str) -> None:
    if problems:
        print(problems, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
