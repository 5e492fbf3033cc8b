"""Access control: only this machine's user may send requests, through the page that the server itself delivered.

Addresses begin with a random token that only its user sees. The bare address shows nothing; a browser that has shown
the page remembers its token and goes there (page/address.js). A request must name this machine (otherwise a page
elsewhere could reach the server by DNS rebinding), and a change must come from the server's own page.
"""

from __future__ import annotations

import html
import ipaddress
import os
import re
import secrets
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; frame-ancestors 'none'; "
    "base-uri 'none'; form-action 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",  # the address contains the token
    "X-Content-Type-Options": "nosniff",
}
PAGE_SCRIPT = Path(__file__).with_name("page") / "address.js"
_TOKEN = re.compile(r"[A-Za-z0-9_-]{22,64}")
LOST = "This address has no valid token. Open the address that `groundhog browse serve` printed in its terminal."
ENTRANCE = "/"  # redirects browsers that have shown the page before; reports link to it, since they have no token
SCRIPT = "/address.js"


class Guard:
    """ASGI middleware: passes on requests of the server's own page, without the token in the path; refuses others."""

    def __init__(self, app: ASGIApp, token: str, host: str) -> None:
        """host: the address that the server listens on."""
        self._app, self._token, self._host = app, token, host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles a request (ASGI)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("Cache-Control", "no-store")
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, send_with_headers)
            return
        path = scope["path"][len(self._token) + 1 :]
        await self._app({**scope, "path": path, "raw_path": path.encode()}, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        if not is_this_machine(host, self._host):
            return _refused(headers, f"this server does not accept requests for host {host!r}")
        if origin is not None and origin != f"http://{host}":
            return _refused(headers, f"this server does not accept requests from {origin!r}")
        if scope["path"] == SCRIPT:
            return Response(PAGE_SCRIPT.read_bytes(), media_type="text/javascript")
        if scope["path"] == ENTRANCE:
            return _refused(headers, LOST, _SCRIPT_TAG)
        token = scope["path"].split("/")[1] if "/" in scope["path"] else ""
        if not secrets.compare_digest(token.encode("utf-8", "replace"), self._token.encode()):
            return _refused(headers, LOST)
        if scope["path"] == f"/{token}":
            return Response(status_code=307, headers={"Location": f"/{token}/"})
        return None


def _refused(headers: Headers, message: str, script: str = "") -> Response:
    if "text/html" in headers.get("accept", ""):
        return HTMLResponse(_PAGE.format(message=html.escape(message), script=script), status_code=403)
    return JSONResponse({"error": message}, status_code=403)


_PAGE = """<!doctype html>
<html lang="en" data-entrance>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>groundhog review</title>
<link rel="icon" href="data:,">
<main><h1>Not here</h1><p>{message}</p></main>
{script}
"""
_SCRIPT_TAG = f'<script src="{SCRIPT}" type="module"></script>'


def is_this_machine(host: str, listening: str) -> bool:
    """Whether a Host header is the server's own or an IP address; DNS rebinding needs a name."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        if name in ("localhost", listening):
            return True
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def kept_token(path: Path) -> str:
    """The token of a file of corrections, kept in a file so that an open page survives a restart of the server.

    path: the token's file, readable only by its owner; created if missing. If that fails, every start has a new token.
    """
    with suppress(OSError, UnicodeDecodeError):
        if os.stat(path).st_mode & 0o077 == 0 and _TOKEN.fullmatch(token := path.read_text(encoding="ascii").strip()):
            return token
    token = secrets.token_urlsafe(16)
    with suppress(OSError):
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(token)
    return token
