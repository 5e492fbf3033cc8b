"""Prompts: captions and spans as the reference builds them, labels always the caller's own."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formats.io.errors import InputError
from grounding_model.inputs.category_lists import category_lists
from grounding_model.inputs.prompt import Prompt, clean_name
from grounding_model.inputs.tokens import count_tokens, load_tokenizer, tokens_of_spans
from tests.paths import GOLDEN

REFERENCE = json.loads((GOLDEN / "text" / "prompts.json").read_text())


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(GOLDEN / "a" / "bert")


def count_words(text: str) -> int:
    return len(text.replace(".", " . ").split())


def reference_cases():
    for case in REFERENCE["prompts"]:
        text = case["kwargs"]["original_caption"]
        if isinstance(text, str) and "chunked_size" in case:
            continue  # the reference walks a text letter by letter when it chunks; ours splits it into names first
        if isinstance(text, str) and ".  ." in text:
            continue  # a blank name is refused, see test_bad_prompts_are_refused
        if isinstance(text, str) and not case["kwargs"]["custom_entities"] and "tokens_positive" not in case["kwargs"]:
            continue  # noun phrases: test_noun_phrases.py
        yield pytest.param(case, id=str(case["caption"])[:40])


def prompt_of(case) -> Prompt:
    arguments = case["kwargs"]
    text, custom = arguments["original_caption"], arguments["custom_entities"]
    if isinstance(text, str):
        return Prompt.parse(text, custom, arguments.get("tokens_positive"))
    return Prompt.categories(text, arguments.get("enhanced_text_prompt") if custom else None)


@pytest.mark.parametrize("case", reference_cases())
def test_captions_and_token_maps_equal_the_reference(case, tokenizer):
    chunk_size = case.get("chunked_size")
    built = prompt_of(case).chunks(lambda text: count_tokens(text, tokenizer), 254, chunk_size)
    captions = case["caption"] if chunk_size else [case["caption"]]
    maps = case["token_positive_map"] if chunk_size else [case["token_positive_map"]]
    assert [part.caption for part in built] == captions
    for part, expected in zip(built, maps):
        found = tokens_of_spans(part.caption, part.spans, tokenizer)
        assert {str(index + 1): columns for index, columns in enumerate(found)} == (expected or {})


@pytest.mark.parametrize("case", REFERENCE["clean_names"], ids=lambda case: case["name"])
def test_names_are_cleaned_as_in_the_reference(case):
    assert clean_name(case["name"]) == case["predict_clean"]


def test_labels_are_the_callers_own_words():
    assert Prompt.categories(["stop_sign (red)", "CAT ", "u.s. dog"]).labels == ("stop_sign (red)", "CAT ", "u.s. dog")
    assert Prompt.phrases("a cat on a mat", [[[0, 1], [2, 5]], [[9, 14]]]).labels == ("a / cat", "a mat")
    assert Prompt.expression("the left cat").labels == ("the left cat",)


def test_a_text_split_into_names_keeps_its_caption_and_strips_its_labels():
    prompt = Prompt.parse("cat . Red_Dog . person .", custom_entities=True)
    assert prompt.labels == ("cat", "Red_Dog", "person")
    assert prompt.build().caption == "cat . Red Dog . person. "


def test_chunks_of_names_are_numbered_through():
    prompt = Prompt.categories([f"name{index}" for index in range(7)])
    chunks = prompt.chunks(count_words, 254, chunk_size=3)
    assert [chunk.labels for chunk in chunks] == [(0, 1, 2), (3, 4, 5), (6,)]


def test_synonyms_share_a_label():
    built = Prompt.categories([("cat", "kitten"), "dog"]).build()
    assert (built.caption, built.labels) == ("cat. kitten. dog. ", (0, 0, 1))
    assert Prompt.categories([("cat", "kitten"), "dog"]).labels == ("cat", "dog")


@given(st.lists(st.integers(1, 6), min_size=1, max_size=30), st.integers(8, 20))
def test_chunks_keep_every_name_and_the_budget(lengths, budget):
    names = [" ".join([f"w{index}"] * length) for index, length in enumerate(lengths)]
    chunks = Prompt.categories(names).chunks(count_words, budget)
    assert all(count_words(chunk.caption) <= budget for chunk in chunks)
    found = [chunk.caption[start:end] for chunk in chunks for ((start, end),) in chunk.spans]
    assert found == names
    assert [label for chunk in chunks for label in chunk.labels] == list(range(len(names)))


@given(st.lists(st.sampled_from(["red", "cat", "mat", "end."]), min_size=1, max_size=60), st.data())
def test_long_captions_are_cut_between_phrases(words, data):
    caption = " ".join(words)
    starts = [sum(len(word) + 1 for word in words[:index]) for index in range(len(words))]
    spans = []
    for first in data.draw(st.lists(st.integers(0, len(words) - 1), max_size=5)):
        last = min(first + data.draw(st.integers(0, 1)), len(words) - 1)
        spans.append([[starts[first], starts[last] + len(words[last])]])
    prompt = Prompt.phrases(caption, spans)
    # Phrases of two words that overlap one another can form a row that cannot be cut: refused, never cut in two.
    try:
        chunks = prompt.chunks(count_words, 14)
    except InputError:
        assert len(spans) >= 3
        return
    assert all(count_words(chunk.caption) <= 14 for chunk in chunks)
    found = {}
    for chunk in chunks:
        for label, phrase in zip(chunk.labels, chunk.spans):
            assert label not in found
            found[label] = " / ".join(chunk.caption[start:end] for start, end in phrase)
    assert found == dict(enumerate(prompt.labels))


def test_a_long_caption_is_cut_at_a_sentence_where_there_is_one():
    prompt = Prompt.phrases("one two three. four five six seven", [[[0, 3]], [[15, 19]]])
    chunks = prompt.chunks(count_words, 7)
    assert [chunk.caption for chunk in chunks] == ["one two three. . ", "four five six seven. "]
    assert [chunk.spans for chunk in chunks] == [(((0, 3),),), (((0, 4),),)]


def test_enhancements_are_found_by_the_cleaned_name_too():
    prompt = Prompt.categories(["stop_sign"], {"stop sign": {"prefix": "a red ", "suffix": " at a road"}})
    built = prompt.build()
    assert built.caption == "a red stop sign at a road. "
    assert built.caption[slice(*built.spans[0][0])] == "stop sign"


def test_parse_knows_the_modes_of_the_command_line():
    assert Prompt.parse("$: coco").labels[:2] == ("person", "bicycle")
    assert len(Prompt.parse("$:voc").labels) == 20
    assert Prompt.parse("zebra. giraffe", True).labels == ("zebra", "giraffe")
    assert Prompt.parse("a zebra", tokens_positive="-1") == Prompt.expression("a zebra")
    assert Prompt.parse("a zebra", tokens_positive=-1) == Prompt.expression("a zebra")
    assert Prompt.parse("a zebra", tokens_positive="[[[2, 7]]]") == Prompt.phrases("a zebra", [[[2, 7]]])
    assert Prompt.parse("a zebra", tokens_positive=[[2, 7]]) == Prompt.phrases("a zebra", [[[2, 7]]])


@pytest.mark.parametrize("name", category_lists())
def test_every_category_list_makes_a_prompt(name):
    labels = Prompt.parse(f"$: {name}").labels
    sizes = {"cityscapes": 8, "coco": 80, "lvis": 1203, "objects365v1": 365, "objects365v2": 365, "voc": 20}
    assert len(labels) == sizes.get(name, len(labels))


def test_data_sets_are_found_by_their_other_names_and_in_any_case():
    assert Prompt.parse("$: Pascal_VOC") == Prompt.parse("$: voc")
    assert Prompt.parse("$: raccoon").labels == ("raccoon",)


def test_a_caption_without_phrases_is_a_prompt_that_asks_nothing():
    assert Prompt.phrases("running", []).build() == ("running. ", (), ())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Prompt.categories([]), "empty"),
        (lambda: Prompt.categories("cat"), r"expected a list of names"),
        (lambda: Prompt.categories(["cat", " "]), "category 1"),
        (lambda: Prompt.categories(["(only)"]), "is empty without its brackets"),
        (lambda: Prompt.categories(["cat", "dog", "cat"]), "'cat' is listed twice"),
        (lambda: Prompt.categories(["cat", ()]), "category 1: no synonyms"),
        (lambda: Prompt.categories(["cat", 3]), "category 1: 3 is a int"),
        (lambda: Prompt.categories(["cat"], {"cta": {"prefix": "a "}}), "did you mean 'cat'"),
        (lambda: Prompt.categories(["cat"], {"cat": {"prefx": "a "}}), "did you mean 'prefix'"),
        (lambda: Prompt.categories(["cat"], {"cat": {"name": " "}}), "expected a string"),
        (lambda: Prompt.parse("Cat. red Apple .  . dog", True), "category 2"),
        (lambda: Prompt.parse(" . ", True), "empty"),
        (lambda: Prompt.parse("$: cooc"), "did you mean 'coco'"),
        (lambda: Prompt.parse("$: coco", tokens_positive=-1), "one of the two"),
        (lambda: Prompt.parse("a cat", tokens_positive="[[["), "--tokens-positive"),
        (lambda: Prompt.parse("a cat", tokens_positive="{}"), "--tokens-positive"),
        (lambda: Prompt.parse("a cat", tokens_positive=[[[0, 6]]]), "phrase 0: span"),
        (lambda: Prompt.parse("a cat", tokens_positive=[[[3, 2]]]), "phrase 0: span"),
        (lambda: Prompt.phrases("a cat", [[[0, 5]], [[1, 2]]]), "phrase 1: .* blanks"),
        (lambda: Prompt.phrases("a cat", [[]]), "phrase 0"),
        (lambda: Prompt.phrases("a cat", [[[0, 2.5]]]), "phrase 0"),
        (lambda: Prompt.phrases("  ", []), "is blank"),
        (lambda: Prompt.expression(" . "), "is blank"),
        (lambda: Prompt.categories(["word " * 300]).chunks(count_words, 254), "tokens that cannot be split"),
        (lambda: Prompt.expression("word " * 300).chunks(count_words, 254), "tokens that cannot be split"),
        (lambda: Prompt.categories(["cat"]).chunks(count_words, 254, 0), "chunk_size"),
    ],
)
def test_bad_prompts_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_names_come_from_a_file_of_any_length(tmp_path):
    names = [f"thing {index}" for index in range(13_204)]
    (tmp_path / "names.txt").write_text("\n".join(names) + "\n\n")
    assert Prompt.parse(f"$: {tmp_path / 'names.txt'}").labels == tuple(names)
    (tmp_path / "label_map.json").write_text('{"1": "dog", "0": "cat"}')
    assert Prompt.parse(f"$: {tmp_path / 'label_map.json'}").labels == ("cat", "dog")
    with pytest.raises(InputError, match=r"missing\.txt"):
        Prompt.parse(f"$: {tmp_path / 'missing.txt'}")
