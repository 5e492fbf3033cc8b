"""The review page in a real browser: keys and pointer, slow networks, two windows, long files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from browse import page_parts as pages
from browse.__main__ import main
from browse.changes import CORRECTNESS_LEGEND
from browse.review.candidates import CandidateBoxes, read_plan
from browse.review.serve import ReviewServer, similarity_of
from browse.review.session import Review
from browse.review.similarity import Similarity
from browse.review.views import Views
from formats.candidates import Candidates, ImageCandidates, write_candidates
from formats.label_map import write_label_map
from formats.odvg import write_odvg
from formats.record import Instance, Record, Region
from formats.reviewed import corrections_for, reviewed_text, write_corrections
from tests.chromium import Page, chromium_page, find_chromium
from tests.test_browse_serve import ROOT, served

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(find_chromium() is None, reason="there is no Chromium"),
]

NAMES = {0: "cat", 1: "dog", 2: "cow"}
SHOWN = "document.getElementById('picture')?.naturalWidth > 0 && !document.getElementById('picture').hidden"


def text(id: str) -> str:
    return f"document.getElementById({json.dumps(id)})?.textContent"  # a page that is being opened lacks it


def at(position: int, count: int) -> str:
    """The page shows this image, and its picture."""
    return f"{text('position')} === '{position} / {count}' && {SHOWN}"


def accepted(count: int, of: int) -> str:
    return f"{text('progress')} === '{count} of {of} accepted'"


BADGE = text("badge")
SAVED = f"{text('stored')} === 'saved'"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium_page(find_chromium() or "", tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def write_data(folder: Path, count: int, instances: Sequence[Instance] | None = None) -> None:
    """Images of 40 x 30 pixels with a cat and a dog each, and labels of round 1."""
    boxes = (Instance((1, 2, 20, 25), 0, "cat", 0.9), Instance((5, 5, 39, 29), 1, "dog", 0.4))
    (folder / "images").mkdir()
    for number in range(count):
        Image.new("RGB", (40, 30), (90, 40 + 9 * (number % 20), 150)).save(folder / "images" / f"{number:02d}.png")
    filenames = [f"{number:02d}.png" for number in range(count)]
    shown = boxes if instances is None else tuple(instances)
    write_odvg(folder / "x_od_v1.json", [Record(name, 30, 40, shown) for name in filenames])
    write_label_map(folder / "x_label_map.json", NAMES)


def corrected(folder: Path, number: int) -> list[str]:
    """The names of the boxes of an image in the corrections."""
    record = corrections_for(folder / "x_od_reviewed.json")[f"{number:02d}.png", None]
    return [each.category for each in record.instances or ()]


def on_screen(page: Page, x: float, y: float) -> tuple[float, float]:
    """A point of the image, in CSS pixels of the window."""
    left, top, scale = page.value(
        "(() => { const at = document.getElementById('overlay').getBoundingClientRect();"
        " return [at.left, at.top, at.width / 40]; })()"
    )
    return left + x * scale, top + y * scale


def test_images_are_reviewed_by_keys_and_pointer(page: Page, tmp_path: Path) -> None:
    write_data(tmp_path, 3)
    with served(tmp_path, "x_od_v1.json") as server:
        page.open(server.address)
        page.wait(at(1, 3))
        page.press("Tab")
        page.press("2")  # the first box is a dog
        page.wait(f"{BADGE} === 'edited, not accepted' && {SAVED}")
        page.press("z")
        page.wait(f"{BADGE} === 'not reviewed'")
        page.press("y")
        page.wait(f"{BADGE} === 'edited, not accepted'")
        page.press("Enter")
        page.wait(f"{accepted(1, 3)} && {at(2, 3)}")
        page.press("Tab")
        page.press("X")  # with Caps Lock
        page.wait(f"{text('boxes-title')} === '1 box'")
        page.press("Enter")
        page.wait(at(3, 3))
        page.drag(on_screen(page, 22, 2), on_screen(page, 32, 12))
        page.wait(f"{text('boxes-title')} === '3 boxes'")
        page.press("Enter")
        page.wait(f"{accepted(3, 3)} && {text('banner-text')}.startsWith('All 3 images are accepted')")
    assert [corrected(tmp_path, number) for number in range(3)] == [["dog", "dog"], ["dog"], ["cat", "dog", "cat"]]


def test_twenty_images_are_accepted_by_one_key_each(page: Page, tmp_path: Path) -> None:
    write_data(tmp_path, 20)
    with served(tmp_path, "x_od_v1.json") as server:
        page.open(server.address)
        for number in range(20):
            page.wait(at(number + 1, 20))
            page.press("Enter")
            page.wait(accepted(number + 1, 20))
    assert len(corrections_for(tmp_path / "x_od_reviewed.json")) == 20


def test_choosing_a_category_by_typing_does_not_accept_the_image(page: Page, tmp_path: Path) -> None:
    write_data(tmp_path, 2)
    with served(tmp_path, "x_od_v1.json") as server:
        page.open(server.address)
        page.wait(at(1, 2))
        page.press("Tab")
        page.press("c")
        page.wait("document.getElementById('search').open")
        page.type("cow")
        page.press("Enter")
        page.wait(f"{BADGE} === 'edited, not accepted' && {SAVED}")
        assert page.value(at(1, 2))
        assert page.value(accepted(0, 2))
        assert page.value("document.querySelector('#boxes .label').textContent") == "cow"


def test_an_image_is_accepted_only_when_its_picture_is_seen(page: Page, tmp_path: Path) -> None:
    write_data(tmp_path, 4)
    (tmp_path / "images" / "02.png").write_bytes(b"no picture")
    with served(tmp_path, "x_od_v1.json") as server:
        page.open(server.address)
        page.wait(at(1, 4))
        with page.slow_network(400):
            page.press("ArrowRight")
            for _ in range(5):  # held down while the next one loads
                page.call("Input.dispatchKeyEvent", type="keyDown", key="Enter", autoRepeat=True)
                page.press("Enter")
            assert not page.value(SHOWN)
            page.wait(at(2, 4))
            assert page.value(accepted(0, 4))
        page.press("h")
        page.wait("!document.getElementById('hidden-sign').hidden")
        page.press("Enter")  # shows the boxes, and accepts nothing
        page.wait("document.getElementById('hidden-sign').hidden")
        assert page.value(accepted(0, 4))
        page.press("h")
        page.press("ArrowRight")
        broken = "document.getElementById('no-picture')"
        page.wait(f"{text('position')} === '3 / 4' && {broken}.className === 'broken' && !{broken}.hidden")
        assert page.value("document.getElementById('hidden-sign').hidden")  # the next image shows its boxes
        page.press("Enter")
        assert "cannot be accepted" in page.value(text("stored"))
        page.press("s")
        page.wait(f"{at(4, 4)} && {accepted(0, 4)}")


def test_a_change_taken_back_leaves_the_line_as_it_was(page: Page, tmp_path: Path) -> None:
    write_data(tmp_path, 2)
    with served(tmp_path, "x_od_v1.json") as server:
        page.open(server.address)
        page.wait(at(1, 2))
        page.press("Tab")
        page.press("x")
        page.wait(f"{BADGE} === 'edited, not accepted' && {SAVED}")
        page.press("z")
        page.wait(f"{BADGE} === 'not reviewed' && {text('boxes-title')} === '2 boxes'")
        page.press("x")  # nothing is selected
        page.press("Enter")
        page.wait(at(2, 2))
        page.press("z")  # brings the first image up again, and takes the acceptance back
        page.wait(f"{at(1, 2)} && {BADGE} === 'not reviewed' && {accepted(0, 2)}")
        page.press("y")
        page.wait(f"{BADGE} === 'accepted' && {accepted(1, 2)}")
        page.open("about:blank")
        page.open(server.address + "#1")
        page.wait(f"{at(1, 2)} && {BADGE} === 'accepted'")
        page.press("u")  # after a reload too
        page.wait(f"{BADGE} === 'not reviewed' && {accepted(0, 2)}")
    assert corrections_for(tmp_path / "x_od_reviewed.json") == {}


def test_a_review_of_an_earlier_round_can_be_withdrawn(page: Page, tmp_path: Path) -> None:
    write_data(tmp_path, 2)
    (tmp_path / "x_od_v1.json").rename(tmp_path / "x_od_v2.json")
    write_corrections(tmp_path / "x_od_reviewed.json", [reviewed_text(Record("00.png", 30, 40, ()), 1)])
    with served(tmp_path, "x_od_v2.json") as server:
        page.open(server.address + "#1")
        page.wait(f"{at(1, 2)} && {BADGE} === 'accepted'")
        page.press("u")
        page.wait(f"{BADGE} === 'not reviewed' && {text('boxes-title')} === '2 boxes'")
        page.wait(f"{text('banner-text')}.includes('corrected in round 1')")
    assert len(corrections_for(tmp_path / "x_od_reviewed.json", 1)) == 1
    assert corrections_for(tmp_path / "x_od_reviewed.json", 2) == {}


def test_a_key_pressed_while_the_next_line_loads_changes_no_line(page: Page, tmp_path: Path) -> None:
    write_data(tmp_path, 2)
    with served(tmp_path, "x_od_v1.json") as server:
        page.open(server.address)
        page.wait(at(1, 2))
        page.press("Tab")
        with page.slow_network(300):
            page.press("ArrowRight")
            page.press("x")
            page.press("2")
            page.wait(at(2, 2))
        assert page.value(f"{text('boxes-title')} === '2 boxes'")
        page.press("Tab")
        page.press("x")  # the first edit here is not refused
        page.wait(f"{BADGE} === 'edited, not accepted' && {SAVED}")
        page.press("ArrowLeft")
        page.wait(f"{at(1, 2)} && {BADGE} === 'not reviewed'")


def test_a_box_outside_the_image_blocks_nothing(page: Page, tmp_path: Path) -> None:
    write_data(tmp_path, 2, [Instance((50, 40, 60, 50), 0, "cat", 0.9), Instance((5, 5, 39, 29), 1, "dog", 0.4)])
    with served(tmp_path, "x_od_v1.json") as server:
        page.open(server.address)
        page.wait(f"{at(1, 2)} && {text('banner-text')} === 'Boxes entirely outside the image were left out: 1.'")
        page.press("Enter")
        page.wait(f"{at(2, 2)} && {accepted(1, 2)}")
    assert corrected(tmp_path, 0) == ["dog"]


def test_many_boxes_answer_a_key_at_once_and_leave_the_picture_free(page: Page, tmp_path: Path) -> None:
    write_data(
        tmp_path, 1, [Instance((x, y, x + 1, y + 1), 0, "\u202ecat", 0.57) for x in range(25) for y in range(16)]
    )
    measure = (
        "(() => { const start = performance.now(); for (let n = 0; n < 20; n += 1) { document.dispatchEvent("
        "new KeyboardEvent('keydown', {key: 'Tab', bubbles: true})); document.body.offsetHeight; }"
        " return (performance.now() - start) / 20; })()"
    )
    with served(tmp_path, "x_od_v1.json", label_map={0: "\u202ecat"}) as server:
        page.open(server.address)
        page.wait(at(1, 1))
        assert page.value(measure.replace("document.dispatchEvent", "document.body.dispatchEvent")) < 100
        visible = "[...document.querySelectorAll('.tag')].filter((tag) => !tag.hidden).length"
        assert page.value(visible) == 1
        page.press("t")
        assert page.value(visible) == 400
        tag = "document.querySelector('.tag')"
        # The score stands behind the name, although the name has a mark that turns the direction of writing.
        name_right = page.value(f"{tag}.querySelector('bdi').getBoundingClientRect().right")
        score_left = page.value(
            f"(() => {{ const range = document.createRange(); range.selectNode({tag}.lastChild);"
            " return range.getBoundingClientRect().left; })()"
        )
        assert score_left >= name_right - 0.5


@pytest.mark.slow
def test_two_windows_see_one_another(tmp_path: Path) -> None:
    write_data(tmp_path, 2)
    with ExitStack() as stack:
        server = stack.enter_context(served(tmp_path, "x_od_v1.json"))
        one, other = (
            stack.enter_context(chromium_page(find_chromium() or "", tmp_path / name)) for name in ("one", "other")
        )
        for window in (one, other):
            window.open(server.address)
            window.wait(at(1, 2))
            window.press("Tab")
        one.press("x")
        one.wait(f"{BADGE} === 'edited, not accepted' && {SAVED}")
        other.press("2")
        other.wait(f"{text('banner-text')}.includes('changed elsewhere')")
        other.wait(f"{text('boxes-title')} === '1 box' && {BADGE} === 'edited, not accepted'")
        for key in ("Enter", "s"):  # neither is saved, so neither may go on to the next image
            one.press("Tab")
            one.press("i")
            one.wait(f"{text('boxes')}.includes('ignored') === {json.dumps(key == 'Enter')} && {SAVED}")
            other.value("document.getElementById('banner-close').click()")
            other.press(key)
            other.wait(f"{text('banner-text')}.includes('changed elsewhere') && {at(1, 2)}")
            time.sleep(0.3)  # longer than the next image takes to appear
            assert other.value(f"{at(1, 2)} && {text('banner-text')}.includes('changed elsewhere')")


@pytest.mark.slow
def test_an_open_page_saves_after_the_server_was_killed_and_started_again(page: Page, tmp_path: Path) -> None:
    write_data(tmp_path, 3)
    with killable(tmp_path, 0) as (address, kill):
        page.open(address)
        page.wait(at(1, 3))
        page.press("Tab")
        page.press("x")
        page.wait(f"{BADGE} === 'edited, not accepted' && {SAVED}")
        kill()
    page.press("Enter")
    page.wait(f"{text('stored')} === 'NOT SAVED'")
    with killable(tmp_path, int(address.split(":")[2].split("/")[0])) as (again, kill):
        assert again == address
        page.wait(accepted(1, 3))
        page.press("n")
        page.wait(at(2, 3))
    assert corrected(tmp_path, 0) == ["dog"]


@contextmanager
def killable(folder: Path, port: int) -> Iterator[tuple[str, object]]:
    """(address, kill): the real command, which ends by kill -9."""
    command = [sys.executable, "-m", "browse", "serve", str(folder), "x_od_v1.json", "images", "--no-open"]
    process = subprocess.Popen([*command, "--port", str(port)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        address = next(line.split()[2] for line in process.stdout if line.startswith("review at"))
        yield address, process.kill
    finally:
        process.kill()
        process.wait()


def write_candidates_of_first(folder: Path, lines: int) -> CandidateBoxes:
    """A labelling in folder/work whose first image has three candidates below the threshold."""
    boxes = np.array([[2, 2, 12, 12], [15, 5, 25, 20], [28, 3, 38, 28]], np.float32)
    found = ImageCandidates(0, "00.png", np.array([0, 1, 1], np.int32), boxes, np.array([0.28, 0.25, 0.1], np.float32))
    write_candidates(folder / "work" / "candidates" / "shard-00000.parquet", Candidates.of_images([found]), "key")
    label_map = {str(label): name for label, name in NAMES.items()}
    shards = [{"index": 0, "first_line": 0, "lines": lines, "offset": 0}]
    manifest = {"key": "key", "source": str(folder / "x_od.json"), "label_map": label_map, "shards": shards}
    (folder / "work" / "manifest.json").write_text(json.dumps(manifest))
    return CandidateBoxes(read_plan(folder / "work"))


def test_candidates_are_taken_by_a_click_and_by_a_key(page: Page, tmp_path: Path) -> None:
    write_data(tmp_path, 2, [])
    candidates = write_candidates_of_first(tmp_path, 2)
    review = Review(tmp_path / "x_od_v1.json")
    with running(review, tmp_path, candidates) as server:
        page.open(server.address)
        ghosts = "document.querySelectorAll('.ghost').length"
        page.wait(f"{at(1, 2)} && {ghosts} === 2")  # the third is below the sliders
        # Over all images: while a slider moves, its class says what its threshold would give.
        everywhere = "document.querySelectorAll('#candidates .everywhere')[1].textContent"
        page.wait(f"{everywhere} === 'overall: 1 box in 1 image'")
        slide = "(() => {{ const slider = document.querySelectorAll('#candidates input')[1]; slider.value = {}; "
        slide += "slider.dispatchEvent(new Event('input', {{bubbles: true}})); }})()"
        page.value(slide.format(0.1))
        page.wait(f"{everywhere} === 'overall: 2 boxes in 1 image' && {ghosts} === 3")
        page.value(slide.format(0.18))
        page.wait(f"{everywhere} === 'overall: 1 box in 1 image' && {ghosts} === 2")
        place = on_screen(page, 20, 12)
        page.drag(place, place)
        page.wait(f"{text('boxes-title')} === '1 box' && {ghosts} === 1")
        page.press("a")
        page.wait(f"{text('boxes-title')} === '2 boxes' && {ghosts} === 0")
        for _ in range(2):
            page.press("[")
        page.wait(f"{ghosts} === 1")
        page.press("z")
        page.wait(f"{text('boxes-title')} === '1 box' && {ghosts} === 2")
        page.press("Enter")
        page.wait(accepted(1, 2))
    assert corrected(tmp_path, 0) == ["dog"]


@contextmanager
def running(
    review: Review,
    folder: Path,
    candidates: CandidateBoxes | None = None,
    other: Path | None = None,
    similarity: Similarity | None = None,
) -> Iterator[ReviewServer]:
    import threading

    with ReviewServer(Views(review, "file", other, similarity), folder / "images", candidates=candidates) as server:
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            yield server
        finally:
            server.stop()
            thread.join()
    review.close()


def test_thirty_crops_are_relabelled_at_once_and_back_again(page: Page, tmp_path: Path) -> None:
    write_data(tmp_path, 30)
    chosen = "document.querySelectorAll('.crop.chosen').length"
    with served(tmp_path, "x_od_v1.json") as server:
        page.open(server.address)
        page.wait(at(1, 30))
        page.press("v")
        page.wait("document.querySelectorAll('.crop').length === 30")
        page.press("a", modifiers=2)
        page.wait(f"{chosen} === 30")
        page.press("3")
        page.wait(f"{text('crops-count')} === '0 boxes, 0 selected'")  # no cat is left
        assert Review(tmp_path / "x_od_v1.json").progress()["edited"] == 30
        page.press("z")
        page.wait("document.querySelectorAll('.crop').length === 30")
        page.press("Escape")
        page.wait(f"{at(1, 30)} && {BADGE} === 'not reviewed'")


def test_crops_stay_where_they_are_after_a_bulk_change(page: Page, tmp_path: Path) -> None:
    write_data(tmp_path, 1, [Instance((x, y, x + 2, y + 2), 0, "cat", 0.5) for x in range(0, 38, 2) for y in range(14)])
    scrolled = "document.getElementById('crops-grid').scrollTop"
    with served(tmp_path, "x_od_v1.json") as server:
        page.open(server.address)
        page.wait(at(1, 1))
        page.press("v")
        page.wait("document.querySelectorAll('.crop').length >= 120")
        page.press("c")
        assert not page.value("document.getElementById('search').open")
        assert page.value(text("crops-stored")) == "nothing is selected"  # where it can be seen
        page.value("document.querySelectorAll('.crop')[100].click()")
        page.value("document.querySelectorAll('.crop')[100].focus()")
        page.value("document.querySelectorAll('.crop')[100].scrollIntoView({ block: 'center' })")
        before = page.value(scrolled)
        assert before > 300
        page.press("x")
        page.wait(f"{text('crops-count')} === '265 boxes, 0 selected'")
        assert abs(page.value(scrolled) - before) < 2
        assert page.value("[...document.querySelectorAll('.crop')].indexOf(document.activeElement)") == 100
        page.press("z")
        page.wait(f"{text('crops-count')} === '266 boxes, 0 selected'")
        assert abs(page.value(scrolled) - before) < 2


def test_a_filter_that_no_image_fits_shows_nothing_that_could_be_accepted(page: Page, tmp_path: Path) -> None:
    write_data(tmp_path, 3)
    with served(tmp_path, "x_od_v1.json") as server:
        page.open(server.address)
        page.wait(at(1, 3))
        with page.slow_network(150):
            page.press("ArrowRight")  # what is still on its way does not come up under the filter either
            page.value("document.getElementById('filter-text').value = 'none'")
            page.value("document.getElementById('filters').requestSubmit()")
            page.wait(f"{text('banner-text')} === 'No image fits this filter.'")
            page.wait(f"{text('position')} === '0 / 0' && {text('boxes-title')} === 'No image'")
            page.press("Enter")
            time.sleep(0.5)
        assert page.value(f"{text('position')} === '0 / 0' && {text('name')} === ''")
        assert page.value(accepted(0, 3))
        page.click("#filter-clear")
        page.wait(f"{at(1, 3)} && {text('boxes-title')} === '2 boxes'")


def test_a_filter_is_followed_by_the_list_and_the_keys(page: Page, tmp_path: Path) -> None:
    write_data(tmp_path, 12)
    with served(tmp_path, "x_od_v1.json") as server:
        page.open(server.address)
        page.wait(at(1, 12))
        page.press("f")
        page.type("1")
        page.wait(f"{text('filter-count')} === '3 of 12' && {at(1, 3)}")
        page.press("Escape")
        page.press("Enter")
        page.wait(f"{at(2, 3)} && {text('name')} === '10.png'")
        page.press("l")
        page.type("6")
        page.press("Enter")
        page.wait(f"{text('position')} === 'not in this filter' && {text('name')} === '05.png'")
        time.sleep(0.6)  # longer than the filter waits for more letters
        assert page.value(text("name")) == "05.png"
        page.click("#filter-clear")
        page.wait(at(6, 12))
        assert page.value("document.querySelectorAll('.item').length") >= 8


def test_show_all_forgets_what_was_typed_into_the_filter(page: Page, tmp_path: Path) -> None:
    write_data(tmp_path, 12)
    with served(tmp_path, "x_od_v1.json") as server:
        page.open(server.address)
        page.wait(at(1, 12))
        page.press("f")
        page.type("10")
        page.wait(f"{text('filter-count')} === '1 of 12'")
        page.value("document.getElementById('filter-clear').focus()")
        page.click("#filter-clear")
        page.wait(f"{text('filter-count')} === '12 images'")
        page.value("document.getElementById('filter-order').value = 'boxes'")
        page.value("document.getElementById('filter-order').dispatchEvent(new Event('input', {bubbles: true}))")
        page.wait("performance.getEntriesByType('resource').filter(({name}) => name.endsWith('/views')).length >= 4")
        page.wait(f"{text('filter-count')} === '12 images'")
        page.press("l")
        page.type("99")
        page.press("Enter")
        page.wait(f"{text('banner-text')} === 'there is no line 99: the file has 12 lines'")


def test_each_arrow_counts_while_the_next_image_loads(page: Page, tmp_path: Path) -> None:
    write_data(tmp_path, 6)
    with served(tmp_path, "x_od_v1.json") as server:
        page.open(server.address)
        page.wait(at(1, 6))
        with page.slow_network(300):
            for key in ("ArrowRight", "ArrowRight", "ArrowRight", "ArrowRight", "ArrowLeft"):
                page.press(key)
            page.wait(at(4, 6))


def test_accepting_twice_while_the_first_is_saved_is_one_step_of_undo(page: Page, tmp_path: Path) -> None:
    write_data(tmp_path, 3)
    with served(tmp_path, "x_od_v1.json") as server:
        page.open(server.address)
        page.wait(at(1, 3))
        with page.slow_network(300):
            page.press("Enter")
            page.press("Enter")
            page.wait(f"{accepted(1, 3)} && {at(2, 3)}")
            page.press("z")
            page.wait(f"{accepted(0, 3)} && {at(1, 3)}")


def test_a_finger_selects_boxes_and_draws_none(page: Page, tmp_path: Path) -> None:
    write_data(tmp_path, 2)
    with served(tmp_path, "x_od_v1.json") as server:
        page.open(server.address, 390, 780)
        page.wait(at(1, 2))
        page.call("Emulation.setTouchEmulationEnabled", enabled=True)
        try:
            x, y = on_screen(page, 10, 10)
            for kind, points in (("Start", [(x, y)]), ("Move", [(x + 60, y + 50)]), ("End", [])):
                touches = [{"x": across, "y": down} for across, down in points]
                page.call("Input.dispatchTouchEvent", type=f"touch{kind}", touchPoints=touches)
            for kind, points in (("Start", [(x, y)]), ("End", [])):
                touches = [{"x": across, "y": down} for across, down in points]
                page.call("Input.dispatchTouchEvent", type=f"touch{kind}", touchPoints=touches)
            page.wait("document.querySelectorAll('.frame.chosen').length === 1")
            assert page.value(text("boxes-title")) == "2 boxes"
        finally:
            page.call("Emulation.setTouchEmulationEnabled", enabled=False)
        page.click("footer .main")
        page.wait(accepted(1, 2))


@pytest.mark.parametrize(("width", "height"), [(390, 844), (768, 1024), (844, 390)])
def test_nothing_extends_beyond_small_screens(page: Page, tmp_path: Path, width: int, height: int) -> None:
    write_data(tmp_path, 1, [Instance((34, 9, 39, 20), 0, "cat", 0.9), Instance((30, 20, 39, 29), 1, "dog", 0.5)])
    write_label_map(tmp_path / "x_label_map.json", {0: "a cat of a long name", 1: "another long name"})
    with served(tmp_path, "x_od_v1.json") as server:
        page.open(server.address, width, height)
        page.wait(f"{SHOWN} && document.querySelectorAll('.tag').length === 2")
        page.wait("document.documentElement.scrollWidth === innerWidth")
        stage = "document.getElementById('stage')"
        assert page.value(f"{stage}.scrollWidth === {stage}.clientWidth")
        inside = "document.getElementById('canvas').getBoundingClientRect().right"
        rights = "[...document.querySelectorAll('.tag')].map((tag) => tag.getBoundingClientRect().right)"
        assert page.value(f"Math.max(...{rights}) <= {inside} + 1")


@pytest.mark.parametrize(("width", "height"), [(390, 844), (1280, 800)])
def test_tags_of_neighbours_do_not_cover_one_another(page: Page, tmp_path: Path, width: int, height: int) -> None:
    near = [Instance((x, y, x + 6, y + 5), 0, "cat", 0.9) for x, y in ((15, 3), (17, 4), (16, 5), (18, 8), (20, 3))]
    write_data(tmp_path, 1, near)
    with served(tmp_path, "x_od_v1.json") as server:
        page.open(server.address, width, height)
        page.wait(f"{SHOWN} && document.querySelectorAll('.tag').length === 5")
        covering = (
            "(() => { const at = [...document.querySelectorAll('.tag')].map((tag) => tag.getBoundingClientRect());"
            " return at.filter((one, index) => at.slice(index + 1).some((other) => one.left < other.right - 1 &&"
            " other.left < one.right - 1 && one.top < other.bottom - 1 && other.top < one.bottom - 1)).length; })()"
        )
        assert page.value(covering) == 0


def test_a_filter_moves_nothing_and_its_fields_show_their_words(page: Page, tmp_path: Path) -> None:
    write_data(tmp_path, 12)
    write_odvg(tmp_path / "truth.json", [Record("00.png", 30, 40, (Instance((1, 2, 20, 24), 1, "dog"),))])
    top = "document.querySelector('main').getBoundingClientRect().top"
    with running(Review(tmp_path / "x_od_v1.json"), tmp_path, other=tmp_path / "truth.json") as server:
        page.open(server.address, 1280, 800)
        page.wait(at(1, 12))
        before = page.value(top)
        # The words of a field end before its arrow, 22 pixels from its right side.
        room = (
            "['filter-label', 'filter-state', 'filter-order', 'crops-sort'].filter((id) => {"
            " const field = document.getElementById(id), style = getComputedStyle(field);"
            " const pen = document.createElement('canvas').getContext('2d'); pen.font = style.font;"
            " const words = pen.measureText(field.selectedOptions[0].text).width;"
            " return parseFloat(style.paddingRight) < 20 ||"
            " words > field.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight); })"
        )
        page.press("v")
        page.wait("document.querySelectorAll('.crop').length > 0")
        assert page.value(room) == []
        page.press("Escape")
        page.wait(at(1, 12))
        page.press("f")
        page.type("03")
        page.wait(f"{text('filter-count')} === '1 of 12' && !document.getElementById('filter-clear').hidden")
        assert page.value(top) == before


def test_f6_cycles_through_the_parts_of_the_page_and_leaves_a_field(page: Page, tmp_path: Path) -> None:
    write_data(tmp_path, 2)
    with served(tmp_path, "x_od_v1.json") as server:
        page.open(server.address)
        page.wait(at(1, 2))
        for region in ("boxes", "strip", "filter-text", "help-button", "stage"):
            page.press("F6")
            assert page.value("document.activeElement.id") == region


def test_a_typed_name_that_is_no_category_is_said_to_change_nothing(page: Page, tmp_path: Path) -> None:
    write_data(tmp_path, 1)
    with served(tmp_path, "x_od_v1.json") as server:
        page.open(server.address)
        page.wait(at(1, 1))
        page.press("c")
        page.type("unicorn")
        page.press("Enter")
        page.wait(f"{text('stored')} === 'no category “unicorn”: nothing was changed'")
        assert page.value(BADGE) == "not reviewed"


def test_crops_that_look_the_same_are_adjacent(page: Page, tmp_path: Path) -> None:
    write_data(tmp_path, 6)
    for number in range(6):
        Image.new("RGB", (40, 30), [(200, 30, 30), (30, 30, 200)][number % 2]).save(
            tmp_path / f"images/{number:02d}.png"
        )
    names = "[...document.querySelectorAll('.crop')].map((crop) => crop.title.slice(0, 2)).join(' ')"
    review = Review(tmp_path / "x_od_v1.json")
    with running(review, tmp_path, similarity=similarity_of(review, tmp_path / "images", None)) as server:
        page.open(server.address)
        page.wait(at(1, 6))
        page.press("v")
        page.wait(f"{names} === '00 01 02 03 04 05'")
        page.press("ArrowRight")
        page.press(" ")
        page.press("s")  # like the selected one first
        page.wait(f"{names} === '01 03 05 00 02 04'")
        page.press("Escape")
        page.value("document.getElementById('filter-order').value = 'diverse'")
        page.value("document.getElementById('filters').dispatchEvent(new Event('input', {bubbles: true}))")
        page.wait(
            "document.querySelectorAll('.item .state').length === 6 && "
            "document.querySelectorAll('.item')[1].title.slice(1, 2) % 2 === 1"
        )


def test_phrases_are_relabelled_in_bulk_by_their_words(page: Page, tmp_path: Path) -> None:
    write_data(tmp_path, 3)
    region = Region(((1, 2, 20, 25),), ("a cat",), ((0, 5),), (0.5,))
    records = [Record(f"{n:02d}.png", 30, 40, caption="a cat on a mat", regions=(region,)) for n in range(3)]
    write_odvg(tmp_path / "x_od_v1.json", records)
    (tmp_path / "x_label_map.json").unlink()
    crops = "document.querySelectorAll('.crop').length"
    with served(tmp_path, "x_od_v1.json") as server:
        page.open(server.address)
        page.wait(at(1, 3))
        page.press("v")
        page.wait(f"{crops} === 3")
        page.click("#crops-words")
        for words, count in ((" dog", 0), (" cat", 3)):
            page.value("document.getElementById('crops-words').value = 'a'")
            page.type(words)
            page.press("Enter")
            page.wait(f"{crops} === {count} && {text('crops-count')} === '{count} boxes, 0 selected'")
            page.click("#crops-words")
        page.value("document.querySelector('.crop').focus()")
        page.press("a", modifiers=2)
        page.press("c")
        page.wait("document.getElementById('search').open")
        page.type("a mat")
        page.press("Enter")
        page.wait(f"{crops} === 0")
        page.press("z")
        page.wait(f"{crops} === 3")
        page.press("y")
        page.wait(f"{crops} === 0")
    assert [Review(tmp_path / "x_od_v1.json").page(number)["state"] for number in range(3)] == ["edited"] * 3


def test_two_label_files_are_compared_in_colours(page: Page, tmp_path: Path) -> None:
    write_data(tmp_path, 2)
    others = (
        Instance((1, 2, 20, 24), 0, "cat"),
        Instance((5, 5, 39, 29), 0, "cat"),
        Instance((30, 1, 39, 9), 2, "cow"),
    )
    write_odvg(tmp_path / "truth.json", [Record("00.png", 30, 40, others), Record("01.png", 30, 40, others)])
    with running(Review(tmp_path / "x_od_v1.json"), tmp_path, other=tmp_path / "truth.json") as server:
        page.open(server.address)
        page.wait(at(1, 2))
        page.press("m")
        page.wait(f"{text('comparison')} === 'against truth.json: 1 right, 1 wrong name, 1 missed'")
        assert "missed object" in page.value(text("filter-change"))  # the filter has the same words
        assert page.value("document.querySelectorAll('.other').length") == 2
        colours = page.value("[...document.querySelectorAll('.frame')].map((each) => each.getAttribute('stroke'))")
        assert len(set(colours)) == 2  # right and wrong, not cat and dog
        page.press("m")
        page.wait("document.querySelectorAll('.other').length === 0")


AXE = Path(os.environ.get("GROUNDHOG_AXE") or files("axe_core_python") / "axe.min.js")  # GROUNDHOG_AXE: a newer one
SERIOUS = (
    "axe.run(document).then((done) => done.violations.filter(({impact}) => "
    "['serious', 'critical'].includes(impact)).map(({id, nodes}) => id + ' ' + nodes[0].html))"
)


def test_axe_finds_nothing_serious_in_any_view(page: Page, tmp_path: Path) -> None:
    write_data(tmp_path, 12)
    write_odvg(tmp_path / "truth.json", [Record("00.png", 30, 40, (Instance((1, 2, 20, 24), 1, "dog"),))])
    candidates = write_candidates_of_first(tmp_path, 12)
    with running(Review(tmp_path / "x_od_v1.json"), tmp_path, candidates, tmp_path / "truth.json") as server:
        page.call("Page.setBypassCSP", enabled=True)
        try:
            page.open(server.address)
            page.wait(at(1, 12))
            page.value(AXE.read_text(encoding="utf-8") + "; true")
            for theme in ("dark", "light"):
                page.value(f"document.documentElement.dataset.theme = '{theme}'")
                page.wait("document.querySelectorAll('.ghost').length > 0")
                assert page.value(SERIOUS) == []
                page.press("v")
                page.wait("document.querySelectorAll('.crop').length === 12")
                assert page.value(SERIOUS) == []
                page.press("Escape")
                page.wait(at(1, 12))
                page.press("m")
                page.wait("!document.getElementById('comparison').hidden")
                assert page.value(SERIOUS) == []
                page.press("m")
                for key, dialog in (("?", "help"), ("c", "search")):
                    page.press(key)
                    page.wait(f"document.getElementById('{dialog}').open")
                    assert page.value(SERIOUS) == []
                    page.value(f"document.getElementById('{dialog}').close()")
        finally:
            page.call("Page.setBypassCSP", enabled=False)


def test_axe_finds_nothing_serious_in_pages_that_are_written(page: Page, tmp_path: Path) -> None:
    write_data(tmp_path, 3)
    assert main([str(tmp_path), "x_od_v1.json", "images", "-o", str(tmp_path / "seen"), "--not-show"]) == 0
    drawings = [pages.Drawing(np.full((60, 80, 3), 90, np.uint8), f"{number}.png", "2 boxes") for number in range(3)]
    parts = [pages.page_table(["", "AP"], [["cat", "0.5"]]), pages.bars(["", "AP"], [("cat", 0.5, [])])]
    parts += [pages.legend(CORRECTNESS_LEGEND), pages.gallery(drawings, "seen")]
    parts.append(pages.review_command("Review these labels:", "groundhog browse serve " + "a/long/folder " * 9))
    (tmp_path / "report.html").write_text(pages.page("report", pages.section("How good?", "".join(parts)), "groundhog"))
    for path in (tmp_path / "seen" / "index.html", tmp_path / "report.html"):
        for scheme, width in (("light", 1400), ("dark", 390)):
            page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
            page.open("about:blank")
            page.open(path.as_uri(), width)
            page.value(AXE.read_text(encoding="utf-8") + "; true")
            assert page.value(SERIOUS) == []
            assert page.value("document.documentElement.scrollWidth <= innerWidth")


def test_a_report_opens_the_page_in_the_browser_that_has_shown_it(page: Page, tmp_path: Path) -> None:
    """And no other: a report holds no token."""
    write_data(tmp_path, 1)
    with served(tmp_path, "x_od_v1.json") as server:
        bare = server.address.removesuffix(f"{server.token}/")
        page.open(bare)
        page.wait("document.querySelector('h1').textContent === 'Not here'")
        page.open(server.address)
        page.wait(at(1, 1))
        part = pages.review_command("Review:", "groundhog browse serve").replace("http://127.0.0.1:8765/", bare)
        (tmp_path / "report.html").write_text(pages.page("report", part, "groundhog"))
        page.open((tmp_path / "report.html").as_uri())
        page.click(".command button")
        page.wait("document.querySelector('.command button').textContent === 'Copied'")
        assert page.value("getSelection().toString()") == "groundhog browse serve"
        page.click(".review a")
        page.wait(f"location.href.startsWith({json.dumps(server.address)}) && document.readyState === 'complete'")
        page.wait(at(1, 1))


def test_a_thumbnail_of_a_report_opens_its_drawing_and_the_next_one(page: Page, tmp_path: Path) -> None:
    drawings = [pages.Drawing(np.full((300, 400, 3), 90, np.uint8), f"{number}.png") for number in range(2)]
    (tmp_path / "report.html").write_text(pages.page("report", pages.gallery(drawings, "seen"), "groundhog"))
    page.open((tmp_path / "report.html").as_uri())
    width = "document.querySelectorAll('figure')[{}].getBoundingClientRect().width"
    assert page.value(width.format(0)) < 500
    page.click("figure a.open")
    page.wait(f"{width.format(0)} > 1000")
    page.click("figure:target .ways a")
    page.wait(f"{width.format(1)} > 1000 && {width.format(0)} < 500")
    page.click("figure:target .ways a:last-child")
    page.wait(f"{width.format(1)} < 500")


def test_the_index_of_drawings_filters_by_class_and_score(page: Page, tmp_path: Path) -> None:
    write_data(tmp_path, 3)
    assert main([str(tmp_path), "x_od_v1.json", "images", "-o", str(tmp_path / "seen"), "--not-show"]) == 0
    page.open((tmp_path / "seen" / "index.html").as_uri())
    page.wait(f"{text('count')} === '3 of 3 images'")
    choose = "(() => {{ const field = document.getElementById('{}'); field.value = '{}'; "
    choose += "field.dispatchEvent(new Event('input', {{bubbles: true}})); }})()"
    page.value(choose.format("name", "dog"))
    page.value(choose.format("low", "0.5"))
    page.wait(f"{text('count')} === '0 of 3 images'")
    page.value(choose.format("low", "0.3"))
    page.wait(f"{text('count')} === '3 of 3 images'")


@pytest.mark.slow
def test_a_strip_of_a_million_lines_reaches_its_end(page: Page, tmp_path: Path) -> None:
    count = 1_000_000
    write_data(tmp_path, 1)
    line = json.dumps({"filename": "00.png", "height": 30, "width": 40, "detection": {"instances": []}}) + "\n"
    (tmp_path / "x_od_v1.json").write_text(line * count)
    start = time.monotonic()
    with served(tmp_path, "x_od_v1.json") as server:
        page.open(server.address)
        page.wait(at(1, count))
        assert time.monotonic() - start < 20  # a fifth of it on a free machine
        page.press("End")
        page.wait(at(count, count))
        page.wait(f"[...document.querySelectorAll('.item .state')].some((each) => each.textContent === '{count}')")
        start = time.monotonic()
        page.press("ArrowLeft")
        page.wait(at(count - 1, count))
        assert time.monotonic() - start < 2
