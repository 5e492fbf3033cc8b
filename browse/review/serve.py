"""`groundhog browse serve`: a web server to review labels in the browser; works offline."""

from __future__ import annotations

import argparse
import socket
import sys
import threading
import time
import webbrowser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import uvicorn

from browse.review.app import ReviewApp
from browse.review.arguments import DEFAULT_HOST, DEFAULT_PORT, add_data_paths, read_data_paths
from browse.review.candidates import CandidateBoxes, find_plan
from browse.review.guard import Guard, kept_token
from browse.review.session import Review
from browse.review.similarity import Similarity
from browse.review.views import Views
from formats.dataset_names import parse_annotation_name, suspects_path
from formats.images import safe_join
from formats.io.errors import InputError
from formats.io.locks import lock

EXPORT_DELAY = 2.0  # seconds without a change after which the file of corrections is written
EXPORT_SHARE = 20  # the delay is at least this many times the duration of the last write


def main(argv: Sequence[str] | None = None, program: str = "groundhog browse serve") -> int:
    """Serves until it is interrupted. Returns the exit code: 0, or 2 for invalid input."""
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
        description="Review labels in the browser. Every change is saved at once, beside the labels.",
        epilog=f"example:\n  {program} data/cat cat_train_od_v1.json images --order uncertain",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(parser)
    return parser


def add_options(parser: argparse.ArgumentParser) -> None:
    add_data_paths(parser)
    parser.add_argument(
        "-o",
        "--out",
        metavar="REVIEWED_FILE",
        type=Path,
        help="file for the corrections (default: X_od_reviewed.json beside the labels)",
    )
    parser.add_argument(
        "--port", type=int, default=DEFAULT_PORT, help="port to listen on (default %(default)s; 0: any free port)"
    )
    parser.add_argument(
        "--host",
        default=DEFAULT_HOST,
        metavar="ADDRESS",
        help="address to listen on (default %(default)s: this machine only)",
    )
    parser.add_argument(
        "--order",
        default="file",
        metavar="file|uncertain|diverse|FILE",
        help="uncertain: images with a score near its threshold first; diverse: each as different as possible from "
        "those before it; FILE: a list of images with a reason each "
        '(.jsonl, {"filename": ..., "reason": ...} a line), a CSV of groundhog agreement, or a JSON table of file name '
        "and score, lowest first",
    )
    parser.add_argument(
        "--candidates",
        metavar="WORK_DIR",
        type=Path,
        help="show the model's boxes below the threshold, from this labelling (default: the one that the labels' "
        ".meta.json names)",
    )
    parser.add_argument(
        "--compare",
        metavar="FILE",
        help="other labels of the same images, or the truth; relative to DATA_ROOT (default: the round before)",
    )
    parser.add_argument("--reviewer", metavar="NAME", help="name to record with each change (default: the user)")
    parser.add_argument("--no-open", action="store_true", help="do not open the browser")


def serve(options: argparse.Namespace) -> None:
    """Serves until it is interrupted."""
    with opened(options) as server:
        review = server.review
        print(f"{review_summary(review)}\nreview at {server.address}  (Ctrl+C ends)", flush=True)
        if not options.no_open:
            webbrowser.open(server.address)
        server.run()
        print(f"\n{review_summary(review)}")


@contextmanager
def opened(options: argparse.Namespace) -> Iterator[ReviewServer]:
    """The server for command-line options, for the duration of the block; then writes the file of corrections."""
    annotations, images, label_map = read_data_paths(options)
    review = Review(annotations, label_map, options.out, options.reviewer)
    with lock(review.path.parent, review.path.stem), closing(review):
        other = labels_before(annotations) if options.compare is None else _inside(options.data_root, options.compare)
        plan = find_plan(annotations, options.candidates)
        candidates = None if plan is None else CandidateBoxes(plan)
        suspects = suspects_path(annotations)
        listed = suspects if suspects.is_file() else None
        views = Views(review, options.order, other, similarity_of(review, images, candidates), listed)
        for problem in review.index.problems:
            print(f"cannot be reviewed: {problem}", file=sys.stderr)
        with ReviewServer(views, images, options.host, options.port, candidates) as server:
            yield server


@contextmanager
def closing(review: Review) -> Iterator[None]:
    """Closes a review at the end of the block, which writes outstanding changes to its file."""
    try:
        yield
    finally:
        review.close()


def labels_before(annotations: Path) -> Path | None:
    """cat_od_v2.json -> cat_od_v1.json if it exists: the default labels that a round is compared with."""
    name = parse_annotation_name(annotations)
    if name.version is None:
        return None
    path = annotations.with_name(str(replace(name, version=name.version - 1)))
    return path if path.is_file() else None


def similarity_of(review: Review, images: Path, candidates: CandidateBoxes | None) -> Similarity:
    """The similarity of the images of a review, whose pictures are in a folder."""
    return Similarity(review.index, lambda number: safe_join(images, review.lines.record(number).filename), candidates)


def _inside(root: Path, name: str) -> Path:
    inside = root / name
    return inside if inside.is_file() else Path(name)


def review_summary(review: Review) -> str:
    """A text with the progress of the review and the path of the corrections."""
    counts = review.progress()
    message = f"{counts['accepted']} of {counts['lines']} accepted: {review.path}"
    if counts["edited"]:
        message += f"\n{counts['edited']} edited and not accepted: the loop does not use them yet"
    if counts["skipped"]:
        message += f"\n{counts['skipped']} skipped"
    return message


class ReviewServer:
    """Serves one review. token: the first part of every address. address: of the page."""

    def __init__(
        self,
        views: Views,
        images: Path,
        host: str = DEFAULT_HOST,
        port: int = 0,
        candidates: CandidateBoxes | None = None,
    ) -> None:
        """Raises InputError if it cannot listen on the port."""
        self.review = views.review
        self._socket = _listening(host, port)
        self.token = kept_token(self.review.path.with_name(f".{self.review.path.stem}.token"))
        self.address = f"http://{host}:{self._socket.getsockname()[1]}/{self.token}/"
        self._exporter = Exporter(self.review)
        self._views = views
        self._app = ReviewApp(views, images, candidates, self._exporter.changed)
        config = uvicorn.Config(
            Guard(self._app.starlette(), self.token, host), log_level="error", access_log=False, lifespan="off"
        )
        self._server = uvicorn.Server(config)

    def __enter__(self) -> ReviewServer:
        self._exporter.start()
        threading.Thread(target=self._views.prepare, name="orders and comparison", daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._exporter.stop()
        self._views.stop()
        if self._app.counts is not None:
            self._app.counts.stop()
        self._socket.close()

    def run(self) -> None:
        """Serves until it is stopped or interrupted."""
        with suppress(KeyboardInterrupt):
            self._server.run(sockets=[self._socket])

    def stop(self) -> None:
        """Ends run(); may be called from another thread."""
        self._server.should_exit = True


def _listening(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, None)[0][0]
        # With an explicit protocol: otherwise asyncio leaves Nagle's algorithm on, which adds 40 ms per response.
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(256)
    except (OSError, OverflowError) as error:
        what = f"cannot listen on {host}:{port} ({error})"
        raise InputError("--port", what, "expected another port; 0 picks a free one") from error
    return listening


class Exporter:
    """Writes the file of corrections in the background, shortly after the last change."""

    def __init__(self, review: Review) -> None:
        self._review = review
        self._changed = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="corrections", daemon=True)

    def start(self) -> None:
        """Starts waiting for changes."""
        self._thread.start()

    def changed(self) -> None:
        """Notes that there is a change to write."""
        self._changed.set()

    def stop(self) -> None:
        """Stops; changes that are not yet written stay in the journal."""
        self._stopped.set()
        self._changed.set()
        self._thread.join()

    def _run(self) -> None:
        delay = EXPORT_DELAY
        while True:
            self._changed.wait()
            while self._changed.is_set() and not self._stopped.is_set():
                self._changed.clear()
                self._stopped.wait(delay)
            if self._stopped.is_set():
                return
            start = time.monotonic()
            with suppress(OSError):  # such as a full disk; the next export writes the changes
                self._review.export()
            delay = max(EXPORT_DELAY, EXPORT_SHARE * (time.monotonic() - start))
