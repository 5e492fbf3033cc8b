"""The Prefect server that `groundhog up` starts: Prefect's own application behind a check of the Host header.

A page that the user's browser has open can send requests to 127.0.0.1, and a name of an attacker's can be pointed at it
(DNS rebinding). The Host check refuses the second; allowed origins and the password, which server.py sets, the first.
"""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from fastapi import FastAPI
from prefect.server.api.server import create_app as create_prefect_app
from starlette.middleware.trustedhost import TrustedHostMiddleware

LOCAL_NAMES = ("127.0.0.1", "localhost", "[::1]")


def create_app() -> FastAPI:
    """Prefect's application for PREFECT_API_URL; any other Host gets 400."""
    app = create_prefect_app()
    hostname = urlsplit(os.environ.get("PREFECT_API_URL", "")).hostname
    hosts = {*LOCAL_NAMES, hostname} if hostname else set(LOCAL_NAMES)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=sorted(hosts), www_redirect=False)
    return app
