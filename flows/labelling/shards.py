"""Checks which shards of a plan are labelled, and which of their lines could not be."""

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

THREADS = 8  # for reading finished shards
SHARE_TO_WARN_OF = 0.1  # share of unusable images from which the image folder is probably wrong


def missing_shards(manifest: Manifest, among: Sequence[int] | None = None) -> list[int]:
    """The shards (of those `among`) that are missing, damaged, or of another plan."""
    indices = range(len(manifest.shards)) if among is None else among
    key, paths = manifest.key, map(manifest.shard_path, indices)
    with ThreadPoolExecutor(THREADS) as readers:  # whole files are read, which is faster in parallel
        return [index for index, found in zip(indices, readers.map(candidates_key, paths)) if found != key]


def check_labelled(manifest: Manifest, shards: Sequence[int]) -> None:
    """Raises RuntimeError if a shard has no file of this plan, since an executor may not notice a failure."""
    if failed := missing_shards(manifest, shards):
        raise RuntimeError(f"{len(failed)} of {many(len(manifest.shards), 'shard')} failed; run again to resume")


def check_usable(manifest: Manifest, indices: Sequence[int]) -> None:
    """Raises InputError if no image of newly labelled shards was usable; warns if many were not.

    Before raising, the shards are removed, so that they are labelled once the images are in place.
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
    """The error of a stage that could use no image. problems: one for each image."""
    first = problems[0]
    what = (
        f"not one of {many(len(problems), 'image')} could be used; first {first.filename or 'a line'}: {first.reason}"
    )
    return InputError(source, what, "expected the folder with the images of these lines")


def share_warning(unusable: int, lines: int) -> str:
    """A warning if many images could not be used; otherwise ""."""
    if unusable <= SHARE_TO_WARN_OF * lines:
        return ""
    share = f"{unusable} of {many(lines, 'image')} could not be used ({unusable / lines:.0%})"
    return f"{share}; is this the folder of the images?"


def problems_of(manifest: Manifest, among: Sequence[int] | None = None) -> list[ImageProblem]:
    """The lines of a plan, or of the shards `among`, that could not be labelled, in order."""
    indices = range(len(manifest.shards)) if among is None else among
    return [problem for index in indices for problem in read_candidates(manifest.shard_path(index)).problems]
