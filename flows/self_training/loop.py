"""The loop: label, filter, judge, mix, train, and again with the better model. Plain functions, no scheduler.

Files decide what is done: shards carry the key of their plan, a training its key, an evaluation the weights it judged,
and the gate's verdict follows from them. An interrupted run is run again and goes on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from flows.evaluation.benchmarks import BenchmarkData, file_hashes
from flows.evaluation.evaluate import EVALUATION_NAME, SAMPLES_NAME, EvaluateConfig, evaluate_benchmark
from flows.labelling.bootstrap import bootstrap_od, bootstrap_vg
from flows.labelling.detector_pool import Workers
from flows.labelling.filter import FilterResult, filter_candidates
from flows.labelling.infer import infer
from flows.labelling.mirrored import View
from flows.labelling.plan import Manifest, asked_label_map, plan
from flows.self_training.config import SelfTrainConfig, read_self_train
from flows.self_training.gate import Verdict, judge, label_drift
from flows.self_training.report import write_report
from flows.self_training.review import is_approved
from flows.self_training.source import prepare
from flows.self_training.state import RoundResult, State, Story, keep, round_folder, write_story
from flows.training.mixture import merge
from flows.training.train import between, train, training_key
from formats.candidates import ImageProblem
from formats.dataset_names import labels_path, reviewed_path
from formats.io.files import sha256_of, write_json
from formats.io.locks import lock
from grounding_model.data.sources import OdvgData
from grounding_model.training.config import FromWeights

Event = Mapping[str, Any]


class SelfTrainResult(NamedTuple):
    """rounds: all that were labelled. best: of them; what to use, weights and labels. state: "finished", "stopped" by
    the gate, or "waiting" for a person. reason: why, in words. summary: rounds.json, what a report reads.

    quarantined: the lines that the last round could not label.
    """

    rounds: tuple[RoundResult, ...]
    best: RoundResult
    state: State
    reason: str
    summary: Path
    quarantined: tuple[ImageProblem, ...]

    @property
    def weights(self) -> str:
        """The best round's."""
        return self.best.weights


def evaluate_weights(
    truth: BenchmarkData, manifest: Manifest, device: str, out: Path, **settings: Any
) -> dict[str, Any]:
    """The figures of a plan's model, or those in `out` when they are of the same weights, truth and settings.

    The matches behind them lie in the folder that is named as `out`. settings: as EvaluateConfig has them.
    """
    asked = json.loads(json.dumps({"truth": repr(truth), "settings": settings}, default=str))
    asked["weights_sha256"] = manifest.weights_sha256
    asked["truth_sha256"] = file_hashes(truth)
    folder = samples_path(out).parent
    try:
        told = json.loads(out.read_text(encoding="utf-8"))
        if told["asked"] == asked and samples_path(out).is_file():
            return told["metrics"]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    config = EvaluateConfig(
        truth,
        weights=manifest.weights,
        text_encoder=None if manifest.text_encoder is None else Path(manifest.text_encoder),
        workers=Workers().on(device),
        work_dir=folder,
        overwrite=True,
        **settings,
    )
    metrics = {name: value for name, value in evaluate_benchmark(config).numbers.items() if name != "weights"}
    write_json(out, {"metrics": metrics, "asked": asked})
    return metrics


def samples_path(evaluation: Path) -> Path:
    """round-1/evaluation.json -> the matches behind it, which intervals are drawn from."""
    return evaluation.with_suffix("") / SAMPLES_NAME


class Stages(NamedTuple):
    """The stages that the loop calls; a scheduler puts its own shells here."""

    bootstrap_od: Callable[..., Any] = bootstrap_od
    bootstrap_vg: Callable[..., Any] = bootstrap_vg
    plan: Callable[..., Manifest] = plan
    infer: Callable[..., Any] = infer
    filter_candidates: Callable[..., FilterResult] = filter_candidates
    merge: Callable[..., Any] = merge
    train: Callable[..., Path] = train
    evaluate: Callable[..., dict[str, Any]] = evaluate_weights
    report: Callable[..., Path] = write_report


PLAIN_STAGES = Stages()


def self_train(
    config: SelfTrainConfig | str | Path,
    on_event: Callable[[Event], None] = lambda event: None,
    stages: Stages = PLAIN_STAGES,
    wait_for_person: Callable[[Path, int], bool] = lambda work_dir, number: False,
) -> SelfTrainResult:
    """Labels, trains and labels again, `rounds` times, as long as the gate lets it; gives every round's figures.

    config: or the TOML file that holds one.
    on_event is told {"round", "stage", "state": "started" | "finished", …}. Run again, it goes on where it stopped.
    wait_for_person: called with the work_dir and a round's number where config.review asks for one; True says that
    approve_round was called meanwhile. Otherwise the loop ends as "waiting", to be run again after the approval.
    Raises InputError while another process works in the work_dir or writes labels of the same images.
    """
    config = config if isinstance(config, SelfTrainConfig) else read_self_train(config)
    with lock(config.train.work_dir):
        loop = _Loop(config, on_event, stages, wait_for_person)
        labels = loop.source.annotations
        with lock(labels.parent, labels.stem):
            return loop.run()


class _Loop:
    """One run: what it has, and the rounds that are done."""

    def __init__(
        self,
        config: SelfTrainConfig,
        on_event: Callable[[Event], None],
        stages: Stages,
        wait_for_person: Callable[[Path, int], bool],
    ) -> None:
        self._config, self._stages, self._wait, self._on_event = config, stages, wait_for_person, on_event
        self._work_dir = config.train.work_dir
        self.source = prepare(config, stages.bootstrap_od, stages.bootstrap_vg)
        self._rounds: list[RoundResult] = []
        self._labels: FilterResult  # of the last round

    def run(self) -> SelfTrainResult:
        weights, trained_on = self._config.start.source, None
        for number in range(1, self._config.rounds + 2):
            done = self._label_round(number, weights, trained_on)
            if number > self._config.rounds:
                return self._end("finished", "; ".join(done.verdict.reasons))
            if not done.holds:
                reasons = "; ".join(done.verdict.reasons)
                return self._end("stopped", f"the gate lets no round follow v{number}: {reasons}")
            if self._config.waits_after(number) and not done.approved:
                asked = f"look at {done.labels}, then: groundhog rounds approve {self._work_dir} --round {number}"
                summary = self._write("waiting", asked)
                self._tell(number, "review", "started", remedy=asked)
                if not self._wait(self._work_dir, number):
                    return self._result("waiting", asked, summary)
                done = self._label_round(number, weights, trained_on)  # with what he has corrected
            self._write("running", "")
            self._tell(number, "train", "started")
            weights, trained_on = str(self._train(done, weights)), self._labels
            self._tell(number, "train", "finished", weights=weights)
        raise AssertionError("a loop has a last round")

    def _label_round(self, number: int, weights: str, trained_on: FilterResult | None) -> RoundResult:
        """Labels and judges; what is there already is not done again."""
        config, folder = self._config, round_folder(self._work_dir, number)
        own = View(config.labelling.scale)
        manifest, *views = (
            self._plan(weights, folder / f"view-{place}" if place else folder, number, view)
            for place, view in enumerate((own, *config.labelling.views))
        )
        self._tell(number, "infer", "started", shards=len(manifest.shards))
        workers = config.labelling.workers.on(config.train.device)
        for look in (manifest, *views):
            self._stages.infer(look, workers=workers, batch_size=config.labelling.batch_size)
        self._labels = self._stages.filter_candidates(
            manifest,
            config.policy,
            labels_path(self.source.annotations, number),
            views=views,
            reviewed=reviewed_path(self.source.annotations),
            provenance=self._provenance(number, folder, trained_on),
        )
        keep((self._labels.labels, self._labels.meta), folder)
        self._tell(number, "filter", "finished", counts=self._labels.counts)
        metrics = self._evaluate(manifest, folder)
        self._tell(number, "evaluate", "finished", metrics=metrics)
        done = RoundResult(
            number,
            self._labels.labels,
            weights,
            metrics.get("ap"),
            self._labels.counts,
            metrics,
            Verdict(passed=True),
            is_approved(manifest, asdict(config.policy)),
        )
        done = done._replace(verdict=self._judge(done))
        self._rounds[number - 1 :] = [done]
        write_story(self._work_dir, self._story("running", ""))
        self._tell(number, "gate", "finished", story=self._story("running", ""))
        return done

    def _plan(self, weights: str, folder: Path, number: int, view: View) -> Manifest:
        settings, distractors = self._config.labelling, self._config.policy.distractors
        label_map = self.source.label_map
        return self._stages.plan(
            self.source.annotations,
            self.source.images,
            weights,
            folder,
            label_map=label_map and asked_label_map(label_map, distractors, folder),
            text_encoder=self._config.start.text_encoder if number == 1 else None,  # our checkpoints carry theirs
            score_floor=settings.score_floor,
            scale=view.scale,
            max_per_image=settings.max_per_image,
            chunk_size=settings.chunk_size,
            shard_size=settings.shard_size,
            mirrored=view.mirrored,
            overwrite=number > 1,  # later rounds follow from the first: when its labels changed, theirs do
        )

    def _provenance(self, number: int, folder: Path, trained_on: FilterResult | None) -> dict[str, Any]:
        """Where the round lies, seen from its labels, and the labels that its model was trained on."""
        parent = None
        if trained_on is not None:
            parent = {"labels": trained_on.labels.name, "labels_sha256": sha256_of(trained_on.labels)}
        return {
            "round": number,
            "folder": Path(os.path.relpath(folder, self.source.annotations.parent)).as_posix(),
            "trained_on": parent,
        }

    def _evaluate(self, manifest: Manifest, folder: Path) -> dict[str, Any]:
        config = self._config
        if config.evaluation is None:
            return {}
        return self._stages.evaluate(
            config.evaluation,
            manifest,
            config.train.device,
            folder / EVALUATION_NAME,
            categories=config.evaluated_categories,
            scale=config.labelling.scale,
            chunk_size=config.labelling.chunk_size,
            batch_size=config.labelling.batch_size,
        )

    def _judge(self, done: RoundResult) -> Verdict:
        if done.round == 1:
            return judge(self._config.gate, done.counts)
        earlier = self._rounds[: done.round - 1]
        found, best = (
            each.evaluation(samples_path(round_folder(self._work_dir, each.round) / EVALUATION_NAME))
            for each in (done, Story("", "running", "", {}, tuple(earlier)).best)
        )
        return judge(self._config.gate, done.counts, label_drift(earlier[-1].labels, done.labels), found, best)

    def _train(self, done: RoundResult, weights: str) -> Path:
        """The checkpoint of a round: its labels mixed with the pretraining data, from the round's own model."""
        config, folder = self._config, round_folder(self._work_dir, done.round)
        pseudo = OdvgData(done.labels, self.source.images, self.source.label_map)
        datasets = self._stages.merge(pseudo, config.train.datasets, config.ratio, folder / "merge.json")
        text_encoder = config.start.text_encoder if weights == config.start.source else None
        settings = replace(config.train, datasets=tuple(datasets), start=FromWeights(weights, text_encoder))
        # An interrupted training belongs to its labels and settings: others train in a folder of their own.
        settings = replace(settings, work_dir=folder / f"train-{training_key(settings)[:8]}")
        tell = partial(self._tell, done.round, "train", "progress", steps=settings.steps)
        trained = self._stages.train(settings, lambda progress: tell(**progress))
        return between(config.start, trained, config.student)

    def _story(self, state: State, reason: str) -> Story:
        return Story(self._config.name, state, reason, asdict(self._config.policy), tuple(self._rounds))

    def _write(self, state: State, reason: str) -> Path:
        """rounds.json and the report; the round's folder keeps the report as it stood then."""
        path = write_story(self._work_dir, self._story(state, reason))
        report = self._stages.report(self._work_dir)
        keep([report], round_folder(self._work_dir, len(self._rounds)))
        return path

    def _end(self, state: State, reason: str) -> SelfTrainResult:
        return self._result(state, reason, self._write(state, reason))

    def _result(self, state: State, reason: str, summary: Path) -> SelfTrainResult:
        best = self._story(state, reason).best
        self._tell(self._rounds[-1].round, "loop", state, reason=reason)
        return SelfTrainResult(tuple(self._rounds), best, state, reason, summary, self._labels.quarantined)

    def _tell(self, number: int, stage: str, state: str, **details: Any) -> None:
        self._on_event({"round": number, "stage": stage, "state": state} | details)
