"""What a loop leaves on disk: rounds.json lists every round, each has its folder, and a person's approval lies there.

WORK_DIR/rounds.json, report.html
WORK_DIR/round-1/ manifest.json, candidates/, the labels, evaluation.json, merge.json, train-…/model.safetensors
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from flows.labelling.manifest import read_manifest
from flows.labelling.settings import DetectionSettings, settings_payload, values_of
from flows.self_training.config import SelfTrainConfig
from flows.self_training.drift import Drift
from flows.self_training.gate import Evaluation, Verdict, payload_of
from flows.self_training.review import add_corrections, approve
from formats.io.errors import InputError
from formats.io.files import load_json, write_json, write_whole
from formats.io.locks import temporary_beside
from formats.io.plurals import many
from formats.io.storage import is_address
from formats.io.values import brief_json
from grounding_model.training.config import WITHOUT_EFFECT

logger = logging.getLogger(__name__)

ROUNDS_NAME = "rounds.json"
WAITING_NAME = "waiting.json"  # in the folder of a round that waits for a person: which flow run of Prefect waits
STUDENT_FOLDER = "student"  # in the work_dir: what was distilled at the end
PRETRAINED = "pretrained"
FINE_TUNED = "trained on your labels"  # where a person has labelled something before the first round
State = Literal["running", "waiting", "stopped", "finished"]


class RoundResult(NamedTuple):
    """round: from 1. labels: the _vN file. weights: what made them. ap: of these weights, None without evaluation data.

    counts: what the filter counted. metrics: what the evaluation found, {} without evaluation data. verdict: of the
    gate. approved: by a person, which counts more than the verdict.
    """

    round: int
    labels: Path
    weights: str
    ap: float | None
    counts: dict[str, Any]
    metrics: dict[str, Any]
    verdict: Verdict
    approved: bool = False

    @property
    def holds(self) -> bool:
        """Whether another round may follow from this one."""
        return self.verdict.passed or self.approved

    @property
    def score(self) -> float | None:
        """The headline number of the evaluation."""
        return self.metrics[self.metrics["headline"]] if "headline" in self.metrics else None

    def evaluation(self, samples: Path) -> Evaluation | None:
        """The figure that the gate compares; samples: the file of matches behind it."""
        return None if self.score is None else Evaluation(self.round, self.metrics["headline"], self.score, samples)


@dataclass(frozen=True)
class LoopState:
    """A loop as far as it has come. policy: of its labels. reason: why it waits or stopped, for people.

    first_model: what made the labels v1, for people.
    """

    name: str
    state: State
    reason: str
    policy: Mapping[str, Any]
    rounds: tuple[RoundResult, ...]
    first_model: str = PRETRAINED
    settings: Mapping[str, Any] = field(default_factory=dict)  # that the rounds follow from; {} of older versions

    @property
    def best(self) -> RoundResult:
        return best_round(self.rounds)


def best_round(rounds: Sequence[RoundResult]) -> RoundResult:
    """The first round with the highest score; without evaluation data, the last that holds."""
    judged = [(each.score, -each.round, each) for each in rounds if each.score is not None]
    if judged:
        return max(judged)[-1]
    return [rounds[0], *(each for each in rounds if each.holds)][-1]


def round_folder(work_dir: Path, number: int) -> Path:
    return work_dir / f"round-{number}"


def write_loop_state(work_dir: Path, loop: LoopState) -> Path:
    """Writes WORK_DIR/rounds.json."""
    path = work_dir / ROUNDS_NAME
    rounds = [each._asdict() | {"verdict": payload_of(each.verdict)} for each in loop.rounds]
    payload = {
        "name": loop.name,
        "state": loop.state,
        "reason": loop.reason,
        "best": loop.best.round,
        "policy": loop.policy,
        "first_model": loop.first_model,
        "settings": loop.settings,
        "rounds": rounds,
    }
    write_json(path, payload, default=str)
    return path


def read_loop_state(work_dir: str | Path) -> LoopState:
    """The loop in a work_dir. Raises InputError when none has come to its first labels there."""
    path = Path(work_dir) / ROUNDS_NAME
    payload = load_json(path, "expected the train.work_dir of a self-training")
    try:
        rounds = tuple(
            RoundResult(**each | {"labels": Path(each["labels"]), "verdict": _verdict(each["verdict"])})
            for each in payload["rounds"]
        )
        name, policy = payload["name"], payload["policy"]
        first_model = payload.get("first_model", PRETRAINED)  # older files lack it
        settings = payload.get("settings") or {"policy": policy}
        return LoopState(name, payload["state"], payload["reason"], policy, rounds, first_model, settings)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(path, f"lists no rounds ({error!r})", "run `groundhog self-train` again") from None


def _verdict(payload: Mapping[str, Any]) -> Verdict:
    fields = dict(payload) | {"reasons": tuple(payload["reasons"])}
    if payload["interval"] is not None:
        fields["interval"] = tuple(payload["interval"])
    if payload["drift"] is not None:
        counts = {name: tuple(pair) for name, pair in payload["drift"]["counts"].items()}
        fields["drift"] = Drift(**payload["drift"] | {"counts": counts})
    return Verdict(**fields)


def settings_of_rounds(config: SelfTrainConfig) -> dict[str, Any]:
    """What the labels of a loop's rounds follow from, as rounds.json keeps it: not how long it goes on, nor where."""
    train = {name: value for name, value in settings_payload(config.train).items() if name not in WITHOUT_EFFECT}
    labelling = settings_payload(values_of(config.labelling, DetectionSettings)) | {
        "views": settings_payload(config.labelling.views)
    }
    settings = {
        "policy": settings_payload(config.policy),
        "labelling": labelling,
        "train": train,
        "labelled": settings_payload(config.labelled),
        "loop": {"ratio": config.ratio, "student": config.student},
    }
    if config.labelled is not None and config.labelled.best_of > 1:
        settings["loop"]["best_of"] = config.labelled.best_of
    return json.loads(json.dumps(settings, default=str))


def refuse_other_settings(work_dir: Path, settings: Mapping[str, Any]) -> None:
    """Raises InputError where rounds lie in the work_dir that follow from other settings: they would be made anew.

    Where only the first round is there, another policy is taken, with a word: it is filtered again from the candidates
    that are there, which is how a threshold is chosen.
    """
    if not (work_dir / ROUNDS_NAME).is_file():
        return
    loop = read_loop_state(work_dir)
    differing = list(_differences(loop.settings, settings))
    if not differing:
        return
    said = "; ".join(
        f"{name}: {brief_json(before)} there, {brief_json(now)} requested" for name, before, now in differing[:4]
    )
    if len(loop.rounds) == 1 and all(name.startswith("policy.") for name, _, _ in differing):
        logger.warning("v1 is filtered again by another policy (%s)", said)
        return
    what = f"{many(len(loop.rounds), 'round')} that follow from other settings lie here ({said})"
    remedy = "expected another train.work_dir, or overwrite=True to replace them"
    raise InputError(work_dir, what, remedy)


def _differences(before: Any, now: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted name, before, now) of each setting that differs, of the tables that both know."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        known = before if not name else {**now, **before}  # older versions did not record every table
        for key in known:
            yield from _differences(before.get(key), now.get(key), f"{name}.{key}".lstrip("."))
    elif before != now:
        yield name, before, now


def link_into(files: Iterable[Path], folder: Path) -> None:
    """A second name for each file in the round's folder; a copy where the disk has no links.

    What is written over the first name later leaves the second as it is.
    """
    for file in files:
        target = folder / file.name
        if is_address(file) or is_address(target):
            with write_whole(target, "wb") as copy, file.open("rb") as original:
                shutil.copyfileobj(original, copy)
            continue
        temporary = temporary_beside(target)
        try:
            try:
                os.link(file, temporary)
            except OSError:
                shutil.copyfile(file, temporary)
            os.replace(temporary, target)
        finally:
            with suppress(FileNotFoundError):  # renaming onto another name of the same file does nothing
                temporary.unlink()


def approve_round(work_dir: str | Path, number: int | None = None, reviewed: str | Path | None = None) -> int:
    """Lets a loop continue after a round's labels, though the gate stopped it; returns the number of the round.

    number: None takes the last round. reviewed: ODVG lines that a person corrected, as add_corrections takes them.
    Raises InputError for a round that has no labels yet.
    """
    loop = read_loop_state(work_dir)
    known = [each.round for each in loop.rounds]
    number = known[-1] if number is None else number
    if number not in known:
        raise InputError("round", f"{number} has no labels yet", f"expected one of {', '.join(map(str, known))}")
    manifest = read_manifest(round_folder(Path(work_dir), number))
    if reviewed is not None:
        add_corrections(manifest, reviewed, number)
    approve(manifest, loop.policy)
    return number
