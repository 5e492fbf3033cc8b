"""Reviewing in the browser: what is kept, what is refused, and that the loop takes it."""

from __future__ import annotations

import csv
import http.client
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
from PIL import Image

from browse.__main__ import main
from browse.review.order import in_order
from browse.review.serve import MAX_BODY, ReviewServer
from browse.review.session import Review
from flows.labelling.bootstrap import bootstrap_od
from flows.labelling.filter import filter_candidates
from flows.labelling.infer import infer
from flows.self_training.review import add_corrections
from formats.dataset_names import reviewed_path
from formats.io.errors import InputError
from formats.label_map import write_label_map
from formats.odvg import read_odvg, write_odvg
from formats.record import Instance, Record, Region
from formats.reviewed import corrections_for, read_corrections, reviewed_text, write_corrections
from tests.chromium import chromium_page, find_chromium
from tests.pipeline_cases import FakeDetector, make_images, make_weights, plan_images

NAMES = {0: "cat", 1: "dog"}
RECORDS = (
    Record("a.png", 30, 40, (Instance((1, 2, 20, 25), 0, "cat", 0.9), Instance((5, 5, 39, 29), 1, "dog", 0.4))),
    Record("deep/b.png", 30, 40, (Instance((1, 2, 50, 25), 0, "cat", 0.6),)),  # leaves the image
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
def served(data: Path, name: str = "x_od_v2.json", **settings: Any) -> Iterator[ReviewServer]:
    server = ReviewServer(Review(data / name, **settings), data / "images")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def ask(server: ReviewServer, path: str, body: Any = None, **headers: str) -> Answer:
    """path: after the token, or whole where it begins with "/"."""
    address = urlsplit(server.address)
    connection = http.client.HTTPConnection(address.hostname or "", address.port or 0, timeout=30)
    given = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    known = {"Content-Type": "application/json"} if given is not None else {}
    whole = path if path.startswith("/") else address.path + path
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request("GET" if given is None else "POST", whole, given, known | names)
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
        assert (line["reviewed"], line["progress"]) == (False, {"reviewed": 0, "lines": 3})
        boxes = [*boxes_of(line, box=[2.5, 3, 20, 25], of=1, ignore=True), {"box": [0, 0, 40, 30], "of": 0}]
        saved = ask(server, "lines/0", {"revision": line["revision"], "boxes": boxes})
        assert saved.status == 200
        assert saved.json() == ask(server, "lines/0").json()
        assert saved.json()["progress"] == {"reviewed": 1, "lines": 3}
    [correction] = read_corrections(data / "x_od_reviewed.json")
    assert correction.since == 2  # of X_od_v2.json: round 1 keeps its labels
    assert correction.record.instances == (
        Instance((2.5, 3, 20, 25), 1, "dog", ignore=True),
        Instance((5, 5, 39, 29), 1, "dog"),
        Instance((0, 0, 40, 30), 0, "cat"),
    )
    assert (data / "x_od_v2.json").read_bytes() == before
    assert Review(data / "x_od_v2.json").progress() == {"reviewed": 1, "lines": 3}  # another day


def test_boxes_that_the_model_made_keep_showing_its_score(data: Path) -> None:
    review = Review(data / "x_od_v2.json")
    line = review.line(0)
    moved = review.save(0, line["revision"], boxes_of(line, box=[0, 0, 20, 25]))
    assert [each["score"] for each in moved["boxes"]] == [None, 0.4]


def test_an_accepted_image_is_cut_at_the_border_and_an_empty_one_counts(data: Path) -> None:
    review = Review(data / "x_od_v2.json")
    for number in (1, 2):
        line = review.line(number)
        review.save(number, line["revision"], line["boxes"])
    first, second = (each.record for each in read_corrections(review.path))
    assert [each.box for each in first.instances or ()] == [(1, 2, 40, 25)]
    assert second.instances == ()


def test_what_was_accepted_can_be_taken_back(data: Path) -> None:
    review = Review(data / "x_od_v2.json")
    saved = review.save(0, review.line(0)["revision"], [])
    assert review.withdraw(0, saved["revision"])["boxes"] == Review(data / "x_od_v2.json").line(0)["boxes"]
    assert list(read_corrections(review.path)) == []


def test_other_lines_of_the_reviewed_file_stay_byte_for_byte(data: Path) -> None:
    earlier = '{"filename": "a.png",  "height":30,"width":40,"detection":{"instances":[]},"reviewed":true,"note":"é"}'
    later = reviewed_text(RECORDS[2], 3)
    write_corrections(data / "x_od_reviewed.json", [earlier, later])
    review = Review(data / "x_od_v2.json")
    assert (review.line(0)["reviewed"], review.line(0)["boxes"]) == (True, [])  # round 1's correction holds in round 2
    assert not review.line(2)["reviewed"]  # that of round 3 does not
    review.save(0, review.line(0)["revision"], [{"box": [1, 1, 9, 9], "of": 0}])
    lines = (data / "x_od_reviewed.json").read_text().splitlines()
    assert lines[:2] == [earlier, later]
    assert len(lines) == 3
    assert len(corrections_for(data / "x_od_reviewed.json", 2)["a.png", None].instances or ()) == 1


def test_phrases_of_a_caption_get_boxes_and_marked_words_become_phrases(data: Path) -> None:
    review = Review(data / "x_vg_v1.json")
    line = review.line(0)
    assert line["phrases"] == [{"texts": ("a cat",), "spans": ((2, 7),)}]
    phrases = [*line["phrases"], {"texts": ["a dog"], "spans": [[15, 20]]}]
    boxes = [*line["boxes"], {"box": [3, 3, 9, 9], "of": 1}, {"box": [4, 4, 9, 9], "of": 0, "ignore": True}]
    saved = review.save(0, line["revision"], boxes, phrases)
    [correction] = read_corrections(data / "x_vg_reviewed.json")
    assert correction.record.regions == (
        Region(((1, 2, 20, 25),), ("a cat",), ((2, 7),)),
        Region(((4, 4, 9, 9),), ("a cat",), ((2, 7),), ignore=True),
        Region(((3, 3, 9, 9),), ("a dog",), ((15, 20),)),
    )
    emptied = review.save(0, saved["revision"], [], saved["phrases"])
    assert emptied["phrases"][0]["texts"] == ("a cat",)  # a phrase of the line stays, so that it can get a box again
    for wrong in ({"texts": ["a cow"], "spans": [[15, 20]]}, {"texts": ["g"], "spans": [[19, 99]]}, {"texts": 3}):
        with pytest.raises(InputError, match=r"a\.png"):
            review.save(0, emptied["revision"], [], [wrong])


# What is refused


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([{"box": [1, 2, 41, 25], "of": 0}], "leaves the image of 40 x 30 pixels"),
        ([{"box": [-1, 2, 20, 25], "of": 0}], "leaves the image"),
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
    with served(data) as server:
        revision = ask(server, "lines/0").json()["revision"]
        answer = ask(server, "lines/0", {"revision": revision, "boxes": boxes})
        assert answer.status == 400
        assert message in answer.json()["error"]
        assert "a.png" in answer.json()["error"]
        assert not (data / "x_od_reviewed.json").exists()


def test_two_windows_do_not_overwrite_one_another(data: Path) -> None:
    with served(data) as server:
        mine = theirs = ask(server, "lines/0").json()
        assert ask(server, "lines/0", {"revision": theirs["revision"], "boxes": []}).status == 200
        stored = (data / "x_od_reviewed.json").read_bytes()
        for change in ({"boxes": mine["boxes"]}, {"reviewed": False}):
            stale = ask(server, "lines/0", {"revision": mine["revision"], **change})
            assert stale.status == 409
            assert "changed elsewhere" in stale.json()["error"]
        assert (data / "x_od_reviewed.json").read_bytes() == stored
        fresh = ask(server, "lines/1").json()  # other lines are free
        assert ask(server, "lines/1", {"revision": fresh["revision"], "boxes": []}).status == 200


def test_what_another_process_wrote_is_seen(data: Path) -> None:
    review = Review(data / "x_od_v2.json")
    line = review.line(0)
    write_corrections(review.path, [reviewed_text(replace(RECORDS[0], instances=()), 1)])
    assert review.line(0)["boxes"] == []
    with pytest.raises(Exception, match="changed elsewhere"):
        review.save(0, line["revision"], line["boxes"])


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
        ("..%2f..%2fetc/passwd", 404),
        ("serve.py", 404),
    ],
)
def test_addresses_that_are_none(data: Path, path: str, status: int) -> None:
    with served(data) as server:
        answer = ask(server, path)
        assert answer.status == status
        assert server.token.encode() not in answer.body
        assert answer.json()["error"]


def test_requests_of_other_sites_are_refused(data: Path) -> None:
    with served(data) as server:
        change = {"revision": ask(server, "lines/0").json()["revision"], "boxes": []}
        host = urlsplit(server.address).netloc
        assert ask(server, "lines", Host="evil.example").status == 403
        assert ask(server, "lines", Host="127.0.0.1.evil.example:80").status == 403
        assert ask(server, "lines/0", change, Origin="http://evil.example").status == 403
        assert ask(server, "lines/0", change, Origin="null").status == 403
        assert ask(server, "lines/0", change, Content_Type="text/plain").status == 415  # as a form sends it
        assert not (data / "x_od_reviewed.json").exists()
        assert ask(server, "lines", Host="localhost:9").status == 200  # through a tunnel
        assert ask(server, "lines/0", change, Origin=f"http://{host}").status == 200


@pytest.mark.parametrize(
    ("body", "status"), [(b"{", 400), (b"[]", 400), (b"{}", 400), (b"[" * 100_000, 400), (b'{"revision": 3}', 400)]
)
def test_bodies_that_are_no_change(data: Path, body: bytes, status: int) -> None:
    with served(data) as server:
        assert ask(server, "lines/0", body).status == status
        assert ask(server, "lines/0", b"{}", Content_Length=str(MAX_BODY + 1)).status == 413


def test_file_names_of_the_labels_cannot_leave_the_image_folder(data: Path) -> None:
    Image.new("RGB", (40, 30)).save(data / "secret.png")
    write_odvg(data / "y_od.json", [replace(RECORDS[0], filename="../secret.png")])
    with served(data, "y_od.json", label_map=NAMES) as server:
        answer = ask(server, "images/0")
        assert answer.status == 404
        assert "leaves its folder" in answer.json()["error"]


def test_pictures_come_upright_and_reduced(data: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a camera held sideways
    Image.new("RGB", (4000, 2000), (200, 30, 30)).save(data / "images" / "c.jpg", exif=exif)
    write_odvg(data / "y_od.json", [Record("c.jpg", 4000, 2000, ())])
    with served(data, "y_od.json", label_map=NAMES) as server:
        sizes = [Image.open(io.BytesIO(ask(server, f"{kind}/0").body)).size for kind in ("images", "thumbnails")]
        assert sizes == [(800, 1600), (80, 160)]


def test_the_page_needs_nothing_from_elsewhere(data: Path) -> None:
    with served(data) as server:
        for path in ("", "page.css", "page.js", "canvas.js", "strip.js"):
            answer = ask(server, path)
            assert answer.status == 200
            assert b"https://" not in answer.body
            assert "default-src 'self'" in answer.headers["Content-Security-Policy"]


# The order, and the command


def test_uncertain_images_come_first(data: Path) -> None:
    def order(name: str) -> list[str]:
        return [record.filename for record in in_order(RECORDS, name, data / "x_od_v2.json")]

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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["x_od_v2.json", "none"], "none: does not exist"),
        (["x_od_v2.json", "images", "-o", "{data}/x_od_v2.json"], "is the label file itself"),
        (["x_od_v2.json", "images", "-o", "{data}/other.json"], 'not marked "reviewed"'),
        (["bare_od.json", "images"], "expected -m LABEL_MAP"),
        (["x_od_v2.json", "images", "--port", "99999"], "--port"),
        (["x_od_v2.json", "images", "--order", "newest"], "--order"),
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
        file.write('{"height": 3}\n')
        unknown = {"bbox": [1, 1, 2, 2], "label": 9, "category": "cow"}
        line = {"filename": "d.png", "height": 30, "width": 40, "detection": {"instances": [unknown]}}
        file.write(json.dumps(line) + "\n")
    overview = Review(data / "x_od_v2.json").overview()
    assert (len(overview["lines"]), overview["problem_count"]) == (3, 2)
    assert "x_od_v2.json:4" in overview["problems"][0]
    assert "d.png" in overview["problems"][1]


# The loop takes it


def test_what_was_reviewed_stands_in_the_next_labels(tmp_path: Path) -> None:
    make_images(tmp_path / "images", 3)
    make_weights(tmp_path)
    source = tmp_path / "x_od.json"
    bootstrap_od(tmp_path / "images", ["cat", "dog"], source)
    manifest = plan_images(tmp_path, source, tmp_path / "x_label_map.json", tmp_path / "work")
    infer(manifest, FakeDetector(), progress=False)
    first = filter_candidates(manifest)
    review = Review(first.labels)
    assert review.path == reviewed_path(source)  # where self_train looks by itself
    line = review.line(1)
    review.save(1, line["revision"], [{"box": [1, 2, 30, 20], "of": 1}])
    second = filter_candidates(manifest, out=tmp_path / "x_od_v2.json", reviewed=review.path)
    before, after = (list(read_odvg(made.labels)) for made in (first, second))
    assert after[1].instances == (Instance((1, 2, 30, 20), 1, "dog"),)
    assert [before[0], before[2]] == [after[0], after[2]]
    assert second.counts["reviewed"] == 1
    assert add_corrections(manifest, review.path, 1) == 1  # groundhog rounds approve --reviewed


# The page itself


@pytest.mark.browser
@pytest.mark.skipif(find_chromium() is None, reason="there is no Chromium")
def test_images_are_reviewed_by_keys_and_pointer(data: Path, tmp_path: Path) -> None:
    shown = "document.getElementById('picture').complete && document.getElementById('picture').naturalWidth > 0"
    progress = "document.getElementById('progress').textContent"
    place = "document.getElementById('position').textContent"
    with served(data) as server, chromium_page(find_chromium() or "", tmp_path / "profile") as page:
        page.open(server.address)
        page.wait(f"{progress} === '0 of 3 reviewed' && {shown}")
        page.press("Tab")
        page.press("2")  # the first box is a dog
        page.wait(f"{progress} === '1 of 3 reviewed'")
        page.press("z")
        page.wait(f"{progress} === '0 of 3 reviewed'")
        page.press("Enter")
        page.wait(f"{progress} === '1 of 3 reviewed' && {place} === '2 / 3'")
        page.press("Tab")
        page.press("x")
        page.wait(f"{progress} === '2 of 3 reviewed'")
        page.press("ArrowRight")
        page.wait(f"{place} === '3 / 3' && {shown}")
        left, top, scale = page.value(
            "(() => { const at = document.getElementById('overlay').getBoundingClientRect();"
            " return [at.left, at.top, at.width / 40]; })()"
        )
        page.drag((left + 10 * scale, top + 5 * scale), (left + 20 * scale, top + 15 * scale))
        page.wait(f"{progress} === '3 of 3 reviewed' && document.getElementById('stored').textContent === 'saved'")
    done = corrections_for(data / "x_od_reviewed.json")
    first, second, third = (done[record.filename, None].instances or () for record in RECORDS)
    assert [each.category for each in first] == ["cat", "dog"]
    assert second == ()
    assert third[0].box == pytest.approx((10, 5, 20, 15), abs=0.2)
