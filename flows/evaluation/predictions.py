"""Predicts the boxes of a benchmark: plans a labelling, writes shards of candidates, and reads them as predictions.

Existing shards are not predicted again, so an interrupted evaluation resumes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from flows.evaluation.benchmarks import Benchmark, BenchmarkData, Metric, OdinwSuite, paths_of
from flows.evaluation.config import EvaluateConfig
from flows.evaluation.queries import MetricPrompts, query_for, write_queries
from flows.labelling.detector_pool import DetectorPool, Predictor
from flows.labelling.infer import infer
from flows.labelling.manifest import MANIFEST_NAME, Manifest
from flows.labelling.plan import plan
from flows.labelling.shards import missing_shards
from formats.candidates import Candidates, ImageCandidates, read_candidates
from formats.images import safe_join
from formats.io.errors import InputError
from formats.record import Instance, Record
from grounding_model.metrics.predicted_boxes import PredictedBoxes

CUT_AT = 2_000_000  # boxes in memory after which each category is reduced to its limit


def predict_benchmark(
    config: EvaluateConfig, benchmark: Benchmark, metric: Metric, detectors: Callable[[], DetectorPool]
) -> StoredPredictions:
    """The predictions for a benchmark, from the candidates in work_dir; `detectors` makes those that are missing.

    Raises InputError for an image that is missing or unusable, since a score on a part of a benchmark would be
    misleading.
    """
    if not (config.work_dir / MANIFEST_NAME).exists():
        for record in benchmark.records[:1]:  # if this one is missing, the others are too
            if not (path := safe_join(benchmark.image_root, record.filename)).is_file():
                remedy = config.get.strip() or f"expected the images of the truth in {benchmark.image_root}"
                raise InputError(path, "no such image", remedy)
    manifest = plan_benchmark(config, benchmark, metric)
    if missing_shards(manifest):
        pool = _PromptingPool(detectors(), metric, benchmark.prompts)
        try:
            infer(manifest, pool=pool, batch_size=config.batch_size)
        except InputError as error:
            if str(error.location) != str(manifest.source):
                raise
            # The user knows the ground truth, not the file of queries that was made from it.
            remedy = "expected the images of this ground truth"
            raise InputError(location_of(config.truth), error.what, remedy) from error
    return StoredPredictions(manifest, benchmark, metric)


def plan_benchmark(config: EvaluateConfig, benchmark: Benchmark, metric: Metric) -> Manifest:
    """Writes the queries and the manifest for labelling them into work_dir."""
    return plan(
        write_queries(config.work_dir, benchmark, metric),
        benchmark.image_root,
        work_dir=config.work_dir,
        settings=config,
        execution=config,
    )


def location_of(truth: BenchmarkData | OdinwSuite) -> Path | str:
    """The location for errors about the ground truth as a whole: its first file or folder."""
    return next(iter(paths_of(truth)), "truth")


class _PromptingPool:
    """A pool of detectors that use the prompts of a metric."""

    def __init__(self, pool: DetectorPool, metric: Metric, prompts: Mapping[str, Mapping[str, str]]) -> None:
        self.devices = pool.devices
        self._pool, self._metric, self._prompts = pool, metric, prompts

    @contextmanager
    def acquire(self, manifest: Manifest) -> Iterator[Predictor]:
        with self._pool.acquire(manifest) as detector:
            yield MetricPrompts(detector, self._metric, self._prompts)


class StoredPredictions(Sequence[Record]):
    """A prediction for each record of the ground truth, in order. Shards are read when needed, one at a time."""

    def __init__(self, manifest: Manifest, benchmark: Benchmark, metric: Metric) -> None:
        """Raises InputError for the first image that could not be labelled; its shard is removed, to be made again."""
        for shard in manifest.shards:
            path = manifest.shard_path(shard.index)
            for problem in read_candidates(path).problems:
                path.unlink()
                raise InputError(
                    problem.filename, problem.reason, "repair it or remove it from the truth, then run again"
                )
        self._manifest = manifest
        self._benchmark = benchmark
        self._metric = metric
        self._labels = {name: label for label, name in enumerate(benchmark.names)}
        self._min_score = 0.0
        self._open: tuple[int, dict[int, ImageCandidates]] | None = None  # index of a shard, its images by line

    def __len__(self) -> int:
        return len(self._benchmark.records)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[each] for each in range(len(self))[index]]
        line = range(len(self))[index]
        shard = self._manifest.shards[bisect_right(self._manifest.shards, line, key=lambda each: each.first_line) - 1]
        if self._open is None or self._open[0] != shard.index:
            self._open = shard.index, {each.line: each for each in self._shard(shard.index).by_line()}
        truth, candidates = self._benchmark.records[line], self._open[1].get(line)
        names = self._benchmark.names if self._benchmark.queried is None else self._benchmark.queried[line]
        if candidates is not None and truth.caption is None and self._min_score:
            kept = candidates.score >= self._min_score
            region, box, score = candidates.region[kept], candidates.box[kept], candidates.score[kept]
            candidates = candidates._replace(region=region, box=box, score=score)
        return _prediction(truth, candidates, [(self._labels[name], name) for name in names], self._metric)

    def from_score(self, min_score: float) -> StoredPredictions:
        """The same without category boxes below a score, so that far fewer Python objects are created."""
        confident = copy(self)
        confident._min_score = min_score
        return confident

    def as_arrays(self, max_per_category: int | None = None) -> PredictedBoxes:
        """All boxes. max_per_category: only this many of the best boxes of each category over all images.

        In memory are at most two million boxes plus those kept: LVIS val has 180 million, of which 12 million count.
        """
        parts: list[PredictedBoxes] = []
        for shard in self._manifest.shards:
            candidates = self._shard(shard.index)
            parts.append(
                PredictedBoxes(
                    candidates.line.astype(np.int32), self._labels_of(candidates), candidates.box, candidates.score
                )
            )
            if max_per_category is not None and sum(len(part.scores) for part in parts[1:]) > CUT_AT:
                parts = [PredictedBoxes.joined(parts).best_of_each_label(max_per_category)]
        boxes = PredictedBoxes.joined(parts)
        return boxes if max_per_category is None else boxes.best_of_each_label(max_per_category)

    def _labels_of(self, candidates: Candidates) -> np.ndarray:
        """(N,) int32: indices in the benchmark's names, from indices in the names queried in each image."""
        queried = self._benchmark.queried
        if queried is None:
            return candidates.region
        pairs = zip(candidates.line.tolist(), candidates.region.tolist(), strict=True)
        return np.array([self._labels[queried[line][index]] for line, index in pairs], dtype=np.int32)

    def _shard(self, index: int) -> Candidates:
        return read_candidates(self._manifest.shard_path(index))


def _prediction(
    truth: Record, candidates: ImageCandidates | None, names: Sequence[tuple[int, str]], metric: Metric
) -> Record:
    """A prediction as a record. names: (label, name) of each query of the image. candidates: None if it has none."""
    rows = (
        []
        if candidates is None
        else list(zip(candidates.region.tolist(), candidates.box.tolist(), candidates.score.tolist()))
    )
    if truth.caption is None:
        named = ((tuple(box), names[index], score) for index, box, score in rows)
        return replace(truth, instances=tuple(Instance(box, label, name, score) for box, (label, name), score in named))
    regions = []
    for index, region in enumerate(query_for(truth, metric).regions or ()):
        boxes = [(tuple(box), score) for region_index, box, score in rows if region_index == index]
        regions.append(replace(region, boxes=tuple(box for box, _ in boxes), scores=tuple(score for _, score in boxes)))
    return replace(truth, regions=tuple(regions))
