"""A flow run whose process is gone is not left as Running."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.states import Running

from flows.orchestration.lifetime import CRASH_MESSAGE, crash_orphans, is_alive, process_name
from tests.test_flows_prefect import harness  # noqa: F401


def test_a_process_is_alive_until_it_ends() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    name = process_name(child.pid)
    assert is_alive(name)
    assert is_alive(process_name())
    child.communicate()
    assert not is_alive(name)


def test_another_process_with_the_same_number_is_another() -> None:
    assert not is_alive(f"{platform.node()}:{os.getpid()}:1")


def test_of_another_machine_nothing_is_claimed() -> None:
    assert is_alive("elsewhere:1:1")


@flow
def stage() -> None:
    """A flow to have runs of."""


@pytest.mark.slow
@pytest.mark.usefixtures("harness")
def test_runs_of_processes_that_ended_are_marked_as_crashed() -> None:
    deployment = stage.to_deployment("orphans").apply()  # type: ignore[union-attr]
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    names = {"dead": process_name(child.pid), "alive": process_name(), "unknown": None}
    child.communicate()
    with get_client(sync_client=True) as client:
        runs = {}
        for name, process in names.items():
            runs[name] = client.create_flow_run_from_deployment(deployment, name=name)
            client.set_flow_run_state(runs[name].id, Running(), force=True)
            client.update_flow_run(runs[name].id, infrastructure_pid=process)
        assert crash_orphans([deployment]) == ["dead"]
        states = {name: client.read_flow_run(run.id).state for name, run in runs.items()}
    assert {name: state.type.value for name, state in states.items() if state} == {
        "dead": "CRASHED",
        "alive": "RUNNING",
        "unknown": "RUNNING",
    }
    assert states["dead"].message == CRASH_MESSAGE  # type: ignore[union-attr]
    assert crash_orphans([deployment]) == []
