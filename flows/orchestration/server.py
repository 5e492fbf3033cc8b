"""A Prefect server to talk to: the healthy one that is there, or one of ours that dies with us."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from dotenv import dotenv_values, set_key, unset_key
from prefect.context import refresh_global_settings_context
from prefect.settings import get_current_settings

from formats.io.child_process import end_with_parent
from formats.io.errors import InputError

DEFAULT_API = "http://127.0.0.1:4200/api"
LOCAL_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})
PASSWORD_FILE = Path(".env")  # Prefect reads it in the folder where a command runs
PASSWORD_KEY = "PREFECT_API_AUTH_STRING"
ADDRESS_KEY = "PREFECT_API_URL"
SETTINGS_FILE = Path("prefect.toml")  # Prefect reads it there too, but `.env` takes precedence
PAUSE = 2.0  # seconds between one start and the next
START_TIMEOUT = 300.0  # seconds; 9 to 15 were measured on two idle cores, the first start migrates a database


def api_url() -> str:
    """The server's address: of the environment, prefect.toml or the profile, else Prefect's usual one."""
    return str(get_current_settings().api.url or DEFAULT_API)


def is_healthy(api: str) -> bool:
    """True when a Prefect server answers at this address."""
    try:
        with _opener(api).open(f"{api}/health", timeout=3) as response:
            return response.status == 200
    except (urllib.error.URLError, OSError, ValueError):
        return False


def password(file: Path = PASSWORD_FILE) -> str:
    """The server's `user:password`: of the environment, or of `.env` in this folder, which gets a random one at first.

    Prefect reads that file, so that `prefect` and `groundhog rounds approve` in the same folder are let in.
    """
    if there := os.environ.get(PASSWORD_KEY):
        return there
    try:
        kept = dotenv_values(file).get(PASSWORD_KEY)
    except ValueError as error:
        raise InputError(file, f"is not UTF-8 ({error})", f"expected {PASSWORD_KEY}=user:password") from error
    if kept:
        return kept
    made = f"groundhog:{secrets.token_urlsafe(18)}"
    file.touch(mode=0o600)
    file.chmod(0o600)  # before the secret is in it
    set_key(file, PASSWORD_KEY, made, quote_mode="never")
    return made


def _write_address(api: str, file: Path = PASSWORD_FILE) -> None:
    """Writes the server's address beside its password, for `prefect` in a folder whose prefect.toml does not name it.

    Without one, `prefect deployment run` would start a temporary server instead of using this one.
    """
    if not file.exists():  # the password comes from the environment, and so may the address
        return
    if SETTINGS_FILE.exists():
        if ADDRESS_KEY in dotenv_values(file):
            unset_key(file, ADDRESS_KEY)
    elif dotenv_values(file).get(ADDRESS_KEY) != api:
        set_key(file, ADDRESS_KEY, api, quote_mode="never")


def _check_admitted(api: str) -> None:
    """Raises RuntimeError where a server that is running asks for another password than this folder's."""
    secret = get_current_settings().api.auth_string
    request = urllib.request.Request(f"{api}/admin/version")
    if secret is not None:
        request.add_header("Authorization", "Basic " + b64encode(secret.get_secret_value().encode()).decode())
    try:
        _opener(api).open(request, timeout=10).close()
    except urllib.error.HTTPError as error:
        if error.code == 401:
            raise RuntimeError(
                f"the Prefect server at {api} asks for a password; set {PASSWORD_KEY} to the one in "
                f"{PASSWORD_FILE} of the folder where `groundhog up` started it, or stop that server"
            ) from None
    except OSError:
        pass  # whatever it is, the first call to the server says it better


def _opener(api: str) -> urllib.request.OpenerDirector:
    """A proxy, which the environment may name, does not reach this machine's own servers."""
    return urllib.request.build_opener(
        *([urllib.request.ProxyHandler({})] if urlsplit(api).hostname in LOCAL_HOSTS else [])
    )


@contextmanager
def prefect_server(api: str | None = None) -> Iterator[str]:
    """Returns the address of a healthy server, and makes it this process's own.

    One of ours ends with the block, and with this process however that ends (on Linux); where it is killed itself,
    another takes its place, with the same database.
    Raises RuntimeError when none can be started, with the last lines that it said.
    """
    os.environ.setdefault("DO_NOT_TRACK", "1")
    api = api or api_url()
    os.environ[ADDRESS_KEY] = api
    if is_healthy(api):
        refresh_global_settings_context()  # Prefect read its settings when it was imported
        _check_admitted(api)
        yield api
        return
    address = urlsplit(api)
    if address.hostname not in LOCAL_HOSTS:
        raise RuntimeError(f"the Prefect server at {api} does not answer, and is not on this machine")
    os.environ[PASSWORD_KEY] = password()
    _write_address(api)
    refresh_global_settings_context()  # Prefect read its settings when it was imported
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
    command = [sys.executable, "-m", "uvicorn", "--factory", "flows.orchestration.app:create_app"]
    command += ["--host", host, "--port", str(port), "--timeout-keep-alive", "5", "--log-level", "warning"]
    environment = os.environ | {
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT__SERVER_FINAL": "1",
        "PREFECT_SERVER_API_AUTH_STRING": os.environ[PASSWORD_KEY],
        # Its own pages alone; Prefect allows every origin by default.
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"http://{host}:{port},http://localhost:{port}",
    }
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
