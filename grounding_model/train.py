"""One visible training loop: batches in, losses, one step of AdamW, a state to resume from, weights out.

What comes out is a function of the configuration and the data: everything random in the data hangs on (seed, position),
everything random in the model on PyTorch's generator, whose state is saved with the rest.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import shlex
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast

from formats.files import sha256_of, write_whole
from formats.problems import InputError
from formats.record import Record
from formats.toml_config import read_config
from grounding_model.config import ModelConfig
from grounding_model.data import (
    Collate,
    GlyphData,
    LabelledImages,
    MixedOrder,
    OdvgData,
    TrainingBatch,
    TrainingSamples,
    open_dataset,
)
from grounding_model.detector import Detector, choose_device
from grounding_model.glyphs import glyph_tokenizer
from grounding_model.image import ImageBatch
from grounding_model.losses import grounding_losses
from grounding_model.model import GroundingModel
from grounding_model.optimizer import MovingAverage, build_optimizer, learning_rate_at, set_learning_rate
from grounding_model.prompt import Prompt
from grounding_model.region_words import RegionWordHead
from grounding_model.targets import Target
from grounding_model.text_tokens import TextBatch, load_tokenizer
from grounding_model.train_config import FromScratch, FromWeights, TrainConfig
from grounding_model.weights import checkpoint_hash, load_checkpoint, save_checkpoint

if TYPE_CHECKING:
    from grounding_model.evaluate import CocoResult

STATE_FILE = "state.pt"
LOG_FILE = "log.jsonl"
WEIGHTS_FILE = "model.safetensors"

# Settings that change the speed of a run or what is told of it, but not its result.
_WITHOUT_EFFECT = (
    "work_dir",
    "device",
    "threads",
    "workers",
    "log_every",
    "checkpoint_every",
    "validate",
    "validate_every",
    "validate_scale",
)


class TrainResult(NamedTuple):
    """checkpoint: the final weights. log: JSON Lines, one object every log_every steps.
    metrics: the last logged numbers and, with validation, the last AP. problems: what was passed over, and how often.
    """

    checkpoint: Path
    metrics: dict[str, float]
    log: Path
    problems: dict[str, int]


class TrainingFailed(RuntimeError):
    """Training cannot go on; says at which step and because of which parts of the loss."""


def train(config: TrainConfig, on_progress: Callable[[dict[str, Any]], None] | None = None) -> TrainResult:
    """Train, or go on where the state in config.work_dir was saved, and write the final weights.

    on_progress is given every object that goes to the log. A run that was interrupted and resumed ends with the same
    weights, bit for bit, as one that was not (on one machine, with the same versions and number of threads).
    Raises InputError for data or settings that cannot work, TrainingFailed when the loss is no longer finite.
    """
    if not config.datasets:
        raise InputError("datasets", "is empty", "want at least one")
    if config.validate_every:
        _check_validation(config.validate)
    commit = _commit()  # of the code that trains, not of what lies there hours later
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # workers are forked
    if config.threads:
        torch.set_num_threads(config.threads)
    device = choose_device(config.device)
    settings = settings_with_effect(config)
    torch.manual_seed(config.seed)
    model, tokenizer = start_model(config.start)
    # Channels last: convolutions take a fifth less time on a CPU, and less on a GPU in bfloat16.
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    frozen = freeze(model, config.frozen)
    datasets = [open_dataset(data) for data in config.datasets]
    steps = _total_steps(config, datasets)
    run = _Run(model, config, steps)
    run.resume(config.work_dir / STATE_FILE, settings)

    log = _Log(config.work_dir / LOG_FILE, run.step, on_progress)
    meter = _Meter()
    loader = _loader(config, datasets, tokenizer, model.config, run.step, steps, device)
    if _validation_is_due(config, run.step, steps) and run.step not in log.validated:  # killed while it measured
        log.write({"step": run.step} | _validate(run, config, tokenizer, device))
    with tqdm(total=steps, initial=run.step, unit="step", disable=None, dynamic_ncols=True) as bar, _one_thread_cv2():
        for batch in loader:
            _set_training(model, frozen)
            rate = learning_rate_at(run.step, steps, config.optimizer)
            losses, norm = _step(run, batch, rate, device)
            run.step += 1
            run.problems.update(batch.problems)
            meter.add(losses, norm, len(batch.targets))
            bar.update()
            if run.step % config.log_every == 0 or run.step == steps:
                line = log.write({"step": run.step, "learning_rate": rate} | meter.read())
                bar.set_postfix(loss=f"{line['loss']:.3f}", refresh=False)
            if config.checkpoint_every and (run.step % config.checkpoint_every == 0 or run.step == steps):
                run.save(config.work_dir / STATE_FILE, settings)
            if _validation_is_due(config, run.step, steps):
                log.write({"step": run.step} | _validate(run, config, tokenizer, device))
                meter.restart_clock()

    checkpoint = config.work_dir / WEIGHTS_FILE
    run.load_average()
    save_checkpoint(checkpoint, model.eval(), tokenizer, _provenance(steps, settings, commit), half=config.half)
    for problem, count in run.problems.most_common():
        print(f"passed over {count} times: {problem}", file=sys.stderr)
    return TrainResult(checkpoint, log.last, log.path, dict(run.problems))


def check_resume(config: TrainConfig, resume: bool) -> None:
    """What --resume means: go on with an interrupted run of config.work_dir, or start where there is none.

    Raises InputError when an interrupted run lies there and nobody asked to go on with it.
    """
    started = (config.work_dir / STATE_FILE).exists()
    if resume and not started:
        print(f"{config.work_dir}: nothing to resume, a new run starts", file=sys.stderr)
    elif started and not resume and not (config.work_dir / WEIGHTS_FILE).exists():
        raise InputError(config.work_dir, "an interrupted run lies here", "want --resume, or another work_dir")


def start_model(start: FromWeights | FromScratch) -> tuple[GroundingModel, PreTrainedTokenizerFast]:
    """The model that training starts from and its tokenizer."""
    if isinstance(start, FromWeights):
        loaded = load_checkpoint(start.source, start.text_encoder)
        return loaded.model, loaded.tokenizer
    if start.tokenizer == "glyphs":
        tokenizer = glyph_tokenizer()
    else:
        tokenizer = load_tokenizer(start.tokenizer)
    architecture = start.model_config()
    # The vocabulary decides how many rows the word embedding has.
    text = replace(architecture.text, vocab_size=len(tokenizer))
    return GroundingModel(replace(architecture, text=text)), tokenizer


def freeze(model: nn.Module, prefixes: Sequence[str]) -> list[nn.Module]:
    """Parameters whose name begins with a prefix need no gradient. Returns the modules that thus hold still.

    Raises InputError for a prefix that no parameter has.
    """
    for prefix in prefixes:
        parameters = [value for name, value in model.named_parameters() if name.startswith(prefix)]
        if not parameters:
            parts = ", ".join(name for name, _ in model.named_children())
            raise InputError("frozen", f"no parameter begins with '{prefix}'", f"want one of {parts} or a part of it")
        for parameter in parameters:
            parameter.requires_grad_(False)
    return [module for name, module in model.named_modules() if any(name.startswith(prefix) for prefix in prefixes)]


def _set_training(model: nn.Module, frozen: Sequence[nn.Module]) -> None:
    """Training mode, but for frozen parts: their dropout is off and their batch statistics stay."""
    model.train()
    for module in frozen:
        module.eval()


class _Run:
    """What changes while training goes on, and so has to be saved."""

    def __init__(self, model: GroundingModel, config: TrainConfig, steps: int) -> None:
        self.model, self.config, self.steps = model, config, steps
        self.region_words = _region_word_head(model) if config.region_words.weight else None
        # Whatever is trained: the model, and the head that is not kept.
        self.trained = nn.ModuleDict({"model": model})
        if self.region_words is not None:
            self.trained["region_words"] = self.region_words
        self.optimizer = build_optimizer(self.trained, config.optimizer)
        self.average = MovingAverage(model, config.moving_average) if config.moving_average else None
        self.step = 0
        self.problems: Counter[str] = Counter()

    def save(self, path: Path, settings: Mapping[str, str]) -> None:
        state = {
            "settings": dict(settings),
            "step": self.step,
            "weights": self.trained.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "problems": dict(self.problems),
        }
        with write_whole(path, "wb") as stream:
            torch.save(state, stream)

    def resume(self, path: Path, settings: Mapping[str, str]) -> None:
        """Take up a saved state when there is one. Raises InputError when it belongs to other settings."""
        if not path.exists():
            return
        state = torch.load(path, map_location="cpu", weights_only=True)
        saved = state["settings"]
        other = sorted(name for name in settings.keys() | saved.keys() if settings.get(name) != saved.get(name))
        if other:
            names = ", ".join(other)
            raise InputError(path, f"is of a run with another {names}", "want another work_dir, or the file removed")
        self.step = state["step"]
        self.trained.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average:
            self.average.load_state_dict(state["average"])
        self.problems.update(state["problems"])
        torch.set_rng_state(state["random"])
        if state["random_cuda"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["random_cuda"])

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The moving average, where there is one, in place of the weights for a while."""
        weights = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.load_average()
        try:
            yield
        finally:
            self.model.load_state_dict(weights)

    def load_average(self) -> None:
        """Put the moving average, where there is one, into the model."""
        if self.average:
            self.model.load_state_dict(self.average.weights)


def _region_word_head(model: GroundingModel) -> RegionWordHead:
    width = model.config.width
    return RegionWordHead(width, width, width).to(model.level_embedding.device)


def _step(run: _Run, batch: TrainingBatch, rate: float, device: torch.device) -> tuple[dict[str, Tensor], Tensor]:
    """Forward, backward, one step of the optimizer. Returns the parts of the loss and the gradient's norm, detached."""
    config = run.config
    set_learning_rate(run.optimizer, rate)
    targets = [target.to(device) for target in batch.targets]
    try:
        losses = _losses(run, _channels_last(batch.images.to(device)), batch.text.to(device), targets)
    except FloatingPointError as error:
        raise TrainingFailed(f"step {run.step}: {error}") from error
    total = torch.stack(list(losses.values())).sum()
    if not torch.isfinite(total):
        broken = [name for name, value in losses.items() if not torch.isfinite(value)]
        raise TrainingFailed(f"step {run.step}: not finite: {', '.join(broken)}; a lower learning rate may help")
    run.optimizer.zero_grad(set_to_none=True)
    total.backward()
    # A limit of infinity only measures.
    norm = nn.utils.clip_grad_norm_(run.trained.parameters(), config.optimizer.clip_norm or math.inf)
    if not torch.isfinite(norm):
        raise TrainingFailed(f"step {run.step}: the gradient is not finite though the loss {total.item():.4g} is")
    run.optimizer.step()
    if run.average:
        run.average.update(run.model)
    return {name: value.detach() for name, value in losses.items()}, norm.detach()


def _channels_last(images: ImageBatch) -> ImageBatch:
    return images._replace(pixels=images.pixels.contiguous(memory_format=torch.channels_last))


def _losses(run: _Run, images: ImageBatch, text: TextBatch, targets: Sequence[Target]) -> dict[str, Tensor]:
    """The weighted parts of the loss. Raises FloatingPointError where an output is not finite."""
    config = run.config
    alone = run.step < config.region_words.alone_until
    with torch.autocast(images.pixels.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
        if alone:
            levels, words = run.model.encode_image(images).levels, run.model.encode_text(text).tokens
        else:
            grounding = run.model(images, text, targets)
            levels, words = grounding.image_levels, grounding.text_tokens
    losses = {} if alone else grounding_losses(grounding, targets, config.losses)
    if run.region_words:
        canvas = (images.pixels.shape[2], images.pixels.shape[3])
        loss = run.region_words(levels, canvas, words.float(), text.token_mask, targets)
        losses["region_words"] = config.region_words.weight * loss
    return losses


class _Meter:
    """Means over the steps since it was last read."""

    def __init__(self) -> None:
        self._clear()
        self._began = time.perf_counter()
        self.restart_clock()

    def _clear(self) -> None:
        self._sums: dict[str, Tensor | float] = {}
        self._steps = self._images = 0

    def restart_clock(self) -> None:
        """Leave the time until now out of the next images_per_second."""
        self._since = time.perf_counter()

    def add(self, losses: Mapping[str, Tensor], norm: Tensor, images: int) -> None:
        for name, value in [*losses.items(), ("gradient_norm", norm)]:
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._steps += 1
        self._images += images

    def read(self) -> dict[str, float]:
        means = {name: float(value) / self._steps for name, value in self._sums.items()}
        now = time.perf_counter()
        numbers = {
            "loss": sum(value for name, value in means.items() if name != "gradient_norm"),
            **means,
            "images_per_second": self._images / max(now - self._since, 1e-9),
            "seconds": now - self._began,
        }
        self._clear()
        self.restart_clock()
        return numbers


class _Log:
    """JSON Lines; what an interrupted run wrote after its last state is taken out when it is resumed."""

    def __init__(self, path: Path, step: int, on_progress: Callable[[dict[str, Any]], None] | None) -> None:
        self.path, self._on_progress = path, on_progress
        lines = path.read_text(encoding="utf-8").splitlines() if step and path.exists() else []
        kept = [line for line in lines if _is_up_to(line, step)]
        self.last: dict[str, float] = {}
        self.validated: set[int] = set()  # steps whose validation was written
        for numbers in map(json.loads, kept):
            self.last |= numbers
            if any(name.startswith("validation.") for name in numbers):
                self.validated.add(numbers["step"])
        with write_whole(path) as stream:
            stream.writelines(line + "\n" for line in kept)

    def write(self, numbers: dict[str, Any]) -> dict[str, Any]:
        with open(self.path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(numbers) + "\n")
        self.last |= numbers
        if self._on_progress:
            self._on_progress(numbers)
        return numbers


def _is_up_to(line: str, step: int) -> bool:
    try:
        return json.loads(line)["step"] <= step
    except (ValueError, KeyError):  # a line that was cut off
        return False


def _loader(
    config: TrainConfig,
    datasets: Sequence[LabelledImages],
    tokenizer: PreTrainedTokenizerFast,
    architecture: ModelConfig,
    first_step: int,
    steps: int,
    device: torch.device,
) -> DataLoader:
    order = MixedOrder(
        [len(dataset) for dataset in datasets],
        [data.weight for data in config.datasets],
        config.batch_size,
        steps,
        config.seed,
        first_step,
    )
    augment = config.augment.fitted_to(architecture.image_scale)
    max_tokens = architecture.max_text_tokens
    return DataLoader(
        TrainingSamples(datasets, augment, tokenizer, max_tokens, config.seed, config.absent_names),
        batch_sampler=order,
        num_workers=config.workers,
        collate_fn=Collate(tokenizer, max_tokens),
        # Forked workers share scenes that are kept in memory.
        multiprocessing_context="fork" if config.workers and sys.platform == "linux" else None,
        worker_init_fn=_start_worker,
        prefetch_factor=4 if config.workers else None,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # its own, or starting the loader would draw from the model's
    )


def _start_worker(_: int) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    # A fork inherits what its parent wants done at exit. Prefect's hooks ask for threads that a fork does not have, so
    # that a worker that has done all its work would end as one that failed.
    getattr(threading, "_threading_atexits", []).clear()


@contextmanager
def _one_thread_cv2() -> Iterator[None]:
    """OpenCV's threads would fight PyTorch's where batches are prepared in this process."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(0)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def _total_steps(config: TrainConfig, datasets: Sequence[LabelledImages]) -> int:
    if config.steps is not None:
        return config.steps
    images = sum(round(len(dataset) * data.weight) for dataset, data in zip(datasets, config.datasets))
    assert config.epochs is not None  # exactly one of the two is given
    return max(math.ceil(config.epochs * images / config.batch_size), 1)


def _check_validation(validate: Sequence[OdvgData | GlyphData]) -> None:
    """Raises InputError now, not at step validate_every, for data that no prompt of categories can ask about."""
    for index, data in enumerate(validate):
        try:
            Prompt.categories(list(open_dataset(data).categories.values()))
        except InputError as error:
            raise InputError(f"validate.{index}", str(error), "want detection data with its categories") from error


def _validation_is_due(config: TrainConfig, step: int, steps: int) -> bool:
    """After this many steps of so many in all."""
    return bool(config.validate_every and step) and (step % config.validate_every == 0 or step == steps)


def _validate(
    run: _Run, config: TrainConfig, tokenizer: PreTrainedTokenizerFast, device: torch.device
) -> dict[str, float]:
    """AP of the weights that would be saved now on each of config.validate, all its categories in the prompt."""
    detector = Detector(run.model, tokenizer, device)
    numbers: dict[str, float] = {}
    with run.averaged():
        for index, data in enumerate(config.validate):
            result = _average_precision(detector, open_dataset(data), config, run.problems)
            name = f"validation.{index}"
            numbers |= {f"{name}.ap": result.ap, f"{name}.ap50": result.ap50}
    return numbers


def _average_precision(
    detector: Detector, dataset: LabelledImages, config: TrainConfig, problems: Counter[str]
) -> CocoResult:
    """Images are read as they are needed; labels become places in the prompt. problems: is told what is passed over."""
    from grounding_model.evaluate import evaluate_coco  # loads pycocotools, which training alone does not need

    names = list(dataset.categories.values())
    place = {label: index for index, label in enumerate(dataset.categories)}
    truth: list[Record] = []

    def images() -> Iterator[np.ndarray]:
        for index in range(len(dataset)):
            try:
                image, record = dataset.load(index)
            except InputError as error:
                problems[f"validation: {error}"] += 1
                continue
            instances = tuple(replace(one, label=place[one.label]) for one in record.instances or ())
            truth.append(replace(record, instances=instances))
            yield image

    outcomes = detector.predict_each(
        images(),
        Prompt.categories(names),
        score_threshold=0.0,
        max_per_image=100,
        scale=config.validate_scale,
        batch_size=config.batch_size,
    )
    found = [outcome for outcome in outcomes if isinstance(outcome, Record)]
    predictions = [replace(one, filename=record.filename) for one, record in zip(found, truth, strict=True)]
    return evaluate_coco(truth, predictions, names)


def settings_with_effect(config: TrainConfig) -> dict[str, str]:
    """Every setting that decides the result, and the content of the files it names, as text."""
    settings = {
        entry.name: repr(getattr(config, entry.name))
        for entry in dataclasses.fields(config)
        if entry.name not in _WITHOUT_EFFECT
    }
    for index, data in enumerate(config.datasets):
        if isinstance(data, OdvgData):
            settings[f"datasets.{index}.sha256"] = _sha256(data.annotations)
    if isinstance(config.start, FromWeights):
        settings["start.sha256"] = checkpoint_hash(config.start.source)
    return settings


def _sha256(path: Path) -> str:
    if not path.is_file():
        raise InputError(path, "no such file", "want a file of ODVG JSON Lines")
    return sha256_of(path)


def _provenance(steps: int, settings: Mapping[str, str], commit: str) -> dict[str, str]:
    """Who made these weights and how."""
    return {
        "command": shlex.join(["python", *sys.argv]),
        "commit": commit,
        "torch": torch.__version__,
        "total_steps": str(steps),
        **settings,
    }


def _commit() -> str:
    """The commit of this source tree, with -dirty where files differ from it; 'unknown' outside a checkout."""
    here = Path(__file__)
    try:
        tracked = _git(here.parent, "ls-files", here.name)
        return _git(here.parent, "describe", "--always", "--dirty", "--abbrev=40") if tracked else "unknown"
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(folder: Path, *arguments: str) -> str:
    finished = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    return finished.stdout.strip()


def main(arguments: Sequence[str] | None = None) -> int:
    """python -m grounding_model.train CONFIG [--set key=value ...]; 0 done, 1 failed on the way, 2 bad input."""
    parser = argparse.ArgumentParser(prog="python -m grounding_model.train", description=main.__doc__)
    parser.add_argument("config", type=Path, help="TOML file, see configs/")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    told = "go on with an interrupted run in the work_dir; start where there is none"
    parser.add_argument("--resume", action="store_true", help=told)
    options = parser.parse_args(arguments)
    try:
        config = read_config(options.config, TrainConfig, options.overrides)
        check_resume(config, options.resume)
        result = train(config)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except TrainingFailed as error:
        print(error, file=sys.stderr)
        return 1
    print(f"weights: {result.checkpoint}\nlog: {result.log}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
