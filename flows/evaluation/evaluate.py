"""The evaluation stage: a detector over labelled images, judged.

`evaluate` asks a detector that is there, for rounds of the pipeline and notebooks; `evaluate_benchmark` labels shard by
shard like any other labelling, so that an interrupted run goes on. benchmarks.py reads the truth for both.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

from flows.evaluation.benchmarks import (
    Benchmark,
    BenchmarkData,
    Metric,
    OdinwData,
    OdinwSuite,
    only,
    open_benchmark,
)
from flows.evaluation.queries import Answers, Asking, write_questions
from flows.evaluation.report import show_worst, write_report
from flows.evaluation.scoring import SHOWN_SCORE, measure
from flows.labelling.detector_pool import HeldDetectors, Lender, Predictor, devices_of, lender_of
from flows.labelling.infer import infer
from flows.labelling.manifest import MANIFEST_NAME, Manifest
from flows.labelling.plan import plan, software_version
from flows.labelling.settings import Execution, LabellingSettings
from flows.labelling.shards import missing_shards
from formats.images import check_size, safe_join
from formats.io.errors import InputError
from formats.io.files import write_json
from formats.io.ranges import CountOrZero, Share
from formats.io.toml_config import read_config
from formats.odvg import record_to_line
from formats.record import Record
from grounding_model.data.sources import TrainingData
from grounding_model.detector import load_detector
from grounding_model.inputs.prompt import Prompt
from grounding_model.metrics.bootstrap import interval_of, write_samples
from grounding_model.metrics.coco import aligned, evaluate_coco
from grounding_model.metrics.expressions import truth_as_the_reference

if TYPE_CHECKING:
    from grounding_model.metrics.coco import CocoResult

EVALUATION_NAME = "evaluation.json"
SAMPLES_NAME = "samples.npz"


@dataclass(frozen=True)
class EvaluateConfig(LabellingSettings, Execution):
    """A measurement: `groundhog evaluate`, with the settings of the labelling that it judges.

    metric: None takes what the truth is usually judged by. categories: None asks for all of the truth.
    score_threshold, first_box_alone: of generalized expressions alone; the latter judges an expression by the first box
    that it means, as mmdet 3.3.0 does and the published numbers of gRefCOCO want.
    resamples: of the bootstrap interval; 0 leaves it out.
    work_dir: candidates, JSON, CSV and plots go there; overwrite replaces what another evaluation left in it.
    get: where the data come from and how they lie, told when they are not there. published: known numbers, told below
    the table.
    """

    truth: BenchmarkData | OdinwSuite
    metric: Metric | None = None
    categories: tuple[str, ...] | None = None
    score_floor: float = field(default=0.0, kw_only=True)  # an AP wants every box
    score_threshold: Share = 0.7
    first_box_alone: bool = False
    resamples: CountOrZero = 1000
    work_dir: Path = Path("work_dirs/evaluation")
    get: str = ""
    published: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        LabellingSettings.__post_init__(self)
        Execution.__post_init__(self)
        if self.workers.runner != "threads":
            raise InputError("workers.runner", f"'{self.workers.runner}' cannot evaluate", 'expected "threads"')


def evaluate(
    truth: TrainingData,
    detector: Predictor | str | Path,
    categories: Sequence[str] | None = None,
    *,
    scale: tuple[int, int] | None = None,
    max_per_image: int = LabellingSettings.max_per_image,
    chunk_size: int | None = None,
    batch_size: int = Execution.batch_size,
    out: str | Path | None = None,
    show_dir: str | Path | None = None,
) -> CocoResult:
    """COCO AP of a detector that is asked for `categories` (None: all of the truth) on every labelled image.

    detector: or the weights of one.
    out: where the numbers are written as JSON. show_dir: where the worst images are drawn.
    Raises InputError for an image that cannot be read or has another size than its record (a truth with holes is
    none), for captions, and for a category that the truth does not have.
    """
    detector = load_detector(detector) if isinstance(detector, str | Path) else detector
    with TemporaryDirectory(prefix="groundhog-") as folder:
        benchmark = only(open_benchmark(truth, Path(folder)), categories)
        if not benchmark.names:
            raise InputError("truth", "captions", "expected labelled objects; `groundhog evaluate` measures captions")
        outcomes = detector.predict_each(
            [safe_join(benchmark.image_root, record.filename) for record in benchmark.records],
            Prompt.categories(benchmark.names),
            score_threshold=0.0,
            max_per_image=max_per_image,
            scale=scale,
            batch_size=batch_size,
            chunk_size=chunk_size,
            mixed_sizes=False,
        )
        predictions = [_found(record, outcome) for record, outcome in zip(benchmark.records, outcomes, strict=True)]
        result = evaluate_coco(benchmark.records, predictions, benchmark.names, areas=benchmark.areas)
        if show_dir is not None:
            show_worst(Path(show_dir), benchmark, predictions, "coco", SHOWN_SCORE)
    if out is not None:
        told = {"images": len(benchmark.records), "categories": list(benchmark.names)}
        write_json(out, result.as_dict() | told)
    return result


def _found(truth: Record, outcome: Any) -> Record:
    if not isinstance(outcome, Record):
        raise outcome.error
    sizes = (outcome.height, outcome.width), (truth.height, truth.width)
    check_size(truth.filename, *sizes, "record says", "expected the same size")
    return replace(outcome, filename=truth.filename)


def evaluate_config(path: str | Path, overrides: Sequence[str] = (), show_dir: str | Path | None = None) -> str:
    """`groundhog evaluate`: measures as a TOML file says, writes what it found, gives the table."""
    config = read_config(path, EvaluateConfig, overrides)
    if isinstance(config.truth, OdinwSuite):
        table = _evaluate_suite(config, config.truth, show_dir)
    else:
        table = evaluate_benchmark(config, show_dir).table
    published = "".join(f"\npublished: {line}" for line in config.published)
    return f"{table}{published}\nwritten to {config.work_dir}"


def _evaluate_suite(config: EvaluateConfig, suite: OdinwSuite, show_dir: str | Path | None) -> str:
    """Each set by itself in work_dir/NAME, and the mean of their numbers; the table of it."""
    if unknown := set(suite.prompts) - set(suite.sets):
        raise InputError(
            "truth.prompts", f"no set is called {', '.join(sorted(unknown))}", "expected names of truth.sets"
        )
    detectors = _detectors(config)
    scores = {}
    for name, split in suite.sets.items():
        truth = OdinwData(suite.root / split, suite.prompts.get(name, {}))
        own = replace(config, truth=truth, work_dir=config.work_dir / name)
        shown = None if show_dir is None else Path(show_dir) / name
        scores[name] = float(_evaluated(own, shown, detectors).numbers["ap"])
    mean = sum(scores.values()) / len(scores)
    told = {"ap": mean, "sets": scores, "weights": config.weights, "metric": "coco"}
    write_json(config.work_dir / EVALUATION_NAME, told)
    return aligned([*scores.items(), ("mean AP", mean)])


def _detectors(config: EvaluateConfig) -> Callable[[], Lender]:
    """Looks for the devices at the first call: where every shard is there, nothing has to run."""
    return functools.cache(lambda: HeldDetectors(devices_of(config.workers.devices)))


class _Asked:
    """Lent detectors, asked as the metric wants."""

    def __init__(self, lender: Lender, metric: Metric, prompts: Mapping[str, Mapping[str, str]]) -> None:
        self.devices = lender.devices
        self._lender, self._metric, self._prompts = lender, metric, prompts

    @contextmanager
    def lend(self, manifest: Manifest) -> Iterator[Predictor]:
        with self._lender.lend(manifest) as detector:
            yield Asking(detector, self._metric, self._prompts)


class Evaluated(NamedTuple):
    """numbers: as evaluation.json holds them. table: for people, with the interval."""

    numbers: Mapping[str, Any]
    table: str


def evaluate_benchmark(
    config: EvaluateConfig, show_dir: str | Path | None = None, detector: Predictor | None = None
) -> Evaluated:
    """Labels the benchmark's images shard by shard, going on where an earlier run stopped, and judges the candidates.

    Writes evaluation.json and samples.npz into work_dir, and what write_report tells. show_dir: the worst images go
    there. detector: instead of the configuration's weights on its workers.
    Raises InputError for data that are missing, for an image that cannot be read (a truth with holes is none), and
    for another evaluation in work_dir.
    """
    return _evaluated(config, show_dir, _detectors(config) if detector is None else lambda: lender_of(detector))


def _evaluated(config: EvaluateConfig, show_dir: str | Path | None, detectors: Callable[[], Lender]) -> Evaluated:
    if isinstance(config.truth, OdinwSuite):
        raise InputError("truth", "several data sets", "expected one of them; evaluate_config measures them all")
    config.work_dir.mkdir(parents=True, exist_ok=True)
    benchmark = _open(config, config.truth)
    metric = config.metric or benchmark.metric
    if config.first_box_alone:
        benchmark = _as_the_reference(benchmark, metric)
    answers = predict_benchmark(config, benchmark, metric, detectors)
    # Boxes of categories are judged as arrays; the judges of captions want all records at once.
    predictions: Sequence[Record] = answers if benchmark.names else list(answers)
    found = measure(benchmark, predictions, metric, config.score_threshold)
    interval = None
    if config.resamples:
        interval = (found.headline, *interval_of(found.samples, resamples=config.resamples))
    numbers = {
        **found.numbers,
        "metric": metric,
        "headline": found.headline,
        "interval": None if interval is None else list(interval[1:]),
        "images": len({record.filename for record in benchmark.records}),
        "records": len(benchmark.records),
        "categories": list(benchmark.names),
        "weights": config.weights,
        "truth_sha256": _truth_digest(benchmark, metric),
        "software": software_version(),
    }
    write_samples(config.work_dir / SAMPLES_NAME, found.samples)
    write_report(config.work_dir, benchmark, predictions, found)
    if show_dir is not None:
        show_worst(Path(show_dir), benchmark, predictions, metric, config.score_threshold)
    write_json(config.work_dir / EVALUATION_NAME, numbers, ensure_ascii=False)
    told = "" if interval is None else "\n95 % interval of {}: {:.3f} … {:.3f}".format(*interval)
    return Evaluated(numbers, found.table + told)


def _as_the_reference(benchmark: Benchmark, metric: Metric) -> Benchmark:
    if metric != "generalized_expressions":
        raise InputError("first_box_alone", f"means nothing to '{metric}'", "expected it with generalized_expressions")
    return benchmark._replace(records=truth_as_the_reference(benchmark.records))


def _open(config: EvaluateConfig, truth: BenchmarkData) -> Benchmark:
    """Raises InputError for data that are missing, and tells where they come from."""
    try:
        return only(open_benchmark(truth, config.work_dir), config.categories)
    except InputError as error:
        if config.get and not error.remedy:
            raise InputError(error.location, error.what, config.get.strip()) from None
        raise


def predict_benchmark(
    config: EvaluateConfig, benchmark: Benchmark, metric: Metric, detectors: Callable[[], Lender]
) -> Answers:
    """What is found in a benchmark, from candidates in work_dir that `detectors` make where they are missing."""
    if not (config.work_dir / MANIFEST_NAME).exists():
        for record in benchmark.records[:1]:  # where this is missing, the others are
            if not (path := safe_join(benchmark.image_root, record.filename)).is_file():
                raise InputError(path, "no such image", config.get.strip())
    manifest = plan_benchmark(config, benchmark, metric)
    if missing_shards(manifest):
        asked = _Asked(detectors(), metric, benchmark.prompts)
        infer(manifest, lender=asked, batch_size=config.batch_size)
    return Answers(manifest, benchmark, metric)


def plan_benchmark(config: EvaluateConfig, benchmark: Benchmark, metric: Metric) -> Manifest:
    """The questions and the manifest of their labelling, in work_dir."""
    return plan(
        write_questions(config.work_dir, benchmark, metric),
        benchmark.image_root,
        work_dir=config.work_dir,
        settings=config,
        execution=config,
    )


def _truth_digest(benchmark: Benchmark, metric: Metric) -> str:
    """What two runs must share to be compared: the same records, categories and metric."""
    digest = hashlib.sha256(json.dumps([metric, *benchmark.names]).encode())
    for record in benchmark.records:
        digest.update(json.dumps(record_to_line(record), sort_keys=True).encode())
    return digest.hexdigest()
