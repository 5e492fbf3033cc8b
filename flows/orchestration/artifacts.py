"""What the Prefect UI tells of a loop: a log line an event, a table and a plot of its rounds, progress, asset lineage.

Files stay the truth; nothing here is read by a stage.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact
from prefect.assets import Asset, materialize
from prefect.cache_policies import NO_CACHE
from prefect.runtime import task_run

from flows.self_training.loop import Event
from flows.self_training.messages import in_words
from flows.self_training.report import plot_rounds
from flows.self_training.state import RoundResult, Story, boxes_of, figure_of, gate_word, name_of
from formats.io.plots import png_of

ARTIFACT_DPI = 80  # pixels an inch: Prefect's server keeps the plot as text


class Storyteller:
    """Listens to the events of one loop, inside a flow."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._progress: UUID | None = None
        self._labels: Path | None = None
        self._weights: str | None = None

    def __call__(self, event: Event) -> None:
        if words := in_words(event):
            get_run_logger().info(words)
        if (event["stage"], event["state"]) == ("gate", "finished"):
            self._tell_rounds(event["story"])
        elif event["stage"] == "train":
            self._tell_training(event)

    def _tell_rounds(self, story: Story) -> None:
        create_markdown_artifact(
            rounds_as_markdown(story), key=artifact_key("rounds", self._name), description=_described(story)
        )
        done = story.rounds[-1]
        sources = [] if self._weights is None else [asset_key(self._weights)]
        self._labels = done.labels
        tell_asset(
            f"asset: labels v{done.round}", done.labels, sources, {"boxes": done.counts["kept"]} | _figure(story)
        )

    def _tell_training(self, event: Event) -> None:
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
            tell_asset(f"asset: model trained on v{event['round']}", self._weights, sources, {})


def artifact_key(*words: str) -> str:
    """As Prefect takes it: small letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", " ".join(words).lower()).strip("-")


def version_of(*places: object) -> str:
    """ "v2" where a place lies in the folder round-2, else "".

    The weights of a round lie in the folder of the one before, so the highest number is its own.
    """
    numbers = [int(number) for number in re.findall(r"\bround-(\d+)\b", " ".join(map(str, places)))]
    return f"v{max(numbers)}" if numbers else ""


def look_of(*places: object) -> str:
    """Which look at the images a place belongs to: "v2", at a further look of that round "v2, view 1", else ""."""
    views = (re.fullmatch(r"view-(\d+)", Path(place).name) for place in places if isinstance(place, str | Path))
    view = next((f"view {found[1]}" for found in views if found), "")
    return ", ".join(filter(None, (version_of(*places), view)))


def named_by_round(stage: str) -> Callable[[], str]:
    """For task_run_name: "train v2", "plan v2, view 1" by the folders in a task's parameters, else the stage alone."""
    return lambda: f"{stage} {look_of(*task_run.get_parameters().values())}".rstrip()


def name_of_group(work_dir: str | Path, indices: Sequence[int]) -> str:
    """Of shards that are labelled together: "label v2, shards 4-6"; at a further look "label v2, view 1, shard 4"."""
    shards = f"shards {indices[0]}-{indices[-1]}" if len(indices) > 1 else f"shard {indices[0]}"
    return f"label {', '.join(filter(None, (look_of(work_dir), shards)))}"


def asset_key(place: str | Path) -> str:
    """file:///… of a file here; addresses as they are."""
    text = str(place)
    return text if "://" in text else f"file://{Path(text).resolve()}"


def tell_asset(title: str, place: str | Path, made_of: list[str], metadata: dict[str, Any]) -> None:
    """A task run that says: this file was made, of those. Prefect keeps it as an event; its cloud draws the graph."""
    asset = Asset(key=asset_key(place))

    @materialize(asset, asset_deps=cast(Any, made_of), name=title, task_run_name=title, cache_policy=NO_CACHE)
    def made() -> str:
        asset.add_metadata(metadata)
        return str(place)

    made()


def rounds_as_markdown(story: Story) -> str:
    """The table of rounds, what the gate said, what to use, and the plot."""
    head = ("labels", "boxes", "held-out figure of the model that made them", "changed images", "gate")
    lines = [f"## {story.name}", "", _row(head), _row(["---"] * len(head)), *map(_cells, story.rounds), ""]
    lines += [f"- v{each.round}: {reason}" for each in story.rounds for reason in each.verdict.reasons]
    lines += ["", f"Best so far: **v{story.best.round}**, `{story.best.labels}`, made by `{story.best.weights}`", ""]
    if picture := _plot(story):
        lines.append(f"![held-out figure of each round](data:image/png;base64,{picture})")
    return "\n".join(lines)


def _cells(done: RoundResult) -> str:
    drift = done.verdict.drift
    changed = "" if drift is None else f"{drift.changed_share:.0%}"
    return _row((f"v{done.round}", f"{boxes_of(done):,}", figure_of(done.metrics), changed, gate_word(done)))


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _described(story: Story) -> str:
    return f"After labels v{len(story.rounds)}; the best are v{story.best.round}"


def _figure(story: Story) -> dict[str, Any]:
    done = story.rounds[-1]
    return {} if done.figure is None else {done.metrics["headline"]: round(done.figure, 4)}


def _plot(story: Story) -> str:
    """PNG as base64; "" without evaluation data."""
    points = {each.round: each.metrics for each in story.rounds if each.figure is not None}
    if not points:
        return ""
    headline = name_of(next(iter(points.values()))["headline"])
    return base64.b64encode(png_of(plot_rounds({headline: points}), ARTIFACT_DPI)).decode("ascii")
