"""The state of a loop on disk: rounds.json lists all rounds; each round's folder contains its files and approval.

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

from flows.labelling.manifest import MANIFEST_NAME, read_manifest
from flows.labelling.settings import DetectionSettings, settings_payload, values_of
from flows.self_training.config import SelfTrainConfig
from flows.self_training.drift import Drift
from flows.self_training.gate import Evaluation, Verdict, payload_of
from flows.self_training.review import add_corrections, approve
from formats.dataset_names import labels_path, metadata_path
from formats.io.errors import InputError
from formats.io.files import load_json, write_json, write_whole
from formats.io.locks import temporary_beside
from formats.io.plurals import many
from formats.io.storage import is_address
from formats.io.values import brief_json
from formats.overwrite import contains_labels
from grounding_model.training.config import WITHOUT_EFFECT

logger = logging.getLogger(__name__)

ROUNDS_NAME = "rounds.json"
WAITING_NAME = "waiting.json"  # in the folder of a round that waits for a person: the Prefect flow run that waits
STUDENT_FOLDER = "student"  # in the work_dir: the distilled model
PRETRAINED = "pretrained"
FINE_TUNED = "trained on your labels"  # the first model, if there are existing labels
State = Literal["running", "waiting", "stopped", "finished"]


class RoundResult(NamedTuple):
    """A round's entry in rounds.json.

    round: from 1. labels: the _vN file. weights: of the model that made them. ap: of this model, None without
    evaluation data. counts: of the filter. metrics: of the evaluation, {} without evaluation data. verdict: of the
    gate. approved: by a person, which overrides the verdict.
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
    def may_continue(self) -> bool:
        """Whether another round may follow from this one."""
        return self.verdict.passed or self.approved

    @property
    def score(self) -> float | None:
        """The headline metric of the evaluation."""
        return self.metrics[self.metrics["headline"]] if "headline" in self.metrics else None

    def evaluation(self, samples: Path) -> Evaluation | None:
        """The score that the gate compares. samples: the file of its matches."""
        return None if self.score is None else Evaluation(self.round, self.metrics["headline"], self.score, samples)


@dataclass(frozen=True)
class LoopState:
    """The state of a loop. policy: of its labels. reason: a message that says why it waits or stopped.

    first_model: a description of the model that made the labels v1.
    """

    name: str
    state: State
    reason: str
    policy: Mapping[str, Any]
    rounds: tuple[RoundResult, ...]
    first_model: str = PRETRAINED
    settings: Mapping[str, Any] = field(default_factory=dict)  # that the rounds depend on; {} from older versions

    @property
    def best(self) -> RoundResult:
        return best_round(self.rounds)


def best_round(rounds: Sequence[RoundResult]) -> RoundResult:
    """The first round with the highest score; without evaluation data, the last that passed or was approved."""
    judged = [(each.score, -each.round, each) for each in rounds if each.score is not None]
    if judged:
        return max(judged)[-1]
    return [rounds[0], *(each for each in rounds if each.may_continue)][-1]


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
    """Reads the state of the loop in a work_dir. Raises InputError if no loop has made labels there."""
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
        raise InputError(path, f"contains no list of rounds ({error!r})", "run `groundhog self-train` again") from None


def _verdict(payload: Mapping[str, Any]) -> Verdict:
    fields = dict(payload) | {"reasons": tuple(payload["reasons"])}
    if payload["interval"] is not None:
        fields["interval"] = tuple(payload["interval"])
    if payload["drift"] is not None:
        counts = {name: tuple(pair) for name, pair in payload["drift"]["counts"].items()}
        fields["drift"] = Drift(**payload["drift"] | {"counts": counts})
    return Verdict(**fields)


def settings_of_rounds(config: SelfTrainConfig) -> dict[str, Any]:
    """The settings that the labels of the rounds depend on: not the number of rounds or the folders."""
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
    """Raises InputError if the work_dir contains rounds with other settings, which would be replaced.

    If there is only the first round and only the policy differs, it logs a warning instead: the stored candidates are
    filtered again, so that a threshold can be tuned.
    """
    if not (work_dir / ROUNDS_NAME).is_file():
        return
    loop = read_loop_state(work_dir)
    differing = list(_differences(loop.settings, settings))
    if not differing:
        return
    listed = "; ".join(
        f"{name}: {brief_json(before)} there, {brief_json(now)} requested" for name, before, now in differing[:4]
    )
    if len(loop.rounds) == 1 and all(name.startswith("policy.") for name, _, _ in differing):
        logger.warning("v1 is filtered again with another policy (%s)", listed)
        return
    what = f"contains {many(len(loop.rounds), 'round')} with other settings ({listed})"
    remedy = "expected another train.work_dir, or overwrite=True to replace them"
    raise InputError(work_dir, what, remedy)


def refuse_labels_of_other_runs(work_dir: Path, annotations: Path, rounds: Sequence[int]) -> None:
    """Raises InputError if labels that these rounds would write were made elsewhere, and would be replaced.

    annotations: the file that the loop labels. Labels are of a round if the .meta.json beside them names its folder
    or its plan. Labels without one are of it if the round has begun: the loop was killed before it wrote the second
    file.
    """
    for number in rounds:
        labels, folder = labels_path(annotations, number), round_folder(work_dir, number)
        meta = metadata_path(labels)
        if not labels.is_file():
            continue
        begun = (folder / MANIFEST_NAME).is_file()
        remedy = "expected another data.annotations, the work_dir of these labels, or overwrite=True to replace them"
        if not meta.is_file():
            if not begun and contains_labels(labels):
                what = f"contains labels, but no {meta.name} beside it shows that this loop made them"
                raise InputError(labels, what, remedy)
            continue
        made_by = load_json(meta, remedy)
        of_round = isinstance(made_by, dict) and (
            made_by.get("folder") == relative_folder(folder, annotations)
            or (begun and made_by.get("plan") == read_manifest(folder).key)
        )
        if not of_round:
            raise InputError(labels, f"contains the labels of another run, according to {meta.name}", remedy)


def relative_folder(folder: Path, annotations: Path) -> str:
    """A round's folder, relative to its labels beside the annotations, as recorded in their .meta.json."""
    return Path(os.path.relpath(folder, annotations.parent)).as_posix()


def _differences(before: Any, now: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted name, before, now) of each setting that differs, in the tables that both have."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        known = before if not name else {**now, **before}  # older versions did not record every table
        for key in known:
            yield from _differences(before.get(key), now.get(key), f"{name}.{key}".lstrip("."))
    elif before != now:
        yield name, before, now


def link_into(files: Iterable[Path], folder: Path) -> None:
    """Adds a hard link to each file in the folder; a copy if the file system has no hard links.

    A file that is replaced later stays unchanged under its second name.
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
    """Lets a loop continue after a round that it waits for or that the gate stopped; returns the round's number.

    number: None: the last round. reviewed: ODVG lines that a person corrected, as in add_corrections.
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
