"""Ends flow runs together with the `groundhog up` that started them, and marks those that were killed as Crashed.

A run records its process on the server (`infrastructure_pid`, as "host:pid:start"). The next `up` checks whether that
process still exists, and otherwise marks the run as Crashed.
"""

from __future__ import annotations

import os
import platform
import signal
import threading
import time
from collections.abc import Collection
from contextlib import suppress
from typing import Any

import httpx
import psutil
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.states import Crashed

UP_PROCESS = "GROUNDHOG_UP"  # environment variable: the process of `groundhog up`, for the runs that it starts
UNFINISHED = ("RUNNING", "PENDING", "PAUSED", "CANCELLING")
PAGE = 200  # flow runs per request: Prefect's limit
CRASH_MESSAGE = "its process was killed or ended without an error message; run it again to resume"


def end_with_up(flow: Any, run: Any, state: Any) -> None:
    """Hook of a running flow: records its process on the server, and ends it when the `up` that started it ends."""
    with suppress(httpx.HTTPError), get_client(sync_client=True) as client:  # not worth failing the run for
        client.update_flow_run(run.id, infrastructure_pid=process_name())
    if os.environ.get(UP_PROCESS) == str(os.getppid()):
        threading.Thread(target=_end_after, args=(os.getppid(),), daemon=True).start()


ENDS_WITH_UP: list[Any] = [end_with_up]  # hooks of a flow


def _end_after(parent: int) -> None:
    # Not PR_SET_PDEATHSIG: Linux sends that signal when the thread that started this process ends.
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGKILL)


def process_name(pid: int | None = None) -> str:
    """host:pid:start of a process on this machine; the start time distinguishes it from a later one with its number."""
    pid = os.getpid() if pid is None else pid
    return f"{platform.node()}:{pid}:{psutil.Process(pid).create_time():.0f}"


def is_alive(name: str) -> bool:
    """False if this process has ended; True if it runs, or is on another machine, where this cannot be checked."""
    host, _, rest = name.partition(":")
    if host != platform.node():
        return True
    try:
        return process_name(int(rest.partition(":")[0])) == name
    except (psutil.NoSuchProcess, ValueError):
        return False


def crash_orphans(deployment_ids: Collection[Any]) -> list[str]:
    """Marks unfinished runs of these deployments whose process has ended as Crashed; returns their names."""
    crashed = []
    unfinished = FlowRunFilter.model_validate(
        {
            "state": {"type": {"any_": UNFINISHED}},
            "deployment_id": {"any_": [str(each) for each in deployment_ids]},
        }
    )
    with get_client(sync_client=True) as client:
        offset = 0
        while runs := client.read_flow_runs(flow_run_filter=unfinished, limit=PAGE, offset=offset):
            for run in runs:
                if not run.infrastructure_pid or is_alive(run.infrastructure_pid):
                    offset += 1  # it stays unfinished, so the next page begins after it
                    continue
                client.set_flow_run_state(run.id, Crashed(message=CRASH_MESSAGE), force=True)
                crashed.append(run.name)
    return crashed
