"""A flow run lives as long as the `groundhog up` that started it: it ends with it, and is not left as Running.

A run notes its process on the server (`infrastructure_pid`, as "host:pid:start"); the next `up` asks whether that
process is still there, and marks the runs whose process is gone as Crashed.
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
PAGE = 200  # flow runs a request: Prefect's own limit
CRASH_MESSAGE = "its process ended without a word, as after kill -9; run it again, and it resumes where it was"


def follow_up(flow: Any, run: Any, state: Any) -> None:
    """Hook of a running flow: notes its process on the server, and ends it when the `up` that started it ends."""
    with suppress(httpx.HTTPError), get_client(sync_client=True) as client:  # a run does not fail for a note
        client.update_flow_run(run.id, infrastructure_pid=process_name())
    if os.environ.get(UP_PROCESS) == str(os.getppid()):
        threading.Thread(target=_end_after, args=(os.getppid(),), daemon=True).start()


ENDS_WITH_UP: list[Any] = [follow_up]  # hooks of a flow


def _end_after(parent: int) -> None:
    # Not PR_SET_PDEATHSIG: Linux sends that when the thread ends that started us.
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGKILL)


def process_name(pid: int | None = None) -> str:
    """host:pid:start of a process of this machine. Its start tells it from a later one with the same number."""
    pid = os.getpid() if pid is None else pid
    return f"{platform.node()}:{pid}:{psutil.Process(pid).create_time():.0f}"


def is_alive(name: str) -> bool:
    """False where the process of that name has ended; True where that cannot be known (another machine's)."""
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
                    offset += 1  # it stays among the unfinished, which the next page is counted from
                    continue
                client.set_flow_run_state(run.id, Crashed(message=CRASH_MESSAGE), force=True)
                crashed.append(run.name)
    return crashed
