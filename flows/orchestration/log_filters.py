"""Removes two kinds of noise from Prefect's logs: tracebacks of bad input, and a line repeated at every poll."""

from __future__ import annotations

import logging

from formats.io.errors import InputError


class WithoutTraceback(logging.Filter):
    """Drops the traceback of an InputError, whose message says what is wrong and where."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], InputError):
            record.exc_info, record.exc_text = None, None
        return True


class SkippedRunsOnce(logging.Filter):
    """Shows how many runs are queued only when the number changes; the runner logs it at every poll."""

    def __init__(self) -> None:
        super().__init__()
        self._last: object = None

    def filter(self, record: logging.LogRecord) -> bool:
        if "scheduled runs skipped" not in str(record.msg):
            return True
        changed, self._last = record.args != self._last, record.args
        return changed


def install() -> None:
    """Adds the filters to Prefect's loggers of this process, once."""
    for name, made in (
        ("prefect.flow_runs", WithoutTraceback),
        ("prefect.task_runs", WithoutTraceback),
        ("prefect.runner", SkippedRunsOnce),
    ):
        logger = logging.getLogger(name)
        if not any(isinstance(each, made) for each in logger.filters):
            logger.addFilter(made())
