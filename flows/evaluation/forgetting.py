"""What fine-tuning gained and what it cost: `groundhog forgetting`.

Two models, and those on the line between their weights (WiSE-FT, arXiv 2109.01903), do the task that was tuned for and
tasks that were not, as their evaluation configurations say. What was measured once is kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from flows.evaluation.benchmarks import file_hashes
from flows.evaluation.config import EvaluateConfig
from flows.evaluation.evaluate import EVALUATION_NAME, evaluate_config
from flows.labelling.settings import Workers
from formats.io.errors import InputError
from formats.io.files import load_json, write_json
from formats.io.plots import new_figure, write_figure
from formats.io.toml_config import read_config
from grounding_model.checkpoints.interpolation import write_interpolation
from grounding_model.checkpoints.locations import checkpoint_hash

RESULT_NAME = "forgetting.json"
PLOT_NAME = "forgetting.png"
ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)
MOST_LOST = 0.03


@dataclass(frozen=True)
class Task:
    """An evaluation configuration, and what is changed in it, as read_config takes it."""

    config: Path
    overrides: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """evaluate_coco.toml -> coco."""
        return self.config.stem.removeprefix("evaluate_")


class Point(NamedTuple):
    """One model on the line. target, held_out: the headline number of each task, 0..1, held_out in their order."""

    alpha: float
    target: float
    held_out: tuple[float, ...]

    @property
    def kept(self) -> float:
        """What is known of the held-out tasks: the mean of their numbers."""
        return fmean(self.held_out)


@dataclass(frozen=True)
class ForgettingCurve:
    """points: by rising alpha, from the base model (alpha 0) to the fine-tuned one (alpha 1).

    most_lost: by how much the mean of the held-out numbers may fall for a point to be recommended.
    """

    target: str
    held_out: tuple[str, ...]
    points: tuple[Point, ...]
    most_lost: float = MOST_LOST

    @property
    def recommended(self) -> Point:
        """The best on the target among those that lost less than most_lost; the base model is always one of them."""
        base = self.points[0]
        allowed = [point for point in self.points if point is base or base.kept - point.kept < self.most_lost]
        return max(allowed, key=lambda point: (point.target, point.kept))

    def table(self) -> str:
        """A line a point, with what it gained or lost against the base model."""
        base = self.points[0]
        titles = [self.target, *self.held_out, *(["held-out mean"] if len(self.held_out) > 1 else [])]
        width = max(16, *(len(title) for title in titles))
        lines = ["alpha    " + "  ".join(f"{title:>{width}}" for title in titles)]
        for point in self.points:
            cells = [
                f"{f'{now:.3f} ({now - before:+.3f})':>{width}}"
                for now, before in zip(_numbers(point), _numbers(base), strict=True)
            ]
            lines.append(f"{point.alpha:<9g}" + "  ".join(cells))
        return "\n".join([*lines, self._advice()])

    def _advice(self) -> str:
        base, best = self.points[0], self.recommended
        if best is base:
            return f"recommended: alpha 0: no other point gains and loses less than {self.most_lost:g} held out"
        return (
            f"recommended: alpha {best.alpha:g}: {best.target - base.target:+.3f} on {self.target}, "
            f"{best.kept - base.kept:+.3f} held out (less than {self.most_lost:g} may be lost)"
        )

    def as_dict(self) -> dict[str, Any]:
        """As forgetting.json tells it."""
        return {
            "target": self.target,
            "held_out": list(self.held_out),
            "most_lost": self.most_lost,
            "recommended_alpha": self.recommended.alpha,
            "points": [point._asdict() | {"held_out_mean": point.kept} for point in self.points],
        }


def _numbers(point: Point) -> list[float]:
    return [point.target, *point.held_out, *([point.kept] if len(point.held_out) > 1 else [])]


def measure_forgetting(
    base: str | Path,
    tuned: str | Path,
    target: Task,
    held_out: Sequence[Task],
    out_dir: str | Path,
    *,
    alphas: Sequence[float] = ALPHAS,
    most_lost: float = MOST_LOST,
    text_encoder: str | Path | None = None,
) -> ForgettingCurve:
    """Measures every point, or finds it measured in out_dir, and writes forgetting.json and forgetting.png there.

    base, tuned, text_encoder: as load_checkpoint takes them. alphas: 0 and 1 are added where they are missing.
    Raises InputError for an alpha outside 0..1, without a held-out task, for models without a line between them, and
    for an evaluation that cannot be done.
    """
    if not held_out:
        raise InputError("held_out", "no task", "expected at least one that was not tuned for")
    if outside := [alpha for alpha in alphas if not 0 <= alpha <= 1]:
        raise InputError("alphas", f"{outside[0]:g}", "expected 0 (the base weights) to 1 (the fine-tuned ones)")
    out_dir = Path(out_dir)
    line = _Line(str(base), str(tuned), out_dir, text_encoder)
    points = []
    for alpha in sorted({0.0, 1.0, *alphas}):
        first, *others = (line.measured(task, alpha) for task in (target, *held_out))
        points.append(Point(alpha, first, tuple(others)))
    curve = ForgettingCurve(target.name, tuple(task.name for task in held_out), tuple(points), most_lost)
    write_json(out_dir / RESULT_NAME, curve.as_dict() | line.ends)
    plot_forgetting(out_dir / PLOT_NAME, [curve])
    return curve


class _Line:
    """The models between two, and what was measured of them."""

    def __init__(self, base: str, tuned: str, out_dir: Path, text_encoder: str | Path | None) -> None:
        self._base, self._tuned, self._out_dir, self._text_encoder = base, tuned, out_dir, text_encoder
        hashes = {"base_sha256": checkpoint_hash(base), "tuned_sha256": checkpoint_hash(tuned)}
        self.ends = {"base": base, "tuned": tuned, **hashes}

    def measured(self, task: Task, alpha: float) -> float:
        """The headline number of one model on one task."""
        config = read_config(task.config, EvaluateConfig, task.overrides)
        key = self._key(config, alpha)
        kept = self._out_dir / "measurements" / f"{key[:16]}.json"
        if kept.is_file():
            return float(load_json(kept, "remove it: it is measured again")["value"])
        # Named by what is measured, so that candidates of an evaluation that was interrupted are found again.
        work_dir = self._out_dir / "evaluations" / f"{task.name}-{key[:16]}"
        with self._weights(alpha) as weights:
            places = [
                f"weights={json.dumps(weights)}",
                f"work_dir={json.dumps(str(work_dir))}",
                "overwrite=true",
                "resamples=0",
            ]
            if self._text_encoder is not None:
                places.append(f"text_encoder={json.dumps(str(self._text_encoder))}")
            evaluate_config(task.config, (*task.overrides, *places))
        numbers = load_json(work_dir / EVALUATION_NAME, "measure again")
        headline = numbers.get("headline", "ap")
        told = {"task": task.name, "alpha": alpha, "headline": headline, "value": numbers[headline]}
        write_json(kept, told | self.ends | {"evaluation": str(work_dir)})
        return float(numbers[headline])

    @contextmanager
    def _weights(self, alpha: float) -> Iterator[str]:
        """The model as a file, for as long as it is needed: one of a large model is a gigabyte."""
        if alpha in (0, 1):
            yield self._tuned if alpha else self._base
            return
        path = self._out_dir / "weights" / f"alpha-{alpha:g}.safetensors"
        write_interpolation(self._base, self._tuned, path, alpha, self._text_encoder)
        try:
            yield str(path)
        finally:
            path.unlink()

    def _key(self, config: EvaluateConfig, alpha: float) -> str:
        """SHA-256 of what decides a measurement: the weights, the settings, the bytes of the truth."""
        model = [self.ends["base_sha256"]] if alpha < 1 else []
        model += [self.ends["tuned_sha256"]] if alpha > 0 else []
        deciding = replace(
            config, weights="", text_encoder=None, work_dir=Path(), overwrite=True, workers=Workers(), resamples=0
        )
        parts = [model, alpha, repr(deciding), file_hashes(config.truth)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def plot_forgetting(path: Path, curves: Sequence[ForgettingCurve], title: str = "") -> Path:
    """The target against what is kept, a point an alpha. Of several runs each thinly, and their mean with labels."""
    mean = mean_curve(curves)
    base = mean.points[0]
    figure = new_figure(6.0, 4.4)
    axes = figure.add_subplot()
    for curve in curves if len(curves) > 1 else ():
        axes.plot([p.kept for p in curve.points], [p.target for p in curve.points], color="#9db4cc", linewidth=1)
    axes.plot([p.kept for p in mean.points], [p.target for p in mean.points], color="#1f5fa8", marker="o", linewidth=2)
    best = mean.recommended
    told = f"recommended: alpha {best.alpha:g}"
    axes.plot([best.kept], [best.target], "*", color="#d1492e", markersize=17, label=told, linestyle="none")
    axes.axvline(
        base.kept - mean.most_lost, color="grey", linestyle=":", label=f"{mean.most_lost:g} below the base model"
    )
    for point in mean.points:
        axes.annotate(f"alpha {point.alpha:g}", (point.kept, point.target), textcoords="offset points", xytext=(8, 6))
    axes.set(xlabel=f"held out, AP: {', '.join(mean.held_out)}", ylabel=f"target, AP: {mean.target}", title=title)
    axes.margins(0.12)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="best")
    write_figure(path, figure)
    return path


def mean_curve(curves: Sequence[ForgettingCurve]) -> ForgettingCurve:
    """The mean of runs that were measured at the same alphas on the same tasks."""
    by_alpha = zip(*(curve.points for curve in curves), strict=True)
    points = tuple(
        Point(
            same[0].alpha,
            fmean(point.target for point in same),
            tuple(fmean(numbers) for numbers in zip(*(point.held_out for point in same), strict=True)),
        )
        for same in by_alpha
    )
    return replace(curves[0], points=points)


def curve_from_dict(told: Mapping[str, Any]) -> ForgettingCurve:
    """The inverse of ForgettingCurve.as_dict."""
    points = tuple(Point(each["alpha"], each["target"], tuple(each["held_out"])) for each in told["points"])
    return ForgettingCurve(told["target"], tuple(told["held_out"]), points, told["most_lost"])
