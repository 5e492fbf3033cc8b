"""What the review page says of many images at once: comparisons, orders, counts, and crops of captions."""

from __future__ import annotations

import io
import json
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from browse.review import crops as crops_module
from browse.review import index as index_module
from browse.review import serve
from browse.review.candidate_counts import CandidateCounts
from browse.review.candidates import CandidateBoxes, read_plan
from browse.review.compare import CHANGES, changed_lines, compared
from browse.review.crops import CropQuery, change_crops, crop_rows, list_crops
from browse.review.images import Pictures
from browse.review.index import places_of
from browse.review.line_facts import FactsReader, facts_of
from browse.review.order import Thresholds, doubt_of_boxes
from browse.review.serve import similarity_of
from browse.review.session import Review
from browse.review.similarity import appearance, farthest_first, neighbours_together
from browse.review.views import Query, Views
from formats.candidates import Candidates, ImageCandidates, ImageFeature, write_candidates
from formats.images import decode_image
from formats.io.errors import InputError
from formats.label_map import write_label_map
from formats.odvg import write_odvg
from formats.record import Instance, Record, Region

NAMES = {0: "cat", 1: "dog"}
COLOURS = ((200, 30, 30), (30, 200, 30), (30, 30, 200))


def write_plan(folder: Path, images: list[ImageCandidates], lines: int, features: Sequence[ImageFeature] = ()) -> None:
    path = folder / "work" / "candidates" / "shard-00000.parquet"
    write_candidates(path, Candidates.of_images(images), "key", features)
    shards = [{"index": 0, "first_line": 0, "lines": lines, "offset": 0}]
    label_map = {str(label): name for label, name in NAMES.items()}
    manifest = {"key": "key", "source": str(folder / "x_od.json"), "label_map": label_map, "shards": shards}
    (folder / "work" / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture
def six(tmp_path: Path) -> Path:
    """Six images in three colours, two of each, the lower half of each a dog."""
    (tmp_path / "images").mkdir()
    records = []
    for number in range(6):
        picture = Image.new("RGB", (40, 30), COLOURS[number // 2])
        picture.save(tmp_path / "images" / f"{number}.png")
        instance = Instance((1, 15, 39, 29), 1, "dog", 0.9 - number / 10)
        records.append(Record(f"{number}.png", 30, 40, (instance,)))
    write_odvg(tmp_path / "x_od_v1.json", records)
    write_odvg(tmp_path / "x_od.json", [Record(f"{number}.png", 30, 40) for number in range(6)])
    write_label_map(tmp_path / "x_label_map.json", NAMES)
    return tmp_path


def views_of(folder: Path, candidates: CandidateBoxes | None = None) -> Views:
    review = Review(folder / "x_od_v1.json")
    return Views(review, "file", None, similarity_of(review, folder / "images", candidates))


def colours(numbers: list[int]) -> set[int]:
    return {number // 2 for number in numbers}


def test_many_lines_are_compared_as_each_alone() -> None:
    chance = random.Random(5)

    def boxes() -> list[dict[str, Any]]:
        found = []
        for _ in range(chance.randrange(5)):
            x, y = chance.choice((0, 1, 5, 20)), chance.choice((-3, 0, 2))
            found.append({"box": [x, y, x + chance.choice((9, 10, 20)), y + 10], "name": chance.choice("ab")})
        return found

    def line(found: list[dict[str, Any]]) -> bytes:
        instances = [{"bbox": each["box"], "label": "ab".index(each["name"]), "category": "?"} for each in found]
        named = [{**each, "category": "ab"[each["label"]]} for each in instances]
        return json.dumps({"filename": "x", "height": 15, "width": 35, "detection": {"instances": named}}).encode()

    def cut(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
        limits = np.array([35, 15, 35, 15])
        return [{**each, "box": np.clip(each["box"], 0, limits).tolist()} for each in found]

    pairs = [(boxes(), boxes()) for _ in range(400)]
    others = [None if number % 7 == 0 else line(theirs) for number, (_, theirs) in enumerate(pairs)]
    changes = changed_lines([line(ours) for ours, _ in pairs], others, {0: "a", 1: "b"})
    for number, (ours, theirs) in enumerate(pairs):
        found = compared(cut(ours), [] if number % 7 == 0 else cut(theirs))
        wanted = {*found["ours"], *found["others"]} - {"same"}
        assert {change for change in CHANGES if changes[change][number]} == wanted


def test_diverse_images_come_first_by_the_features_of_the_model(six: Path) -> None:
    seen = [ImageFeature(n, f"{n}.png", np.eye(3, dtype=np.float16)[n % 3]) for n in range(6)]
    write_plan(six, [], 6, seen)
    views = views_of(six, CandidateBoxes(read_plan(six / "work")))
    _, view = views.open(Query(order="diverse"))
    assert view.numbers is not None
    assert {int(number) % 3 for number in view.numbers[:3]} == {0, 1, 2}  # and not by their colours
    assert sorted(view.numbers.tolist()) == list(range(6))
    _, view = views.open(Query(order="diverse", text="5"))
    assert view.numbers is not None
    assert view.numbers.tolist() == [5]


def test_without_features_images_are_compared_by_their_pixels(six: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (six / "images" / "5.png").write_bytes(b"broken")
    _, view = views_of(six).open(Query(order="diverse"))
    assert view.numbers is not None
    assert colours([int(number) for number in view.numbers[:4] if number != 5]) == {0, 1, 2}
    monkeypatch.setattr("browse.review.similarity.MOST_READ", 5)
    with pytest.raises(InputError, match="too many to read"):
        views_of(six).open(Query(order="diverse"))


def test_the_round_before_is_compared_and_suspects_can_be_selected(six: Path) -> None:
    lines = (six / "x_od_v1.json").read_text().splitlines()
    (six / "x_od_v2.json").write_text(
        "\n".join([*lines[:5], lines[5].replace("0.4", "0.8").replace("39", "20")]) + "\n"
    )
    (six / "x_od_v2_suspects.jsonl").write_text('{"filename": "3.png", "reason": "doubled"}\n')
    options = serve.build_parser("serve").parse_args([str(six), "x_od_v2.json", "images", "--port", "0", "--no-open"])
    with serve.opened(options) as server:
        views = server._views
        assert views.other is not None
        assert views.other.path.name == "x_od_v1.json"
        _, changed = views.open(Query(change="any"))
        assert [changed.number(position) for position in range(changed.count)] == [5]
        assert views.first == Query()  # the page opens as ever
        assert "listed" in views.orders()
        _, suspects = views.open(Query(order="listed", listed=True))
        assert [views.row(suspects, position)["reason"] for position in range(suspects.count)] == ["doubled"]


def test_farthest_images_cover_all_groups_first() -> None:
    chance = np.random.default_rng(0)
    features = (np.repeat(np.eye(8) * 9, 50, axis=0) + chance.normal(size=(400, 8)) * 0.1).astype(np.float32)
    assert {int(each) // 50 for each in farthest_first(features, 8)} == set(range(8))
    assert sorted(farthest_first(features, 1000).tolist()) == list(range(400))
    groups = neighbours_together(features) // 50
    assert np.count_nonzero(np.diff(groups)) == 7
    assert len(farthest_first(features[:0], 5)) == len(neighbours_together(features[:0])) == 0


def test_similar_crops_are_adjacent_and_those_similar_to_one_come_first(six: Path) -> None:
    views = views_of(six)
    _, view = views.open(Query())
    alike = [number for number, _ in list_crops(views, view, CropQuery(1, sort="similar"))]
    assert [number // 2 for number in alike[::2]] == [number // 2 for number in alike[1::2]]
    like_four = list_crops(views, view, CropQuery(1, sort="similar", like=(4, 0)))
    assert [number for number, _ in like_four[:2]] == [4, 5]
    assert appearance(Image.new("L", (3, 5))).shape == appearance(Image.new("RGB", (99, 7))).shape


def test_counts_over_all_images_are_those_of_every_threshold(six: Path) -> None:
    box = np.array([[0, 0, 10, 10], [0, 0, 10, 9.9], [20, 0, 30, 10]], np.float32)
    first = ImageCandidates(0, "0.png", np.array([0, 0, 0]), box, np.array([0.5, 0.4, 0.2], np.float32))
    second = ImageCandidates(3, "3.png", np.array([0, 1, 1]), box, np.array([0.29, 0.9, 0.3], np.float32))
    write_plan(six, [first, second], 6)
    counts = CandidateCounts(CandidateBoxes(read_plan(six / "work")))
    cats = counts.of("cat")
    end = time.monotonic() + 10
    while cats["read"] < cats["shards"] and time.monotonic() < end:
        time.sleep(0.01)
        cats = counts.of("cat")
    # The box of 0.4 shows what that of 0.5 shows.
    assert [cats["boxes"][level] for level in (0, 20, 21, 29, 30, 50, 51)] == [3, 3, 2, 2, 1, 1, 0]
    assert [cats["images"][level] for level in (0, 29, 30, 50, 51)] == [2, 2, 1, 1, 0]
    assert counts.of("dog")["boxes"][90] == 1
    assert counts.of("cow")["boxes"] == []


def test_phrases_of_many_captions_are_changed_at_once(tmp_path: Path) -> None:
    regions = (Region(((1, 1, 9, 9),), ("a cat",), ((0, 5),), (0.5,)),)
    captions = ("a cat on a mat", "a cat on a mat", "a cat and a dog")
    records = [Record(f"{n}.png", 30, 40, caption=words, regions=regions) for n, words in enumerate(captions)]
    write_odvg(tmp_path / "x_od_v1.json", records)
    review = Review(tmp_path / "x_od_v1.json")
    views = Views(review)
    _, view = views.open(Query())
    crops = list_crops(views, view, CropQuery(words="A CAT"))
    assert len(crops) == 3
    assert list_crops(views, view, CropQuery(words="dog")) == []  # of the caption, not of a phrase with a box
    items = [{key: row[key] for key in ("number", "box", "of")} for row in crop_rows(review, crops)]
    with pytest.raises(InputError, match=r"2\.png: its caption does not have the words 'a mat'"):
        change_crops(review, "relabel", "a mat", items)
    change_crops(review, "relabel", "a Mat", items[:2])
    rows = crop_rows(review, list_crops(views, view, CropQuery(words="mat")))
    assert [(row["name"], row["state"]) for row in rows] == [("a mat", "edited")] * 2
    change_crops(review, "ignore", None, [{key: row[key] for key in ("number", "box", "of")} for row in rows])
    assert all(row["ignore"] for row in crop_rows(review, list_crops(views, view, CropQuery(words="mat"))))
    review.close()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_large_picture_is_shown_at_full_resolution_from_tiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, orientation: int
) -> None:
    monkeypatch.setattr("browse.review.images.WHOLE_PIXELS", 5000)
    monkeypatch.setattr("browse.review.images.WHOLE_SIDE", 50)
    monkeypatch.setattr("browse.images.tiles.TILE", 32)
    smooth = np.stack(np.meshgrid(np.arange(130), np.arange(90)), axis=-1)
    stored = np.concatenate([smooth * 1.9, np.full((90, 130, 1), 90)], axis=2).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    upright = decode_image(tmp_path / "a.png").pixels
    pictures = Pictures(tmp_path, lambda number: "a.png")
    for box in ((20, 30, 85, 70), (0, 0, 31, 9), (60, 50, 400, 400)):
        part = np.asarray(Image.open(io.BytesIO(pictures.region(0, box, 2000))))
        x1, y1, x2, y2 = box
        wanted = upright[y1:y2, x1:x2]
        assert part.shape == wanted.shape
        assert np.abs(part.astype(int) - wanted).mean() < 3
    whole = np.asarray(Image.open(io.BytesIO(pictures.region(0, (0, 0, 200, 200), 40))))
    assert max(whole.shape) == 40  # of the reduced picture, which is sharp enough


# Lines that another process reads


LINES = [
    b'{"filename": "A.png", "height": 30, "width": 40, "detection": {"instances": '
    b'[{"bbox": [1, 2, 3, 4], "label": 1, "category": "dog", "score": 0.5}]}}',
    b"{broken",
    b'{"filename": "b.png", "height": 30, "width": 40, "detection": {"instances": '
    b'[{"bbox": [1, 2, 3, 4], "label": 7, "category": "gnu"}]}}',
    b'{"filename": "c.png", "height": 30, "width": 40, "grounding": {"caption": "A Cat", "regions": []}}',
]


@pytest.fixture
def reader() -> Iterator[FactsReader]:
    opened = FactsReader(NAMES)
    yield opened
    opened.close()


def test_another_process_reads_lines_as_this_one_does(reader: FactsReader) -> None:
    assert repr(reader.read(LINES)) == repr(facts_of(LINES, NAMES))
    assert facts_of(LINES, NAMES).broken == [1, 2]
    assert bytes(facts_of(LINES, None).text) == b"a.png\nb.png\nc.png\0a cat\n"


def test_lines_are_read_on_when_their_process_is_killed(reader: FactsReader) -> None:
    assert reader._process is not None
    reader._process.kill()
    reader._process.wait()
    assert reader.read(LINES).broken == [1, 2]


def test_the_process_that_reads_lines_ends_with_the_server(reader: FactsReader) -> None:
    process = reader._process
    assert process is not None
    assert process.stdin is not None
    process.stdin.close()  # as when the server is killed
    assert process.wait(timeout=60) == 0
    process.stdin = None


def test_a_long_file_is_not_read_in_the_server(six: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that runs Python holds up every key."""
    short = Review(six / "x_od_v1.json").index
    monkeypatch.setattr("browse.review.index.CHECKED_LINES", 0)
    monkeypatch.setattr("browse.review.index.CHUNK", 4)
    monkeypatch.setattr("browse.review.line_facts.facts_of", None)
    monkeypatch.setattr("browse.review.index.facts_of", None)
    long = Review(six / "x_od_v1.json").index
    for name in ("labels", "scores", "first", "hashes", "broken"):
        assert np.array_equal(getattr(long, name), getattr(short, name)), name
    assert (long.matching("3.PNG") == short.matching("3.PNG")).all()
    assert long.names == short.names


def test_a_search_finds_every_line_that_contains_the_words() -> None:
    chance = random.Random(7)
    names = ["".join(chance.choice("ab0") for _ in range(chance.randrange(9))) for _ in range(400)]
    text = "".join(f"{name}\n" for name in names).encode()
    for wanted in ("a", "0", "ab", "bb0", "a0b0a", "x", "ax", "aaaaaaaaaaaa"):
        places = [place for block in places_of(np.frombuffer(text, np.uint8), wanted.encode()) for place in block]
        assert places == [at for at in range(len(text)) if text[at:].startswith(wanted.encode())], wanted


def test_a_search_finds_words_at_the_border_of_its_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "TEXT_BLOCK", 5)
    text = np.frombuffer(b"abcabcabcabcabc", np.uint8)
    assert np.concatenate(list(places_of(text, b"bca"))).tolist() == [1, 4, 7, 10]


def changed(review: Review, number: int, state: str, **box: Any) -> None:
    """Saves a line whose first box has other values."""
    page = review.page(number)
    boxes = [{**page["boxes"][0], **box}, *page["boxes"][1:]]
    review.save([{**page, "state": state, "boxes": boxes}])


def test_filters_and_crops_see_the_boxes_as_they_are_now(six: Path) -> None:
    views = views_of(six)

    def lines(**query: Any) -> list[int]:
        _, view = views.open(Query(**query))
        return [view.number(position) for position in range(view.count)]

    def crops(**query: Any) -> list[int]:
        return [number for number, _ in list_crops(views, views.open(Query())[1], CropQuery(**query))]

    changed(views.review, 2, "edited", of=0, score=None)
    changed(views.review, 4, "accepted")  # as the model has it: it keeps its score, 0.5
    assert (lines(label=0), lines(label=1)) == ([2], [0, 1, 3, 4, 5])
    assert (crops(label=0), crops(label=1)) == ([2], [5, 4, 3, 1, 0])
    assert (lines(low=0.45, high=0.65), crops(low=0.45, high=0.65)) == ([3, 4], [4, 3])
    assert crops(sort="high") == [0, 1, 3, 4, 5, 2]  # what a person drew has no score
    changed(views.review, 2, "untouched")
    assert (lines(label=0), crops(sort="file")) == ([], [0, 1, 2, 3, 4, 5])


def test_only_the_best_of_too_many_crops_are_sorted(six: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    views = views_of(six)
    changed(views.review, 5, "accepted")  # the lowest score
    view = views.open(Query())[1]
    monkeypatch.setattr(crops_module, "MOST_LISTED", 2)
    monkeypatch.setattr(crops_module, "BLOCK", 4)
    assert list_crops(views, view, CropQuery(1)) == [(5, 0), (4, 0)]
    assert list_crops(views, view, CropQuery(1, sort="high")) == [(0, 0), (1, 0)]


def test_doubt_is_the_distance_to_the_threshold_of_each_category() -> None:
    labels, scores = np.array([0, 1, -1, 7, 1]), np.array([0.5, 0.5, 0.5, 0.5, np.nan], np.float32)
    names = {1: "dog", 0: "cat", 7: "cow"}
    found = doubt_of_boxes(labels, scores, names, Thresholds(0.3, {"dog": 0.6, "cow": 0.45}), 0.1)
    assert found == pytest.approx([0.2, 0.1, 0.2, 0.05, np.inf])
    assert doubt_of_boxes(labels[:1], scores[:1], names, Thresholds(None, {}), 0.1) == pytest.approx([0.4])
