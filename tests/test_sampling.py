"""What a training caption says: laws that hold for every draw, and the reference's own draws."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from formats.record import Record, Region
from grounding_model.data.captions import AbsentNames, CategorySampler, TrainingText, caption_text, clean_training_name
from grounding_model.inputs.tokens import count_tokens, load_tokenizer
from tests.paths import GOLDEN

REFERENCE = json.loads((GOLDEN / "text" / "random_sampling_negpos.json").read_text())
CATEGORIES = {int(label): name for label, name in REFERENCE["label_map"].items()}
MANY = {label: f"thing {label}" for label in range(500)}


def count_words(text: str) -> int:
    return len(text.replace(".", " .").split())


def names_of(text: TrainingText) -> list[str]:
    return [text.caption[start:end] for ((start, end),) in text.spans]


def draws(sampler: CategorySampler, labels: tuple[int, ...], count: int = 50) -> list[TrainingText]:
    return [sampler.draw(labels, np.random.default_rng(seed)) for seed in range(count)]


def test_every_box_is_named_by_its_category() -> None:
    sampler = CategorySampler(CATEGORIES, count_words)
    for text in draws(sampler, (3, 0, 3)):
        assert [names_of(text)[entity] for entity in text.box_entities] == ["red apple", "cat", "red apple"]


def test_no_name_stands_twice() -> None:
    for text in draws(CategorySampler(CATEGORIES, count_words), (3, 0, 3)):
        assert len(set(names_of(text))) == len(text.spans)


def test_labels_with_the_same_words_share_one_place() -> None:
    sampler = CategorySampler({0: "Cat", 1: "cat", 2: "dog/cat"}, count_words)
    for text in draws(sampler, (0, 1, 2)):
        assert text.box_entities[0] == text.box_entities[1]
        assert len(set(names_of(text))) == len(text.spans)


@pytest.mark.parametrize("labels", [(), (0,), tuple(range(0, 500, 2))])
@pytest.mark.parametrize("max_tokens", [8, 50, 256])
def test_the_caption_fits_the_budget(labels: tuple[int, ...], max_tokens: int) -> None:
    for text in draws(CategorySampler(MANY, count_words, max_tokens), labels, count=20):
        assert count_words(text.caption) + 2 <= max_tokens


def test_boxes_of_names_that_do_not_fit_are_told() -> None:
    sampler = CategorySampler(MANY, count_words, max_tokens=8)  # six for words: two names of three tokens
    for text in draws(sampler, (0, 1, 2)):
        assert sorted(text.box_entities)[0] == -1
        assert len([entity for entity in text.box_entities if entity >= 0]) == 2
        assert names_of(text) == [
            f"thing {label}"
            for label in sorted(
                (label for label in (0, 1, 2) if text.box_entities[label] >= 0),
                key=lambda label: text.box_entities[label],
            )
        ]


def test_every_alternative_of_a_name_is_drawn() -> None:
    sampler = CategorySampler({0: "cup/bowl"}, count_words)
    assert {names_of(text)[0] for text in draws(sampler, (0,))} == {"cup", "bowl"}


def test_an_image_without_boxes_is_asked_for_what_is_not_there() -> None:
    assert all(text.spans for text in draws(CategorySampler(CATEGORIES, count_words), ()))


def test_numbers_of_absent_names_are_those_of_the_reference() -> None:
    """Half of all draws take as many as there may be, the others any number down to one."""
    sampler = CategorySampler(MANY, count_words, max_tokens=10_000)
    counts = [len(text.spans) for text in draws(sampler, (), count=400)]
    assert max(counts) == 85
    assert 0.4 < sum(count == 85 for count in counts) / 400 < 0.6
    assert min(counts) <= 5


def test_absent_names_can_be_few_or_none() -> None:
    for most, counts in ((0, {1}), (3, {2, 3, 4})):
        sampler = CategorySampler(MANY, count_words, absent=AbsentNames(most))
        assert {len(text.spans) for text in draws(sampler, (7,))} == counts


def test_the_reference_draws_obey_the_same_laws_once_its_slip_is_taken_out() -> None:
    """Its captions repeat positives as negatives; without the repeats they are captions of ours."""
    cleaned = {clean_training_name(part) for name in CATEGORIES.values() for part in name.split("/")}
    for run in (run for run in REFERENCE["runs"] if "seed" in run):
        drawn = run["text"].split(". ")[:-1]
        assert set(drawn) <= cleaned
        positives = {drawn[int(entity)] for entity in run["tokens_positive"]}
        assert {name for name, count in Counter(drawn).items() if count > 1} <= positives
        for entity, ((start, end),) in run["tokens_positive"].items():
            assert run["text"][start:end] == drawn[int(entity)]


def test_tokens_are_counted_as_the_tokenizer_does() -> None:
    tokenizer = load_tokenizer(GOLDEN / "a" / "bert")
    sampler = CategorySampler(CATEGORIES, lambda text: count_tokens(text, tokenizer), max_tokens=16)
    for text in draws(sampler, (3, 0, 8)):
        assert count_tokens(text.caption, tokenizer) <= 14


def captioned(caption: str, *spans: tuple[int, int]) -> Record:
    regions = tuple(Region(((1, 1, 5, 5),), (caption[start:end],), ((start, end),)) for start, end in spans)
    return Record("a.jpg", 10, 10, caption=caption, regions=regions)


@pytest.mark.parametrize(
    ("caption", "span", "expected"),
    [
        ("Two men near a Horse", (13, 20), "two men near a horse. "),
        # The reference makes the same text of this, but leaves the span where it was.
        (" Two Men near a Horse", (14, 21), "two men near a horse. "),
        ("  Two men near a Horse.  ", (15, 22), "two men near a horse."),
        ("İki men near a Horse", (13, 20), "İki men near a horse. "),
    ],
)
def test_captions_are_lowered_stripped_and_ended_and_spans_go_along(
    caption: str, span: tuple[int, int], expected: str
) -> None:
    text = caption_text(captioned(caption, span))
    assert text.caption == expected
    ((start, end),) = text.spans[0]
    assert text.caption[start:end] == "a horse"
    assert text.box_entities == (0,)


def test_a_region_without_spans_names_nothing() -> None:
    record = Record("a.jpg", 10, 10, caption="a cat", regions=(Region(((1, 1, 5, 5),), ("dog",)),))
    assert caption_text(record).box_entities == (-1,)
