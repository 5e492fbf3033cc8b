"""Shows a loop in Prefect's UI: a log line per event, a table and a plot of the rounds, progress, and asset lineage.

All state is in files; no stage reads anything from here.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact
from prefect.assets import Asset, materialize
from prefect.cache_policies import NO_CACHE

from flows.self_training.loop import Event
from flows.self_training.messages import box_count, gate_word, message_of_event, score_text, score_title
from flows.self_training.report import plot_rounds
from flows.self_training.state import LoopState, RoundResult
from formats.io.plots import png_of

ARTIFACT_DPI = 80  # pixels per inch; low, since Prefect's server stores the plot as text


class PrefectReporter:
    """Reports the events of a loop to Prefect; must be used inside a flow."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._progress: UUID | None = None
        self._labels: Path | None = None
        self._weights: str | None = None

    def __call__(self, event: Event) -> None:
        if words := message_of_event(event):
            get_run_logger().info(words)
        if (event["stage"], event["state"]) == ("gate", "finished"):
            self._report_rounds(event["loop"])
        elif event["stage"] == "train":
            self._report_training(event)

    def _report_rounds(self, loop: LoopState) -> None:
        create_markdown_artifact(
            rounds_as_markdown(loop), key=artifact_key("rounds", self._name), description=_described(loop)
        )
        done = loop.rounds[-1]
        sources = [] if self._weights is None else [asset_key(self._weights)]
        self._labels = done.labels
        report_asset(
            f"asset: labels v{done.round}", done.labels, sources, {"boxes": done.counts["kept"]} | _score(loop)
        )

    def _report_training(self, event: Event) -> None:
        if event["state"] == "started":
            self._progress = cast(
                UUID,
                create_progress_artifact(
                    progress=0.0,
                    key=artifact_key("training", self._name, f"v{event['round']}"),
                    description=f"Training on v{event['round']} of {self._name}",
                ),
            )
        elif event["state"] == "progress" and event.get("steps") and self._progress is not None:
            update_progress_artifact(self._progress, progress=min(100.0, 100.0 * event["step"] / event["steps"]))
        elif event["state"] == "finished":
            if self._progress is not None:
                update_progress_artifact(self._progress, progress=100.0)
            self._weights = event["weights"]
            sources = [] if self._labels is None else [asset_key(self._labels)]
            report_asset(f"asset: model trained on v{event['round']}", self._weights, sources, {})


def artifact_key(*words: str) -> str:
    """A key that Prefect accepts: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", " ".join(words).lower()).strip("-")


def asset_key(location: str | Path) -> str:
    """file:///… for a local file; URLs are returned unchanged."""
    text = str(location)
    return text if "://" in text else f"file://{Path(text).resolve()}"


def report_asset(title: str, location: str | Path, made_of: list[str], metadata: dict[str, Any]) -> None:
    """Records by a task run which files this one was made from: an event in Prefect, a graph in Prefect Cloud."""
    asset = Asset(key=asset_key(location))

    @materialize(asset, asset_deps=cast(Any, made_of), name=title, task_run_name=title, cache_policy=NO_CACHE)
    def made() -> str:
        asset.add_metadata(metadata)
        return str(location)

    made()


def rounds_as_markdown(loop: LoopState) -> str:
    """The table of rounds, the gate's reasons, the best labels and weights, and the plot."""
    head = ("labels", "boxes", "held-out score of the model that made them", "changed images", "gate")
    lines = [f"## {loop.name}", "", _row(head), _row(["---"] * len(head)), *map(_cells, loop.rounds), ""]
    lines += [f"- v{each.round}: {reason}" for each in loop.rounds for reason in each.verdict.reasons]
    lines += ["", f"Best so far: **v{loop.best.round}**, `{loop.best.labels}`, made by `{loop.best.weights}`", ""]
    if picture := _plot(loop):
        lines.append(f"![held-out score of each round](data:image/png;base64,{picture})")
    return "\n".join(lines)


def _cells(done: RoundResult) -> str:
    drift = done.verdict.drift
    changed = "" if drift is None else f"{drift.changed_share:.0%}"
    return _row((f"v{done.round}", f"{box_count(done):,}", score_text(done.metrics), changed, gate_word(done)))


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _described(loop: LoopState) -> str:
    return f"After labels v{len(loop.rounds)}; the best are v{loop.best.round}"


def _score(loop: LoopState) -> dict[str, Any]:
    done = loop.rounds[-1]
    return {} if done.score is None else {done.metrics["headline"]: round(done.score, 4)}


def _plot(loop: LoopState) -> str:
    """PNG as base64; "" without evaluation data."""
    points = {each.round: each.metrics for each in loop.rounds if each.score is not None}
    if not points:
        return ""
    headline = score_title(next(iter(points.values()))["headline"])
    return base64.b64encode(png_of(plot_rounds({headline: points}), ARTIFACT_DPI)).decode("ascii")
