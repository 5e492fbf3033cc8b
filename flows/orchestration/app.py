"""The Prefect server that `groundhog up` starts: Prefect's application with a check of the Host header.

Any page that is open in the user's browser can send requests to 127.0.0.1, and an attacker's host name can be made to
resolve to it (DNS rebinding). The allowed origins and the password, which server.py sets, refuse the former; the check
of the Host header refuses the latter.
"""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from fastapi import FastAPI
from prefect.server.api.server import create_app as create_prefect_app
from starlette.middleware.trustedhost import TrustedHostMiddleware

LOCAL_NAMES = ("127.0.0.1", "localhost", "[::1]")


def create_app() -> FastAPI:
    """Prefect's application for PREFECT_API_URL; requests for other hosts get status 400."""
    app = create_prefect_app()
    hostname = urlsplit(os.environ.get("PREFECT_API_URL", "")).hostname
    hosts = {*LOCAL_NAMES, hostname} if hostname else set(LOCAL_NAMES)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=sorted(hosts), www_redirect=False)
    return app
