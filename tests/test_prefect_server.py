"""The Prefect server that Groundhog starts answers its own folder, and no page or name of a stranger's."""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.orchestration.server import PASSWORD_KEY, _write_address, password

ROOT = Path(__file__).parent.parent
STRANGER = "http://evil.example"


def test_a_folder_keeps_its_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PASSWORD_KEY, raising=False)
    file = tmp_path / ".env"
    file.write_text("MINE=1")
    made = password(file)
    assert password(file) == made
    assert file.read_text() == f"MINE=1\n{PASSWORD_KEY}={made}\n"
    assert file.stat().st_mode & 0o077 == 0
    assert password(tmp_path / "other.env") != made


def test_the_address_is_written_where_prefect_toml_does_not_name_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(PASSWORD_KEY, raising=False)
    monkeypatch.chdir(tmp_path)
    _write_address("http://127.0.0.1:4200/api")
    assert not Path(".env").exists()  # no password was written either
    secret = password()
    for api in ("http://127.0.0.1:4200/api", "http://127.0.0.1:4300/api"):
        _write_address(api)
        assert Path(".env").read_text() == f"{PASSWORD_KEY}={secret}\nPREFECT_API_URL={api}\n"
    Path("prefect.toml").write_text("[api]\n")
    _write_address("http://127.0.0.1:4400/api")
    assert Path(".env").read_text() == f"{PASSWORD_KEY}={secret}\n"


def test_a_password_of_the_environment_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSWORD_KEY, "me:mine")
    assert password(tmp_path / ".env") == "me:mine"
    assert not (tmp_path / ".env").exists()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """(address, user:password) of a server of ours, started from a folder of its own."""
    folder = tmp_path_factory.mktemp("served")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = "import sys; from flows.orchestration.server import prefect_server\n"
    program += "with prefect_server(sys.argv[1]):\n    print('up', flush=True); sys.stdin.read()"
    environment = {name: value for name, value in os.environ.items() if name != PASSWORD_KEY}
    environment |= {"PYTHONPATH": str(ROOT), "PREFECT_HOME": str(folder / "home")}
    api = f"http://127.0.0.1:{port}/api"
    process = subprocess.Popen(
        [sys.executable, "-c", program, api], cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"up\n"
        yield api, password(folder / ".env")
    finally:
        process.stdin.close()
        process.wait(30)


def answer(url: str, secret: str | None = None, method: str = "POST", **headers: str) -> tuple[int, dict[str, str]]:
    """The status and the headers (names in lower case) of a request."""
    if secret:
        headers["Authorization"] = "Basic " + base64.b64encode(secret.encode()).decode()
    body = json.dumps({}).encode() if method == "POST" else None
    request = urllib.request.Request(url, body, {"Content-Type": "application/json", **headers}, method=method)
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as response:
            return response.status, {name.lower(): value for name, value in response.headers.items()}
    except urllib.error.HTTPError as error:
        return error.code, {name.lower(): value for name, value in error.headers.items()}


@pytest.mark.slow
def test_requests_without_the_password_are_refused(server: tuple[str, str]) -> None:
    api, secret = server
    assert answer(f"{api}/deployments/filter")[0] == 401
    assert answer(f"{api}/deployments/filter", "groundhog:guess")[0] == 401
    assert answer(f"{api}/deployments/filter", secret)[0] == 200


@pytest.mark.slow
def test_a_name_that_was_pointed_at_this_machine_is_refused(server: tuple[str, str]) -> None:
    api, secret = server
    assert answer(f"{api}/deployments/filter", secret, Host="evil.example")[0] == 400


@pytest.mark.slow
def test_a_page_from_elsewhere_may_not_ask(server: tuple[str, str]) -> None:
    """The browser's question before a PATCH of a deployment's pull steps, by which any page could run a command."""
    api, _ = server
    ask = {"Access-Control-Request-Method": "PATCH", "Access-Control-Request-Headers": "content-type,authorization"}
    for origin, allowed in ((STRANGER, False), (api.removesuffix("/api"), True)):
        status, headers = answer(f"{api}/deployments/x", method="OPTIONS", Origin=origin, **ask)
        assert (status == 200, headers.get("access-control-allow-origin") in (origin, "*")) == (allowed, allowed)


@pytest.mark.slow
def test_another_folder_hears_which_password_is_missing(server: tuple[str, str], tmp_path: Path) -> None:
    api, secret = server
    program = "import sys; from flows.orchestration.server import prefect_server\n"
    program += "with prefect_server(sys.argv[1]):\n    print('up')"
    environment = {name: value for name, value in os.environ.items() if name != PASSWORD_KEY}
    environment |= {"PYTHONPATH": str(ROOT), "PREFECT_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-c", program, api]
    refused = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert f"the Prefect server at {api} requires a password; set {PASSWORD_KEY}" in refused.stderr
    (tmp_path / ".env").write_text(f"{PASSWORD_KEY}={secret}\n")
    assert subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True).stdout == "up\n"


@pytest.mark.slow
def test_the_address_counts_that_was_set_after_prefect_was_imported(server: tuple[str, str], tmp_path: Path) -> None:
    """In a folder without prefect.toml, deployments went to a temporary server in place of the one that is named."""
    api, secret = server
    program = "import sys, prefect; from prefect.settings import get_current_settings as now; now()\n"
    program += "from flows.orchestration.server import prefect_server\n"
    program += "with prefect_server(sys.argv[1]):\n    print(now().api.url)"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PREFECT_HOME": str(tmp_path / "home"), PASSWORD_KEY: secret}
    environment.pop("PREFECT_API_URL", None)
    command = [sys.executable, "-c", program, api]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == api
