"""Pauses a flow run until a person approves a round, by `groundhog rounds approve` or by Resume in Prefect's UI."""

from __future__ import annotations

from pathlib import Path

from prefect.exceptions import FlowPauseTimeout, NotPausedError
from prefect.flow_runs import pause_flow_run, resume_flow_run
from prefect.runtime import flow_run

from flows.labelling.manifest import read_manifest
from flows.orchestration.server import api_url, is_healthy
from flows.self_training.review import is_approved
from flows.self_training.state import WAITING_NAME, approve_round, read_loop_state, round_folder
from formats.io.files import load_json, write_json

PATIENCE = 30 * 24 * 3600  # seconds; then the flow run fails, and the next one waits again
POLL_SECONDS = 5


def wait_in_flow(work_dir: Path, number: int) -> bool:
    """Pauses the flow run until a person approves the round. Resume in the UI approves the labels unchanged."""
    folder = round_folder(work_dir, number)
    write_json(folder / WAITING_NAME, {"flow_run": str(flow_run.get_id())})
    pause_flow_run(timeout=PATIENCE, poll_interval=POLL_SECONDS, key=f"review-v{number}")
    (folder / WAITING_NAME).unlink(missing_ok=True)
    if not is_approved(read_manifest(folder), read_loop_state(work_dir).policy):
        approve_round(work_dir, number)
    return True


def resume_waiting(work_dir: str | Path, number: int) -> str:
    """Resumes the flow run that waits for this round. Returns a message, "" if no run waits."""
    path = round_folder(Path(work_dir), number) / WAITING_NAME
    if not path.is_file():
        return ""
    run = load_json(path, "remove it")["flow_run"]
    if not is_healthy(api_url()):
        return f"flow run {run} waits, but no Prefect server is running at {api_url()}"
    try:
        resume_flow_run(run)
    except (NotPausedError, FlowPauseTimeout) as error:
        return f"flow run {run} no longer waits ({error})"
    return f"flow run {run} resumes"
