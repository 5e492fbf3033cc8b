"""A Prefect server to talk to: the healthy one that is there, or one of ours that dies with us."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from formats.io.child_process import end_with_parent

DEFAULT_API = "http://127.0.0.1:4200/api"
LOCAL_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})
PAUSE = 2.0  # seconds between one start and the next
START_TIMEOUT = 300.0  # seconds; 9 to 15 were measured on two idle cores, the first start migrates a database


def api_url() -> str:
    """The server's address: of the environment, prefect.toml or the profile, else Prefect's usual one."""
    from prefect.settings import get_current_settings

    return str(get_current_settings().api.url or DEFAULT_API)


def is_healthy(api: str) -> bool:
    """True when a Prefect server answers at this address."""
    try:
        # A proxy, which the environment may name, does not reach this machine's own servers.
        handlers = [urllib.request.ProxyHandler({})] if urlsplit(api).hostname in LOCAL_HOSTS else []
        with urllib.request.build_opener(*handlers).open(f"{api}/health", timeout=3) as response:
            return response.status == 200
    except (urllib.error.URLError, OSError, ValueError):
        return False


@contextmanager
def prefect_server(api: str | None = None) -> Iterator[str]:
    """Gives the address of a healthy server, and makes it this process's own.

    One of ours ends with the block, and with this process however that ends (on Linux); where it is killed itself,
    another takes its place, with the same database.
    Raises RuntimeError when none can be started, with the last lines that it said.
    """
    os.environ.setdefault("DO_NOT_TRACK", "1")
    api = api or api_url()
    os.environ["PREFECT_API_URL"] = api
    if is_healthy(api):
        yield api
        return
    address = urlsplit(api)
    if address.hostname not in LOCAL_HOSTS:
        raise RuntimeError(f"the Prefect server at {api} does not answer, and is not on this machine")
    server = _Server(address.hostname, address.port or 4200)
    try:
        _wait(server.process, api)
        server.keep()
        yield api
    finally:
        server.end()


class _Server:
    """A server of ours. process: the present one."""

    def __init__(self, host: str, port: int) -> None:
        self._address = host, port
        self._lock, self._ending = threading.Lock(), False
        self.process = _start(host, port)

    def keep(self) -> None:
        """From now on starts another where this one ends."""
        threading.Thread(target=self._keep, name="keep-server", daemon=True).start()

    def _keep(self) -> None:
        while True:
            code = self.process.wait()
            with self._lock:
                if self._ending:
                    return
                print(f"the Prefect server ended with exit code {code}; starting another", file=sys.stderr, flush=True)
                self.process = _start(*self._address)
            time.sleep(PAUSE)

    def end(self) -> None:
        """Ends it for good."""
        with self._lock:
            self._ending = True
            self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()


def _start(host: str, port: int) -> subprocess.Popen:
    """Uvicorn itself, as `prefect server start` runs it: one process, so that nothing is left when it is killed."""
    command = [sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app"]
    command += ["--host", host, "--port", str(port), "--timeout-keep-alive", "5", "--log-level", "warning"]
    environment = os.environ | {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "PREFECT__SERVER_FINAL": "1"}
    return subprocess.Popen(command, env=environment, preexec_fn=end_with_parent)


def _wait(process: subprocess.Popen, api: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while not is_healthy(api):
        if process.poll() is not None:
            raise RuntimeError(
                f"the Prefect server ended with exit code {process.returncode}; is the port of {api} taken?"
            )
        if time.monotonic() > deadline:
            raise RuntimeError(f"the Prefect server did not answer at {api} within {START_TIMEOUT:.0f} seconds")
        time.sleep(0.2)
