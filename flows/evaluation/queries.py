"""The queries of a benchmark: the lines and prompts with which its metric queries a detector."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flows.evaluation.benchmarks import Benchmark, Metric
from flows.labelling.detector_pool import Predictor
from formats.dataset_names import annotation_path, label_map_beside
from formats.io.files import write_whole
from formats.label_map import write_label_map
from formats.odvg import record_to_line
from formats.record import Record, Region
from grounding_model.inputs.prompt import Prompt

EXPRESSIONS: tuple[Metric, ...] = ("expressions", "generalized_expressions")
QUERIES_STEM = "questions"  # of the ODVG file in the work_dir: questions_od.json, questions_vg.json


def query_for(record: Record, metric: Metric, names: Sequence[str] | None = None) -> Record:
    """The query for a record: without boxes, with the phrases of its caption to detect.

    names: those to query in this image, which become phrases of a caption; None: all of the benchmark.
    """
    if names is not None:
        caption, spans = "", []
        for name in names:
            spans.append((len(caption), len(caption) + len(name)))
            caption += f"{name}. "
        regions = tuple(Region((), (name,), (span,)) for name, span in zip(names, spans))
        return Record(record.filename, record.height, record.width, caption=caption, regions=regions)
    if record.caption is None:
        return replace(record, instances=None)
    if metric in EXPRESSIONS:
        return replace(record, regions=(Region((), (record.caption,), ((0, len(record.caption)),)),))
    return replace(record, regions=tuple(replace(each, boxes=(), scores=()) for each in record.regions or ()))


def write_queries(work_dir: Path, benchmark: Benchmark, metric: Metric) -> Path:
    """Writes the ODVG file to be labelled, a line for each record of the ground truth.

    Each line includes metric and prompts, since they determine the candidates and so must be part of the plan's key.
    """
    one_prompt = bool(benchmark.names) and benchmark.queried is None
    path = annotation_path(work_dir, QUERIES_STEM, "od" if one_prompt else "vg")
    queried: Sequence[tuple[str, ...] | None] = benchmark.queried or [None] * len(benchmark.records)
    prompts = {"prompts": benchmark.prompts} if benchmark.prompts else {}
    with write_whole(path) as file:
        for record, names in zip(benchmark.records, queried, strict=True):
            line = record_to_line(query_for(record, metric, names), placeholder=True)
            file.write(json.dumps(line | {"metric": metric} | prompts, ensure_ascii=False) + "\n")
    if one_prompt:
        write_label_map(label_map_beside(path), dict(enumerate(benchmark.names)))
    return path


class MetricPrompts:
    """A detector that converts prompts to those of a metric, since the lines of a labelling can only have phrases."""

    def __init__(
        self, detector: Predictor, metric: Metric, prompts: Mapping[str, Mapping[str, str]] | None = None
    ) -> None:
        """prompts: as in Benchmark."""
        self._detector = detector
        self._metric = metric
        self._prompts = prompts or {}

    def predict_each(self, images: Any, prompt: Any, **settings: Any) -> Iterator[Any]:
        """As grounding_model.Detector.predict_each."""
        if isinstance(prompt, Prompt):
            prompts: Any = self._enhanced(prompt)
        else:
            prompts = [self._converted(each) for each in prompt]
        return self._detector.predict_each(images, prompts, **settings)

    def _enhanced(self, prompt: Prompt) -> Prompt:
        prompts = {name: parts for name, parts in self._prompts.items() if name in prompt.labels}
        return Prompt.categories(prompt.labels, enhance=prompts) if prompts else prompt

    def _converted(self, prompt: Prompt) -> Prompt:
        if self._metric in EXPRESSIONS:
            return Prompt.expression(prompt.text)
        if self._metric == "described_objects":
            return Prompt.categories(prompt.labels)
        return prompt
