"""Noun phrases: the reference's, each once and in its own place."""

from __future__ import annotations

import json

import nltk
import pytest

from formats.io.errors import InputError
from grounding_model.inputs import noun_phrases as module
from grounding_model.inputs.noun_phrases import noun_phrases, spans_of_tags
from tests.paths import GOLDEN

CASES = json.loads((GOLDEN / "noun_phrases.json").read_text())
# The reference looks for every phrase's text everywhere: a phrase that stands twice is found four times, and its label
# points at another phrase. Ours: each phrase once, where it stands.
CORRECTED = {
    "The man in the black shirt and the man in the red shirt": [(0, 7), (11, 26), (31, 38), (42, 55)],
    "a cat a cat a cat": [(0, 5), (6, 11), (12, 17)],
}


def tagger_data_is_here() -> bool:
    try:
        nltk.data.find(f"taggers/{module.TAGGER_DATA}/")
    except LookupError:
        return False
    return True


def expected(case) -> list[tuple[int, int]]:
    reference = [tuple(span) for (span,) in case["run_ner_tokens_positive"]]
    return CORRECTED.get(case["caption"], reference)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["caption"])
def test_phrases_of_the_reference_tags(case):
    tagged = [tuple(pair) for pair in case["pos_tags"]]
    assert spans_of_tags(case["caption"].lower(), tagged) == expected(case)


@pytest.mark.skipif(not tagger_data_is_here(), reason=f"NLTK's {module.TAGGER_DATA} is not on this machine")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["caption"])
def test_phrases_of_captions(case):
    assert noun_phrases(case["caption"]) == expected(case)


class EveryWordIsANoun:
    @staticmethod
    def tag(tokens):
        return [(token, "NN" if token[0].isalnum() else token[0]) for token in tokens]


@pytest.mark.parametrize(
    ("caption", "phrases"),
    [
        ("Dog. Cat", ["Dog", "Cat"]),
        ('the "old dog" sat', ["the", "old dog", "sat"]),
        ("İstanbul, (tower)", ["İstanbul", "tower"]),
        ("c++ sign", ["c++ sign"]),
        ("container, container number", ["container", "container number"]),
        ("dogs' bowl", ["dogs", "bowl"]),
        ("...", []),
        ("", []),
    ],
)
def test_phrases_are_slices_of_the_caption(caption, phrases, monkeypatch):
    monkeypatch.setattr(module, "_tagger", EveryWordIsANoun)
    assert [caption[start:end] for start, end in noun_phrases(caption)] == phrases


def test_a_missing_tagger_is_explained_and_not_fetched(monkeypatch, tmp_path):
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    module._tagger.cache_clear()
    with pytest.raises(InputError, match=r"python -m nltk\.downloader averaged_perceptron_tagger_eng"):
        noun_phrases("a cat")
    assert not list(tmp_path.iterdir())
