"""The HTTP API of the review page, behind the token (browse.review.guard). Errors are {"error": "..."}.

Pictures and lines are requested by number; file names never come from the network. Changes are POSTed as JSON.
"""

from __future__ import annotations

import itertools
import json
import math
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from browse.images.colours import colour_of, css_of, ink_on
from browse.review.candidate_counts import CandidateCounts
from browse.review.candidates import CandidateBoxes
from browse.review.crops import CropQuery, change_crops, crop_rows, list_crops
from browse.review.images import Pictures
from browse.review.page_json import Phrase
from browse.review.session import StaleRevision
from browse.review.views import LineView, Query, Views
from formats.io.errors import InputError
from formats.io.plurals import many

MAX_BODY = 8 << 20  # bytes; about a hundred times the size of a change to one image
MAX_ROWS = 500  # that one request may ask for
MAX_WAITING = 1000  # requests for pictures; further ones are told to retry later
PICTURE_THREADS = 4  # separate from the threads that read lines, which pictures must not delay
SIDES = {"images": 1600, "thumbnails": 160}  # pixels
CROP_SIDE = 256
CROP_LISTS = 4  # that are kept
PHRASE_COLOURS = 64  # in captions with more phrases, colours repeat
PAGE = Path(__file__).with_name("page")
CONTENT_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
PAGE_FILES = {path.name: path for path in sorted(PAGE.iterdir()) if path.suffix in CONTENT_TYPES}


class Refused(Exception):
    """An HTTP error with a message for the page."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class ReviewApp:
    """The handlers of the API. changed: called after a change was saved."""

    def __init__(
        self,
        views: Views,
        images: Path,
        candidates: CandidateBoxes | None = None,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self.review, self.views, self.candidates = views.review, views, candidates
        self.counts = None if candidates is None or candidates.names is None else CandidateCounts(candidates)
        self.pictures = Pictures(images, lambda number: self.review.lines.record(number).filename)
        self._changed = changed
        self._waiting = 0
        self._threads: anyio.CapacityLimiter | None = None  # created inside the event loop
        self._run = secrets.token_hex(4)  # in the URLs of pictures, because another run may number them differently
        self._crop_lists: OrderedDict[str, list[tuple[int, int]]] = OrderedDict()
        self._crop_names = (f"c{number}" for number in itertools.count(1))
        self._lock = threading.Lock()

    def starlette(self) -> Starlette:
        """The application, without its guard."""
        routes = [
            Route("/", self._page),
            Route("/overview", self._handler(self.overview)),
            Route("/progress", self._handler(self.progress)),
            Route("/views", self._handler(self.open_view), methods=["POST"]),
            Route("/views/{view}/rows", self._handler(self.rows)),
            Route("/views/{view}/open", self._handler(self.next_open)),
            Route("/views/{view}/position", self._handler(self.position)),
            Route("/lines", self._handler(self.save), methods=["POST"]),
            Route("/lines/{number}", self._handler(self.line)),
            Route("/lines/{number}/candidates", self._handler(self.line_candidates)),
            Route("/lines/{number}/comparison", self._handler(self.line_comparison)),
            Route("/counts/{label}", self._handler(self.category_counts)),
            Route("/crops", self._handler(self.open_crops), methods=["POST"]),
            Route("/crops/change", self._handler(self.change_crops), methods=["POST"]),
            Route("/crops/{crops}/rows", self._handler(self.crop_rows)),
            Route("/categories", self._handler(self.add_category), methods=["POST"]),
            Route("/images/{number}", self._image("images")),
            Route("/thumbnails/{number}", self._image("thumbnails")),
            Route("/regions/{number}", self._region),
            Route("/cuts/{number}", self._cut),
            Route("/{name}", self._page),
        ]
        return Starlette(routes=routes, exception_handlers={404: _nothing_here, 405: _nothing_here})

    # Handlers: each takes the parameters of path and query, and the JSON object of a POST

    def overview(self, values: dict[str, str], body: dict[str, Any]) -> dict[str, Any]:
        """What the page needs when it loads."""
        review, views = self.review, self.views
        return {
            "annotations": review.annotations.name,
            "run": self._run,
            "stored": review.path.name,
            "round": review.round,
            "reviewer": review.reviewer,
            "categories": self._categories(),
            "phrase_colours": [_inks(index) for index in range(PHRASE_COLOURS)],
            "problems": review.index.problems,
            "orders": views.orders(),
            "query": views.first.__dict__,
            "other": None if views.other is None else views.other.path.name,
            "truth": views.other is not None and views.other.is_known_truth,
            "candidates": self.candidates is not None,
            "counts": self.counts is not None,
            "similar": views.similarity is not None,
            "threshold": views.thresholds.default,
            "thresholds": dict(views.thresholds.of_name),
            "may_add_category": review.label_map_path is not None,
            **self.progress(values, body),
        }

    def progress(self, values: dict[str, str], body: dict[str, Any]) -> dict[str, Any]:
        """How many lines are reviewed, and how much of the file has been read."""
        index = self.review.index
        compared = None if self.views.other is None else self.views.lines_compared
        known = {"known": index.known, "total": len(index.lines), "compared": compared}
        return {"progress": self.review.progress(), **known}

    def open_view(self, values: dict[str, str], body: dict[str, Any]) -> dict[str, Any]:
        """Opens a view for the filter bar; also returns its first position that is not reviewed."""
        name, view = self.views.open(Query.of(body))
        return {"view": name, "count": view.count, "open": self.views.next_open(view, -1)}

    def rows(self, values: dict[str, str], body: dict[str, Any]) -> dict[str, Any]:
        """A range of the list of images."""
        view = self._view(values)
        start = _whole(values, "start")
        stop = min(view.count, start + min(MAX_ROWS, _whole(values, "count")))
        return {"start": start, "rows": [self.views.row(view, position) for position in range(start, stop)]}

    def next_open(self, values: dict[str, str], body: dict[str, Any]) -> dict[str, Any]:
        """The next position, after the given one, that is not reviewed."""
        return {"position": self.views.next_open(self._view(values), _whole(values, "after"))}

    def position(self, values: dict[str, str], body: dict[str, Any]) -> dict[str, Any]:
        """The position of a line in a view."""
        return {"position": self._view(values).position(_whole(values, "number"))}

    def line(self, values: dict[str, str], body: dict[str, Any]) -> dict[str, Any]:
        """A line in its current state."""
        number = self._number(values)
        try:
            phrases = self._asked_phrases(number)
            page = self.review.page(number, phrases)
        except InputError as error:
            raise Refused(422, str(error)) from error
        return {**page, "reason": self.views.reason(number), "progress": self.review.progress()}

    def line_candidates(self, values: dict[str, str], body: dict[str, Any]) -> dict[str, Any]:
        """The model's boxes that did not become labels."""
        number = self._number(values)
        if self.candidates is None:
            return {"candidates": []}
        phrases = self._asked_phrases(number)
        page = self.review.page(number, phrases)
        phrases = [Phrase(*each.values()) for each in page["phrases"]]
        labels = {name: label for label, name in self.review.categories.items()}
        record = self.review.record(number)
        return {"candidates": self.candidates.of_line(number, record, page["model"], phrases, labels)}

    def category_counts(self, values: dict[str, str], body: dict[str, Any]) -> dict[str, Any]:
        """The number of boxes of a category, and of images with one, at each threshold."""
        name = self.review.categories.get(_whole(values, "label"))
        if self.counts is None or name is None:
            raise Refused(404, "this category has no counts")
        return self.counts.of(name)

    def line_comparison(self, values: dict[str, str], body: dict[str, Any]) -> dict[str, Any]:
        """The boxes of this line in the other label file, and how they differ."""
        number = self._number(values)
        page = self.review.page(number)
        phrases = [" … ".join(each["texts"]) for each in page["phrases"]]
        return {"comparison": self.views.comparison(number, page["boxes"], phrases)}

    def save(self, values: dict[str, str], body: dict[str, Any]) -> dict[str, Any]:
        """Saves changes of lines, all or none."""
        changes = body.get("changes")
        if not isinstance(changes, list) or not changes:
            raise Refused(400, "expected changes, a list of lines")
        for change in changes:
            number = change.get("number") if isinstance(change, dict) else None
            if type(number) is not int or not 0 <= number < len(self.review.lines):
                raise Refused(400, "expected the number of each line")
            if not isinstance(change.get("revision"), str):
                raise Refused(400, "expected the revision that the line was read with")
        lines = self.review.save(changes)
        self._changed()
        return {"lines": lines, "progress": self.review.progress()}

    def open_crops(self, values: dict[str, str], body: dict[str, Any]) -> dict[str, Any]:
        """A list of the boxes of one category in a view."""
        view = self._view({"view": str(body.get("view"))})
        crops = list_crops(self.views, view, _crop_query(body))
        with self._lock:
            name = next(self._crop_names)
            self._crop_lists[name] = crops
            if len(self._crop_lists) > CROP_LISTS:
                self._crop_lists.popitem(last=False)
        return {"crops": name, "count": len(crops)}

    def crop_rows(self, values: dict[str, str], body: dict[str, Any]) -> dict[str, Any]:
        """A range of a list of crops."""
        crops = self._crop_lists.get(values["crops"])
        if crops is None:
            raise Refused(404, "this list of crops has expired; load the crops again")
        start = _whole(values, "start")
        stretch = crops[start : start + min(MAX_ROWS, _whole(values, "count"))]
        return {"start": start, "rows": crop_rows(self.review, stretch)}

    def change_crops(self, values: dict[str, str], body: dict[str, Any]) -> dict[str, Any]:
        """Applies one action to many boxes."""
        items = body.get("items")
        for item in items if isinstance(items, list) else ():
            number = item.get("number") if isinstance(item, dict) else None
            if type(number) is not int or not 0 <= number < len(self.review.lines):
                raise Refused(400, "expected the number of each box's line")
        done = change_crops(self.review, str(body.get("action")), body.get("of"), items)
        self._changed()
        return {**done, "progress": self.review.progress()}

    def add_category(self, values: dict[str, str], body: dict[str, Any]) -> dict[str, Any]:
        """Adds a category to the label map."""
        self.review.add_category(body.get("name"))
        return {"categories": self._categories()}

    # Responses

    def _handler(self, act: Callable[[dict[str, str], dict[str, Any]], dict[str, Any]]) -> Callable[[Request], Any]:
        async def handle(request: Request) -> Response:
            try:
                body = await _json_object(request) if request.method == "POST" else {}
                values = {**request.query_params, **request.path_params}
                return JSONResponse(await run_in_threadpool(act, values, body))
            except Refused as error:
                return _error(error.status, str(error))
            except StaleRevision as error:
                return _error(409, str(error))
            except InputError as error:
                return _error(400, str(error))
            except OSError as error:  # such as a full disk
                return _error(500, str(error))

        return handle

    def _image(self, kind: str) -> Callable[[Request], Any]:
        async def handle(request: Request) -> Response:
            return await self._picture(request, lambda number: self.pictures.reduced(number, SIDES[kind]))

        return handle

    async def _region(self, request: Request) -> Response:
        """regions/N?box=x1,y1,x2,y2&side=S: a part at full resolution, at most S pixels."""
        return await self._part(request, self.pictures.region, None)

    async def _cut(self, request: Request) -> Response:
        """cuts/N?box=x1,y1,x2,y2: a crop of an object, for the grid."""
        return await self._part(request, self.pictures.crop, CROP_SIDE)

    async def _part(self, request: Request, make: Callable[..., bytes], side: int | None) -> Response:
        try:
            box = _box(request.query_params.get("box", ""))
            longest = _whole(dict(request.query_params), "side") if side is None else side
        except Refused as error:
            return _error(error.status, str(error))
        return await self._picture(request, lambda number: make(number, box, max(1, longest)))

    async def _picture(self, request: Request, make: Callable[[int], bytes]) -> Response:
        if self._waiting >= MAX_WAITING:
            return _error(503, "too many pictures are requested at once", {"Retry-After": "1"})
        self._waiting += 1
        try:
            number = self._number(dict(request.path_params))
            self._threads = self._threads or anyio.CapacityLimiter(PICTURE_THREADS)
            content = await anyio.to_thread.run_sync(make, number, limiter=self._threads)
        except Refused as error:
            return _error(error.status, str(error))
        except Exception as error:  # decoders raise errors of many types on broken files
            return _error(404, str(error))
        finally:
            self._waiting -= 1
        return Response(content, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})

    async def _page(self, request: Request) -> Response:
        path = PAGE_FILES.get(request.path_params.get("name", "page.html"))
        if path is None:
            return _error(404, "there is nothing at this address")
        return Response(path.read_bytes(), media_type=CONTENT_TYPES[path.suffix])

    def _number(self, values: dict[str, str]) -> int:
        number, count = _whole(values, "number"), len(self.review.lines)
        if not 0 <= number < count:
            raise Refused(404, f"there is no line {number + 1}: the file has {many(count, 'line')}")
        return number

    def _view(self, values: dict[str, str]) -> LineView:
        try:
            return self.views.view(values["view"])
        except KeyError:
            raise Refused(410, "this view has expired; load the page again") from None

    def _asked_phrases(self, number: int) -> list[Phrase]:
        return [] if self.candidates is None else self.candidates.asked_phrases(number, self.review.record(number))

    def _categories(self) -> list[dict[str, Any]]:
        categories = self.review.categories.items()
        return [{"label": label, "name": name, **_inks(label)} for label, name in categories]


def _crop_query(body: dict[str, Any]) -> CropQuery:
    label, sort, words = body.get("label", -1), body.get("sort", "low"), body.get("words", "")
    low, high, like = body.get("low", 0.0), body.get("high", 1.0), body.get("like")
    fits = type(label) is int and isinstance(sort, str) and isinstance(words, str)
    fits &= all(type(x) in (int, float) for x in (low, high))
    fits &= like is None or (isinstance(like, list) and len(like) == 2 and all(type(x) is int for x in like))
    if not fits:
        raise Refused(400, "expected a label, words, a sort, limits of the score, and like: [line, box]")
    return CropQuery(label, words.strip(), sort, low, high, None if like is None else (like[0], like[1]))


async def _json_object(request: Request) -> dict[str, Any]:
    """Raises Refused for anything but a JSON object of reasonable size, said to be one.

    A form of another site cannot say so without asking first.
    """
    if request.headers.get("content-type", "").split(";")[0].strip() != "application/json":
        raise Refused(415, "expected Content-Type: application/json")
    length = request.headers.get("content-length", "")
    if not length.isdecimal():
        raise Refused(411, "expected Content-Length")
    if int(length) > MAX_BODY:
        raise Refused(413, f"expected at most {MAX_BODY} bytes")
    try:
        value = json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"the request is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise Refused(400, "expected a JSON object")
    return value


def _whole(values: dict[str, str], name: str) -> int:
    text = values.get(name, "")
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdecimal() and len(digits) < 12):
        raise Refused(404, f"{name} is {text!r}; expected a whole number")
    return int(text)


def _box(text: str) -> tuple[float, float, float, float]:
    try:
        x1, y1, x2, y2 = (float(side) for side in text.split(","))
    except ValueError:
        raise Refused(404, "expected box=x1,y1,x2,y2") from None
    if not all(math.isfinite(side) and abs(side) < 1e6 for side in (x1, y1, x2, y2)) or x1 >= x2 or y1 >= y2:
        raise Refused(404, "expected a box with x1 < x2 and y1 < y2")
    return x1, y1, x2, y2


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": message}, status_code=status, headers=headers)


async def _nothing_here(request: Request, error: Exception) -> Response:
    return _error(404, "there is nothing at this address")


def _inks(index: int) -> dict[str, str]:
    """The colour of a label or phrase, the same as in drawings, and a legible text colour on it."""
    return {"colour": css_of(colour_of(index)), "ink": css_of(ink_on(colour_of(index)))}
