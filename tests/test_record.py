"""A record refuses to exist in a broken state."""

import math

import pytest

from formats.record import Instance, Record, Region

BOX = (1.0, 2.0, 3.0, 4.0)


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((5.0, 2.0, 3.0, 4.0), "swapped corners"),
        ((1.0, 9.0, 3.0, 4.0), "swapped corners"),
        ((math.nan, 2.0, 3.0, 4.0), "four finite numbers"),
        ((1.0, 2.0, math.inf, 4.0), "four finite numbers"),
        ((-math.inf, 2.0, 3.0, 4.0), "four finite numbers"),
        ((1.0, 2.0, 3.0), "four finite numbers"),
    ],
)
def test_a_broken_box_is_refused_by_every_value_that_holds_one(box, message):
    with pytest.raises(ValueError, match=message):
        Instance(box, 0, "cat")
    with pytest.raises(ValueError, match=message):
        Region((BOX, box), ("a cat",))


@pytest.mark.parametrize("box", [(1.0, 2.0, 1.0, 4.0), (-5.0, -5.0, 900.0, 900.0)])
def test_a_box_may_be_flat_and_may_leave_the_image(box):
    assert Instance(box, 0, "cat").box == box


@pytest.mark.parametrize("score", [-0.1, 1.1, math.nan])
def test_a_score_lies_between_0_and_1(score):
    with pytest.raises(ValueError, match="outside"):
        Instance(BOX, 0, "cat", score)
    with pytest.raises(ValueError, match="outside"):
        Region((BOX,), ("a cat",), scores=(score,))


def test_a_region_has_one_score_a_box_or_none():
    assert Region((BOX, BOX), ("cats",), scores=()).scores == ()
    with pytest.raises(ValueError, match="1 score for 2 boxes"):
        Region((BOX, BOX), ("cats",), scores=(0.5,))


@pytest.mark.parametrize("span", [(3, 3), (4, 3), (-1, 2)])
def test_a_span_is_not_empty(span):
    with pytest.raises(ValueError, match="empty"):
        Region((BOX,), ("a",), (span,))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"filename": ""}, "filename is empty"),
        ({"height": 0}, "not positive"),
        ({"width": -4}, "not positive"),
        ({"instances": (), "caption": "a cat"}, "both detection and grounding"),
        ({"regions": ()}, "regions without a caption"),
        ({"caption": "a cat", "regions": (Region((BOX,), ("a cat",), ((0, 6),)),)}, "leaves the caption"),
    ],
)
def test_a_record_refuses_a_broken_state(fields, message):
    with pytest.raises(ValueError, match=message):
        Record(**{"filename": "a.jpg", "height": 4, "width": 5, **fields})


def test_records_are_values():
    assert Record("a.jpg", 4, 5, (Instance(BOX, 0, "cat"),)) == Record("a.jpg", 4, 5, (Instance(BOX, 0, "cat"),))
    assert len({Record("a.jpg", 4, 5), Record("a.jpg", 4, 5)}) == 1
