"""Reviewing in the browser: what is kept, what is refused, and that the loop takes it."""

from __future__ import annotations

import csv
import http.client
import io
import json
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from browse.__main__ import main
from browse.review.app import MAX_BODY, PAGE_FILES
from browse.review.candidates import CandidateBoxes, find_plan
from browse.review.serve import ReviewServer
from browse.review.session import Review, StaleRevision
from browse.review.views import Query, Views
from flows.labelling.bootstrap import bootstrap_od
from flows.labelling.filter import filter_candidates
from flows.labelling.infer import infer
from flows.policies.policy import Policy
from flows.self_training.review import add_corrections
from formats.candidates import read_candidates
from formats.dataset_names import reviewed_path
from formats.io.errors import InputError
from formats.label_map import write_label_map
from formats.odvg import read_odvg, write_odvg
from formats.record import Instance, Record, Region
from formats.reviewed import corrections_for, read_corrections, reviewed_text, write_corrections
from tests.forked import fork
from tests.pipeline_cases import FakeDetector, make_images, make_weights, plan_images

ROOT = Path(__file__).parent.parent
NAMES = {0: "cat", 1: "dog"}
RECORDS = (
    Record("a.png", 30, 40, (Instance((1, 2, 20, 25), 0, "cat", 0.9), Instance((5, 5, 39, 29), 1, "dog", 0.4))),
    Record("deep/b.png", 30, 40, (Instance((1, 2, 50, 25), 0, "cat", 0.6),)),  # is outside the image
    Record("c.png", 30, 40, ()),
)
CAPTIONED = Record(
    "a.png", 30, 40, None, "👍 a cat beside a dog", (Region(((1, 2, 20, 25),), ("a cat",), ((2, 7),), (0.8,)),)
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name in ("a.png", "deep/b.png", "c.png"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (90, 120, 150)).save(tmp_path / "images" / name)
    write_odvg(tmp_path / "x_od_v2.json", RECORDS)
    write_label_map(tmp_path / "x_label_map.json", NAMES)
    write_odvg(tmp_path / "x_vg_v1.json", [CAPTIONED])
    return tmp_path


class Answer(NamedTuple):
    status: int
    body: bytes
    headers: dict[str, str]

    def json(self) -> Any:
        return json.loads(self.body)


@contextmanager
def served(data: Path, name: str = "x_od_v2.json", order: str = "file", **settings: Any) -> Iterator[ReviewServer]:
    review = Review(data / name, **settings)
    with ReviewServer(Views(review, order), data / "images") as server:
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            yield server
        finally:
            server.stop()
            thread.join()
    review.close()


@contextmanager
def reviewed(path: Path, **settings: Any) -> Iterator[Review]:
    review = Review(path, **settings)
    try:
        yield review
    finally:
        review.close()


def save(review: Review, number: int, state: str = "accepted", **changes: Any) -> dict[str, Any]:
    """The line with these changes, its boxes as they are where none are given."""
    line = review.page(number)
    values = {"boxes": line["boxes"], "phrases": line["phrases"], "revision": line["revision"], **changes}
    [saved] = review.save([{"number": number, "state": state, **values}])
    return saved


def post(server: ReviewServer, number: int, revision: str, state: str = "accepted", **changes: Any) -> Answer:
    return ask(server, "lines", {"changes": [{"number": number, "revision": revision, "state": state, **changes}]})


def ask(server: ReviewServer, path: str, body: Any = None, **headers: str) -> Answer:
    """path: after the token, or whole where it begins with "/"."""
    address = urlsplit(server.address)
    connection = http.client.HTTPConnection(address.hostname or "", address.port or 0, timeout=30)
    payload = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    known = {"Content-Type": "application/json"} if payload is not None else {}
    whole = path if path.startswith("/") else address.path + path
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request("GET" if payload is None else "POST", whole, payload, known | names)
    answer = connection.getresponse()
    done = Answer(answer.status, answer.read(), dict(answer.getheaders()))
    connection.close()
    return done


def boxes_of(line: dict[str, Any], **changes: Any) -> list[dict[str, Any]]:
    first, *rest = line["boxes"]
    return [{**first, **changes}, *rest]


# What is kept


def test_an_edit_comes_back_and_the_labels_stay_as_they_were(data: Path) -> None:
    before = (data / "x_od_v2.json").read_bytes()
    with served(data) as server:
        line = ask(server, "lines/0").json()
        assert (line["state"], line["progress"]["accepted"], line["progress"]["lines"]) == ("untouched", 0, 3)
        boxes = [*boxes_of(line, box=[2.5, 3, 20, 25], of=1, ignore=True), {"box": [0, 0, 40, 30], "of": 0}]
        saved = post(server, 0, line["revision"], boxes=boxes).json()
        [after] = saved["lines"]
        assert after.items() <= ask(server, "lines/0").json().items()
        assert saved["progress"]["accepted"] == 1
    [correction] = read_corrections(data / "x_od_reviewed.json")
    assert correction.since == 2  # of X_od_v2.json: round 1 keeps its labels
    assert correction.record.instances == (
        Instance((2.5, 3, 20, 25), 1, "dog", ignore=True),
        Instance((5, 5, 39, 29), 1, "dog"),
        Instance((0, 0, 40, 30), 0, "cat"),
    )
    assert (data / "x_od_v2.json").read_bytes() == before
    with reviewed(data / "x_od_v2.json") as another_day:
        assert another_day.progress()["accepted"] == 1


def test_boxes_that_the_model_made_keep_showing_its_score(data: Path) -> None:
    with reviewed(data / "x_od_v2.json") as review:
        moved = save(review, 0, boxes=boxes_of(review.page(0), box=[0, 0, 20, 25]))
        assert [each["score"] for each in moved["boxes"]] == [None, 0.4]


def test_an_accepted_image_is_cut_at_the_border_and_an_empty_one_counts(data: Path) -> None:
    with reviewed(data / "x_od_v2.json") as review:
        for number in (1, 2):
            save(review, number)
    first, second = (each.record for each in read_corrections(review.path))
    assert [each.box for each in first.instances or ()] == [(1, 2, 40, 25)]
    assert second.instances == ()


def test_only_what_was_accepted_reaches_the_loop(data: Path) -> None:
    with reviewed(data / "x_od_v2.json") as review:
        edited = save(review, 0, "edited", boxes=[])
        skipped = save(review, 1, "skipped")
        assert (edited["state"], edited["boxes"], skipped["state"]) == ("edited", [], "skipped")
        assert (edited["reviewer"], edited["at"][:2]) == (review.reviewer, "20")
        assert corrections_for(review.path) == {}
    with reviewed(data / "x_od_v2.json") as another_day:
        assert another_day.page(0)["boxes"] == []
        counts = another_day.progress()
        assert (counts["edited"], counts["skipped"], counts["accepted"], counts["untouched"]) == (1, 1, 0, 1)


def test_what_was_accepted_can_be_withdrawn_and_gets_the_boxes_of_the_model_again(data: Path) -> None:
    with reviewed(data / "x_od_v2.json") as review:
        before = review.page(0)
        save(review, 0, boxes=[])
        after = save(review, 0, "untouched")
        assert (after["boxes"], after["revision"]) == (before["boxes"], before["revision"])
    assert list(read_corrections(review.path)) == []


def test_a_correction_of_an_earlier_round_is_withdrawn_from_this_round_on(data: Path) -> None:
    write_corrections(data / "x_od_reviewed.json", [reviewed_text(replace(RECORDS[0], instances=()), 1)])
    with reviewed(data / "x_od_v2.json") as review:
        assert (review.page(0)["state"], review.page(0)["earlier"]) == ("accepted", True)
        assert save(review, 0, "untouched")["boxes"] == review.page(0)["model"] != []
        assert review.progress()["accepted"] == 0
    assert corrections_for(review.path, 2) == {}
    assert len(corrections_for(review.path, 1)) == 1  # that round keeps its labels
    with reviewed(data / "x_od_v2.json") as review:
        assert review.page(0)["state"] == "untouched"
        assert save(review, 0, "earlier")["state"] == "accepted"  # undo
    assert len(corrections_for(review.path, 2)) == 1


def test_other_lines_of_the_reviewed_file_stay_byte_for_byte(data: Path) -> None:
    earlier = '{"filename": "a.png",  "height":30,"width":40,"detection":{"instances":[]},"reviewed":true,"note":"é"}'
    later = reviewed_text(RECORDS[2], 3)
    write_corrections(data / "x_od_reviewed.json", [earlier, later])
    with reviewed(data / "x_od_v2.json") as review:
        assert review.page(0)["boxes"] == []  # round 1's correction holds in round 2
        assert review.page(2)["state"] == "untouched"  # that of round 3 does not
        save(review, 0, boxes=[{"box": [1, 1, 9, 9], "of": 0}])
    lines = (data / "x_od_reviewed.json").read_text().splitlines()
    assert lines[:2] == [earlier, later]
    assert len(lines) == 3
    assert len(corrections_for(data / "x_od_reviewed.json", 2)["a.png", None].instances or ()) == 1


def test_phrases_of_a_caption_get_boxes_and_marked_words_become_phrases(data: Path) -> None:
    with reviewed(data / "x_vg_v1.json") as review:
        line = review.page(0)
        assert line["phrases"] == [{"texts": ("a cat",), "spans": ((2, 7),)}]
        phrases = [*line["phrases"], {"texts": ["a dog"], "spans": [[15, 20]]}]
        boxes = [*line["boxes"], {"box": [3, 3, 9, 9], "of": 1}, {"box": [4, 4, 9, 9], "of": 0, "ignore": True}]
        save(review, 0, boxes=boxes, phrases=phrases)
        review.export()
        [correction] = read_corrections(data / "x_vg_reviewed.json")
        assert correction.record.regions == (
            Region(((1, 2, 20, 25),), ("a cat",), ((2, 7),)),
            Region(((4, 4, 9, 9),), ("a cat",), ((2, 7),), ignore=True),
            Region(((3, 3, 9, 9),), ("a dog",), ((15, 20),)),
        )
        emptied = save(review, 0, boxes=[])
        assert emptied["phrases"][0]["texts"] == ("a cat",)  # a phrase of the line stays: it can get a box again
        for wrong in ({"texts": ["a cow"], "spans": [[15, 20]]}, {"texts": ["g"], "spans": [[19, 99]]}, {"texts": 3}):
            with pytest.raises(InputError, match=r"a\.png"):
                save(review, 0, boxes=[], phrases=[wrong])


# The journal, and the file that follows it


def test_what_a_killed_review_had_acknowledged_is_not_lost(data: Path) -> None:
    def killed_review() -> None:
        review = Review(data / "x_od_v2.json")
        for number in (0, 1):
            save(review, number, boxes=[])
        save(review, 2, "edited")
        os.kill(os.getpid(), signal.SIGKILL)

    assert os.waitpid(fork(killed_review), 0)[1] == signal.SIGKILL
    path = data / "x_od_reviewed.json"
    assert set(corrections_for(path)) == {("a.png", None), ("deep/b.png", None)}  # the loop may run first
    with reviewed(data / "x_od_v2.json") as review:
        assert review.progress()["accepted"] == 2
        assert review.page(2)["state"] == "edited"
    assert len(path.read_text().splitlines()) == 2


def test_the_file_of_corrections_follows_by_itself(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("browse.review.serve.EXPORT_DELAY", 0.05)
    with served(data) as server:
        for number in (0, 1):
            revision = ask(server, f"lines/{number}").json()["revision"]
            assert post(server, number, revision, boxes=[]).status == 200
        end = time.monotonic() + 20
        while len((data / "x_od_reviewed.json").read_text().splitlines()) < 2:
            assert time.monotonic() < end
            time.sleep(0.02)


def test_what_another_process_wrote_is_seen(data: Path) -> None:
    with reviewed(data / "x_od_v2.json") as review:
        save(review, 1, "edited", boxes=[])
        line = review.page(0)
        write_corrections(review.path, [reviewed_text(replace(record, instances=()), 2) for record in RECORDS[:2]])
        assert review.page(0)["boxes"] == []
        assert review.page(1)["state"] == "accepted"  # it is newer than the draft
        assert review.progress()["accepted"] == 2
        with pytest.raises(StaleRevision, match="changed elsewhere"):
            save(review, 0, revision=line["revision"])


def test_a_file_of_corrections_that_was_removed_is_gone_from_the_review_too(data: Path) -> None:
    with reviewed(data / "x_od_v2.json") as review:
        save(review, 0)
    review.path.unlink()
    with reviewed(data / "x_od_v2.json") as review:
        assert review.progress()["accepted"] == 0


def test_a_journal_that_is_none_is_named(data: Path) -> None:
    (data / "x_od_reviewed.sqlite").write_bytes(b"not a database, but longer than a header" * 10)
    with pytest.raises(InputError, match=r"x_od_reviewed.sqlite: cannot be read"):
        Review(data / "x_od_v2.json")


# What is refused


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([{"box": [1, 2, 41, 25], "of": 0}], "is outside the image of 40 x 30 pixels"),
        ([{"box": [-1, 2, 20, 25], "of": 0}], "is outside the image"),
        ([{"box": [20, 2, 20, 25], "of": 0}], "is empty"),
        ([{"box": [20, 2, 10, 25], "of": 0}], "is empty"),
        ([{"box": [1, 2, 20], "of": 0}], "not four finite numbers"),
        ([{"box": [1, 2, "20", 25], "of": 0}], "not four finite numbers"),
        ([{"box": [1, 2, True, 25], "of": 0}], "not four finite numbers"),
        ([{"box": [1, 2, 20, 25], "of": 7}], "no category 7"),
        ([{"box": [1, 2, 20, 25], "of": "cat"}], "expected a whole number"),
        ([{"box": [1, 2, 20, 25], "of": 0, "ignore": 1}], "true or false"),
        (["box"], "is not an object"),
        (None, "boxes is not a list"),
    ],
)
def test_impossible_boxes_are_refused_with_a_reason(data: Path, boxes: Any, message: str) -> None:
    with reviewed(data / "x_od_v2.json") as review:
        with pytest.raises(InputError, match=re.escape(message)) as refused:
            save(review, 0, boxes=boxes)
        assert "a.png" in str(refused.value)
        with pytest.raises(InputError, match="expected one of untouched"):
            save(review, 0, "done")
        assert review.progress()["untouched"] == 3


def test_two_windows_do_not_overwrite_one_another(data: Path) -> None:
    with served(data) as server:
        mine = ask(server, "lines/0").json()
        assert post(server, 0, mine["revision"], boxes=[]).status == 200
        for change in ({"boxes": mine["boxes"]}, {"state": "untouched"}):
            stale = post(server, 0, mine["revision"], **change)
            assert stale.status == 409
            assert "changed elsewhere" in stale.json()["error"]
        assert ask(server, "lines/0").json()["boxes"] == []
        fresh = ask(server, "lines/1").json()  # other lines are free
        assert post(server, 1, fresh["revision"], boxes=[]).status == 200


def test_changes_of_several_lines_are_saved_all_or_none(data: Path) -> None:
    with served(data) as server:
        lines = [ask(server, f"lines/{number}").json() for number in range(3)]
        changes = [
            {"number": each["number"], "revision": each["revision"], "state": "accepted", "boxes": []} for each in lines
        ]
        changes[2]["boxes"] = [{"box": [1, 2, 900, 25], "of": 0}]
        assert ask(server, "lines", {"changes": changes}).status == 400
        assert ask(server, "progress").json()["progress"]["accepted"] == 0


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/", 403),
        ("/lines", 403),
        ("/wrong-token/lines", 403),
        ("/%C3%B6/lines", 403),
        ("lines/3", 404),
        ("lines/-1", 404),
        ("lines/0/more", 404),
        ("images/a.png", 404),
        ("images/../x_od_v2.json", 404),
        ("regions/0?box=1,2,3&side=9", 404),
        ("cuts/0?box=1,2,nan,9", 404),
        ("..%2f..%2fetc/passwd", 404),
        ("app.py", 404),
        ("views/v9/rows?start=0&count=1", 410),
    ],
)
def test_addresses_that_are_none(data: Path, path: str, status: int) -> None:
    with served(data) as server:
        answer = ask(server, path)
        assert answer.status == status
        assert server.token.encode() not in answer.body
        assert answer.json()["error"]


def test_the_bare_address_says_in_words_what_is_missing(data: Path) -> None:
    with served(data) as server:
        answer = ask(server, "/", Accept="text/html,*/*")
        assert answer.status == 403
        assert b"<h1>" in answer.body
        assert b"Open the address that" in answer.body
        assert server.token.encode() not in answer.body
        assert ask(server, "/address.js").status == 200
        assert ask(server, "/address.js", Host="evil.example").status == 403


def test_requests_of_other_sites_are_refused(data: Path) -> None:
    with served(data) as server:
        revision = ask(server, "lines/0").json()["revision"]
        change = {"changes": [{"number": 0, "revision": revision, "state": "accepted", "boxes": []}]}
        host = urlsplit(server.address).netloc
        assert ask(server, "overview", Host="evil.example").status == 403
        assert ask(server, "overview", Host="127.0.0.1.evil.example:80").status == 403
        assert ask(server, "lines", change, Origin="http://evil.example").status == 403
        assert ask(server, "lines", change, Origin="null").status == 403
        assert ask(server, "lines", change, Content_Type="text/plain").status == 415  # as a form sends it
        assert not (data / "x_od_reviewed.json").exists()
        assert ask(server, "overview", Host="localhost:9").status == 200  # through a tunnel
        assert ask(server, "lines", change, Origin=f"http://{host}").status == 200


def test_an_open_page_survives_a_restart_of_the_server(data: Path) -> None:
    with served(data) as server:
        token, line = server.token, ask(server, "lines/0").json()
    with served(data) as server:
        assert server.token == token
        assert post(server, 0, line["revision"], boxes=[]).status == 200
    [kept] = data.glob(".*.token")
    assert kept.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b"{}", b"[" * 100_000, b'{"changes": 3}', b'{"changes": [{"number": 0}]}']
)
def test_bodies_that_are_no_change(data: Path, body: bytes) -> None:
    with served(data) as server:
        assert ask(server, "lines", body).status == 400
        assert ask(server, "lines", b"{}", Content_Length=str(MAX_BODY + 1)).status == 413


def test_file_names_of_the_labels_cannot_leave_the_image_folder(data: Path) -> None:
    Image.new("RGB", (40, 30)).save(data / "secret.png")
    write_odvg(data / "y_od.json", [replace(RECORDS[0], filename="../secret.png")])
    with served(data, "y_od.json", label_map=NAMES) as server:
        for path in ("images/0", "cuts/0?box=1,1,9,9"):
            answer = ask(server, path)
            assert answer.status == 404
            assert "leaves its folder" in answer.json()["error"]


def test_pictures_come_upright_and_reduced(data: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a camera held sideways
    Image.new("RGB", (4000, 2000), (200, 30, 30)).save(data / "images" / "c.jpg", exif=exif)
    write_odvg(data / "y_od.json", [Record("c.jpg", 4000, 2000, ())])
    with served(data, "y_od.json", label_map=NAMES) as server:
        paths = ("images/0", "thumbnails/0", "regions/0?box=0,0,1000,500&side=4000", "cuts/0?box=0,0,1000,500")
        sizes = [Image.open(io.BytesIO(ask(server, path).body)).size for path in paths]
        assert sizes == [(800, 1600), (80, 160), (1000, 500), (256, 149)]


def test_a_picture_that_takes_long_holds_up_no_line(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = threading.Event()

    def slowly(path: Path, longest: int) -> np.ndarray:
        held.wait(30)
        return np.zeros((3, 4, 3), np.uint8)

    monkeypatch.setattr("browse.review.images.reduced_picture", slowly)
    with served(data) as server, ThreadPoolExecutor(200) as clients:
        pictures = [clients.submit(ask, server, f"images/{number % 3}") for number in range(200)]
        start = time.monotonic()
        assert all(ask(server, f"lines/{number % 3}").status == 200 for number in range(20))
        assert time.monotonic() - start < 10
        held.set()
        assert {each.result().status for each in pictures} == {200}


def test_the_page_needs_nothing_from_elsewhere(data: Path) -> None:
    with served(data) as server:
        for path in ("", *PAGE_FILES):
            answer = ask(server, path)
            assert answer.status == 200
            assert b"https://" not in answer.body
            assert "default-src 'self'" in answer.headers["content-security-policy"]


# What is shown, in which order


def test_uncertain_images_come_first(data: Path) -> None:
    def order(name: str) -> list[str]:
        with reviewed(data / "x_od_v2.json") as review:
            views = Views(review, name)
            _, view = views.open(replace(views.first, listed=False))
            return [views.row(view, position)["filename"] for position in range(view.count)]

    assert order("uncertain") == ["a.png", "deep/b.png", "c.png"]  # 0.4 is the least; c.png has no score
    (data / "x_od_v2.meta.json").write_text('{"policy": {"score_threshold": 0.3, "class_thresholds": {"cat": 0.58}}}')
    assert order("uncertain") == ["deep/b.png", "a.png", "c.png"]
    (data / "scores.json").write_text('{"c.png": 0.1, "a.png": 0.7}')
    assert order(str(data / "scores.json")) == ["c.png", "a.png", "deep/b.png"]
    with open(data / "agreement.csv", "w", newline="") as file:
        csv.writer(file).writerows(
            [("agreement", "filename", "caption"), ("0.2", "deep/b.png", ""), ("0.5", "a.png", "")]
        )
    assert order(str(data / "agreement.csv")) == ["deep/b.png", "a.png", "c.png"]
    (data / "list.jsonl").write_text('{"filename": "c.png", "reason": "odd"}\n\n{"filename": "deep/b.png"}\n')
    assert order(str(data / "list.jsonl")) == ["c.png", "deep/b.png", "a.png"]
    (data / "bad.jsonl").write_text('{"file": "c.png"}')
    with pytest.raises(InputError, match=r"bad.jsonl:1.*expected lines such as"):
        order(str(data / "bad.jsonl"))
    (data / "bad.json").write_text('{"a.png": "high"}')
    for wrong in ("nonsense", str(data / "bad.json")):
        with pytest.raises(InputError, match="expected"):
            order(wrong)


def test_a_list_of_images_opens_the_page_with_them_and_their_reasons(data: Path) -> None:
    (data / "list.jsonl").write_text(
        '{"filename": "c.png", "reason": "odd"}\n{"filename": "c.png", "reason": "small"}\n'
    )
    with served(data, order=str(data / "list.jsonl")) as server:
        query = ask(server, "overview").json()["query"]
        view = ask(server, "views", {"listed": query["listed"], "order": query["order"]}).json()
        assert (view["count"], view["open"]) == (1, 0)
        [row] = ask(server, f"views/{view['view']}/rows?start=0&count=9").json()["rows"]
        assert (row["filename"], row["reason"]) == ("c.png", "odd; small")
        assert ask(server, "lines/2").json()["reason"] == "odd; small"


@pytest.mark.parametrize(
    ("query", "filenames"),
    [
        ({}, ["a.png", "deep/b.png", "c.png"]),
        ({"text": "DEEP"}, ["deep/b.png"]),
        ({"label": 1}, ["a.png"]),
        ({"label": 0, "high": 0.7}, ["deep/b.png"]),
        ({"low": 0.5}, ["a.png", "deep/b.png"]),
        ({"state": "accepted"}, ["c.png"]),
        ({"state": "open"}, ["a.png", "deep/b.png"]),
        ({"change": "lost"}, ["c.png"]),
        ({"change": "moved"}, ["a.png"]),
        ({"change": "relabelled"}, ["a.png"]),
        ({"order": "boxes"}, ["a.png", "deep/b.png", "c.png"]),
    ],
)
def test_a_filter_shows_the_lines_that_fit(data: Path, query: dict[str, Any], filenames: list[str]) -> None:
    other = [
        replace(RECORDS[0], instances=(Instance((1, 2, 17, 25), 0, "cat"), Instance((5, 5, 39, 29), 0, "cat"))),
        RECORDS[1],
        replace(RECORDS[2], instances=(Instance((1, 1, 9, 9), 0, "cat"),)),
    ]
    write_odvg(data / "truth.json", other)
    with reviewed(data / "x_od_v2.json") as review:
        save(review, 2)
        views = Views(review, other=data / "truth.json")
        _, view = views.open(Query.of(query))
        assert [views.row(view, position)["filename"] for position in range(view.count)] == filenames
    for wrong in ({"label": "cat"}, {"sort": 1}, {"order": "chance"}):
        with pytest.raises(InputError, match="filter"):
            Query.of(wrong)


def test_the_next_line_to_review_wraps_around_and_ends(data: Path) -> None:
    with reviewed(data / "x_od_v2.json") as review:
        views = Views(review)
        _, view = views.open(Query())
        save(review, 1, "skipped")
        assert [views.next_open(view, after) for after in (-1, 0, 2)] == [0, 2, 0]
        save(review, 0)
        save(review, 2)
        assert views.next_open(view, 0) is None


def test_crops_are_changed_many_at_once_and_come_back(data: Path) -> None:
    with served(data) as server:
        view = ask(server, "views", {}).json()["view"]
        crops = ask(server, "crops", {"view": view, "label": 0, "sort": "low"}).json()
        rows = ask(server, f"crops/{crops['crops']}/rows?start=0&count=9").json()["rows"]
        assert [(each["number"], each["score"]) for each in rows] == [(1, 0.6), (0, 0.9)]
        items = [{"number": each["number"], "box": each["box"], "of": each["of"]} for each in rows]
        done = ask(server, "crops/change", {"action": "relabel", "of": 1, "items": items}).json()
        assert [[each["of"] for each in line["boxes"]] for line in done["after"]] == [[1], [1, 1]]
        assert {line["state"] for line in done["after"]} == {"edited"}
        again = ask(server, "crops/change", {"action": "delete", "items": items})
        assert (again.status, "no longer exists" in again.json()["error"]) == (400, True)
        after = {line["number"]: line["revision"] for line in done["after"]}
        back = [
            {"number": line["number"], "revision": after[line["number"]], "state": "earlier", "boxes": line["boxes"]}
            for line in done["before"]
        ]
        restored = ask(server, "lines", {"changes": back}).json()["lines"]
        assert [line["boxes"] for line in restored] == [line["boxes"] for line in done["before"]]


def test_a_category_is_added_to_a_label_map_that_no_plan_uses(data: Path) -> None:
    with reviewed(data / "x_od_v2.json") as review:
        assert review.add_category(" cow ") == {0: "cat", 1: "dog", 2: "cow"}
        assert save(review, 0, boxes=[{"box": [1, 2, 3, 4], "of": 2}])["boxes"][0]["of"] == 2
        for wrong in ("", "Cow", None):
            with pytest.raises(InputError, match="expected a new name"):
                review.add_category(wrong)
        (data / "x_od_v2.meta.json").write_text('{"plan": "7f"}')
        with pytest.raises(InputError, match="made for a plan"):
            review.add_category("sheep")


# The command


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["x_od_v2.json", "none"], "none: does not exist"),
        (["x_od_v2.json", "images", "-o", "{data}/x_od_v2.json"], "is the label file itself"),
        (["x_od_v2.json", "images", "-o", "{data}/other.json"], 'not marked "reviewed"'),
        (["bare_od.json", "images"], "expected -m LABEL_MAP"),
        (["x_od_v2.json", "images", "--port", "99999"], "--port"),
        (["x_od_v2.json", "images", "--order", "newest"], "--order"),
        (["x_od_v2.json", "images", "--candidates", "{data}"], "manifest.json: does not exist"),
        (["x_od_v2.json", "images", "--compare", "none.json"], "none.json: does not exist"),
    ],
)
def test_bad_input_is_reported_with_exit_code_2(
    data: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_odvg(data / "other.json", RECORDS)
    write_odvg(data / "bare_od.json", [replace(RECORDS[0], instances=None)])
    arguments = [option.replace("{data}", str(data)) for option in options]
    assert main(["serve", str(data), *arguments, "--no-open"]) == 2
    assert message in capsys.readouterr().err


def test_lines_that_cannot_be_reviewed_are_named(data: Path) -> None:
    with open(data / "x_od_v2.json", "a") as file:
        file.write('{"height": 3}\n\n{"quarantined": "no such file", "filename": "e.png"}\n')
        unknown = {"bbox": [1, 1, 2, 2], "label": 9, "category": "cow"}
        line = {"filename": "d.png", "height": 30, "width": 40, "detection": {"instances": [unknown]}}
        file.write(json.dumps(line) + "\n")
    with served(data) as server:
        overview = ask(server, "overview").json()
        assert (overview["progress"]["lines"], overview["progress"]["broken"]) == (3, 3)
        assert ["x_od_v2.json:4" in overview["problems"][0], "no such file" in overview["problems"][1]] == [True, True]
        assert "x_od_v2.json:7" in overview["problems"][2]
        assert ask(server, "lines/3").status == 422


def test_a_long_file_is_open_before_it_is_read(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("browse.review.index.CHECKED_LINES", 2)
    with reviewed(data / "x_od_v2.json") as review:
        assert review.page(2)["filename"] == "c.png"
        save(review, 2)
        review.index.done.wait()
        assert review.progress()["accepted"] == 1


# The loop takes it


def test_reviewed_lines_are_in_the_next_labels(tmp_path: Path) -> None:
    make_images(tmp_path / "images", 3)
    make_weights(tmp_path)
    source = tmp_path / "x_od.json"
    bootstrap_od(tmp_path / "images", ["cat", "dog"], source)
    manifest = plan_images(tmp_path, source, tmp_path / "x_label_map.json", tmp_path / "work")
    infer(manifest, FakeDetector(), progress=False)
    first = filter_candidates(manifest)
    with reviewed(first.labels) as review:
        assert review.path == reviewed_path(source)  # where self_train looks by itself
        save(review, 1, boxes=[{"box": [1, 2, 30, 20], "of": 1}])
    second = filter_candidates(manifest, out=tmp_path / "x_od_v2.json", reviewed=review.path)
    before, after = (list(read_odvg(made.labels)) for made in (first, second))
    assert after[1].instances == (Instance((1, 2, 30, 20), 1, "dog"),)
    assert [before[0], before[2]] == [after[0], after[2]]
    assert second.counts["reviewed"] == 1
    assert add_corrections(manifest, review.path, 1) == 1  # groundhog rounds approve --reviewed


def test_an_approval_beside_an_open_page_loses_no_change(tmp_path: Path) -> None:
    make_images(tmp_path / "images", 3)
    make_weights(tmp_path)
    source = tmp_path / "x_od.json"
    bootstrap_od(tmp_path / "images", ["cat", "dog"], source)
    manifest = plan_images(tmp_path, source, tmp_path / "x_label_map.json", tmp_path / "work")
    infer(manifest, FakeDetector(), progress=False)
    labels = filter_candidates(manifest).labels
    names = [record.filename for record in read_odvg(source)]
    with reviewed(labels) as review:
        for number in (0, 1):
            save(review, number, boxes=[])
        assert review.pending() == 1  # the second is in the journal alone
        boxes = (Instance((1, 2, 9, 9), 0, "cat"),)
        records = [replace(record, instances=boxes) for record in read_odvg(labels) if record.filename == names[2]]
        write_odvg(tmp_path / "given.json", records)
        add_corrections(manifest, tmp_path / "given.json", 1)
        assert [review.page(number)["state"] for number in range(3)] == ["accepted"] * 3
    assert [key[0] for key in corrections_for(review.path)] == names


def test_candidates_below_the_threshold_are_shown_for_their_line(tmp_path: Path) -> None:
    make_images(tmp_path / "images", 3)
    make_weights(tmp_path)
    source = tmp_path / "x_od.json"
    bootstrap_od(tmp_path / "images", ["cat", "dog"], source)
    manifest = plan_images(tmp_path, source, tmp_path / "x_label_map.json", tmp_path / "work")
    infer(manifest, FakeDetector(), progress=False)
    labels = filter_candidates(manifest, policy=Policy(score_threshold=0.99)).labels
    plan = find_plan(labels, tmp_path / "work")
    assert plan is not None
    with reviewed(labels) as review:
        record = review.record(1)
        found = CandidateBoxes(plan).of_line(1, record, [], [], {"cat": 0, "dog": 1})
        shard = read_candidates(manifest.shard_path(0))
        scores = shard.score[shard.line == 1]
        assert found
        assert {round(each["score"], 5) for each in found} <= {round(float(score), 5) for score in scores}
        assert CandidateBoxes(plan).of_line(1, record, found, [], {"cat": 0, "dog": 1}) == []  # they have boxes
