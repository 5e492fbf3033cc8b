"""`groundhog demo`: the whole loop offline, on the embedded model and scenes of the glyph world.

The settings are those of configs/self_train_glyphs.toml. The demo adds held-out scenes of the pretraining domain, which
measure how much each round forgets of the other categories, pictures of what changed, and the report.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from browse.images.pictures import write_jpeg
from flows.evaluation.scoring import mistakes_of
from flows.labelling.manifest import read_manifest
from flows.policies.nms import record_without_duplicates
from flows.self_training.config import GlyphScenes, SelfTrainConfig, read_self_train
from flows.self_training.loop import Event, self_train
from flows.self_training.messages import message_of_event, model_of
from flows.self_training.report import ImageComparison, comparison_sheet, write_run_report
from flows.self_training.scores import evaluate_weights
from flows.self_training.state import RoundResult
from formats.dataset_names import label_map_beside
from formats.io.errors import InputError
from formats.io.files import load_json, write_json
from grounding_model.checkpoints.locations import checkpoint_hash
from grounding_model.data.sources import GlyphData
from grounding_model.detector import load_detector
from grounding_model.glyphs import draw_scene

CONFIG = Path(__file__).parents[2] / "configs" / "self_train_glyphs.toml"
DEMO_NAME = "demo.json"  # the settings of the demo in a folder
PICTURE_NAME = "before_after.jpg"
TEST_SCENES = 300  # scores on 60 are noisy, and more take only milliseconds
SOURCE_SCENES = GlyphData(domain="source", count=150, seed=2000)  # of every category, in no training set
COMPARED = 60  # test scenes that the pictures are chosen from
SHOWN = 8
SHOWN_SCORE = 0.35  # lower than for labels, so that pictures also show what the model mistakes for a cat


class DemoResult(NamedTuple):
    """rounds: one per model, the pretrained one first. source_ap: AP of each on scenes of every category."""

    rounds: tuple[RoundResult, ...]
    source_ap: tuple[float, ...]
    report: Path
    weights: str


def run_demo(
    out_dir: str | Path,
    seed: int = 0,
    quick: bool = False,
    weights: str | Path | None = None,
    device: str | None = None,
) -> DemoResult:
    """Draws the scenes, labels them, trains on the labels and labels again; writes everything to `out_dir`.

    seed: of the unlabelled scenes and of the training; the test scenes are always the same. quick: only a few scenes
    and steps, to check that it runs. weights: None: the embedded model. device: None: "auto".
    An interrupted demo resumes. Raises InputError if out_dir contains a demo with other settings.
    """
    out_dir = Path(out_dir)
    config = demo_config(out_dir, seed, quick, weights, device)
    source = config.start.source
    _check_same(out_dir, {"seed": seed, "quick": quick, "weights": source, "weights_sha256": checkpoint_hash(source)})
    reporter = ConsoleReporter()
    reporter.print(
        f"{_unlabelled(config).count} unlabelled scenes, {config.rounds} rounds of training; all files go to {out_dir}"
    )
    result = self_train(config, reporter.on_event)
    source_ap = tuple(_source_ap(config, done, quick, reporter) for done in result.rounds)
    reporter.print("drawing the report")
    comparisons = _comparisons(config, result.rounds[0].weights, result.rounds[-1].weights)
    report = write_run_report(
        out_dir,
        title="Groundhog demo: unlabelled cats",
        comparisons=comparisons,
        curve_names={"evaluation": "cat, labelled test scenes", "evaluation-source": "all categories, source scenes"},
    )
    write_jpeg(out_dir / PICTURE_NAME, comparison_sheet(next(iter(comparisons.values()))[-4:]))
    return DemoResult(result.rounds, source_ap, report, result.weights)


def demo_config(
    out_dir: Path, seed: int = 0, quick: bool = False, weights: str | Path | None = None, device: str | None = None
) -> SelfTrainConfig:
    """configs/self_train_glyphs.toml as the demo runs it."""
    if not CONFIG.is_file():
        raise InputError(CONFIG, "no such file", "run the demo from a clone of the repository")
    config = read_self_train(CONFIG)
    train = replace(config.train, work_dir=out_dir, seed=seed, device=device or config.train.device)
    if weights is not None:
        train = replace(train, start=replace(config.start, source=str(weights)))
    config = replace(
        config,
        name="demo",
        data=replace(_unlabelled(config), seed=seed),
        evaluation=replace(_test_scenes(config), count=TEST_SCENES),
        train=train,
    )
    return _quick(config) if quick else config


def _quick(config: SelfTrainConfig) -> SelfTrainConfig:
    return replace(
        config,
        data=replace(_unlabelled(config), count=6),
        evaluation=replace(_test_scenes(config), count=4),
        labelling=replace(config.labelling, shard_size=4),
        train=replace(config.train, steps=2, batch_size=2, log_every=1, workers=0),
        gate=replace(config.gate, enabled=False),  # too few scenes to judge a round
    )


def _check_same(out_dir: Path, demo: Mapping[str, Any]) -> None:
    """Raises InputError if the folder is of a demo with other settings; records the settings in a new one."""
    path = out_dir / DEMO_NAME
    remedy = "remove the folder or choose another"
    if path.is_file():
        if load_json(path, remedy) != demo:
            raise InputError(out_dir, "contains a demo with other settings", remedy)
        return
    write_json(path, demo)


def _unlabelled(config: SelfTrainConfig) -> GlyphScenes:
    assert isinstance(config.data, GlyphScenes), CONFIG
    return config.data


def _test_scenes(config: SelfTrainConfig) -> GlyphData:
    assert isinstance(config.evaluation, GlyphData), CONFIG
    return config.evaluation


def _source_ap(config: SelfTrainConfig, done: RoundResult, quick: bool, reporter: ConsoleReporter) -> float:
    """AP of one round's model over every category of the source scenes; writes it where the report finds it."""
    reporter.print(f"v{done.round}: evaluating the model that made these labels on scenes of every category")
    truth = replace(SOURCE_SCENES, count=4) if quick else SOURCE_SCENES
    folder = config.train.work_dir / f"round-{done.round}"
    metrics = evaluate_weights(
        truth,
        read_manifest(folder),
        config.train.device,
        folder / "evaluation-source.json",
        scale=config.labelling.scale,
        batch_size=config.labelling.batch_size,
    )
    return metrics["ap"]


# Pictures of what changed


def _comparisons(config: SelfTrainConfig, first: str, last: str) -> dict[str, list[ImageComparison]]:
    """Title -> test scenes with their true boxes, the first model's and the last one's."""
    data = _test_scenes(config)
    scenes = [
        draw_scene(data.domain, data.seed, index, data.task, data.pairs, data.hardness)
        for index in range(min(COMPARED, data.count))
    ]
    images, truths = [image for image, _ in scenes], [record for _, record in scenes]
    found = []
    for weights in (first, last):
        records = load_detector(weights, device=config.train.device).predict(
            images,
            list(_unlabelled(config).categories),
            score_threshold=SHOWN_SCORE,
            batch_size=config.labelling.batch_size,
        )
        found.append([record_without_duplicates(record, config.policy.nms_iou) for record in records])
    all_scenes = [
        ImageComparison(image, truth, {"before": before, "after": after})
        for image, truth, before, after in zip(images, truths, *found)
    ]
    wrong = mistakes_of(truths, [scene.predictions["after"] for scene in all_scenes], "coco")
    worst = sorted((index for index, count in enumerate(wrong) if count), key=lambda index: -wrong[index])[:SHOWN]
    return {
        "Test scenes: truth, before the first and after the last round": all_scenes[:SHOWN],
        "The worst after the last round": [all_scenes[index] for index in worst],
    }


# Messages


@dataclass
class ConsoleReporter:
    """Prints what happens on stderr, with the time since the start."""

    started: float = 0.0

    def __post_init__(self) -> None:
        self.started = time.monotonic()

    def print(self, message: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - self.started), 60)
        print(f"[{minutes}:{seconds:02d}] {message}", file=sys.stderr, flush=True)

    def on_event(self, event: Event) -> None:
        # The training prints its own progress.
        if event["state"] != "progress" and (message := message_of_event(event)):
            self.print(message)


def demo_table(result: DemoResult) -> str:
    """The labels of every round, the model that made them and its AP, as Markdown."""
    lines = [
        "| labels | made by       | boxes | AP cat | AP50 cat | AP all categories |",
        "|:-------|:--------------|------:|-------:|---------:|------------------:|",
    ]
    for done, source_ap in zip(result.rounds, result.source_ap):
        lines.append(
            f"| v{done.round:<5d} | {model_of(done.round):<13} | {done.counts['kept']:5d} "
            f"| {done.metrics['ap']:6.3f} | {done.metrics['ap50']:8.3f} | {source_ap:17.3f} |"
        )
    return "\n".join(lines)


def next_steps_after_demo(out_dir: Path, result: DemoResult) -> str:
    """Commands that can be copied."""
    last = result.rounds[-1].labels
    look = ["groundhog", "browse", last.parent, last.name, "truth/images", "-m", label_map_beside(last).name]
    look += ["-o", out_dir / "seen", "--not-show"]
    return f"""
AP is that of the model that made the labels. "AP cat" is measured on labelled test scenes that no round trained on,
"AP all categories" on scenes of the pretraining domain, to measure forgetting.

report:          {result.report}
labels:          {last}
weights:         {result.weights}

Next:
  {shlex.join(map(str, look))}
  groundhog detect IMAGES --weights {shlex.quote(str(result.weights))} --texts 'cat' -c
  groundhog self-train configs/self_train_cat.toml      # your own images: copy and change this file
  groundhog up                                          # the same as Prefect deployments"""
