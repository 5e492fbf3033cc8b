"""ODVG lines: both kinds, both dialects, round trips, and errors that name the line."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from formats import (
    InputError,
    Instance,
    LineProblem,
    Omissions,
    Record,
    Region,
    odvg_lines,
    read_odvg,
    read_odvg_entries,
    record_from_line,
    record_to_line,
    write_odvg,
)
from tests.paths import GOLDEN

IMAGE = {"filename": "a.jpg", "height": 100, "width": 120}


def detection(*instances: dict) -> dict:
    return {**IMAGE, "detection": {"instances": list(instances)}}


def grounding(caption: str, *regions: dict) -> dict:
    return {**IMAGE, "grounding": {"caption": caption, "regions": list(regions)}}


def spans_found(caption: str, *phrases: str | list[str]) -> list[tuple]:
    line = grounding(caption, *({"bbox": [1, 2, 3, 4], "phrase": phrase} for phrase in phrases))
    return [region.spans for region in record_from_line(line, "here").regions]


# What the formats can hold: boxes with 2 decimals, scores with 6 digits


def _boxes():
    corner = st.integers(-50_000, 500_000)
    pair = st.tuples(corner, corner).map(sorted)
    return st.tuples(pair, pair).map(lambda xy: (xy[0][0] / 100, xy[1][0] / 100, xy[0][1] / 100, xy[1][1] / 100))


_scores = st.integers(0, 999_999).map(lambda score: score / 1_000_000)
_texts = st.text(st.characters(exclude_categories=()), min_size=1, max_size=12)
_weights = st.sampled_from([1.0, 0.5, 2.25])
_instances = st.builds(
    Instance, _boxes(), st.integers(0, 9999), _texts, st.none() | _scores, weight=_weights, ignore=st.booleans()
)


@st.composite
def _regions(draw, caption):
    count = draw(st.integers(0, 3))
    boxes = tuple(draw(_boxes()) for _ in range(count))
    starts = draw(st.lists(st.integers(0, len(caption) - 1), min_size=1, max_size=3))
    spans = tuple((start, draw(st.integers(start + 1, len(caption)))) for start in starts)
    scores = tuple(draw(_scores) for _ in boxes) if draw(st.booleans()) else ()
    phrase = tuple(caption[start:end] for start, end in spans)
    return Region(boxes, phrase, spans, scores, draw(_weights), draw(st.booleans()))


@st.composite
def _records(draw):
    image = (draw(_texts), draw(st.integers(1, 9999)), draw(st.integers(1, 9999)))
    if draw(st.booleans()):
        instances = draw(st.none() | st.lists(_instances, max_size=4).map(tuple))
        return Record(*image, instances)
    caption = draw(_texts)
    regions = draw(st.none() | st.lists(_regions(caption), max_size=3).map(tuple))
    return Record(*image, caption=caption, regions=regions)


@given(records=st.lists(_records(), max_size=5))
def test_what_is_written_is_read(tmp_path_factory, records):
    path = tmp_path_factory.mktemp("odvg") / "a.json"
    write_odvg(path, iter(records), placeholder=True)
    assert list(read_odvg(path)) == records


@given(record=_records())
def test_regions_without_boxes_are_left_out_of_labels(record):
    read = record_from_line(record_to_line(record), "here")
    if record.regions is None:
        assert read == record
    else:
        assert read.regions == tuple(region for region in record.regions if region.boxes)


def test_rounding_of_boxes_and_scores():
    line = record_to_line(Record("a", 1, 1, (Instance((-0.001, 1.006, 2.344, 9), 0, "cat", 0.123456789),)))
    assert json.dumps(line["detection"]["instances"][0]) == (
        '{"bbox": [0.0, 1.01, 2.34, 9.0], "label": 0, "category": "cat", "score": 0.123457}'
    )


@pytest.mark.parametrize(
    "name", ["data/od.jsonl", "data/vg.jsonl", "eval/dump_odvg_od.jsonl", "eval/dump_odvg_vg.jsonl"]
)
def test_files_of_the_reference_read_and_write_to_the_same_content(tmp_path, name):
    records = list(read_odvg(GOLDEN / name))
    lines = (GOLDEN / name).read_text().splitlines()
    assert [record.filename for record in records] == [json.loads(line)["filename"] for line in lines]
    write_odvg(tmp_path / "again.json", records, placeholder=True)
    assert list(read_odvg(tmp_path / "again.json")) == records


def test_unlabelled_empty_and_found_are_three_things():
    unlabelled, empty, found = (
        record_from_line(line, "here")
        for line in (IMAGE, detection(), detection({"bbox": [1, 2, 3, 4], "label": 2, "category": "chair"}))
    )
    assert unlabelled.instances is None
    assert empty.instances == ()
    assert found.instances == (Instance((1.0, 2.0, 3.0, 4.0), 2, "chair"),)
    assert record_to_line(unlabelled) == IMAGE
    assert record_to_line(empty) == detection()
    assert record_to_line(Record("a.jpg", 100, 120, caption="a cat", regions=())) == grounding("a cat")


def test_a_bootstrap_file_of_captions_has_placeholder_boxes(tmp_path):
    record = Record("a.jpg", 100, 120, caption="Two men", regions=(Region((), ("Two men",), ((0, 7),)),))
    line = grounding("Two men", {"bbox": [0, 0, 1, 1], "phrase": "Two men", "tokens_positive": [[0, 7]]})
    assert record_to_line(record, placeholder=True) == line
    assert record_from_line(line, "here") == record
    scored = grounding("Two men", {"bbox": [0, 0, 1, 1], "phrase": "Two men", "score": 0.5})
    assert record_from_line(scored, "here").regions[0].boxes == ((0.0, 0.0, 1.0, 1.0),)


@pytest.mark.parametrize(
    ("bbox", "score", "boxes", "scores"),
    [
        ([1, 2, 3, 4], 0.5, 1, (0.5,)),
        ([[1, 2, 3, 4]], [0.5], 1, (0.5,)),
        ([[1, 2, 3, 4], [5, 6, 7, 8]], [0.5, 0.25], 2, (0.5, 0.25)),
        ([[1, 2, 3, 4], [5, 6, 7, 8]], [[0.5, 0.25]], 2, (0.5, 0.25)),
        ([], [[]], 0, ()),
        ([[1, 2, 3, 4]], None, 1, ()),
    ],
)
def test_boxes_and_scores_in_every_nesting(bbox, score, boxes, scores):
    line = grounding("a cat", {"bbox": bbox, "phrase": ["a cat"], "score": score, "tokens_positive": [[0, 5]]})
    (region,) = record_from_line(line, "here").regions
    assert (len(region.boxes), region.scores) == (boxes, scores)


def test_one_phrase_may_have_several_spans():
    line = grounding(
        "Two surfers", {"bbox": [1, 2, 3, 4], "phrase": "Two surfers", "tokens_positive": [[0, 3], [4, 11]]}
    )
    (region,) = record_from_line(line, "here").regions
    assert region.phrase == ("Two surfers",)
    assert region.spans == ((0, 3), (4, 11))


@pytest.mark.parametrize(
    ("caption", "phrases", "spans"),
    [
        ("A Cat on a mat", ["a cat", "MAT"], [((0, 5),), ((11, 14),)]),
        ("container number on a container", ["container number"], [((0, 16),)]),
        ("containers and a container", ["container"], [((17, 26),)]),
        ("a tomcat and a cat", ["cat"], [((15, 18),)]),
        ("the c++ sign", ["c++ sign", "c++"], [((4, 12),), ((4, 7),)]),
        ("a (red) dog", ["(red)"], [((2, 7),)]),
        ("a dog and a dog", ["a dog", "a dog"], [((0, 5),), ((10, 15),)]),
        ("a dog and a dog", ["a dog"], [()]),
        ("a dog", ["a dog", "a dog"], [((0, 5),), ((0, 5),)]),
        ("a dog", ["a cat", ""], [(), ()]),
        ("a dog, a cat", [["a dog", "a cat"], ["a dog", "a fox"]], [((0, 5), (7, 12)), ()]),
        ("größe der Maß", ["maß"], [((10, 13),)]),
    ],
)
def test_spans_are_found_for_the_dialect_that_has_none(caption, phrases, spans):
    assert spans_found(caption, *phrases) == spans


def test_bom_empty_lines_crlf_and_odd_characters(tmp_path):
    path = tmp_path / "a.json"
    caption = "größe \u2028 日本 \x85 😀"
    lines = [json.dumps({**IMAGE, "grounding": {"caption": caption}}, ensure_ascii=False), "", "   ", json.dumps(IMAGE)]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    assert [record.caption for record in read_odvg(path)] == [caption, None]


def test_text_is_written_as_utf8_and_a_name_that_is_none_is_escaped(tmp_path):
    path = tmp_path / "a.json"
    records = [Record("größe.jpg", 1, 1), Record("\udcff.jpg", 1, 1)]
    write_odvg(path, records)
    assert "größe.jpg".encode() in path.read_bytes()
    assert list(read_odvg(path)) == records


@pytest.mark.parametrize("indent", [None, 1])
def test_a_file_may_be_one_json_array(tmp_path, indent):
    path = tmp_path / "a.json"
    path.write_text("\n" + json.dumps([IMAGE, detection()], indent=indent))
    assert [record.instances for record in read_odvg(path)] == [None, ()]
    path.write_text("[" + json.dumps(IMAGE))
    with pytest.raises(InputError, match=r"is not JSON .Expecting ','"):
        list(read_odvg(path))


def test_an_empty_file_has_no_records(tmp_path):
    (tmp_path / "a.json").write_text("")
    assert list(read_odvg(tmp_path / "a.json")) == []


def test_reading_is_lazy(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(IMAGE) + "\nbroken\n")
    records = read_odvg(path)
    assert next(records).filename == "a.jpg"
    with pytest.raises(InputError):
        next(records)


GOOD = {"bbox": [1, 2, 3, 4], "label": 0, "category": "cat"}
REGION = {"bbox": [1, 2, 3, 4], "phrase": "a cat", "tokens_positive": [[0, 5]]}


def without(table: dict, key: str) -> dict:
    return {name: value for name, value in table.items() if name != key}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            detection(GOOD, {**GOOD, "bbox": [40, 10, 30, 90]}),
            r"instance 1: box \(40.*swapped corners; expected x1 <= x2",
        ),
        (detection({**GOOD, "bbox": [1, 2, 3]}), r"instance 0: box \[1, 2, 3\] is not four numbers; expected \[x1, y1"),
        (detection({**GOOD, "bbox": [1, 2, 3, "4"]}), r'instance 0: box \[1, 2, 3, "4"\] is not four numbers'),
        (detection({**GOOD, "bbox": [1, 2, 3, True]}), "is not four numbers"),
        (detection({**GOOD, "bbox": [1, 2, 3, float("nan")]}), "four finite numbers"),
        (detection({**GOOD, "bbox": [1, 2, 3, 10**400]}), "is not four numbers"),
        (detection({**GOOD, "bbox": None}), "box null is not four numbers"),
        (detection(without(GOOD, "bbox")), "instance 0: 'bbox' is missing; expected \"bbox\""),
        (detection(without(GOOD, "label")), "instance 0: 'label' is missing"),
        (detection(without(GOOD, "category")), "instance 0: 'category' is missing"),
        (
            detection({**without(GOOD, "bbox"), "box": [1, 2, 3, 4]}),
            "instance 0: unknown key 'box'; did you mean 'bbox'",
        ),
        (detection({**GOOD, "scores": 0.5}), "unknown key 'scores'; did you mean 'score'"),
        (detection({**GOOD, "label": "0"}), 'label "0" is not a whole number'),
        (detection({**GOOD, "label": 0.5}), "label 0.5 is not a whole number"),
        (detection({**GOOD, "category": 3}), "category 3 is not text"),
        (detection({**GOOD, "score": 1.5}), "score 1.5 is outside 0..1"),
        (detection({**GOOD, "score": "high"}), 'score "high" is not a number'),
        (detection({**GOOD, "score": [0.1, 0.2]}), "2 scores for one box"),
        (detection({**GOOD, "weight": -1}), r"json:3: instance 0: weight -1 is not a weight; expected a number >= 0$"),
        (detection({**GOOD, "ignore": "no"}), 'ignore is "no"; expected true or false'),
        (detection([1, 2]), "instance 0: is a JSON list"),
        ({**IMAGE, "detection": {}}, "detection: 'instances' is missing"),
        ({**IMAGE, "detection": []}, "detection is a JSON list"),
        ({**IMAGE, "detection": {"instances": {}}}, "instances is not a list"),
        ({**IMAGE, "detections": {"instances": []}}, "unknown key 'detections'; did you mean 'detection'"),
        ({**detection(), **grounding("a cat")}, "both detection and grounding"),
        (without(IMAGE, "filename"), "'filename' is missing"),
        ({**without(IMAGE, "filename"), "file_name": "a.jpg"}, "unknown key 'file_name'; did you mean 'filename'"),
        (without(IMAGE, "height"), "'height' is missing; expected"),
        ({**IMAGE, "width": 0}, "not positive"),
        ({**IMAGE, "width": "120"}, 'width "120" is not a whole number'),
        ({**IMAGE, "filename": None}, "filename None is not text"),
        ({**IMAGE, "grounding": {"regions": []}}, "grounding: 'caption' is missing"),
        (
            grounding("a cat", {**REGION, "tokens_positive": [0, 5]}),
            r"region 0: tokens_positive \[0, 5\] is not a list of",
        ),
        (grounding("a cat", {**REGION, "tokens_positive": [[0, 6]]}), r"span \[0, 6\] leaves the caption of 5"),
        (grounding("a cat", {**REGION, "tokens_positive": [[5, 5]]}), r"span \[5, 5\] is empty"),
        (grounding("a cat", without(REGION, "phrase")), "region 0: 'phrase' is missing"),
        (grounding("a cat", {**REGION, "phrase": []}), r"phrase \[\] is not text"),
        (grounding("a cat", {**REGION, "score": [0.1, 0.2]}), "2 scores for 1 box"),
        (
            grounding("a cat", REGION, {**REGION, "bbox": [[1, 2, 3, 4], [9, 2, 3, 4]]}),
            "region 1: box .* swapped corners",
        ),
        ([1], "contains a JSON list; expected one JSON object per line"),
        (None, "contains a JSON NoneType"),
    ],
)
def test_errors_name_the_line_its_content_and_the_remedy(tmp_path, line, message):
    path = tmp_path / "a.json"
    path.write_text("\n".join([json.dumps(IMAGE), "", json.dumps(line), json.dumps(IMAGE)]))
    with pytest.raises(InputError, match=message) as caught:
        list(read_odvg(path))
    assert str(caught.value).startswith(f"{path}:3: ")


def test_keys_without_a_field_are_counted_at_every_level(tmp_path):
    """The same records as without them; what says nothing (null, 0, an empty list) is not told."""
    extra = {"id": 7, "segmentation": [], "iscrowd": 0}
    boxes = {
        **IMAGE,
        "license": 3,
        "detection": {"instances": [GOOD, {**GOOD, **extra}, {**GOOD, **extra}], "by": "me"},
    }
    words = {**IMAGE, "grounding": {"caption": "a cat", "regions": [{**REGION, **extra}], "language": "en"}}
    plain = [detection(GOOD, GOOD, GOOD), grounding("a cat", REGION)]
    for name, lines in (("extra.json", [boxes, words]), ("plain.json", plain)):
        (tmp_path / name).write_text("\n".join(map(json.dumps, lines)))
    omissions = Omissions()
    records = list(read_odvg(tmp_path / "extra.json", omissions=omissions))
    assert records == list(read_odvg(tmp_path / "plain.json"))
    assert omissions == {
        "license of lines": 1,
        "by of detection": 1,
        "id of instances": 2,
        "language of grounding": 1,
        "id of regions": 1,
    }


@pytest.mark.parametrize("text", [b"{broken", b'{"filename": "\xff"}', b"a.jpg 3 4", b'{"a":' * 100_000])
def test_what_is_no_json_is_named(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_bytes(json.dumps(IMAGE).encode() + b"\n" + text)
    with pytest.raises(InputError, match=r"a\.json:2: is not JSON"):
        list(read_odvg(path))


def test_an_array_of_brackets_without_end_is_named(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b"[" * 100_000)
    with pytest.raises(InputError, match=r"is not JSON .maximum recursion depth"):
        list(read_odvg(path))


def test_further_keys_of_other_tools_pass():
    line = {**detection({**GOOD, "area": 4, "iscrowd": 0}), "image_id": 7, "source": "web"}
    assert record_from_line(line, "here") == record_from_line(detection(GOOD), "here")


def test_flat_boxes_and_boxes_outside_are_kept():
    boxes = [[5, 5, 5, 40], [-10, 5, -1, 40], [90, 90, 150, 150]]
    record = record_from_line(detection(*({**GOOD, "bbox": box} for box in boxes)), "here")
    assert [list(instance.box) for instance in record.instances] == boxes


def test_problems_are_handed_over_in_order_and_the_rest_is_read(tmp_path):
    path = tmp_path / "a.json"
    bad = json.dumps({"filename": "b.jpg", "height": 3})
    quarantined = json.dumps({**IMAGE, "quarantined": "is empty"})
    path.write_text("\n".join([json.dumps(IMAGE), "", bad, quarantined, "{broken", json.dumps(detection())]))
    problems: list[LineProblem] = []
    assert [record.instances for record in read_odvg(path, problems.append)] == [None, ()]
    assert [(problem.line, problem.filename, problem.text) for problem in problems] == [
        (1, "b.jpg", bad),
        (3, None, "{broken"),
    ]
    assert problems[0].error.location == f"{path}:3"
    assert [(line, type(entry)) for line, entry in read_odvg_entries(path)] == [
        (0, Record),
        (1, LineProblem),
        (3, LineProblem),
        (4, Record),
    ]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.json: does not exist"):
        list(read_odvg(tmp_path / "none.json"))
    with pytest.raises(InputError, match="is not a file"):
        list(read_odvg(tmp_path))


# The plainest entries are read in fewer steps; nobody can tell by the outcome.

_values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 300),
    st.sampled_from([0.5, 1.0, -0.0, 1e400, float("nan"), 10**400]),
    st.sampled_from(["a cat", "", "\ud800"]),
)
_corners = st.one_of(st.floats(0, 100), st.integers(0, 100), _values)
_some_box = st.lists(_corners, min_size=3, max_size=5) | st.lists(st.floats(0, 9), min_size=4, max_size=4).map(sorted)
_some_spans = st.lists(st.lists(st.integers(-1, 4), min_size=2, max_size=2), max_size=2)
_changes = {
    "bbox": _some_box | st.lists(_some_box, max_size=2) | st.just([0, 0, 1, 1]) | _values,
    "label": _values,
    "category": _values,
    "phrase": st.lists(_values, max_size=2) | _values,
    "tokens_positive": _some_spans | st.lists(_values, max_size=2) | _values,
    "score": st.floats(-1, 2) | _values,
    "weight": _values,
    "ignore": _values,
    "lable": _values,
}
_PLAIN_ENTRIES = (
    {"bbox": [0.5, 1, 2.5, 3], "label": 3, "category": "cat"},
    {"bbox": [[0.5, 1, 2.5, 3]], "phrase": "a cat", "tokens_positive": [[0, 5]]},
)


@settings(max_examples=300)
@given(entry=st.sampled_from(_PLAIN_ENTRIES), key=st.sampled_from(sorted(_changes)), data=st.data())
def test_the_short_way_reads_what_the_careful_way_reads(entry, key, data):
    entry = {**entry, key: data.draw(_changes[key])}
    line = detection(entry) if "label" in entry and "phrase" not in entry else grounding("a cat sat", entry)
    outcomes = []
    for careful in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            if careful:
                patch.setattr(odvg_lines, "_plain_instance", lambda entry: None)
                patch.setattr(odvg_lines, "_plain_region", lambda entry: None)
            try:
                outcomes.append(repr(record_from_line(line, "here")))
            except InputError as error:
                outcomes.append(str(error))
    assert outcomes[0] == outcomes[1]


def test_json_that_the_faster_decoder_refuses_is_still_read(tmp_path):
    line = {**detection({"bbox": [1, 2, 3, 4], "label": 0, "category": "cat"}), "filename": "\udcff.jpg", "more": 1e999}
    (tmp_path / "a.json").write_text(json.dumps(line))
    assert next(read_odvg(tmp_path / "a.json")).filename == "\udcff.jpg"
