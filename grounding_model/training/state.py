"""Saves and resumes the state of training, and compares the settings that decide whether a state may be resumed."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO, Any, Protocol, cast

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from formats.io.errors import InputError
from formats.io.files import sha256_of, write_whole
from grounding_model.checkpoints.locations import checkpoint_hash, locate_backbone
from grounding_model.model.config import TimmBackbone
from grounding_model.training.config import WITHOUT_EFFECT, FromScratch, FromStudent, FromWeights, TrainConfig
from grounding_model.training.distributed import Processes, gather_from_processes, sum_counts
from grounding_model.training.optimizer import MovingAverage, build_optimizer
from grounding_model.training.recorded_settings import differing, first_field_name, settings_text

log = logging.getLogger(__name__)

STATE_FILE = "state.pt"
STATE_KEYS = {"settings", "step", "weights", "optimizer", "scaler", "average", "random", "random_cuda", "problems"}
DIGEST_MARK = b"SHA-256:"
CHUNK = 1 << 20  # bytes that are read at once
AUTOCAST = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
GIT_ATTEMPTS = 3


class Trained(Protocol):
    """The part of learner.Learner that a state contains."""

    skips_parameters: bool

    @property
    def model(self) -> nn.Module: ...
    def objective(self) -> nn.Module: ...


class TrainingState:
    """Everything that a step changes. objective: the trained module; parallel: the same, wrapped in DDP."""

    def __init__(self, learner: Trained, config: TrainConfig, processes: Processes) -> None:
        self.model, self._processes = learner.model, processes
        model, device = learner.model, next(learner.model.parameters()).device
        self.objective = learner.objective()
        self.parallel: nn.Module = self.objective
        if processes.count > 1:
            self.parallel = DistributedDataParallel(self.objective, find_unused_parameters=learner.skips_parameters)
        self.optimizer = build_optimizer(self.objective, config.optimizer)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "float16")
        self.average = MovingAverage(model, config.moving_average) if config.moving_average else None
        self.step = 0
        self._state_is_whole = True  # what lies there may be kept as the one before
        self.problems: Counter[str] = Counter()

    def without_synchronisation(self, last: bool) -> AbstractContextManager:
        """For the backward pass of a micro-batch: processes reduce their gradients only in the last one of a step."""
        if isinstance(self.parallel, DistributedDataParallel) and not last:
            return self.parallel.no_sync()
        return nullcontext()

    def save(self, path: Path, settings: Mapping[str, str]) -> None:
        """Saves the state. The first process writes it; all processes must call this."""
        random = gather_from_processes(torch.get_rng_state())
        random_cuda = gather_from_processes(torch.cuda.get_rng_state() if torch.cuda.is_available() else None)
        problems = sum_counts(self.problems)
        if not self._processes.is_first:
            return
        state = {
            "settings": dict(settings),
            "step": self.step,
            "weights": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "random": random,
            "random_cuda": random_cuda,
            "problems": dict(problems),
        }
        if self._state_is_whole:
            _keep_before(path)
        write_training_state(path, state)
        self._state_is_whole = True

    def resume(self, path: Path, settings: Mapping[str, str]) -> None:
        """Resumes from a saved state, if there is one, or from the one before where that is damaged.

        Raises InputError when it was saved with other settings, and when it is damaged and there is none before.
        """
        if not path.exists():
            return
        try:
            state = read_training_state(path)
        except InputError as damaged:
            if not before(path).exists():
                raise
            state = read_training_state(before(path))
            self._state_is_whole = False
            if self._processes.is_first:
                log.warning("%s; resuming from %s, step %d", damaged, before(path).name, state["step"])
        if different := differing(settings, state["settings"]):
            names = ", ".join(different)
            raise InputError(
                path, f"was saved with a different {names}", "expected another work_dir, or the file removed"
            )
        self.step = state["step"]
        self.objective.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.average:
            self.average.load_state_dict(state["average"])
        if self._processes.is_first:  # they are the sum over all
            self.problems.update(state["problems"])
        torch.set_rng_state(state["random"][self._processes.index])
        random_cuda = state["random_cuda"][self._processes.index]
        if random_cuda is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(random_cuda)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Replaces the weights by their moving average, if there is one, until the block ends."""
        if self.average is None:
            yield
            return
        weights = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.load_average()
        try:
            yield
        finally:
            self.model.load_state_dict(weights)

    def load_average(self) -> None:
        """Loads the moving average, if there is one, into the model."""
        if self.average:
            self.model.load_state_dict(self.average.weights)


# --- the file: the output of torch.save, followed by its digest, which torch.load ignores


def before(path: Path) -> Path:
    """The path of the previous state."""
    return path.with_name(f"{path.stem}-before{path.suffix}")


def _keep_before(path: Path) -> None:
    """Keeps the previous state as a hard link, since it may be gigabytes; without hard links it is not kept."""
    if path.exists():
        with suppress(OSError):
            before(path).unlink(missing_ok=True)
            os.link(path, before(path))


class _Digested:
    """An output stream for torch.save that computes the digest of what is written."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self.digest = stream, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self._stream.write(data)

    def flush(self) -> None:
        self._stream.flush()


def write_training_state(path: Path, state: Mapping[str, Any]) -> None:
    """Writes a state with its digest, atomically."""
    with write_whole(path, "wb") as stream:
        digested = _Digested(stream)
        torch.save(state, cast(IO[bytes], digested))
        stream.write(DIGEST_MARK + digested.digest.digest())


def read_training_state(path: Path) -> dict[str, Any]:
    """The state in a file. Raises InputError that names the file when its bytes are not those that were written."""
    remedy = "remove it to start again"
    if not _has_its_digest(path):
        raise InputError(path, "is damaged: its checksum does not match", remedy)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken file makes torch raise nearly anything, with advice to load it unsafely
        raise InputError(path, f"is damaged: not a training state ({type(error).__name__})", remedy) from error
    if not isinstance(state, dict) or not state.keys() >= STATE_KEYS:
        raise InputError(path, "is damaged: not a training state", remedy)
    return state


def _has_its_digest(path: Path) -> bool:
    """Whether the digest matches. Also true for older states without a digest; torch.load checks those."""
    tail = len(DIGEST_MARK) + hashlib.sha256().digest_size
    with open(path, "rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - tail))
        mark = stream.read(tail)
        if not mark.startswith(DIGEST_MARK):
            return True
        stream.seek(0)
        digest, left = hashlib.sha256(), size - tail
        while left and (part := stream.read(min(left, CHUNK))):
            digest.update(part)
            left -= len(part)
    return mark.removeprefix(DIGEST_MARK) == digest.digest()


def settings_with_effect(config: TrainConfig) -> dict[str, str]:
    """All settings that affect the result, and the hashes of the files they name, as text."""
    settings = {
        first_field_name("TrainConfig", entry.name): settings_text(getattr(config, entry.name))
        for entry in dataclasses.fields(config)
        if entry.repr and entry.name not in WITHOUT_EFFECT
    } | settings_added_later(config)
    for index, data in enumerate(config.datasets):
        if (annotations := getattr(data, "annotations", None)) is not None:
            settings[f"datasets.{index}.sha256"] = _sha256(annotations)
    if isinstance(config.start, FromWeights):
        settings["start.sha256"] = checkpoint_hash(config.start.source)
        return settings
    if isinstance(config.start, FromStudent):
        if config.start.is_pretrained:
            settings["start.sha256"] = checkpoint_hash(config.start.student)
        elif Path(config.start.backbone_weights).is_file():
            settings["start.backbone.sha256"] = _sha256(Path(config.start.backbone_weights))
        return settings
    if config.start.backbone is not None:
        settings["start.backbone.sha256"] = _sha256(backbone_file(config.start))
    if config.start.rest is not None:
        settings["start.rest.sha256"] = checkpoint_hash(config.start.rest)
    return settings


def settings_added_later(settings: Any, prefix: str = "") -> dict[str, str]:
    """Settings that repr leaves out. At their defaults they are not recorded, so that older runs still match."""
    found: dict[str, str] = {}
    for entry in dataclasses.fields(settings):
        value, name = getattr(settings, entry.name), f"{prefix}{entry.name}"
        if not entry.repr and value != entry.default:
            found[name] = repr(value)
        elif dataclasses.is_dataclass(value):
            found |= settings_added_later(value, f"{name}.")
    return found


def backbone_file(start: FromScratch) -> Path:
    """The file of the pretrained backbone that a start uses."""
    assert start.backbone is not None
    is_timm = isinstance(start.model_config().backbone, TimmBackbone)
    return locate_backbone(start.backbone) if is_timm else start.backbone


def _sha256(path: Path) -> str:
    if not path.is_file():
        raise InputError(path, "no such file", "expected the file named in the configuration")
    return sha256_of(path)


def provenance(steps: int, settings: Mapping[str, str], commit: str) -> dict[str, str]:
    """How these weights were made."""
    return {
        "command": shlex.join(["python", *sys.argv]),
        "commit": commit,
        "torch": torch.__version__,
        "total_steps": str(steps),
        **settings,
    }


def source_commit() -> str:
    """The commit of this source tree, with -dirty where files differ from it; 'unknown' outside a checkout."""
    here = Path(__file__)
    try:
        tracked = _git(here.parent, "ls-files", here.name)
        return _git(here.parent, "describe", "--always", "--dirty", "--abbrev=40") if tracked else "unknown"
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(folder: Path, *arguments: str) -> str:
    """The output of git. A git process that was killed is run again."""
    for _ in range(GIT_ATTEMPTS):
        finished = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True)
        if finished.returncode >= 0:
            break
    finished.check_returncode()
    return finished.stdout.strip()
