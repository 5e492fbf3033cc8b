"""A flow that waits for a person resumes when the person approves, with the corrected lines."""

from __future__ import annotations

import json
import threading
import time
from contextvars import copy_context
from dataclasses import replace
from pathlib import Path

import pytest
from prefect import flow
from prefect.testing.utilities import prefect_test_harness

from flows.orchestration import pause as pausing
from flows.self_training.config import SelfTrainConfig
from flows.self_training.loop import SelfTrainResult, self_train
from flows.self_training.state import approve_round
from tests.test_self_train import Recorder, config  # noqa: F401 - the fixture


@pytest.mark.slow
def test_an_approval_resumes_the_flow_that_waits(
    config: SelfTrainConfig,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pausing, "POLL_SECONDS", 1)
    work_dir = config.train.work_dir
    corrected = {"filename": "image-000.png", "height": 30, "width": 40, "detection": {"instances": []}}
    (tmp_path / "mine.json").write_text(json.dumps(corrected))
    messages: list[str] = []

    def person() -> None:
        waiting = work_dir / "round-1" / pausing.WAITING_NAME
        deadline = time.monotonic() + 60
        while not waiting.is_file():
            assert time.monotonic() < deadline
            time.sleep(0.2)
        approve_round(work_dir, 1, tmp_path / "mine.json")
        while not (
            messages and messages[-1].endswith("resumes")
        ):  # the file is there a moment before the flow is paused
            messages.append(pausing.resume_waiting(work_dir, 1))
            time.sleep(0.5)

    @flow
    def loop() -> SelfTrainResult:
        stages = Recorder().stages()
        return self_train(replace(config, review=True, rounds=1), stages=stages, wait_for_person=pausing.wait_in_flow)

    with prefect_test_harness(server_startup_timeout=120):
        thread = threading.Thread(target=copy_context().run, args=(person,))
        thread.start()
        result = loop()
        thread.join(60)
    assert result.state == "finished"
    assert [done.counts["reviewed"] for done in result.rounds] == [1, 1]
    assert messages[-1].endswith("resumes")
    assert pausing.resume_waiting(work_dir, 1) == ""
