"""The evaluation stage: scores a detector on labelled images.

`evaluate` is for Python, `evaluate_config` for the command line, and `evaluate_benchmark` for the rounds of the loop.
In all of them, open_benchmark reads the ground truth, predict_benchmark labels its images, and measure computes scores.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, overload

from flows.evaluation.benchmarks import Benchmark, BenchmarkData, Metric, OdinwData, OdinwSuite
from flows.evaluation.config import EVALUATION_NAME, EVERY_BOX, SAMPLES_NAME, EvaluateConfig
from flows.evaluation.page import PAGE_NAME, PageData, write_evaluation_page
from flows.evaluation.predictions import StoredPredictions, location_of, predict_benchmark
from flows.evaluation.readers import open_benchmark, select_categories
from flows.evaluation.report import draw_worst, write_evaluation_files
from flows.evaluation.scoring import SHOWN_SCORE, Measurement, measure
from flows.labelling.detector_pool import DetectorPool, LocalDetectorPool, Predictor, devices_of, pool_of
from flows.labelling.plan import software_version
from flows.labelling.settings import EXECUTION, Execution, LabellingSettings, split, values_of
from formats.io.errors import InputError
from formats.io.files import write_json
from formats.io.notebook import html_text
from formats.io.toml_config import read_config
from formats.odvg import record_to_line
from formats.record import Record
from grounding_model.data.sources import TrainingData
from grounding_model.metrics.bootstrap import samples_interval, write_samples
from grounding_model.metrics.coco import CocoResult, aligned
from grounding_model.metrics.expressions import keep_first_boxes


class Evaluated(NamedTuple):
    """numbers: as in evaluation.json. table: human-readable, with the interval."""

    numbers: Mapping[str, Any]
    table: str

    def _repr_html_(self) -> str:
        return html_text(self.table)


@overload
def evaluate(
    truth: EvaluateConfig | str | Path,
    detector: str | Path | None = None,
    categories: Sequence[str] | None = None,
    *,
    show_dir: str | Path | None = None,
    **changes: Any,
) -> Evaluated: ...


@overload
def evaluate(
    truth: TrainingData,
    detector: Predictor | str | Path,
    categories: Sequence[str] | None = None,
    *,
    settings: LabellingSettings = EVERY_BOX,
    execution: Execution = EXECUTION,
    out: str | Path | None = None,
    show_dir: str | Path | None = None,
    **changes: Any,
) -> CocoResult: ...


def evaluate(
    truth: TrainingData | EvaluateConfig | str | Path,
    detector: Predictor | str | Path | None = None,
    categories: Sequence[str] | None = None,
    *,
    settings: LabellingSettings | None = None,
    execution: Execution | None = None,
    out: str | Path | None = None,
    show_dir: str | Path | None = None,
    **changes: Any,
) -> CocoResult | Evaluated:
    """Evaluates a detector on labelled images with COCO's metric, or runs an evaluation configuration.

    truth: labelled images, for which only `out` is written to disk; or an EvaluateConfig or its TOML file, whose
    work_dir receives all files.
    detector: a loaded detector, or weights. With a configuration, only weights; None for those of the configuration.
    categories: those to query and score; None for all of the ground truth.
    out: JSON file for the scores. show_dir: folder for drawings of the worst images.
    settings (None for the defaults with a score floor of 0), execution, and changes to them by name, as in flows.plan:
    scale=(192, 192), batch_size=8, …
    Raises InputError for an image that cannot be read or differs in size from its record (a score on a part of the
    ground truth would be misleading), for captions without a configuration, and for a category that is not in the
    ground truth; TypeError for a name that is not a setting.
    """
    changed = _by_name(changes)
    if categories is not None:
        changed["categories"] = tuple(categories)
    if isinstance(truth, EvaluateConfig | str | Path):
        if settings or execution or out:
            raise TypeError("a configuration has its own settings, execution and work_dir; change them by name")
        if not isinstance(detector, str | Path | None):  # its candidates would be taken for those of the weights
            raise TypeError("a configuration is evaluated with weights; expected their path or name")
        config = truth if isinstance(truth, EvaluateConfig) else read_config(truth, EvaluateConfig)
        return _evaluate_any(*_with_detector(replace(config, **changed), detector), show_dir)
    with TemporaryDirectory(prefix="groundhog-") as folder:
        declared = values_of(settings or EVERY_BOX, LabellingSettings) | values_of(execution or EXECUTION, Execution)
        config = EvaluateConfig(truth, metric="coco", work_dir=Path(folder), **declared | changed)
        scored = _score(*_with_detector(config, detector))
        if show_dir is not None:
            draw_worst(Path(show_dir), scored.benchmark, scored.predictions, "coco", SHOWN_SCORE)
    result = scored.measurement.result
    assert isinstance(result, CocoResult)
    if out is not None:
        benchmark = scored.benchmark
        write_json(out, result.as_dict() | {"images": len(benchmark.records), "categories": list(benchmark.names)})
    return result


def _by_name(changes: Mapping[str, Any]) -> dict[str, Any]:
    """The changes as a dict. Raises TypeError for a name that is not a setting."""
    of_labelling, of_execution = split(changes, LabellingSettings, Execution)
    return of_labelling | of_execution


def _with_detector(
    config: EvaluateConfig, detector: Predictor | str | Path | None
) -> tuple[EvaluateConfig, Callable[[], DetectorPool]]:
    """The configuration with these weights, and a function that returns a pool of detectors for it."""
    if isinstance(detector, str | Path):
        config = replace(config, weights=str(detector))
    if detector is None or isinstance(detector, str | Path):
        # Devices are detected at the first call, since nothing has to run if all shards are complete.
        return config, functools.cache(lambda: LocalDetectorPool(devices_of(config.workers.devices)))
    loaded = detector
    return config, lambda: pool_of(loaded)


def evaluate_config(path: str | Path, overrides: Sequence[str] = (), show_dir: str | Path | None = None) -> str:
    """`groundhog evaluate`: runs the evaluation of a TOML file, writes its files, and returns the table."""
    config = read_config(path, EvaluateConfig, overrides)
    table = evaluate(config, show_dir=show_dir).table
    published = "".join(f"\npublished: {line}" for line in config.published)
    page = config.work_dir / PAGE_NAME
    shown = f", as a page: {page}" if page.is_file() else ""
    return f"{table}{published}\nwritten to {config.work_dir}{shown}"


def evaluate_benchmark(
    config: EvaluateConfig, show_dir: str | Path | None = None, detector: Predictor | None = None
) -> Evaluated:
    """Labels the images of a benchmark, resuming an interrupted run, and scores the candidates.

    Writes evaluation.json, samples.npz and the files of write_evaluation_files into work_dir. show_dir: folder for
    drawings of the worst images. detector: used instead of the configuration's weights on its workers.
    Raises InputError for missing data, for an image that cannot be read (a score on a part of the ground truth would be
    misleading), for several sets, and if work_dir has another evaluation.
    """
    return _evaluate_one(*_with_detector(config, detector), show_dir)


def _evaluate_any(
    config: EvaluateConfig, detectors: Callable[[], DetectorPool], show_dir: str | Path | None
) -> Evaluated:
    if isinstance(config.truth, OdinwSuite):
        return _evaluate_suite(config, config.truth, detectors, show_dir)
    return _evaluate_one(config, detectors, show_dir)


def _evaluate_suite(
    config: EvaluateConfig, suite: OdinwSuite, detectors: Callable[[], DetectorPool], show_dir: str | Path | None
) -> Evaluated:
    """Evaluates each set in work_dir/NAME, and returns the mean AP."""
    if unknown := set(suite.prompts) - set(suite.sets):
        raise InputError(
            "truth.prompts", f"no set is called {', '.join(sorted(unknown))}", "expected names of truth.sets"
        )
    scores = {}
    for name, split_of_set in suite.sets.items():
        truth = OdinwData(suite.root / split_of_set, suite.prompts.get(name, {}))
        part = replace(config, truth=truth, work_dir=config.work_dir / name)
        shown = None if show_dir is None else Path(show_dir) / name
        scores[name] = float(_evaluate_one(part, detectors, shown).numbers["ap"])
    mean = sum(scores.values()) / len(scores)
    numbers = {"ap": mean, "sets": scores, "weights": config.weights, "metric": "coco"}
    write_json(config.work_dir / EVALUATION_NAME, numbers)
    return Evaluated(numbers, aligned([*scores.items(), ("mean AP", mean)]))


def _evaluate_one(
    config: EvaluateConfig, detectors: Callable[[], DetectorPool], show_dir: str | Path | None
) -> Evaluated:
    scored = _score(config, detectors)
    measurement, metric = scored.measurement, scored.metric
    interval = None
    if config.resamples:
        interval = (measurement.headline, *samples_interval(measurement.samples, resamples=config.resamples))
    numbers = _numbers(config, scored, interval)
    write_samples(config.work_dir / SAMPLES_NAME, measurement.samples)
    predictions = scored.predictions
    # Pictures and tables omit boxes below this score; creating records for all boxes would take most of the time.
    shown = predictions.from_score(SHOWN_SCORE) if isinstance(predictions, StoredPredictions) else predictions
    write_evaluation_files(config.work_dir, scored.benchmark, shown, measurement)
    if show_dir is not None:
        draw_worst(Path(show_dir), scored.benchmark, shown, metric, config.score_threshold)
    write_json(config.work_dir / EVALUATION_NAME, numbers, ensure_ascii=False)
    write_evaluation_page(PageData(config, scored.benchmark, shown, metric, numbers))
    interval_line = "" if interval is None else "\n95 % interval of {}: {:.3f} … {:.3f}".format(*interval)
    return Evaluated(numbers, measurement.table + interval_line)


class _Scored(NamedTuple):
    benchmark: Benchmark
    metric: Metric
    predictions: Sequence[Record]
    measurement: Measurement


def _score(config: EvaluateConfig, detectors: Callable[[], DetectorPool]) -> _Scored:
    """Reads the ground truth, predicts, and computes the scores."""
    if isinstance(config.truth, OdinwSuite):
        raise InputError("truth", "several data sets", "expected one of them; flows.evaluate takes a suite")
    config.work_dir.mkdir(parents=True, exist_ok=True)
    benchmark = _open(config, config.truth)
    metric = config.metric or benchmark.metric
    if metric in ("coco", "lvis", "described_objects") and not benchmark.names:
        what = "has captions, which have no AP"
        raise InputError(location_of(config.truth), what, f'expected labelled boxes, or metric = "{benchmark.metric}"')
    if config.first_box_alone:
        benchmark = _with_first_boxes(benchmark, metric)
    stored = predict_benchmark(config, benchmark, metric, detectors)
    # Boxes of categories are scored as arrays; metrics of captions need all records in memory.
    predictions: Sequence[Record] = stored if benchmark.names else list(stored)
    return _Scored(benchmark, metric, predictions, measure(benchmark, predictions, metric, config.score_threshold))


def _numbers(config: EvaluateConfig, scored: _Scored, interval: tuple[str, float, float] | None) -> dict[str, Any]:
    """The content of evaluation.json."""
    benchmark, metric, measurement = scored.benchmark, scored.metric, scored.measurement
    return {
        **measurement.numbers,
        "metric": metric,
        "headline": measurement.headline,
        "interval": None if interval is None else list(interval[1:]),
        "images": len({record.filename for record in benchmark.records}),
        "records": len(benchmark.records),
        "categories": list(benchmark.names),
        "weights": config.weights,
        "truth_sha256": _truth_digest(benchmark, metric),
        "software": software_version(),
    }


def _with_first_boxes(benchmark: Benchmark, metric: Metric) -> Benchmark:
    if metric != "generalized_expressions":
        what = f"does not apply to the metric '{metric}'"
        raise InputError("first_box_alone", what, "expected it with generalized_expressions")
    return benchmark._replace(records=keep_first_boxes(benchmark.records))


def _open(config: EvaluateConfig, truth: BenchmarkData) -> Benchmark:
    """Reads the ground truth. Raises InputError for missing data, saying where to get them."""
    try:
        return select_categories(open_benchmark(truth, config.work_dir), config.categories)
    except InputError as error:
        if config.get and not error.remedy:
            raise InputError(error.location, error.what, config.get.strip()) from None
        raise


def _truth_digest(benchmark: Benchmark, metric: Metric) -> str:
    """SHA-256 of what two evaluations must have in common to be comparable: records, categories and metric."""
    digest = hashlib.sha256(json.dumps([metric, *benchmark.names]).encode())
    for record in benchmark.records:
        digest.update(json.dumps(record_to_line(record), sort_keys=True).encode())
    return digest.hexdigest()
