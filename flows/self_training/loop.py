"""The self-training loop: label, filter, evaluate, mix, train, and repeat with the new model. Needs no scheduler.

Files record what is done: shards contain the key of their plan, a training its key, an evaluation the hash of its
weights, and the gate's decision is derived from them. Running an interrupted loop again resumes it.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from flows.distillation.config import DistillConfig, default_training
from flows.evaluation.config import EVALUATION_NAME
from flows.labelling.filter import FilterResult
from flows.labelling.manifest import Manifest
from flows.labelling.settings import settings_payload
from flows.self_training.config import SelfTrainConfig, read_self_train
from flows.self_training.drift import label_drift
from flows.self_training.gate import Verdict, judge_round
from flows.self_training.labelled import split_labels
from flows.self_training.messages import status
from flows.self_training.review import browse_command, is_approved
from flows.self_training.round import (
    Labelled,
    PlannedView,
    Round,
    Stop,
    label_images,
    run_round,
    train_on_known,
)
from flows.self_training.scores import samples_path
from flows.self_training.source import check_inputs, prepare
from flows.self_training.stages import PLAIN_STAGES, RunName, Stages
from flows.self_training.state import (
    FINE_TUNED,
    PRETRAINED,
    ROUNDS_NAME,
    STUDENT_FOLDER,
    LoopState,
    RoundResult,
    State,
    best_round,
    link_into,
    refuse_labels_of_other_runs,
    refuse_other_settings,
    relative_folder,
    round_folder,
    settings_of_rounds,
    write_loop_state,
)
from formats.candidates import ImageProblem
from formats.dataset_names import labels_path, reviewed_path
from formats.io.files import load_json, sha256_of
from formats.io.locks import lock
from formats.io.notebook import html_text
from grounding_model.data.sources import CocoData, GlyphData, OdvgData
from grounding_model.training.config import FromWeights

Event = Mapping[str, Any]
LABELLED_FOLDER = "labelled"  # in the work_dir: the training and held-back parts of the existing labels


class SelfTrainResult(NamedTuple):
    """The result of a loop.

    rounds: all labelled rounds. best: the best of them, whose weights and labels to use. state: "finished",
    "stopped" by the gate, or "waiting" for a person. reason: explanation of the state. summary: rounds.json.

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

    def _repr_html_(self) -> str:
        return html_text(status(self.summary.parent))


def self_train(
    config: SelfTrainConfig | str | Path,
    on_event: Callable[[Event], None] = lambda event: None,
    stages: Stages = PLAIN_STAGES,
    wait_for_person: Callable[[Path, int], bool] = lambda work_dir, number: False,
) -> SelfTrainResult:
    """Labels, trains and labels again, `rounds` times or until the gate stops it; returns every round's scores.

    config: the configuration, or its TOML file.
    on_event: called with {"round", "stage", "state": "started" | "finished", …}.
    wait_for_person: called with the work_dir and a round's number if config.review includes the round; returns True
    once approve_round has been called. Otherwise the loop ends as "waiting", to be run again after the approval.
    An interrupted loop resumes when it is run again.
    Raises InputError while another process works in the work_dir or writes labels of the same images, and if the
    work_dir contains rounds with other settings; labelling.overwrite replaces them.
    """
    config = config if isinstance(config, SelfTrainConfig) else read_self_train(config)
    with lock(config.train.work_dir):
        loop = _Loop(config, on_event, stages, wait_for_person)
        labels = loop.source.annotations
        with lock(labels.parent, labels.stem):
            return loop.run()


class _Loop:
    """One run of the loop: its settings, and the rounds that are done."""

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
        self._known = None
        if config.labelled is not None:
            self._known = split_labels(config.labelled, self.source.images, self._work_dir / LABELLED_FOLDER)
        self._truth = config.evaluation or (self._known and self._known.held_back)
        self._start = config.start
        self._settings = settings_of_rounds(config)
        self._rounds: list[RoundResult] = []
        self._labels: FilterResult  # of the last round

    def run(self) -> SelfTrainResult:
        if not self._config.labelling.overwrite:
            refuse_other_settings(self._work_dir, self._settings)
        self._check()
        self._start = self._first_model()
        weights, trained_on = self._start.source, None
        for number in range(1, self._config.rounds + 2):
            task = self._round(number, weights, trained_on)
            outcome = run_round(task, partial(self._review, task), self._stages, partial(self._report, number))
            if isinstance(outcome, Stop):
                return self._result(outcome)
            weights, trained_on = outcome, self._labels
        raise AssertionError("a loop has a last round")

    def _check(self) -> None:
        """Raises InputError before anything is trained for what would be refused later."""
        config = self._config
        if not config.labelling.overwrite:
            # Without training on existing labels, the first plan is compared with them before it is carried out.
            first = 1 if config.labelled is not None else 2
            refuse_labels_of_other_runs(self._work_dir, self.source.annotations, range(first, config.rounds + 2))
        check_inputs(config, self.source, self._truth)

    def _first_model(self) -> FromWeights:
        """The model of the first round: the configured start, fine-tuned on existing labels if there are any."""
        known, config = self._known, self._config
        if known is None or config.labelled is None:
            return config.start
        folder = round_folder(self._work_dir, 0)
        report = partial(self._report, 0)
        return FromWeights(train_on_known(config.train, known, config.labelled.steps, folder, self._stages, report))

    def _round(self, number: int, weights: str, trained_on: FilterResult | None) -> Round:
        config, folder = self._config, round_folder(self._work_dir, number)
        views = (None, *config.labelling.views)
        return Round(
            number,
            folder,
            self.source,
            weights,
            self._start,
            tuple(PlannedView(view, folder / f"view-{i}" if i else folder) for i, view in enumerate(views)),
            labels_path(self.source.annotations, number),
            config.policy,
            config.labelling,
            config.train,
            config.ratio,
            config.student,
            reviewed=reviewed_path(self.source.annotations),
            provenance=self._provenance(number, folder, trained_on),
            mixture=folder / "merge.json",
            known=self._known,
            known_share=config.labelled.share if config.labelled else 0.0,
            replaces_plans=number > 1,  # later rounds depend on the first: if its labels change, theirs do too
        )

    def _provenance(self, number: int, folder: Path, trained_on: FilterResult | None) -> dict[str, Any]:
        """The round's folder, relative to its labels, and the labels that its model was trained on."""
        parent = None
        if trained_on is not None:
            parent = {"labels": trained_on.labels.name, "labels_sha256": sha256_of(trained_on.labels)}
        return {
            "round": number,
            "folder": relative_folder(folder, self.source.annotations),
            "trained_on": parent,
        }

    def _review(self, task: Round, labelled: Labelled) -> Path | Stop:
        """The labels to train on, or why not to: the gate decides, and a person if the configuration says so."""
        done, number = self._judge_labels(task, labelled), task.number
        reasons = "; ".join(done.verdict.reasons)
        if number > self._config.rounds:
            return Stop("finished", reasons)
        if not done.may_continue:
            return Stop("stopped", f"did not pass the gate: {reasons}")
        if self._config.waits_after(number) and not done.approved:
            command = browse_command(Path(done.labels), self.source.images, self.source.label_map)
            approval = f"groundhog rounds approve {shlex.quote(str(self._work_dir))} --round {number}"
            remedy = f"review {done.labels}: {command}, then: {approval}"
            self._write("waiting", remedy)
            self._report(number, "review", "started", remedy=remedy)
            if not self._wait(self._work_dir, number):
                return Stop("waiting", remedy)
            corrected = label_images(task, self._stages, partial(self._report, number))
            done = self._judge_labels(task, corrected)
        self._write("running", "")
        return done.labels

    def _judge_labels(self, task: Round, labelled: Labelled) -> RoundResult:
        """The round's entry in rounds.json: its labels, its model's held-out scores and the gate's verdict."""
        manifest, self._labels = labelled.manifests[0], labelled.result
        link_into((self._labels.labels, self._labels.meta), task.folder)
        self._report(task.number, "filter", "finished", counts=self._labels.counts)
        metrics = self._evaluate(task, manifest)
        self._report(task.number, "evaluate", "finished", metrics=metrics)
        done = RoundResult(
            task.number,
            self._labels.labels,
            task.weights,
            metrics.get("ap"),
            self._labels.counts,
            metrics,
            Verdict(passed=True),
            is_approved(manifest, settings_payload(self._config.policy)),
        )
        done = done._replace(verdict=self._judge(done))
        self._rounds[task.number - 1 :] = [done]
        state = self._state("running", "")
        write_loop_state(self._work_dir, state)
        self._report(task.number, "gate", "finished", loop=state)
        return done

    def _evaluate(self, task: Round, manifest: Manifest) -> dict[str, Any]:
        config = self._config
        if self._truth is None:
            return {}
        return self._stages.run_as(RunName(task.number)).evaluate(
            self._truth,
            manifest,
            config.train.device,
            task.folder / EVALUATION_NAME,
            categories=config.evaluated_categories,
            scale=config.labelling.scale,
            chunk_size=config.labelling.chunk_size,
            batch_size=config.labelling.batch_size,
        )

    def _judge(self, done: RoundResult) -> Verdict:
        audit = load_json(self._labels.meta, "run the loop again").get("audit")
        if done.round == 1:
            return judge_round(self._config.gate, done.counts, audit=audit)
        earlier = self._rounds[: done.round - 1]
        found, best = (
            each.evaluation(samples_path(round_folder(self._work_dir, each.round) / EVALUATION_NAME))
            for each in (done, best_round(earlier))
        )
        return judge_round(
            self._config.gate, done.counts, label_drift(earlier[-1].labels, done.labels), found, best, audit
        )

    def _state(self, state: State, reason: str) -> LoopState:
        first_model = PRETRAINED if self._known is None else FINE_TUNED
        policy = settings_payload(self._config.policy)
        return LoopState(self._config.name, state, reason, policy, tuple(self._rounds), first_model, self._settings)

    def _write(self, state: State, reason: str) -> Path:
        """Writes rounds.json and the report; the round's folder keeps this version of the report."""
        path = write_loop_state(self._work_dir, self._state(state, reason))
        report = self._stages.report(self._work_dir)
        link_into([report], round_folder(self._work_dir, len(self._rounds)))
        return path

    def _result(self, stop: Stop) -> SelfTrainResult:
        state, reason = stop
        if state != "waiting":
            self._distill()
        # The state "waiting" was written before the loop began to wait.
        summary = self._work_dir / ROUNDS_NAME if state == "waiting" else self._write(state, reason)
        self._report(self._rounds[-1].round, "loop", state, reason=reason)
        best = best_round(self._rounds)
        return SelfTrainResult(tuple(self._rounds), best, state, reason, summary, self._labels.quarantined)

    def _distill(self) -> None:
        """Trains the student on the last labels that passed the gate, if any did."""
        stage, train = self._config.distill, self._config.train
        passed = [each for each in self._rounds if each.may_continue]
        if stage is None or not passed:
            return
        done = passed[-1]
        settings = default_training(self._work_dir / STUDENT_FOLDER)
        known = () if self._known is None else (self._known.training,)  # a person's labels teach it too
        settings = replace(settings, datasets=known, start=stage.start, steps=stage.steps)
        config = DistillConfig(
            done.labels,
            self.source.images,
            self.source.label_map,
            stage.trust,
            replace(settings, device=train.device, seed=train.seed),
            teacher=done.weights,
            text_encoder=self._start.text_encoder,
            truth=self._truth if isinstance(self._truth, OdvgData | CocoData | GlyphData) else None,
            licence=stage.licence,
            onnx=stage.onnx,
        )
        self._report(done.round, "distill", "started")
        self._report(done.round, "distill", "finished", table=self._stages.distill(config).table)

    def _report(self, number: int, stage: str, state: str, **details: Any) -> None:
        self._on_event({"round": number, "stage": stage, "state": state} | details)
