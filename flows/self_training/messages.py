"""What a loop says to people: a message for each event, and the table of its rounds."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count, takewhile
from pathlib import Path
from typing import Any

from flows.self_training.drift import Drift
from flows.self_training.state import PRETRAINED, LoopState, RoundResult, read_loop_state
from formats.dataset_names import labels_of_other_round
from formats.io.notebook import aligned_rows
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


def score_text(metrics: Mapping[str, Any]) -> str:
    """The headline metric with its interval; "" without evaluation data."""
    headline = metrics.get("headline")
    if headline is None:
        return "" if metrics.get("ap") is None else f"AP {metrics['ap']:.3f}"
    payload = f"{score_title(headline)} {metrics[headline]:.3f}"
    return payload if metrics.get("interval") is None else "{} ({:.3f} … {:.3f})".format(payload, *metrics["interval"])


def score_title(headline: str) -> str:
    """ "AP", "AP50" and "F1" in capitals; other names unchanged."""
    return headline.upper() if headline in ("ap", "ap50", "f1") else headline


def drift_of(drift: Drift | None) -> str:
    """A summary of how the labels changed; "" for the first round."""
    if drift is None:
        return ""
    return f"{drift.changed_share:.0%} of images, {drift.gained} gained, {drift.lost} lost, {drift.moved} moved"


def box_count(done: RoundResult) -> int:
    """The number of boxes, including those of a person."""
    return done.counts["kept"] + done.counts.get("reviewed_boxes", 0)


def gate_word(done: RoundResult) -> str:
    """The outcome of a round at the gate."""
    if done.approved:
        return "approved"
    if not done.verdict.passed:
        return "stopped"
    if done.verdict.reasons:
        return "failed, gate.enabled is false"
    if done.round == 1:
        return "first"
    return "passed, not significantly lower" if (done.verdict.gain or 0.0) < 0 else "passed"


def gate_of(done: RoundResult) -> str:
    """The outcome of a round at the gate, with the numbers it is based on."""
    word = gate_word(done)
    if done.round == 1:
        return word
    if done.verdict.interval is None:
        return f"{word} (drift only)"
    gain, (low, high) = done.verdict.gain, done.verdict.interval
    return f"{word} ({gain:+.3f}, {low:+.3f} … {high:+.3f} over v{done.verdict.over})"


def state_rows(loop: LoopState) -> list[tuple[str, ...]]:
    """The header and one row per round: labels (the best with a star), model, boxes, its score, drift, gate."""
    rows: list[tuple[str, ...]] = [("labels", "made by", "boxes", "held-out score", "label drift", "gate")]
    for done in loop.rounds:
        labels = f"v{done.round}{'*' if done.round == loop.best.round else ''}"
        score, drift = score_text(done.metrics), drift_of(done.verdict.drift)
        made_by = model_of(done.round, loop.first_model)
        rows.append((labels, made_by, str(box_count(done)), score, drift, gate_of(done)))
    return rows


def model_of(number: int, first_model: str = PRETRAINED) -> str:
    """Which model made the labels of this round: "pretrained", or "trained on v1"."""
    return first_model if number == 1 else f"trained on v{number - 1}"


def status(work_dir: str | Path) -> str:
    """`groundhog rounds status`: a table of rounds, the state of the loop, and the best labels and weights."""
    loop = read_loop_state(work_dir)
    lines = [aligned_rows(state_rows(loop)), "* the best round: these labels and the weights that made them"]
    lines += [f"v{each.round}: {reason}" for each in loop.rounds for reason in each.verdict.reasons]
    lines.append(ending(loop.state, loop.rounds[-1].round, loop.reason))
    lines += [f"labels:  {loop.best.labels}", f"weights: {loop.best.weights}"]
    lines += [f"{path} is from an earlier run with other settings" for path in stale_labels(loop)]
    return "\n".join(lines)


def stale_labels(loop: LoopState) -> list[Path]:
    """Labels of later rounds, left by an earlier run in the same work_dir that had more rounds."""
    last, path = loop.rounds[-1], loop.rounds[-1].labels
    if loop.state in ("running", "waiting"):
        return []
    later = (labels_of_other_round(path, last.round, number) for number in count(last.round + 1))
    return list(takewhile(lambda labels: labels.is_file(), later))


def ending(state: str, number: int, reason: str) -> str:
    """The state of a loop: "stopped after v1: did not pass the gate: …". number: of its last round."""
    where = state if state == "running" else f"{state} after v{number}"
    return f"{where}: {reason}" if reason else where
