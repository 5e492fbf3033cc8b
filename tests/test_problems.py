"""What an error proposes for a word that is not known."""

from __future__ import annotations

import pytest

from formats.io.errors import did_you_mean, expected_one_of, refused


@pytest.mark.parametrize(
    ("given", "remedy"),
    [
        ("cats", "did you mean 'cat'?"),
        ("UMBRELA", "did you mean 'Umbrella'?"),
        ("zebra", "expected one of cat, Umbrella"),
        ("", "expected one of cat, Umbrella"),
        (None, "expected one of cat, Umbrella"),
        (7, "expected one of cat, Umbrella"),
    ],
)
def test_a_misspelt_word_gets_a_suggestion_and_any_other_the_list_of_all(given, remedy):
    assert expected_one_of(("cat", "Umbrella"), given) == remedy


def test_the_minimum_similarity_of_a_suggestion_is_a_parameter():
    assert did_you_mean(["score"], "cores", similarity=0.6) == "did you mean 'score'?"
    assert did_you_mean(["score"], "cores", similarity=0.9) == ""


def test_an_error_of_a_value_keeps_its_message_and_gets_a_location():
    error = refused("a.json:3", ValueError("score 2 is outside 0..1; expected a fraction; or none"), "instance 0: ")
    assert (error.what, error.remedy) == ("instance 0: score 2 is outside 0..1", "expected a fraction; or none")
    assert str(error) == "a.json:3: instance 0: score 2 is outside 0..1; expected a fraction; or none"
