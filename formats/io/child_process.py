"""Child processes that end when their parent does, even if it is killed. Imports nothing heavy."""

from __future__ import annotations

import ctypes
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with_parent(sent: signal.Signals = signal.SIGTERM) -> None:
    """Called in the child: Linux sends it a signal when its parent ends. Does nothing on other systems."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, sent)
