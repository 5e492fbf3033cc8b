"""Child processes that end with their parent, however that ends. Imports nothing heavy."""

from __future__ import annotations

import ctypes
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with_parent(sent: signal.Signals = signal.SIGTERM) -> None:
    """Called in the child: asks Linux to send it a signal when its parent is gone, killed or not. Elsewhere nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, sent)
