"""Provides a Prefect server: the one that is running, or a new one that ends together with this process."""

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
START_TIMEOUT = 300.0  # seconds; 9 to 15 were measured on two idle cores; the first start migrates a database


def api_url() -> str:
    """The URL of the server's API: from the environment, prefect.toml or the profile, else Prefect's default."""
    return str(get_current_settings().api.url or DEFAULT_API)


def is_healthy(api: str) -> bool:
    """Whether a Prefect server responds at this URL."""
    try:
        with _opener(api).open(f"{api}/health", timeout=3) as response:
            return response.status == 200
    except (urllib.error.URLError, OSError, ValueError):
        return False


def password(file: Path = PASSWORD_FILE) -> str:
    """The server's `user:password`, from the environment or from `.env` in this folder. If neither has one, a
    random one is written to the file.

    Prefect reads that file too, so `prefect` and `groundhog rounds approve` work in the same folder.
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
    """Writes the server's URL beside its password, for `prefect` in a folder without a prefect.toml.

    Without it, `prefect deployment run` would start a temporary server instead of using this one.
    """
    if not file.exists():  # the password comes from the environment, and so may the address
        return
    if SETTINGS_FILE.exists():
        if ADDRESS_KEY in dotenv_values(file):
            unset_key(file, ADDRESS_KEY)
    elif dotenv_values(file).get(ADDRESS_KEY) != api:
        set_key(file, ADDRESS_KEY, api, quote_mode="never")


def _check_admitted(api: str) -> None:
    """Raises RuntimeError if a running server requires another password than this folder's."""
    secret = get_current_settings().api.auth_string
    request = urllib.request.Request(f"{api}/admin/version")
    if secret is not None:
        request.add_header("Authorization", "Basic " + b64encode(secret.get_secret_value().encode()).decode())
    try:
        _opener(api).open(request, timeout=10).close()
    except urllib.error.HTTPError as error:
        if error.code == 401:
            raise RuntimeError(
                f"the Prefect server at {api} requires a password; set {PASSWORD_KEY} to the one in "
                f"{PASSWORD_FILE} of the folder where `groundhog up` started it, or stop that server"
            ) from None
    except OSError:
        pass  # the first call to the server reports it more clearly


def _opener(api: str) -> urllib.request.OpenerDirector:
    """Ignores a proxy of the environment for servers on this machine, which it could not reach."""
    return urllib.request.build_opener(
        *([urllib.request.ProxyHandler({})] if urlsplit(api).hostname in LOCAL_HOSTS else [])
    )


@contextmanager
def prefect_server(api: str | None = None) -> Iterator[str]:
    """Yields the API's URL of a running server, which this process then uses; starts a server if none runs there.

    A server started here ends with the block, and with this process even if that is killed (on Linux). If the server
    itself is killed, it is restarted with the same database.
    Raises RuntimeError if no server can be started.
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
        raise RuntimeError(f"the Prefect server at {api} does not respond, and is not on this machine")
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
    """A server that this process started. process: the current one."""

    def __init__(self, host: str, port: int) -> None:
        self._address = host, port
        self._lock, self._ending = threading.Lock(), False
        self.process = _start(host, port)

    def keep(self) -> None:
        """From now on, restarts the server if it ends."""
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
        """Ends the server without restarting it."""
        with self._lock:
            self._ending = True
            self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()


def _start(host: str, port: int) -> subprocess.Popen:
    """Runs Uvicorn as `prefect server start` does, in one process, so that nothing is left if it is killed."""
    command = [sys.executable, "-m", "uvicorn", "--factory", "flows.orchestration.app:create_app"]
    command += ["--host", host, "--port", str(port), "--timeout-keep-alive", "5", "--log-level", "warning"]
    environment = os.environ | {
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT__SERVER_FINAL": "1",
        "PREFECT_SERVER_API_AUTH_STRING": os.environ[PASSWORD_KEY],
        # Only its own pages; by default Prefect allows every origin.
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
            raise RuntimeError(f"the Prefect server did not respond at {api} within {START_TIMEOUT:.0f} seconds")
        time.sleep(0.2)
