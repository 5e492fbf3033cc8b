"""`groundhog forgetting`: measures what fine-tuning gained, and what the model lost on other tasks.

Two models, and interpolations between their weights (WiSE-FT, arXiv 2109.01903), are evaluated on the target task of
the fine-tuning and on held-out tasks, each given by an evaluation configuration. Existing scores are not recomputed.
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
from flows.evaluation.config import EVALUATION_NAME, EvaluateConfig
from flows.evaluation.evaluate import evaluate_config
from flows.labelling.settings import Workers, settings_payload
from formats.io.errors import InputError
from formats.io.files import load_json, write_json
from formats.io.plots import new_figure, write_figure
from formats.io.toml_config import read_config
from grounding_model.checkpoints.interpolation import write_interpolation
from grounding_model.checkpoints.locations import checkpoint_hash

RESULT_NAME = "forgetting.json"
PLOT_NAME = "forgetting.png"
ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)
MAX_LOSS = 0.03  # AP; a larger loss is noticeable in use


@dataclass(frozen=True)
class Task:
    """An evaluation configuration, with overrides as for read_config."""

    config: Path
    overrides: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """evaluate_coco.toml -> coco."""
        return self.config.stem.removeprefix("evaluate_")


class Point(NamedTuple):
    """One model. target, held_out: headline scores, 0..1; held_out in the order of the tasks."""

    alpha: float
    target: float
    held_out: tuple[float, ...]

    @property
    def held_out_mean(self) -> float:
        """The mean score of the held-out tasks."""
        return fmean(self.held_out)


@dataclass(frozen=True)
class ForgettingCurve:
    """points: by ascending alpha, from the base model (alpha 0) to the fine-tuned one (alpha 1).

    max_loss: a point is recommended only if the mean score of the held-out tasks falls by less than this.
    """

    target: str
    held_out: tuple[str, ...]
    points: tuple[Point, ...]
    max_loss: float = MAX_LOSS

    @property
    def recommended(self) -> Point:
        """The point with the best target score among the base model and those that lost less than max_loss."""
        base = self.points[0]
        allowed = [
            point for point in self.points if point is base or base.held_out_mean - point.held_out_mean < self.max_loss
        ]
        return max(allowed, key=lambda point: (point.target, point.held_out_mean))

    def table(self) -> str:
        """One line per point, with its differences from the base model."""
        base = self.points[0]
        titles = [self.target, *self.held_out, *(["held-out mean"] if len(self.held_out) > 1 else [])]
        width = max(16, *(len(title) for title in titles))
        lines = ["alpha    " + "  ".join(f"{title:>{width}}" for title in titles)]
        for point in self.points:
            cells = [
                f"{f'{now:.3f} ({now - before:+.3f})':>{width}}"
                for now, before in zip(_scores(point), _scores(base), strict=True)
            ]
            lines.append(f"{point.alpha:<9g}" + "  ".join(cells))
        return "\n".join([*lines, self._advice()])

    def _advice(self) -> str:
        base, best = self.points[0], self.recommended
        if best is base:
            return f"recommended: alpha 0: no other point gains and loses less than {self.max_loss:g} on held-out tasks"
        return (
            f"recommended: alpha {best.alpha:g}: {best.target - base.target:+.3f} on {self.target}, "
            f"{best.held_out_mean - base.held_out_mean:+.3f} on held-out tasks (accepted: -{self.max_loss:g})"
        )

    def as_dict(self) -> dict[str, Any]:
        """The content of forgetting.json."""
        return {
            "target": self.target,
            "held_out": list(self.held_out),
            "most_lost": self.max_loss,
            "recommended_alpha": self.recommended.alpha,
            "points": [point._asdict() | {"held_out_mean": point.held_out_mean} for point in self.points],
        }


def _scores(point: Point) -> list[float]:
    return [point.target, *point.held_out, *([point.held_out_mean] if len(point.held_out) > 1 else [])]


def measure_forgetting(
    base: str | Path,
    tuned: str | Path,
    target: Task,
    held_out: Sequence[Task],
    out_dir: str | Path,
    *,
    alphas: Sequence[float] = ALPHAS,
    max_loss: float = MAX_LOSS,
    text_encoder: str | Path | None = None,
) -> ForgettingCurve:
    """Evaluates all points that are not in out_dir yet, and writes forgetting.json and forgetting.png there.

    base, tuned, text_encoder: as for load_checkpoint. alphas: 0 and 1 are added if missing.
    Raises InputError for an alpha outside 0..1, without a held-out task, for models that cannot be interpolated, and
    for errors of the evaluations.
    """
    if not held_out:
        raise InputError("held_out", "no task", "expected at least one that the model was not fine-tuned for")
    if outside := [alpha for alpha in alphas if not 0 <= alpha <= 1]:
        raise InputError("alphas", f"{outside[0]:g}", "expected 0 (the base weights) to 1 (the fine-tuned ones)")
    out_dir = Path(out_dir)
    models = _Interpolations(str(base), str(tuned), out_dir, text_encoder)
    points = []
    for alpha in sorted({0.0, 1.0, *alphas}):
        first, *others = (models.score(task, alpha) for task in (target, *held_out))
        points.append(Point(alpha, first, tuple(others)))
    curve = ForgettingCurve(target.name, tuple(task.name for task in held_out), tuple(points), max_loss)
    write_json(out_dir / RESULT_NAME, curve.as_dict() | models.ends)
    plot_forgetting(out_dir / PLOT_NAME, [curve])
    return curve


class _Interpolations:
    """The interpolated models, and their scores."""

    def __init__(self, base: str, tuned: str, out_dir: Path, text_encoder: str | Path | None) -> None:
        self._base, self._tuned, self._out_dir, self._text_encoder = base, tuned, out_dir, text_encoder
        hashes = {"base_sha256": checkpoint_hash(base), "tuned_sha256": checkpoint_hash(tuned)}
        self.ends = {"base": base, "tuned": tuned, **hashes}

    def score(self, task: Task, alpha: float) -> float:
        """The headline score of one model on one task."""
        config = read_config(task.config, EvaluateConfig, task.overrides)
        key = self._key(config, alpha)
        stored = self._out_dir / "measurements" / f"{key[:16]}.json"
        if stored.is_file():
            return float(load_json(stored, "remove it to compute it again")["value"])
        # Named by its key, so that an interrupted evaluation can be resumed.
        work_dir = self._out_dir / "evaluations" / f"{task.name}-{key[:16]}"
        with self._weights(alpha) as weights:
            overrides = [
                f"weights={json.dumps(weights)}",
                f"work_dir={json.dumps(str(work_dir))}",
                "overwrite=true",
                "resamples=0",
            ]
            if self._text_encoder is not None:
                overrides.append(f"text_encoder={json.dumps(str(self._text_encoder))}")
            evaluate_config(task.config, (*task.overrides, *overrides))
        numbers = load_json(work_dir / EVALUATION_NAME, "evaluate again")
        headline = numbers.get("headline", "ap")
        payload = {"task": task.name, "alpha": alpha, "headline": headline, "value": numbers[headline]}
        write_json(stored, payload | self.ends | {"evaluation": str(work_dir)})
        return float(numbers[headline])

    @contextmanager
    def _weights(self, alpha: float) -> Iterator[str]:
        """The weights of the model; an interpolated file is removed after use, since it can have a gigabyte."""
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
        """SHA-256 of what determines a score: weights, settings, and content of the ground truth."""
        model = [self.ends["base_sha256"]] if alpha < 1 else []
        model += [self.ends["tuned_sha256"]] if alpha > 0 else []
        deciding = replace(
            config, weights="", text_encoder=None, work_dir=Path(), overwrite=True, workers=Workers(), resamples=0
        )
        parts = [model, alpha, settings_payload(deciding), file_hashes(config.truth)]
        return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()


def plot_forgetting(path: Path, curves: Sequence[ForgettingCurve], title: str = "") -> Path:
    """Plots target against held-out scores, a point per alpha: the mean of the runs, and each run as a thin line."""
    mean = mean_curve(curves)
    base = mean.points[0]
    figure = new_figure(6.0, 4.4)
    axes = figure.add_subplot()
    for curve in curves if len(curves) > 1 else ():
        axes.plot(
            [p.held_out_mean for p in curve.points], [p.target for p in curve.points], color="#9db4cc", linewidth=1
        )
    axes.plot(
        [p.held_out_mean for p in mean.points],
        [p.target for p in mean.points],
        color="#1f5fa8",
        marker="o",
        linewidth=2,
    )
    best = mean.recommended
    label = f"recommended: alpha {best.alpha:g}"
    axes.plot([best.held_out_mean], [best.target], "*", color="#d1492e", markersize=17, label=label, linestyle="none")
    axes.axvline(
        base.held_out_mean - mean.max_loss, color="grey", linestyle=":", label=f"{mean.max_loss:g} below the base model"
    )
    for point in mean.points:
        where = point.held_out_mean, point.target
        axes.annotate(f"alpha {point.alpha:g}", where, textcoords="offset points", xytext=(8, 6))
    axes.set(xlabel=f"held out, AP: {', '.join(mean.held_out)}", ylabel=f"target, AP: {mean.target}", title=title)
    axes.margins(0.12)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="best")
    write_figure(path, figure)
    return path


def mean_curve(curves: Sequence[ForgettingCurve]) -> ForgettingCurve:
    """The mean of several runs with the same alphas and tasks."""
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


def curve_from_dict(payload: Mapping[str, Any]) -> ForgettingCurve:
    """The inverse of ForgettingCurve.as_dict."""
    points = tuple(Point(each["alpha"], each["target"], tuple(each["held_out"])) for each in payload["points"])
    return ForgettingCurve(payload["target"], tuple(payload["held_out"]), points, payload["most_lost"])
