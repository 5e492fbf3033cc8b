"""Children of the test process, for tests that kill them: nothing is imported again, so they start at once."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable


def fork(body: Callable[[], object]) -> int:
    """Runs the body in a child process, which then ends with 0, or 1 after an exception; gives its id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        body()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def is_running(child: int) -> bool:
    """False once it has ended, whose exit status is read by this call."""
    return os.waitpid(child, os.WNOHANG)[0] == 0
