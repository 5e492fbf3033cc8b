"""Logs of Prefect: no traceback of bad input, and no line at every poll."""

from __future__ import annotations

import logging

import pytest

from flows.orchestration.log_filters import SkippedRunsOnce, WithoutTraceback
from formats.io.errors import InputError


@pytest.mark.parametrize(("error", "shown"), [(InputError("a.json", "is empty"), False), (ValueError("ours"), True)])
def test_bad_input_is_logged_without_a_traceback(error: Exception, shown: bool) -> None:
    try:
        raise error
    except ValueError as raised:
        info = (type(raised), raised, raised.__traceback__)
    record = logging.LogRecord("prefect.task_runs", logging.ERROR, "", 0, "failed with exception: %r", (error,), info)
    assert WithoutTraceback().filter(record)
    assert ("Traceback" in logging.Formatter().format(record)) is shown


def test_waiting_runs_are_logged_when_their_number_changes() -> None:
    logs = SkippedRunsOnce()

    def skipped(count: int) -> bool:
        record = logging.LogRecord(
            "prefect.runner", logging.INFO, "", 0, "%d scheduled runs skipped (at capacity)", (count,), None
        )
        return logs.filter(record)

    assert [skipped(1), skipped(1), skipped(2), skipped(2), skipped(1)] == [True, False, True, False, True]
    assert logs.filter(logging.LogRecord("prefect.runner", logging.INFO, "", 0, "anything else", (), None))
