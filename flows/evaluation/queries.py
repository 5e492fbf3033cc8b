"""What a detector is asked about a benchmark, and its answers, which lie in shards on the disk."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flows.evaluation.benchmarks import Benchmark, Metric
from flows.labelling.detector_pool import Predictor
from flows.labelling.manifest import Manifest
from formats.candidates import Candidates, ImageCandidates, read_candidates
from formats.dataset_names import annotation_path, label_map_beside
from formats.io.errors import InputError
from formats.io.files import write_whole
from formats.label_map import write_label_map
from formats.odvg import record_to_line
from formats.record import Instance, Record, Region
from grounding_model.inputs.prompt import Prompt
from grounding_model.metrics.found_boxes import FoundBoxes

if TYPE_CHECKING:
    from grounding_model.metrics.found_boxes import FoundBoxes

EXPRESSIONS: tuple[Metric, ...] = ("expressions", "generalized_expressions")


def question_of(record: Record, metric: Metric, asked: Sequence[str] | None = None) -> Record:
    """What the detector is told of a record: no boxes, and of a caption the phrases to look for."""
    if asked is not None:
        caption, spans = "", []
        for name in asked:
            spans.append((len(caption), len(caption) + len(name)))
            caption += f"{name}. "
        regions = tuple(Region((), (name,), (span,)) for name, span in zip(asked, spans))
        return Record(record.filename, record.height, record.width, caption=caption, regions=regions)
    if record.caption is None:
        return replace(record, instances=None)
    if metric in EXPRESSIONS:
        return replace(record, regions=(Region((), (record.caption,), ((0, len(record.caption)),)),))
    return replace(record, regions=tuple(replace(each, boxes=(), scores=()) for each in record.regions or ()))


def write_questions(work_dir: Path, benchmark: Benchmark, metric: Metric) -> Path:
    """The ODVG file that is labelled: a line a record of the truth. Metric and prompts belong to what was asked."""
    common = bool(benchmark.names) and benchmark.asked is None
    path = annotation_path(work_dir, "questions", "od" if common else "vg")
    asked: Sequence[tuple[str, ...] | None] = benchmark.asked or [None] * len(benchmark.records)
    told = {"prompts": benchmark.prompts} if benchmark.prompts else {}
    with write_whole(path) as file:
        for record, names in zip(benchmark.records, asked, strict=True):
            line = record_to_line(question_of(record, metric, names), placeholder=True)
            file.write(json.dumps(line | {"metric": metric} | told, ensure_ascii=False) + "\n")
    if common:
        write_label_map(label_map_beside(path), dict(enumerate(benchmark.names)))
    return path


class Asking:
    """A detector that is asked as the metric wants: the pipeline's lines hold phrases, and phrases only."""

    def __init__(
        self, detector: Predictor, metric: Metric, prompts: Mapping[str, Mapping[str, str]] | None = None
    ) -> None:
        """prompts: as Benchmark has them."""
        self._detector = detector
        self._metric = metric
        self._prompts = prompts or {}

    def predict_each(self, images: Any, prompt: Any, **settings: Any) -> Iterator[Any]:
        if isinstance(prompt, Prompt):
            prompts: Any = self._in_other_words(prompt)
        else:
            prompts = [self._converted(each) for each in prompt]
        return self._detector.predict_each(images, prompts, **settings)

    def _in_other_words(self, prompt: Prompt) -> Prompt:
        own = {name: parts for name, parts in self._prompts.items() if name in prompt.labels}
        return Prompt.categories(prompt.labels, enhance=own) if own else prompt

    def _converted(self, prompt: Prompt) -> Prompt:
        if self._metric in EXPRESSIONS:
            return Prompt.expression(prompt.text)
        if self._metric == "described_objects":
            return Prompt.categories(prompt.labels)
        return prompt


class Answers(Sequence[Record]):
    """A record for each of the truth, in its order. One shard is in memory at a time, and read when it is wanted."""

    def __init__(self, manifest: Manifest, benchmark: Benchmark, metric: Metric) -> None:
        """Raises InputError for the first image that could not be labelled; its shard is made again next time."""
        for shard in manifest.shards:
            path = manifest.shard_path(shard.index)
            for problem in read_candidates(path).problems:
                path.unlink()
                raise InputError(problem.filename, problem.reason, "mend it, or take it out of the truth; run again")
        self._manifest = manifest
        self._benchmark = benchmark
        self._metric = metric
        self._labels = {name: label for label, name in enumerate(benchmark.names)}
        self._open: tuple[int, dict[int, ImageCandidates]] | None = None  # index of a shard, its images by line

    def __len__(self) -> int:
        return len(self._benchmark.records)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[each] for each in range(len(self))[place]]
        line = range(len(self))[place]
        shard = self._manifest.shards[bisect_right(self._manifest.shards, line, key=lambda each: each.first_line) - 1]
        if self._open is None or self._open[0] != shard.index:
            self._open = shard.index, {each.line: each for each in self._shard(shard.index).by_line()}
        truth, found = self._benchmark.records[line], self._open[1].get(line)
        names = self._benchmark.names if self._benchmark.asked is None else self._benchmark.asked[line]
        return _answer(truth, found, [(self._labels[name], name) for name in names], self._metric)

    def found_boxes(self) -> FoundBoxes:
        """The same as arrays."""
        shards = (self._shard(shard.index) for shard in self._manifest.shards)
        return FoundBoxes.joined(
            [FoundBoxes(own.line.astype(np.int32), self._labels_of(own), own.box, own.score) for own in shards]
        )

    def _labels_of(self, found: Candidates) -> np.ndarray:
        """(N,) int32: places in the benchmark's names, of places in what each image was asked for."""
        asked = self._benchmark.asked
        if asked is None:
            return found.region
        places = zip(found.line.tolist(), found.region.tolist(), strict=True)
        return np.array([self._labels[asked[line][place]] for line, place in places], dtype=np.int32)

    def _shard(self, index: int) -> Candidates:
        return read_candidates(self._manifest.shard_path(index))


def _answer(truth: Record, found: ImageCandidates | None, asked: Sequence[tuple[int, str]], metric: Metric) -> Record:
    """asked: label and name of what the image was asked for. found: None where nothing was."""
    rows = [] if found is None else list(zip(found.region.tolist(), found.box.tolist(), found.score.tolist()))
    if truth.caption is None:
        named = ((tuple(box), asked[place], score) for place, box, score in rows)
        return replace(truth, instances=tuple(Instance(box, label, name, score) for box, (label, name), score in named))
    regions = []
    for place, region in enumerate(question_of(truth, metric).regions or ()):
        own = [(tuple(box), score) for asked_place, box, score in rows if asked_place == place]
        regions.append(replace(region, boxes=tuple(box for box, _ in own), scores=tuple(score for _, score in own)))
    return replace(truth, regions=tuple(regions))
