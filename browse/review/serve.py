"""`groundhog browse serve`: labels reviewed in the browser, one page without a build step, offline.

The server listens on this machine alone. Its addresses begin with a random token that only its user sees; it
answers only to names of this machine (otherwise a page elsewhere could reach it by DNS rebinding), and accepts changes
only from its own page. Pictures are requested by number: a file name never comes from the network.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import secrets
import sys
import webbrowser
from collections.abc import Sequence
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from browse.images.pictures import jpeg_of, reduced_picture
from browse.review.arguments import add_data_paths, read_data_paths
from browse.review.session import Review, StaleRevision
from formats.images import safe_join
from formats.io.errors import InputError
from formats.io.locks import lock

MAX_SIDE = {"images": 1600, "thumbnails": 160}  # pixels
MAX_BODY = 8 << 20  # bytes: a change to one image is a hundredth of it
IDLE_TIMEOUT = 60  # seconds that a connection may stay silent
PAGE = Path(__file__).with_name("page")
PAGE_FILES = {"": "page.html"} | {name: name for name in ("page.css", "page.js", "canvas.js", "strip.js")}
CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
}
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",  # the address holds the token
    "X-Content-Type-Options": "nosniff",
}


def main(argv: Sequence[str] | None = None, program: str = "groundhog browse serve") -> int:
    """Serves until it is interrupted. Exit code: 0, or 2 for bad input."""
    options = build_parser(program).parse_args(argv)
    try:
        serve(options)
    except InputError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 2
    return 0


def build_parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        program,
        description="Review labels in the browser. Every change is saved at once, in a file beside the labels.",
        epilog=f"example:\n  {program} data/cat cat_train_od_v1.json images --order uncertain",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(parser)
    return parser


def add_options(parser: argparse.ArgumentParser) -> None:
    add_data_paths(parser)
    parser.add_argument(
        "-o", "--out", metavar="REVIEWED_FILE", type=Path, help="default: X_od_reviewed.json beside the labels"
    )
    parser.add_argument("--port", type=int, default=8765, help="default 8765; 0: any free port")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="address to listen on (default 127.0.0.1, this machine)",
    )
    parser.add_argument(
        "--order",
        default="file",
        metavar="file|uncertain|FILE",
        help="uncertain: images with a score near its threshold first; FILE: a list of images with a reason each "
        '(.jsonl, {"filename": ..., "reason": ...} a line), a CSV of groundhog agreement, or a JSON table of file name '
        "and score, lowest first",
    )
    parser.add_argument("--no-open", action="store_true", help="do not open the browser")


def serve(options: argparse.Namespace) -> None:
    """Serves until it is interrupted."""
    annotations, images, label_map = read_data_paths(options)
    review = Review(annotations, label_map, options.out, options.order)
    with lock(review.path.parent, review.path.stem), _listening(options, review, images) as server:
        for problem in review.problems:
            print(f"not shown: {problem}", file=sys.stderr)
        print(f"{_progress_of(review)}\nreview at {server.address}  (Ctrl+C ends)", flush=True)
        if not options.no_open:
            webbrowser.open(server.address)
        with suppress(KeyboardInterrupt):
            server.serve_forever()
        print(f"\n{_progress_of(review)}")


def _listening(options: argparse.Namespace, review: Review, images: Path) -> ReviewServer:
    try:
        return ReviewServer(review, images, options.host, options.port)
    except (OSError, OverflowError) as error:
        what = f"cannot listen on {options.host}:{options.port} ({error})"
        raise InputError("--port", what, "expected another port; 0 picks a free one") from error


def _progress_of(review: Review) -> str:
    progress = review.progress()
    return f"{progress['reviewed']} of {progress['lines']} reviewed: {review.path}"


class ReviewServer(ThreadingHTTPServer):
    """Serves one review. token: the first part of every address. address: of the page."""

    daemon_threads = True

    def __init__(self, review: Review, images: Path, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__((host, port), ReviewHandler)
        self.review, self.images, self.host = review, images, host
        self.token = secrets.token_urlsafe(16)
        self.address = f"http://{host}:{self.server_address[1]}/{self.token}/"


class _Refused(Exception):
    """An answer that is not a success. The message goes to the page."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class ReviewHandler(BaseHTTPRequestHandler):
    """The addresses, after the token: the page's files; lines, lines/N; images/N, thumbnails/N.

    A change is POSTed to lines/N as JSON: {"revision": ..., "boxes": [...], "phrases": [...]}, or
    {"revision": ..., "reviewed": false}, which removes the correction. Errors are {"error": "..."}.
    """

    server: ReviewServer
    protocol_version = "HTTP/1.1"
    timeout = IDLE_TIMEOUT

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Logs nothing: the terminal is for the address and for problems."""

    def _answer(self, act) -> None:
        try:
            self._check_sender()
            act(self._parts())
        except _Refused as error:
            self._send_error(error.status, str(error))
        except StaleRevision as error:
            self._send_error(HTTPStatus.CONFLICT, str(error))
        except InputError as error:
            self._send_error(HTTPStatus.BAD_REQUEST, str(error))
        except OSError as error:  # a full disk, or a page that went away while it was answered
            with suppress(OSError):
                self._send_error(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))

    def _check_sender(self) -> None:
        """Raises _Refused for a request that did not come from this server's own page."""
        host = self.headers.get("Host", "")
        if not _is_this_machine(host, self.server.host):
            raise _Refused(HTTPStatus.FORBIDDEN, f"this server does not answer requests for host {host!r}")
        origin = self.headers.get("Origin")
        if origin is not None and origin != f"http://{host}":
            raise _Refused(HTTPStatus.FORBIDDEN, f"this server does not accept requests from {origin!r}")

    def _parts(self) -> list[str]:
        """The path's parts after the token. Raises _Refused for another token."""
        _, token, *parts = *urlsplit(self.path).path.split("/"), ""
        parts = parts[:-1]  # the "" that stands in for a token where the path has none
        if not secrets.compare_digest(token.encode(), self.server.token.encode()):
            message = "wrong token in the address; the server prints a new address at every start"
            raise _Refused(HTTPStatus.FORBIDDEN, message)
        return parts

    def _get(self, parts: list[str]) -> None:
        review = self.server.review
        match parts:
            case [name] if name in PAGE_FILES:
                path = PAGE / PAGE_FILES[name]
                self._send(HTTPStatus.OK, f"{CONTENT_TYPES[path.suffix]}; charset=utf-8", path.read_bytes())
            case ["lines"]:
                self._send_json(HTTPStatus.OK, review.overview())
            case ["lines", number]:
                self._send_json(HTTPStatus.OK, review.line(self._number(number)))
            case [("images" | "thumbnails") as size, number]:
                picture = self._picture(self._number(number), MAX_SIDE[size])
                self._send(HTTPStatus.OK, "image/jpeg", picture, cache="private, max-age=3600")
            case _:
                raise _Refused(HTTPStatus.NOT_FOUND, "there is nothing at this address")

    def _post(self, parts: list[str]) -> None:
        change = self._body()
        match parts:
            case ["lines", text]:
                number, revision = self._number(text), change.get("revision")
            case _:
                raise _Refused(HTTPStatus.NOT_FOUND, "there is nothing to change at this address")
        if not isinstance(revision, str):
            raise _Refused(HTTPStatus.BAD_REQUEST, "expected the revision that the line was read with")
        review = self.server.review
        if change.get("reviewed") is False:
            self._send_json(HTTPStatus.OK, review.withdraw(number, revision))
        else:
            self._send_json(HTTPStatus.OK, review.save(number, revision, change.get("boxes"), change.get("phrases")))

    def _number(self, text: str) -> int:
        count = len(self.server.review.records)
        if not (text.isascii() and text.isdecimal() and len(text) < 12 and int(text) < count):
            raise _Refused(HTTPStatus.NOT_FOUND, f"no line {text}: there are {count} lines")
        return int(text)

    def _picture(self, number: int, longest: int) -> bytes:
        filename = self.server.review.records[number].filename
        try:
            return jpeg_of(reduced_picture(safe_join(self.server.images, filename), longest))
        except Exception as error:  # decoders raise all kinds of errors on broken files
            raise _Refused(HTTPStatus.NOT_FOUND, f"{filename}: {error}") from error

    def _body(self) -> dict[str, Any]:
        """Raises _Refused for anything but a JSON object of reasonable size, said to be one.

        A form of another site cannot say so without asking first.
        """
        if self.headers.get_content_type() != "application/json":
            raise _Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "expected Content-Type: application/json")
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            raise _Refused(HTTPStatus.LENGTH_REQUIRED, "expected Content-Length")
        if int(length) > MAX_BODY:
            raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"expected at most {MAX_BODY} bytes")
        try:
            change = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError) as error:
            raise _Refused(HTTPStatus.BAD_REQUEST, f"is not JSON ({error})") from error
        if not isinstance(change, dict):
            raise _Refused(HTTPStatus.BAD_REQUEST, "expected a JSON object")
        return change

    def _send_error(self, status: HTTPStatus, message: str) -> None:
        self.close_connection = True  # what came with the request may not have been read
        self._send_json(status, {"error": message})

    def _send_json(self, status: HTTPStatus, value: Any) -> None:
        self._send(status, "application/json", json.dumps(value).encode("ascii"))

    def _send(self, status: HTTPStatus, kind: str, body: bytes, cache: str = "no-store") -> None:
        self.send_response(status)
        if self.close_connection:
            self.send_header("Connection", "close")
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), "Cache-Control": cache}.items():
            self.send_header(name, value)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def _is_this_machine(host: str, listening: str) -> bool:
    """Whether a Host header names what this server listens on, or is a number: rebinding needs a name."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        if name in ("localhost", listening):
            return True
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
