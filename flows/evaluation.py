"""The evaluation stage: a detector over labelled images, judged.

`evaluate` keeps everything in memory, for the rounds of the pipeline; `evaluate_benchmark` labels shard by shard like
any other labelling, so that an interrupted run goes on.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from flows.benchmarks import (
    Benchmark,
    BenchmarkData,
    Metric,
    OdinwData,
    OdinwSuite,
    Truth,
    only,
    open_benchmark,
    question_of,
)
from flows.inference import BATCH_SIZE, Predictor, infer, load_planned_detector, missing_shards
from flows.measuring import SHOWN_SCORE, measure
from flows.planning import Manifest, plan, software_version
from formats.candidates import ImageCandidates, read_candidates
from formats.files import write_whole
from formats.label_map import label_map_beside, write_label_map
from formats.odvg import record_to_line
from formats.problems import InputError
from formats.record import Instance, Record
from formats.toml_config import read_config
from grounding_model.data import CocoData, open_dataset
from grounding_model.detector import load_detector
from grounding_model.metrics.coco import aligned
from grounding_model.prompt import Prompt

if TYPE_CHECKING:
    from grounding_model.evaluate import CocoResult

EVALUATION_NAME = "evaluation.json"
SAMPLES_NAME = "samples.npz"


@dataclass(frozen=True)
class EvaluateConfig:
    """A measurement: `groundhog evaluate`.

    metric: None takes what the truth is usually judged by. categories: None asks for all of the truth.
    score_threshold: of generalized expressions alone. resamples: of the bootstrap interval; 0 leaves it out.
    work_dir: candidates, JSON, CSV and plots go there; overwrite replaces what another evaluation left in it.
    get: where the data come from and how they lie, told when they are not there. published: known numbers, told below
    the table.
    """

    truth: BenchmarkData | OdinwSuite
    metric: Metric | None = None
    weights: str = "glyph-tiny"
    text_encoder: Path | None = None
    categories: tuple[str, ...] | None = None
    scale: tuple[int, int] | None = None  # the model's own
    max_per_image: int = 300
    chunk_size: int | None = None
    batch_size: int = BATCH_SIZE
    shard_size: int = 64
    device: str = "auto"
    score_threshold: float = 0.7
    resamples: int = 1000
    work_dir: Path = Path("work_dirs/evaluation")
    overwrite: bool = False
    get: str = ""
    published: tuple[str, ...] = ()


def evaluate(
    truth: Truth,
    detector: Predictor | str | Path,
    categories: Sequence[str] | None = None,
    *,
    scale: tuple[int, int] | None = None,
    max_per_image: int = 300,
    chunk_size: int | None = None,
    batch_size: int = BATCH_SIZE,
    out: str | Path | None = None,
    show_dir: str | Path | None = None,
) -> CocoResult:
    """COCO AP of a detector that is asked for `categories` (None: all of the truth) on every labelled image.

    detector: or the weights of one.
    out: where the numbers are written as JSON. show_dir: where predictions are drawn.
    Raises InputError for an image that cannot be read (a truth with holes is none) and for a category that the truth
    does not have.
    """
    from grounding_model.evaluate import evaluate_coco

    detector = load_detector(detector) if isinstance(detector, str | Path) else detector
    known, images = _open(truth)
    names = list(known) if categories is None else list(categories)
    if unknown := [name for name in names if name not in known]:
        raise InputError("categories", f"the truth has no {', '.join(unknown)}", f"want some of {', '.join(known)}")
    truths: list[Record] = []
    drawn: deque[np.ndarray | Path] = deque()  # pictures that are read ahead of their predictions

    def pictures() -> Iterator[np.ndarray | Path]:
        for index, (picture, record) in enumerate(images):
            truths.append(replace(record, filename=f"image-{index}"))
            if show_dir is not None:
                drawn.append(picture)
            yield picture

    outcomes = detector.predict_each(
        pictures(),
        Prompt.categories(names),
        score_threshold=0.0,
        max_per_image=max_per_image,
        scale=scale,
        batch_size=batch_size,
        chunk_size=chunk_size,
        mixed_sizes=False,
    )
    predictions = []
    for index, outcome in enumerate(outcomes):
        if not isinstance(outcome, Record):
            raise outcome.error
        predictions.append(replace(outcome, filename=f"image-{index}"))
        if show_dir is not None:
            _draw(drawn.popleft(), outcome, Path(show_dir) / f"image-{index:05d}.jpg")
    result = evaluate_coco(truths, predictions, names)
    if out is not None:
        with write_whole(out) as file:
            json.dump(result.as_dict() | {"images": len(truths), "categories": names}, file, indent=2)
            file.write("\n")
    return result


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
    detector = _Lazy(lambda: load_detector(config.weights, config.text_encoder, config.device))
    scores = {}
    for name, split in suite.sets.items():
        own = replace(config, truth=OdinwData(suite.root / split), work_dir=config.work_dir / name)
        shown = None if show_dir is None else Path(show_dir) / name
        scores[name] = float(evaluate_benchmark(own, shown, detector).numbers["ap"])
    mean = sum(scores.values()) / len(scores)
    with write_whole(config.work_dir / EVALUATION_NAME) as file:
        json.dump({"ap": mean, "sets": scores, "weights": config.weights, "metric": "coco"}, file, indent=2)
        file.write("\n")
    return aligned([*scores.items(), ("mean AP", mean)])


class _Lazy:
    """A detector that is loaded when it is asked for the first time."""

    def __init__(self, load: Callable[[], Predictor]) -> None:
        self._load = functools.cache(load)

    def predict_each(self, *arguments: Any, **settings: Any) -> Iterator[Any]:
        return self._load().predict_each(*arguments, **settings)


class Evaluated(NamedTuple):
    """numbers: as evaluation.json holds them. table: for people, with the interval."""

    numbers: Mapping[str, Any]
    table: str


def evaluate_benchmark(
    config: EvaluateConfig, show_dir: str | Path | None = None, detector: Predictor | None = None
) -> Evaluated:
    """Labels the benchmark's images shard by shard, going on where an earlier run stopped, and judges the candidates.

    Writes evaluation.json and samples.npz into work_dir, and what write_report tells. show_dir: the worst images go
    there. detector: None loads the weights, unless every shard is there.
    Raises InputError for data that are missing, for an image that cannot be read (a truth with holes is none), and
    for another evaluation in work_dir.
    """
    from flows.evaluation_report import show_worst, write_report
    from grounding_model.metrics.bootstrap import interval_of, write_samples

    if isinstance(config.truth, OdinwSuite):
        raise InputError("truth", "several data sets", "want one of them; evaluate_config measures them all")
    config.work_dir.mkdir(parents=True, exist_ok=True)
    try:
        benchmark = only(open_benchmark(config.truth, config.work_dir), config.categories)
    except InputError as error:
        if config.get and not error.remedy:
            raise InputError(error.place, error.what, config.get) from None
        raise
    metric = config.metric or benchmark.metric
    predictions = predict_benchmark(config, benchmark, metric, detector)
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
    with write_whole(config.work_dir / EVALUATION_NAME) as file:
        json.dump(numbers, file, indent=2, ensure_ascii=False)
        file.write("\n")
    told = "" if interval is None else "\n95 % interval of {}: {:.3f} … {:.3f}".format(*interval)
    return Evaluated(numbers, found.table + told)


def predict_benchmark(
    config: EvaluateConfig, benchmark: Benchmark, metric: Metric, detector: Predictor | None = None
) -> list[Record]:
    """The detector's records of a benchmark, from candidates in work_dir that are made where they are missing."""
    questions = _write_questions(config.work_dir, benchmark, metric)
    manifest = plan(
        questions,
        benchmark.image_root,
        config.weights,
        config.work_dir,
        text_encoder=config.text_encoder,
        score_floor=0.0,
        scale=config.scale,
        max_per_image=config.max_per_image,
        chunk_size=config.chunk_size,
        shard_size=config.shard_size,
        overwrite=config.overwrite,
    )
    if missing_shards(manifest):
        asking = _Asking(detector or load_planned_detector(manifest, config.device), metric)
        infer(manifest, asking, batch_size=config.batch_size)
    _refuse_holes(manifest)
    return list(_read_predictions(manifest, benchmark, metric))


class _Asking:
    """A detector that is asked as the metric wants: the pipeline's lines hold phrases, and phrases only."""

    def __init__(self, detector: Predictor, metric: Metric) -> None:
        self._detector = detector
        self._metric = metric

    def predict_each(self, images: Any, prompt: Any, **settings: Any) -> Iterator[Any]:
        prompts = prompt if isinstance(prompt, Prompt) else [self._converted(each) for each in prompt]
        return self._detector.predict_each(images, prompts, **settings)

    def _converted(self, prompt: Prompt) -> Prompt:
        if self._metric in ("expressions", "generalized_expressions"):
            return Prompt.expression(prompt.text)
        if self._metric == "described_objects":
            return Prompt.categories(prompt.labels)
        return prompt


def _write_questions(work_dir: Path, benchmark: Benchmark, metric: Metric) -> Path:
    """The ODVG file that is labelled: a line a record of the truth. The metric belongs to what was asked."""
    common = bool(benchmark.names) and benchmark.asked is None
    path = work_dir / ("questions_od.json" if common else "questions_vg.json")
    asked: Sequence[tuple[str, ...] | None] = benchmark.asked or [None] * len(benchmark.records)
    with write_whole(path) as file:
        for record, names in zip(benchmark.records, asked, strict=True):
            line = record_to_line(question_of(record, metric, names), placeholder=True)
            file.write(json.dumps(line | {"metric": metric}, ensure_ascii=False) + "\n")
    if common:
        write_label_map(label_map_beside(path), dict(enumerate(benchmark.names)))
    return path


def _refuse_holes(manifest: Manifest) -> None:
    """Raises InputError for the first image that could not be labelled; its shard is made again next time."""
    for shard in manifest.shards:
        path = manifest.shard_path(shard.index)
        for problem in read_candidates(path).problems:
            path.unlink()
            raise InputError(problem.filename, problem.reason, "mend it, or take it out of the truth; run again")


def _read_predictions(manifest: Manifest, benchmark: Benchmark, metric: Metric) -> Iterator[Record]:
    """A record for each of the truth, in its order."""
    for shard in manifest.shards:
        candidates = read_candidates(manifest.shard_path(shard.index))
        found = {each.line: each for each in candidates.by_line()}
        for line in range(shard.first_line, shard.first_line + shard.lines):
            names = benchmark.names if benchmark.asked is None else benchmark.asked[line]
            yield _prediction(benchmark.records[line], found.get(line), names, metric)


def _prediction(truth: Record, found: ImageCandidates | None, names: Sequence[str], metric: Metric) -> Record:
    """names: what the image was asked for. found: None where nothing was."""
    rows = [] if found is None else list(zip(found.region.tolist(), found.box.tolist(), found.score.tolist()))
    if truth.caption is None:
        return replace(
            truth, instances=tuple(Instance(tuple(box), label, names[label], score) for label, box, score in rows)
        )
    regions = []
    for place, region in enumerate(question_of(truth, metric).regions or ()):
        own = [(tuple(box), score) for label, box, score in rows if label == place]
        regions.append(replace(region, boxes=tuple(box for box, _ in own), scores=tuple(score for _, score in own)))
    return replace(truth, regions=tuple(regions))


def _truth_digest(benchmark: Benchmark, metric: Metric) -> str:
    """What two runs must share to be compared: the same records, categories and metric."""
    digest = hashlib.sha256(json.dumps([metric, *benchmark.names]).encode())
    for record in benchmark.records:
        digest.update(json.dumps(record_to_line(record), sort_keys=True).encode())
    return digest.hexdigest()


def _draw(picture: np.ndarray | Path, record: Record, target: Path) -> None:
    """The boxes worth showing, on their picture."""
    from PIL import Image

    from browse.draw import draw_record
    from grounding_model.image import read_image

    shown = tuple(instance for instance in record.instances or () if (instance.score or 0.0) >= SHOWN_SCORE)
    target.parent.mkdir(parents=True, exist_ok=True)
    pixels = read_image(picture) if isinstance(picture, Path) else picture
    Image.fromarray(draw_record(pixels, replace(record, instances=shown))).save(target)


def _open(truth: Truth) -> tuple[list[str], Iterator[tuple[np.ndarray | Path, Record]]]:
    """Category names, and every image with its record."""
    if isinstance(truth, CocoData):
        from formats.coco import read_coco, read_coco_categories
        from formats.images import safe_join

        names = list(truth.categories or read_coco_categories(truth.annotations))
        return names, (
            (safe_join(truth.image_root, record.filename), record) for record in read_coco(truth.annotations)
        )
    dataset = open_dataset(truth)
    return list(dataset.categories.values()), (dataset.load(index) for index in range(len(dataset)))
