"""Compares two evaluations of the same ground truth: `groundhog evaluate compare A B`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flows.evaluation.config import EVALUATION_NAME, SAMPLES_NAME
from formats.io.errors import InputError
from formats.io.files import load_json
from formats.io.notebook import html_text
from grounding_model.metrics.bootstrap import RESAMPLES, Interval, drawn, interval_within, read_samples

# Keys of every evaluation.json, for one ground truth and for several sets.
ONE_TRUTH, SEVERAL_SETS = {"truth_sha256", "headline", "metric", "records"}, {"sets", "ap"}
MAX_CATEGORIES = 10  # listed in the table, each for gains and losses


class Comparison(NamedTuple):
    """rows: name, score of A, score of B; None if a run does not have it. headline: name of the score of `gain`.

    gain: 95 % interval of B's headline score minus A's, on the same resamples of images.
    categories: name, AP of A, AP of B, by descending gain.
    """

    rows: list[tuple[str, float | None, float | None]]
    headline: str
    gain: Interval
    categories: list[tuple[str, float, float]]

    def _repr_html_(self) -> str:
        return html_text(self.table())

    def table(self) -> str:
        """Scores, the interval of the gain, and the categories that changed most."""
        width = max(len(name) for name, _, _ in self.rows)
        lines = [f"{'':<{width}}  {'A':>5}  {'B':>5}  {'gain':>6}", *_aligned(self.rows)]
        verdict = "not significant" if self.gain.low <= 0 <= self.gain.high else "significant"
        lines.append(
            f"95 % interval of the gain in {self.headline}: {self.gain.low:+.3f} … {self.gain.high:+.3f} ({verdict})"
        )
        gained = [row for row in self.categories if row[2] > row[1]][:MAX_CATEGORIES]
        lost = [row for row in reversed(self.categories) if row[2] < row[1]][:MAX_CATEGORIES]
        for title, rows in (("gained most", gained), ("lost most", lost)):
            lines += [f"\n{title}", *_aligned(rows)] if rows else []
        return "\n".join(lines)


def compare(first: str | Path, second: str | Path, resamples: int = RESAMPLES) -> Comparison:
    """Compares two evaluations. first, second: their work_dir or evaluation.json; gains are second minus first.

    For evaluations of several sets, there is a row for each set and one for the mean. Raises InputError for a folder
    without an evaluation, and for evaluations with different ground truths, categories or metrics.
    """
    folders = _folder(first), _folder(second)
    one, other = (_read(folder) for folder in folders)
    if "sets" in one and one["sets"].keys() == other.get("sets", {}).keys():
        return _compare_sets(folders, one, other, resamples)
    if one.get("truth_sha256") != other.get("truth_sha256") or "sets" in one:
        raise InputError(
            f"{first}, {second}",
            f"different ground truths ({_described(one)}, {_described(other)})",
            "expected two evaluations of the same images, categories and metric",
        )
    names = [name for name, value in {**one, **other}.items() if _is_score(name, value)]
    categories = [
        (name, ap, other["per_category"][name])
        for name, ap in one.get("per_category", {}).items()
        if name in other.get("per_category", {})
    ]
    return Comparison(
        rows=[(name, one.get(name), other.get(name)) for name in names],
        headline=one["headline"],
        gain=interval_within(_gains(folders, resamples)),
        categories=sorted(categories, key=lambda row: row[1] - row[2]),
    )


def _compare_sets(
    folders: tuple[Path, Path], one: Mapping[str, Any], other: Mapping[str, Any], resamples: int
) -> Comparison:
    """Compares evaluations of several sets. Images are resampled within each set; the sets themselves are fixed."""
    for name in one["sets"]:
        compared = [_read(folder / name) for folder in folders]
        if compared[0].get("truth_sha256") != compared[1].get("truth_sha256"):
            raise InputError(
                f"{folders[0]}, {folders[1]}", f"different ground truths of {name}", "expected the same images"
            )
    gains = [_gains((folders[0] / name, folders[1] / name), resamples) for name in one["sets"]]
    rows = [(name, value, other["sets"][name]) for name, value in one["sets"].items()]
    return Comparison(
        rows=[*rows, ("mean ap", one["ap"], other["ap"])],
        headline="mean ap",
        gain=interval_within(np.mean(gains, axis=0)),
        categories=[],
    )


def _gains(folders: tuple[Path, Path], resamples: int) -> np.ndarray:
    """(resamples,) differences of the headline score, on the same resamples of images."""
    before, after = (read_samples(folder / SAMPLES_NAME) for folder in folders)
    return drawn(after, before, resamples=resamples)


def _described(evaluation: Mapping[str, Any]) -> str:
    if "sets" in evaluation:
        return f"{len(evaluation['sets'])} sets"
    return f"{evaluation['metric']} of {evaluation['records']} records"


def _folder(path: str | Path) -> Path:
    return Path(path).parent if Path(path).name == EVALUATION_NAME else Path(path)


def _read(folder: Path) -> Mapping[str, Any]:
    path = folder / EVALUATION_NAME
    remedy = "expected the work_dir of `groundhog evaluate CONFIG`"
    content = load_json(path, remedy)
    keys = content.keys() if isinstance(content, dict) else set()
    if not (keys >= ONE_TRUTH or keys >= SEVERAL_SETS):
        raise InputError(path, "is not an evaluation", remedy)
    return content


def _is_score(name: str, value: object) -> bool:
    """Whether an entry is a score and not a count, which is the same for both."""
    return isinstance(value, float) and name not in ("images", "records")


def _aligned(rows: list[tuple[str, float | None, float | None]] | list[tuple[str, float, float]]) -> list[str]:
    width = max(len(name) for name, _, _ in rows)
    lines = []
    for name, one, other in rows:
        shown = ["    -" if value is None else f"{value:.3f}" for value in (one, other)]
        gain = "" if one is None or other is None else f"  {other - one:+.3f}"
        lines.append(f"{name:<{width}}  {shown[0]}  {shown[1]}{gain}")
    return lines
