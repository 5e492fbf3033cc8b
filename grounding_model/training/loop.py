"""The training loop: loads batches, computes losses, steps AdamW, saves states to resume from, and writes the weights.

The result is a function of the configuration and the data: randomness in the data depends on (seed, position),
randomness in the model on PyTorch's generator, whose state is saved too.

Several processes, one per device, each take a part of every batch; `groundhog train --gpus N` or torchrun starts them.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from formats.io.child_process import end_with_parent
from formats.io.errors import InputError
from formats.io.locks import lock
from formats.io.plurals import many
from formats.io.progress import show_progress
from formats.io.toml_config import read_config
from grounding_model.data.sampler import Draw, MixedOrder
from grounding_model.data.sources import LabelledImages, open_for_training
from grounding_model.detector import choose_device
from grounding_model.students.config import FromStudent
from grounding_model.training.config import TrainConfig
from grounding_model.training.distributed import (
    Processes,
    joined_processes,
    mean_over_processes,
    processes_of_environment,
    run_on_first,
    sum_counts,
)
from grounding_model.training.learner import Batch, GroundingLearner, Learner
from grounding_model.training.log import Meter, TrainingLog
from grounding_model.training.optimizer import (
    freeze,
    learning_rate_at,
    scaled_rate,
    set_learning_rate,
    set_training,
    speed_up_frozen_backbone,
)
from grounding_model.training.state import (
    AUTOCAST,
    STATE_FILE,
    TrainingState,
    provenance,
    settings_with_effect,
    source_commit,
)
from grounding_model.training.student_learner import StudentLearner
from grounding_model.training.validation import open_for_validation, validate

WEIGHTS_NAMES = (GroundingLearner.weights_name, StudentLearner.weights_name)  # of a finished run

# float16: gradients that overflow even at this scale of the loss have another cause.
MIN_LOSS_SCALE = 2.0**-10


class TrainResult(NamedTuple):
    """checkpoint: the final weights. log: JSON Lines, one object every log_every steps.
    metrics: the last logged numbers and, with validation, the last AP. problems: what was skipped, and how often.
    best, best_ap: the weights with the highest AP, and that AP; None without validation or with keep_best off.
    """

    checkpoint: Path
    metrics: dict[str, float]
    log: Path
    problems: dict[str, int]
    best: Path | None
    best_ap: float | None


class TrainingFailed(RuntimeError):
    """Training cannot continue; names the step and the parts of the loss that caused it."""


def run_training(config: TrainConfig, on_progress: Callable[[dict[str, Any]], None] | None = None) -> TrainResult:
    """Trains, or resumes from the state in config.work_dir, and writes the final weights.

    on_progress is called with every object written to the log. An interrupted and resumed run ends with the same
    weights, bit for bit, as an uninterrupted one (on one machine, with the same versions and number of threads).
    Raises InputError for invalid data or settings and while another process trains in work_dir, TrainingFailed when the
    loss is no longer finite.
    """
    config = _of_these_processes(config)
    config = config.with_folder()
    check_data(config)
    held_out = open_for_validation(config.validate) if config.validates else []
    commit = source_commit()  # now: the source tree may change during training
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # workers are forked
    with _alone_in(config.work_dir), _threads(config.threads), joined_processes(config.device) as processes:
        return _Training(config, held_out, processes, commit, on_progress).train()


def _alone_in(work_dir: Path) -> AbstractContextManager[None]:
    """Locks work_dir, since two runs would mix their logs and states. The first process locks it for all."""
    return lock(work_dir) if processes_of_environment().is_first else nullcontext()


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """PyTorch's number of threads while the block runs; 0 does not change it.

    Later results of this process must not depend on whether it has trained: with another number of threads sums differ
    in their last bits.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Training:
    """One run: everything that is made before its first step, its steps, and what it leaves."""

    def __init__(
        self,
        config: TrainConfig,
        held_out: Sequence[LabelledImages],
        processes: Processes,
        commit: str,
        on_progress: Callable[[dict[str, Any]], None] | None,
    ) -> None:
        self._config, self._held_out, self._processes = config, held_out, processes
        self._device = choose_device(config.device)
        self._settings = run_on_first(lambda: settings_with_effect(config))  # reads whole data sets for their hashes
        self._datasets = [open_for_training(data) for data in config.datasets]
        torch.manual_seed(config.seed)
        self._learner = new_learner(config, self._datasets)
        self._learner.check_categories(held_out)
        self._learner.check_memory(self._device)
        # Channels last: convolutions take a fifth less time on a CPU, and less on a GPU in bfloat16.
        self._learner.model.to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._frozen = freeze(self._learner.model, config.frozen)
        self._steps = total_steps(config, self._datasets)
        self._validate_every = config.validate_every or _epochs_in_steps(
            config, self._datasets, config.validate_every_epochs
        )
        self._origin = provenance(self._steps, self._settings, commit)
        self._run = TrainingState(self._learner, config, processes)
        if processes.count > 1:  # dropout and noise differ between processes
            torch.manual_seed(config.seed + processes.index)
        self._run.resume(config.work_dir / STATE_FILE, self._settings)
        speed_up_frozen_backbone(self._learner.model, AUTOCAST[config.precision])
        self._log = TrainingLog(config.work_dir, self._run.step, on_progress, processes.is_first, config.tensorboard)
        self._meter = Meter(self._device, processes.count)

    def train(self) -> TrainResult:
        config, run, processes = self._config, self._run, self._processes
        loader = _loader(config, self._datasets, self._learner, run.step, self._steps, self._device, processes)
        batches = iter(loader)
        if self._is_due(self._validate_every) and run.step not in self._log.validated:  # killed during validation
            self._validate()
        if processes.is_first:
            print(self._announcement(), file=sys.stderr, flush=True)
        hidden = run.step == self._steps or not processes.is_first
        shown = show_progress(total=self._steps, initial=run.step, desc="train", unit="step", hidden=hidden)
        with shown as bar, _one_thread_cv2():
            while run.step < self._steps:
                line = self._next_step(batches)
                bar.update()
                if line is not None:
                    bar.set_postfix(loss=f"{line['loss']:.3f}", refresh=False)
                if self._is_due(config.checkpoint_every):
                    run.save(config.work_dir / STATE_FILE, self._settings)
                    self._log.draw()
                if self._is_due(self._validate_every):
                    self._validate()
                    self._meter.restart_clock()
        return self._finished()

    def _next_step(self, batches: Iterator[Batch | InputError]) -> dict[str, Any] | None:
        """Takes one step; returns what it has logged."""
        config, run = self._config, self._run
        set_training(run.model, self._frozen)
        full_rate = scaled_rate(config.optimizer, config.total_batch_size)
        rate = learning_rate_at(run.step, self._steps, config.optimizer, full_rate)
        micro_batches = [_usable(batch) for batch in islice(batches, config.accumulate)]
        losses, norm = _step(run, config, micro_batches, rate, self._device)
        run.step += 1
        for batch in micro_batches:
            run.problems.update(batch.problems)
        self._meter.add(losses, norm, sum(len(batch.targets) for batch in micro_batches))
        if run.step % config.log_every and run.step != self._steps:
            return None
        return self._log.write({"step": run.step, "learning_rate": rate} | self._meter.read())

    def _is_due(self, every: int) -> bool:
        step = self._run.step
        return bool(every and step and (step % every == 0 or step == self._steps))

    def _validate(self) -> None:
        """Validates the weights that would be saved now, and saves them if they are the best so far."""
        config, run, log = self._config, self._run, self._log
        detector = self._learner.detector(self._device)
        with run.averaged():
            numbers = validate(
                detector, self._held_out, config.validate_scale, config.batch_size, self._processes, run.problems
            )
            best = log.best_ap
            log.write({"step": run.step} | numbers)
            if config.keep_best and self._processes.is_first and log.best_ap > best:
                origin = self._origin | {"step": str(run.step), "ap": str(log.best_ap)}
                self._learner.save(config.work_dir / self._learner.best_name, origin)

    def _finished(self) -> TrainResult:
        """Saves the weights and reports what was skipped."""
        config, run, log, learner = self._config, self._run, self._log, self._learner
        checkpoint = config.work_dir / learner.weights_name
        run.load_average()
        problems = sum_counts(run.problems)
        if self._processes.is_first:
            run.model.eval()
            learner.save(checkpoint, self._origin)
            log.draw(finished=True)
            for problem, count in problems.most_common():
                print(f"skipped {many(count, 'time')}: {problem}", file=sys.stderr)
        has_best = bool(log.validated) and config.keep_best
        best, best_ap = (config.work_dir / learner.best_name, log.best_ap) if has_best else (None, None)
        return TrainResult(checkpoint, log.last, log.path, dict(problems), best, best_ap)

    def _announcement(self) -> str:
        """Describes the planned run, for somebody who reads the log hours later."""
        step, steps, log = self._run.step, self._steps, self._log.path
        if step == steps:
            return f"train: all {many(steps, 'step')} already done; writing the weights; log: {log}"
        count = many(steps, "step") if step == 0 else f"steps {step + 1} to {steps}"
        images = many(sum(map(len, self._datasets)), "image")
        per_step = many(self._config.total_batch_size, "image")
        data_sets = many(len(self._datasets), "data set")
        return f"train: {count} of {per_step} on {self._device}, from {images} of {data_sets}; log: {log}"


def _of_these_processes(config: TrainConfig) -> TrainConfig:
    """The configuration with the number of processes that torchrun started, which may be on several machines.

    Raises InputError when the configuration requires several processes and there is only one.
    """
    count = processes_of_environment().count
    if count == 1 and config.processes > 1:
        torchrun = f"torchrun --nproc-per-node {config.processes} -m grounding_model.training.loop CONFIG"
        remedy = f"expected {torchrun}, or processes = 1"
        raise InputError("processes", f"is {config.processes}, but this run has one", remedy)
    return replace(config, processes=count)


def check_data(config: TrainConfig) -> None:
    """Raises InputError, with config.get as the remedy, without data sets or when a file of one is missing."""
    if not config.datasets:
        raise InputError("datasets", "is empty", "expected at least one")
    for data in (*config.datasets, *config.validate):
        images = getattr(data, "image_root", None)
        if images is not None and images.resolve() == config.work_dir.resolve():
            what = "is the folder of the images"
            raise InputError(config.work_dir, what, "expected another work_dir: curves.png would be one of them")
        for name in ("annotations", "label_map", "image_root"):
            path = getattr(data, name, None)
            if path is not None and not path.exists():
                kind = "folder" if name == "image_root" else "file"
                raise InputError(
                    path, f"no such {kind}", config.get or "expected the path of the data in the configuration"
                )


def check_resume(config: TrainConfig, resume: bool) -> None:
    """resume: an interrupted run in config.work_dir is continued; where there is none, a new run starts.

    Raises InputError when there is an interrupted run and resume is False.
    """
    started = (config.work_dir / STATE_FILE).exists()
    if resume and not started:
        print(f"{config.work_dir}: nothing to resume, starting a new run", file=sys.stderr)
    elif started and not resume and not any((config.work_dir / name).exists() for name in WEIGHTS_NAMES):
        raise InputError(config.work_dir, "contains an interrupted run", "expected resume=True, or another work_dir")


def new_learner(config: TrainConfig, datasets: Sequence[LabelledImages]) -> Learner:
    """The learner of a configuration, before the first step."""
    if isinstance(config.start, FromStudent):
        return StudentLearner(config, datasets)
    return GroundingLearner(config)


def _step(
    run: TrainingState, config: TrainConfig, batches: Sequence[Batch], rate: float, device: torch.device
) -> tuple[dict[str, Tensor], Tensor]:
    """Forward and backward of every micro-batch, one step of the optimizer.

    Returns the parts of the loss and the gradient's norm, detached.
    """
    set_learning_rate(run.optimizer, rate)
    run.optimizer.zero_grad(set_to_none=True)
    parts: dict[str, Tensor] = {}
    for number, (batch, share) in enumerate(zip(batches, _shares(batches, device)), start=1):
        with run.without_synchronisation(last=number == len(batches)):
            losses = {name: share * value for name, value in _losses(run, batch, device).items()}
            total = torch.stack(list(losses.values())).sum()
            if not torch.isfinite(total):
                broken = ", ".join(name for name, value in losses.items() if not torch.isfinite(value))
                raise TrainingFailed(f"step {run.step}: not finite: {broken}; try a lower learning rate")
            run.scaler.scale(total).backward()
        for name, value in losses.items():
            parts[name] = parts.get(name, 0) + value.detach()
    run.scaler.unscale_(run.optimizer)
    # With a limit of infinity the norm is only measured.
    norm = nn.utils.clip_grad_norm_(run.objective.parameters(), config.optimizer.clip_norm or math.inf)
    overflowed = run.scaler.is_enabled() and run.scaler.get_scale() >= MIN_LOSS_SCALE  # the scaler skips this step
    if not torch.isfinite(norm) and not overflowed:
        loss = float(sum(parts.values()))
        raise TrainingFailed(f"step {run.step}: the gradient is not finite though the loss {loss:.4g} is")
    run.scaler.step(run.optimizer)
    run.scaler.update()
    if run.average:
        run.average.update(run.model)
    return parts, norm.detach()


def _losses(run: TrainingState, batch: Batch, device: torch.device) -> dict[str, Tensor]:
    try:
        return run.parallel(batch.to(device), run.step)
    except FloatingPointError as error:
        raise TrainingFailed(f"step {run.step}: {error}") from error
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):  # of a batch norm, for a map of one pixel
            raise
        what = f"makes images so small that a feature map of a batch of {len(batch.targets)} has one pixel"
        raise InputError("augment", what, "expected larger short_sides and max_long_side") from error


def _shares(batches: Sequence[Batch], device: torch.device) -> Tensor:
    """(M,) weights of M micro-batches, so that the sum of their losses is the loss of one batch of all their images.

    The losses of a micro-batch are divided by its number of boxes (over all processes, at least one); those of the
    whole batch would be divided by the number of all boxes.
    """
    if len(batches) == 1:
        return torch.ones(1, device=device)
    boxes = [sum(int((~target.ignore).sum()) for target in batch.targets) for batch in batches]
    means = mean_over_processes(boxes, device)
    return means.clamp(min=1) / means.sum().clamp(min=1)


def _loader(
    config: TrainConfig,
    datasets: Sequence[LabelledImages],
    learner: Learner,
    first_step: int,
    steps: int,
    device: torch.device,
    processes: Processes,
) -> DataLoader:
    order = MixedOrder(
        [len(dataset) for dataset in datasets],
        [data.weight for data in config.datasets],
        config.batch_size,
        steps,
        config.seed,
        first_step,
        process=processes.index,
        processes=processes.count,
        accumulate=config.accumulate,
        portrait=[dataset.portrait for dataset in datasets] if config.group_by_aspect else None,
    )
    return DataLoader(
        _Attempts(learner.samples(datasets)),
        batch_sampler=order,
        num_workers=config.workers,
        collate_fn=partial(_collate_attempts, learner.collate()),
        # Forked workers share scenes that are kept in memory.
        multiprocessing_context="fork" if config.workers and sys.platform == "linux" else None,
        worker_init_fn=_start_worker,
        prefetch_factor=4 if config.workers else None,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # separate, or the loader would draw from the generator of the model
    )


class _Attempts(Dataset):
    """Yields samples, or an InputError in place of one: raised in a worker, it would arrive as a traceback."""

    def __init__(self, samples: Dataset) -> None:
        self._samples = samples

    def __getitem__(self, draw: Draw) -> Any:
        try:
            return self._samples[draw]
        except InputError as error:
            return error


def _collate_attempts(collate: Callable[[Sequence[Any]], Any], attempts: Sequence[Any]) -> Any:
    errors = [attempt for attempt in attempts if isinstance(attempt, InputError)]
    return errors[0] if errors else collate([attempt for attempt in attempts if not isinstance(attempt, InputError)])


def _usable(batch: Batch | InputError) -> Batch:
    if isinstance(batch, InputError):
        raise batch
    return batch


def _start_worker(_: int) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    # A fork inherits the exit hooks of its parent. Prefect's need threads that a fork does not have, so that a worker
    # that finished its work would exit with an error.
    getattr(threading, "_threading_atexits", []).clear()


@contextmanager
def _one_thread_cv2() -> Iterator[None]:
    """OpenCV's threads would compete with PyTorch's when batches are prepared in this process."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(0)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def total_steps(config: TrainConfig, datasets: Sequence[LabelledImages]) -> int:
    """Steps of the whole run, at least one."""
    if config.steps is not None:
        return config.steps
    return _epochs_in_steps(config, datasets, config.epochs)


def _epochs_in_steps(config: TrainConfig, datasets: Sequence[LabelledImages], epochs: float | None) -> int:
    """0 for None, at least 1 otherwise."""
    if epochs is None:
        return 0
    images = sum(round(len(dataset) * data.weight) for dataset, data in zip(datasets, config.datasets))
    return max(math.ceil(epochs * images / config.total_batch_size), 1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train as configured in a TOML file. Exit code 0: done, 1: training failed, 2: invalid input."""
    parser = argparse.ArgumentParser(prog="python -m grounding_model.training.loop", description=main.__doc__)
    parser.add_argument("config", type=Path, help="TOML file, see configs/")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    resume_help = "continue an interrupted run in the work_dir; start a new one if there is none"
    parser.add_argument("--resume", action="store_true", help=resume_help)
    parser.add_argument("--report", action="store_true", help="progress, result and error as lines of JSON")
    options = parser.parse_args(arguments)
    if processes_of_environment().count > 1:
        end_with_parent()  # torchrun's workers would outlive it
    try:
        config = read_config(options.config, TrainConfig, options.overrides)
        if not options.report:  # the calling program has already checked this
            check_resume(config, options.resume)
        result = run_training(config, partial(_report, "progress") if options.report else None)
    except Exception as error:
        bad_input = isinstance(error, InputError)
        if options.report:
            text = vars(error) if bad_input else str(error)
            _report("error", text, kind=type(error).__name__, process=processes_of_environment().index)
        elif bad_input or isinstance(error, TrainingFailed):
            print(error, file=sys.stderr)
        else:
            raise
        return 2 if bad_input else 1
    if processes_of_environment().is_first:
        if options.report:
            _report("result", result._asdict())
        else:
            print(f"weights: {result.checkpoint}\nlog: {result.log}")
    return 0


def _report(name: str, value: Any, **more: Any) -> None:
    line = json.dumps({name: value} | more, default=str) + "\n"
    # One write is atomic in a pipe: print writes the end of the line separately, and processes share the pipe.
    os.write(sys.stdout.fileno(), line.encode())


if __name__ == "__main__":
    sys.exit(main())
