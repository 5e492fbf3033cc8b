"""Runs the detector on the images of a plan, shard by shard, and stores all candidates above the score floor.

A shard is finished when its file is complete and has the key of the plan. Files are written atomically, so a killed run
loses at most the shards it was working on, and resuming never mixes two plans.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from flows.labelling.detector_pool import DetectorPool, LocalDetectorPool, Predictor, devices_of, pool_of
from flows.labelling.image_state import changed_images, current_states, write_states
from flows.labelling.manifest import Manifest, PlanOrPath, SourceLine, as_manifest, check_source, parse_line, read_lines
from flows.labelling.mirrored import shown_as
from flows.labelling.settings import ONE_EACH, Execution, Workers
from flows.labelling.shards import check_labelled, check_usable, missing_shards
from formats.candidates import (
    Candidates,
    ImageCandidates,
    ImageFeature,
    ImageProblem,
    write_candidates,
)
from formats.images import SIZE_REMEDY, check_size, safe_join
from formats.io.errors import InputError
from formats.io.files import NO_ROOM
from formats.io.locks import lock
from formats.io.plurals import many
from formats.io.progress import show_progress
from formats.phrases import find_phrase
from formats.quarantine import filename_in, reason_of
from formats.record import Record
from grounding_model.inputs.prompt import Prompt

logger = logging.getLogger(__name__)

CHANGED_SIZE_REMEDY = f"{SIZE_REMEDY}: bootstrap again, or restore the image"


class Image(NamedTuple):
    """One line whose image can be labelled. size: height, width in pixels according to the line.

    regions: for each phrase of the prompt, the index of its region in the line.
    """

    line: int
    filename: str
    path: Path
    size: tuple[int, int]
    prompt: Prompt | None
    regions: tuple[int, ...]


class Executor(Protocol):
    """Something that labels shards of a plan: threads of this process, tasks of Prefect, a Ray cluster."""

    def __call__(self, manifest: Manifest, shards: Sequence[int], batch_size: int) -> None:
        """Labels these shards as label_shards does. If any fails, raises RuntimeError after the others are done."""
        ...


def infer(
    manifest: PlanOrPath,
    detector: Predictor | None = None,
    *,
    workers: Workers = ONE_EACH,
    pool: DetectorPool | None = None,
    batch_size: int = Execution.batch_size,
    progress: bool = True,
    executor: Executor | None = None,
) -> list[Path]:
    """Labels the missing shards of a plan; returns the files of all shards.

    detector: None to load that of the plan on each device of `workers`. pool: a pool with loaded detectors, instead of
    both. executor: labels the shards with its own detectors, instead of threads of this process.
    Complete shards are not labelled again, unless one of their images has changed.
    Raises InputError if no image is usable, the source has changed since it was planned, the settings or prompt of the
    plan cannot work, another process is labelling this plan, or the workers are Ray's; OSError if the disk is full;
    RuntimeError at the end if a shard failed (finished shards are kept).
    """
    if executor is None and workers.runner != "threads":
        raise InputError("workers.runner", "Ray works inside a Prefect flow", "expected the deployment infer/stage")
    manifest = as_manifest(manifest)
    with lock(manifest.work_dir):
        missing = missing_shards(manifest)
        complete = sorted(set(range(len(manifest.shards))) - set(missing))
        if missing := sorted(missing + _drop_changed(manifest, complete)):
            check_source(manifest)
            if executor is None:
                if pool is None:
                    pool = LocalDetectorPool(devices_of(workers.devices)) if detector is None else pool_of(detector)
                executor = ThreadExecutor(pool, progress)
            executor(manifest, missing, batch_size)
            check_labelled(manifest, missing)
            check_usable(manifest, missing)
    return [manifest.shard_path(shard.index) for shard in manifest.shards]


def _drop_changed(manifest: Manifest, complete: Sequence[int]) -> list[int]:
    """Removes the candidates of shards whose images have changed, and logs it; returns the shards."""
    changed = changed_images(manifest, complete)
    if changed:
        names = [name for found in changed.values() for name in found]
        shards = f"{len(changed)} of {many(len(manifest.shards), 'shard')}"
        changes = f"{many(len(names), 'image')} changed since the labelling ({names[0]} …)"
        logger.warning("%s: labelling %s again", changes, shards)
    for index in changed:
        manifest.shard_path(index).unlink()
    return list(changed)


@dataclass(frozen=True)
class ThreadExecutor:
    """Labels in threads of this process, one per detector. progress: whether to show it."""

    detectors: DetectorPool
    progress: bool = True

    def __call__(self, manifest: Manifest, shards: Sequence[int], batch_size: int) -> None:
        with progress_of(manifest, shards, self.progress) as bar:
            failures = _label_in_threads(manifest, shards, self.detectors, batch_size, bar.update)
        raise_failures(manifest, failures)


def progress_of(manifest: Manifest, missing: Sequence[int], shown: bool) -> Any:
    """A bar over the images of a plan, as far as it is labelled. missing: the shards that are not."""
    total = sum(shard.lines for shard in manifest.shards)
    done = total - sum(manifest.shards[index].lines for index in missing)
    return show_progress(total=total, initial=done, unit="image", desc="label", hidden=not shown)


def _label_in_threads(
    manifest: Manifest,
    shards: Sequence[int],
    detectors: DetectorPool,
    batch_size: int,
    on_images: Callable[[int], object],
) -> dict[int, Exception]:
    """Shard -> error, for those that failed. An error that affects all shards stops the threads at their next image."""
    failures: dict[int, Exception] = {}
    stopping = threading.Event()

    def count(images: int) -> None:
        if stopping.is_set():
            raise _Stopped
        on_images(images)

    def label(index: int) -> None:
        if stopping.is_set():
            return
        try:
            with detectors.acquire(manifest) as detector:
                failures.update(label_shards(manifest, [index], detector, batch_size=batch_size, on_images=count))
        except _Stopped:
            return
        except BaseException:
            stopping.set()  # here, since this thread may start its next shard before the caller sees the error
            raise

    with ThreadPoolExecutor(len(detectors.devices), thread_name_prefix="label") as threads:
        try:
            for labelling in as_completed([threads.submit(label, index) for index in shards]):
                labelling.result()
        except BaseException:
            stopping.set()
            threads.shutdown(wait=False, cancel_futures=True)
            raise
    return failures


class _Stopped(Exception):
    """Labelling was stopped: by an error that affects all shards, or by an interrupt."""


def label_shards(
    manifest: Manifest,
    indices: Sequence[int],
    detector: Predictor,
    *,
    batch_size: int = Execution.batch_size,
    on_images: Callable[[int], object] = lambda count: None,
) -> dict[int, Exception]:
    """Labels shards one by one; returns shard -> error for those that failed.

    Raises errors that affect all shards: InputError of the plan, OSError for a full disk.
    """
    failures: dict[int, Exception] = {}
    for index in indices:
        try:
            label_shard(manifest, index, detector, batch_size=batch_size, on_images=on_images)
        except (InputError, _Stopped):
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno in NO_ROOM:
                raise
            logger.exception("shard %d failed", index)
            failures[index] = error
    return failures


def raise_failures(manifest: Manifest, failures: Mapping[int, Exception]) -> None:
    """Raises RuntimeError, naming the first shard, if any failed."""
    if failures:
        index = min(failures)
        raise RuntimeError(
            f"{len(failures)} of {many(len(manifest.shards), 'shard')} failed, first {index}: {failures[index]}; "
            "run again to resume"
        ) from failures[index]


def label_shard(
    manifest: Manifest,
    index: int,
    detector: Predictor,
    *,
    batch_size: int = Execution.batch_size,
    on_images: Callable[[int], object] = lambda count: None,
) -> Path:
    """Labels one shard and writes its candidates; the unit of work for schedulers.

    A line or image that cannot be used becomes a problem row of the file. on_images is called with the number of newly
    finished lines. Raises an error that was not caused by the input if no image of the shard could be labelled, and
    InputError if the settings or prompt of the plan cannot work.
    """
    labelled: list[ImageCandidates] = []
    problems: list[ImageProblem] = []
    features: list[ImageFeature] = []
    lines = list(read_lines(manifest.source, manifest.shards[index]))
    images = list(_images(manifest, lines, problems))
    names = [image.filename for image in images] + [problem.filename for problem in problems]
    states = current_states(manifest.image_root, filter(None, names))  # before the images are read
    on_images(manifest.shards[index].lines - len(images))
    failures: list[Exception] = []
    for predicted, image in zip(_outcomes(detector, manifest, images, batch_size), images, strict=True):
        outcome = _of_its_line(image, predicted)
        if isinstance(outcome, Record):
            labelled.append(_candidates(image, outcome, manifest.score_floor))
            if (feature := getattr(outcome, "image_feature", None)) is not None:
                features.append(ImageFeature(image.line, image.filename, feature))
        else:
            problems.append(ImageProblem(image.line, image.filename, reason_of(outcome, manifest.image_root)))
            failures += [] if isinstance(outcome, InputError) else [outcome]
        on_images(1)
    if failures and not labelled:
        raise failures[0]
    path = manifest.shard_path(index)
    write_states(manifest, index, states)
    write_candidates(path, Candidates.of_images(labelled, problems), manifest.key, features)
    return path


def category_prompt(label_map: Mapping[str, str]) -> Prompt:
    """The prompt for all names of a label map. Raises InputError for a name that cannot be in a prompt."""
    return Prompt.categories(list(label_map.values()))


def _images(manifest: Manifest, lines: Sequence[SourceLine], problems: list[ImageProblem]) -> Iterator[Image]:
    """Yields the lines that can be labelled; the others are added to `problems`."""
    for line in lines:
        filename = ""
        try:
            record = parse_line(line, manifest.source)
            filename = record.filename
            path = safe_join(manifest.image_root, filename)
            if isinstance(path, Path) and not path.is_file():  # in an object store, reading it will show
                raise InputError(path, "no such image")
            prompt, regions = _prompt(manifest, record)
        except InputError as error:
            problems.append(
                ImageProblem(line.number, filename or filename_in(line.text), reason_of(error, manifest.image_root))
            )
            continue
        if manifest.label_map is not None or regions:
            yield Image(line.number, filename, path, (record.height, record.width), prompt, regions)


def _prompt(manifest: Manifest, record: Record) -> tuple[Prompt | None, tuple[int, ...]]:
    """The prompt of a record (None if the plan has one for all), and for each of its phrases the index of its region.

    Regions without spans (Open-GroundingDino's dialect) are searched for in the caption as whole words.
    """
    if manifest.label_map is not None:
        return None, ()
    if record.caption is None:
        raise InputError(
            record.filename, "no caption in this line", "expected grounding lines, or plan with a label map"
        )
    spans, regions = [], []
    for index, region in enumerate(record.regions or ()):
        spans.append(region.spans or [find_phrase(record.caption, text) for text in region.phrase])
        regions.append(index)
    if not regions:
        return None, ()  # a caption without phrases: there is nothing to detect
    return Prompt.phrases(record.caption, spans), tuple(regions)


def _outcomes(
    detector: Predictor, manifest: Manifest, images: Sequence[Image], batch_size: int
) -> Iterator[Record | Exception]:
    """Yields the detector's record or error for every image.

    If the detector raises an error instead of yielding it, the remaining images are processed one by one.
    """
    outcomes = _predict(detector, manifest, images, batch_size)  # refuses a plan that cannot work
    done = 0
    try:
        for outcome in outcomes:
            yield outcome
            done += 1
    except Exception as error:
        logger.warning("image by image from here on, after %s: %s", type(error).__name__, error)
        for image in images[done:]:
            try:
                yield from _predict(detector, manifest, [image], 1)
            except Exception as own_error:
                yield own_error


def _predict(
    detector: Predictor, manifest: Manifest, images: Sequence[Image], batch_size: int
) -> Iterator[Record | Exception]:
    viewed = shown_as(manifest, detector)
    wanted = {"return_image_feature": True} if getattr(viewed, "gives_image_features", False) else {}
    outcomes = viewed.predict_each(
        [image.path for image in images],
        # Without a label map, every image has its own prompt.
        [image.prompt for image in images if image.prompt is not None]
        if manifest.label_map is None
        else category_prompt(manifest.label_map),
        **manifest.detector_arguments(),
        batch_size=batch_size,
        mixed_sizes=False,  # the candidates of an image must not depend on others in the batch
        **wanted,
    )
    return (outcome if isinstance(outcome, Record) else outcome.error for outcome in outcomes)


def _of_its_line(image: Image, outcome: Record | Exception) -> Record | Exception:
    """The detector's outcome, or an error if the image does not have the size in its line."""
    if isinstance(outcome, Record):
        try:
            check_size(image.filename, (outcome.height, outcome.width), image.size, "line says", CHANGED_SIZE_REMEDY)
        except InputError as error:
            return error
    return outcome


def _candidates(image: Image, record: Record, floor: float) -> ImageCandidates:
    """The boxes of a prediction above the floor, in the detector's order."""
    found = [(instance.label, instance.box, instance.score) for instance in record.instances or ()]
    for region, prediction in zip(image.regions, record.regions or ()):
        found += [(region, box, score) for box, score in zip(prediction.boxes, prediction.scores)]
    found = [(region, box, score) for region, box, score in found if score is not None and score > floor]
    return ImageCandidates(
        image.line,
        image.filename,
        region=np.array([region for region, _, _ in found], dtype=np.int32),
        box=np.array([box for _, box, _ in found], dtype=np.float32).reshape(-1, 4),
        score=np.array([score for _, _, score in found], dtype=np.float32),
    )
