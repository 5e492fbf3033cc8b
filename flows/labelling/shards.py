"""Which shards of a plan are labelled, and which lines of them could not be."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from flows.labelling.manifest import Manifest, read_lines
from formats.candidates import ImageProblem, candidates_key, read_candidates
from formats.io.errors import InputError
from formats.io.plurals import many

logger = logging.getLogger(__name__)

CHECKING = 8  # threads that read finished shards
SHARE_TO_WARN_OF = 0.1  # of a run's images that cannot be used; a data set has some, a wrong folder has many


def missing_shards(manifest: Manifest, among: Sequence[int] | None = None) -> list[int]:
    """The shards (of those `among`) that are not there, are broken, or belong to another plan."""
    indices = range(len(manifest.shards)) if among is None else among
    key, paths = manifest.key, map(manifest.shard_path, indices)
    with ThreadPoolExecutor(CHECKING) as readers:  # every page is read: many answers at once from a disk or a store
        return [index for index, found in zip(indices, readers.map(candidates_key, paths)) if found != key]


def check_labelled(manifest: Manifest, shards: Sequence[int]) -> None:
    """Raises RuntimeError where a shard has no file of this plan: an executor may hear late of a failure, or never."""
    if failed := missing_shards(manifest, shards):
        raise RuntimeError(f"{len(failed)} of {many(len(manifest.shards), 'shard')} failed; run again to resume")


def check_usable(manifest: Manifest, indices: Sequence[int]) -> None:
    """Judges shards that were just labelled: all of them unusable is an error, a good share of them a warning.

    Shards in which no image could be used are removed before the error is raised: once the images are in place,
    labelling again must include them.
    """
    unusable = problems_of(manifest, indices)
    if not unusable:
        return
    lines = sum(1 for index in indices for _ in read_lines(manifest.source, manifest.shards[index]))
    if len(unusable) == lines:
        for index in indices:
            manifest.shard_path(index).unlink()
        raise unusable_error(manifest.source, unusable)
    if warning := share_warning(len(unusable), lines):
        logger.warning("%s", warning)


def unusable_error(source: Path, problems: Sequence[ImageProblem]) -> InputError:
    """For a stage that could use no image; problems: why, one for each."""
    first = problems[0]
    what = (
        f"not one of {many(len(problems), 'image')} could be used; first {first.filename or 'a line'}: {first.reason}"
    )
    return InputError(source, what, "expected the folder of the images that the lines name")


def share_warning(unusable: int, lines: int) -> str:
    """Words for a run in which many images could not be used; "" where few were."""
    if unusable <= SHARE_TO_WARN_OF * lines:
        return ""
    share = f"{unusable} of {many(lines, 'image')} could not be used ({unusable / lines:.0%})"
    return f"{share}; is this the folder of the images?"


def problems_of(manifest: Manifest, among: Sequence[int] | None = None) -> list[ImageProblem]:
    """The lines and images of a plan, or of the shards `among`, that could not be labelled, in the order of lines."""
    indices = range(len(manifest.shards)) if among is None else among
    return [problem for index in indices for problem in read_candidates(manifest.shard_path(index)).problems]
