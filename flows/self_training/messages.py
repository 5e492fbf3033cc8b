"""Messages for the events of a loop, for the command line, the demo and the log of a flow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flows.self_training.state import drift_of, ending, gate_of, score_text
from formats.io.plurals import many


def message_of_event(event: Mapping[str, Any]) -> str | None:
    """One line about an event of flows.self_training.loop; None for events that are not shown."""
    stage, state, labels = event["stage"], event["state"], f"v{event['round']}"
    if (stage, state) == ("infer", "started"):
        return f"{labels}: labelling the images, {many(event['shards'], 'shard')}"
    if (stage, state) == ("filter", "finished"):
        return f"{labels}: {_counted(event['counts'])}"
    if (stage, state) == ("evaluate", "finished"):
        score = score_text(event["metrics"])
        return f"{labels}: the model that made these labels has {score} on the held-out data" if score else None
    if (stage, state) == ("gate", "finished"):
        done = event["loop"].rounds[-1]
        drift = drift_of(done.verdict.drift)
        return f"{labels}: gate {gate_of(done)}; labels changed in {drift}" if drift else None
    if (stage, state) == ("review", "started"):
        return f"{labels}: waiting for a person: {event['remedy']}"
    if (stage, state, event["round"]) == ("train", "started", 0):
        return "before v1: training on your labels"
    if (stage, event["round"]) == ("train", 0):
        labels = "before v1"
    if (stage, state) == ("train", "started"):
        return f"{labels}: training on these labels"
    if (stage, state) == ("train", "progress"):
        loss = event.get("loss")
        return None if loss is None else f"{labels}: step {event.get('step')}, loss {loss:.2f}"
    if (stage, state) == ("train", "finished"):
        return f"{labels}: trained {event['weights']}"
    if (stage, state) == ("distill", "finished"):
        return f"{labels}: trained a student on these labels\n{event['table']}"
    if stage == "loop":
        return ending(state, event["round"], event["reason"])
    return None


def _counted(counts: Mapping[str, Any]) -> str:
    dropped = ", ".join(f"{reason} {count}" for reason, count in counts["dropped"].items())
    message = f"{many(counts['kept'], 'box')} kept of {counts['candidates']} candidates ({dropped or 'none'} dropped)"
    if counts.get("reviewed"):
        message += f", {many(counts['reviewed'], 'reviewed line')} with {many(counts['reviewed_boxes'], 'box')}"
    return message + (f", {many(counts['quarantined'], 'line')} quarantined" if counts["quarantined"] else "")
