"""Tokens, the sub-sentence mask and the tokens of a span: equal to the reference, and to themselves in any batch."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from formats.io.errors import InputError
from grounding_model.inputs.tokens import (
    SPECIAL_TOKENS,
    CaptionTooLong,
    count_tokens,
    load_tokenizer,
    tokenize,
    tokenizer_from_text,
    tokenizer_to_text,
    tokens_of_spans,
)
from tests.paths import GOLDEN

BERT = GOLDEN / "a" / "bert"
CAPTIONS = json.loads((GOLDEN / "text" / "sub_sentence_masks.json").read_text())["captions"]


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(BERT)


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDEN / "text" / "sub_sentence_masks.npz")


@pytest.mark.parametrize("case", CAPTIONS)
def test_tokens_and_padding_equal_the_reference(case, tokenizer, golden):
    batch = tokenize(CAPTIONS[case], tokenizer)
    np.testing.assert_array_equal(batch.input_ids, golden[f"{case}/input_ids"])
    np.testing.assert_array_equal(batch.token_mask, golden[f"{case}/token_mask"].astype(bool))


@pytest.mark.parametrize("case", CAPTIONS)
def test_masks_equal_the_reference_except_where_padding_leaks_into_them(case, tokenizer, golden):
    """The reference judges "last column" on the padded width: in a padded row the words after the last full stop form a
    group with [SEP], in the longest row they stand alone. Ours stand alone in both, as they do without padding."""
    batch = tokenize(CAPTIONS[case], tokenizer)
    for row, caption in enumerate(CAPTIONS[case]):
        length = int(batch.token_mask[row].sum())
        mask, positions = golden[f"{case}/self_mask"][row], golden[f"{case}/position_ids"][row]
        padded, ends_in_words = length < batch.input_ids.shape[1], not caption.rstrip().endswith((".", "?"))
        if padded and ends_in_words and caption:
            assert not np.array_equal(batch.attention[row], mask)
        else:
            np.testing.assert_array_equal(batch.attention[row], mask)
            np.testing.assert_array_equal(batch.position_ids[row], positions)


@pytest.mark.parametrize("case", CAPTIONS)
def test_a_caption_is_the_same_alone_and_in_any_batch(case, tokenizer):
    batch = tokenize(CAPTIONS[case], tokenizer)
    for row, caption in enumerate(CAPTIONS[case]):
        alone = tokenize([caption], tokenizer)
        length = alone.input_ids.shape[1]
        assert torch.equal(batch.input_ids[row, :length], alone.input_ids[0])
        assert torch.equal(batch.position_ids[row, :length], alone.position_ids[0])
        assert torch.equal(batch.attention[row, :length, :length], alone.attention[0])
        outside = batch.attention[row].clone()
        outside[:length, :length] = False
        assert torch.equal(outside, torch.diag(~batch.token_mask[row]))


def test_words_after_the_last_full_stop_see_only_themselves(tokenizer):
    batch = tokenize(["cat. red apple"], tokenizer)
    tokens = [tokenizer.backend_tokenizer.id_to_token(column) for column in batch.input_ids[0].tolist()]
    assert tokens == ["[CLS]", "cat", ".", "red", "apple", "[SEP]"]
    assert batch.position_ids[0].tolist() == [0, 0, 1, 0, 0, 0]
    expected = torch.eye(6, dtype=torch.bool)
    expected[1:3, 1:3] = True
    assert torch.equal(batch.attention[0], expected)


def test_long_captions_are_cut_before_the_separator(tokenizer):
    batch = tokenize(["cat. " * 20], tokenizer, max_tokens=9)
    assert batch.input_ids.shape == (1, 9)
    assert batch.input_ids[0, -1] == tokenizer.id_of("[SEP]")


def test_case_and_accents_are_folded_as_in_bert_uncased(tokenizer):
    folded, plain = tokenizer.backend_tokenizer.encode_batch(["CAFÉ Dog", "cafe dog"])
    assert folded.ids == plain.ids
    assert count_tokens("CAFÉ Dog", tokenizer) == count_tokens("cafe dog", tokenizer)


@pytest.mark.parametrize("source", [BERT / "vocab.txt", BERT / "tokenizer.json"])
def test_every_source_gives_the_same_tokenizer(source, tokenizer):
    other = load_tokenizer(source)
    for caption in ("Café DOG. a?", "unbelievable [SEP] zebras", "traffic-light, 中文", ""):
        assert other.backend_tokenizer.encode(caption).ids == tokenizer.backend_tokenizer.encode(caption).ids


def test_a_tokenizer_survives_as_text(tokenizer):
    again = tokenizer_from_text(tokenizer_to_text(tokenizer))
    batches = [tokenize(["Red apple. two Zebras?"], each) for each in (tokenizer, again)]
    assert all(torch.equal(a, b) for a, b in zip(*batches))


@pytest.mark.parametrize("knows_specials", [True, False])
def test_a_tokenizer_is_the_one_that_transformers_makes_of_it(knows_specials):
    text = (BERT / "tokenizer.json").read_text()
    if not knows_specials:  # as the vocabulary alone, whose words are all alike
        text = json.dumps(json.loads(text) | {"added_tokens": []})
    theirs = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(text), **SPECIAL_TOKENS)
    ours = tokenizer_from_text(text)
    assert tokenizer_to_text(ours) == theirs.backend_tokenizer.to_str()
    assert (ours.pad_token_id, ours.unk_token_id) == (theirs.pad_token_id, theirs.unk_token_id)
    assert ours.get_vocab() == theirs.get_vocab()


def test_a_vocabulary_without_question_mark_is_refused(tmp_path):
    words = (BERT / "vocab.txt").read_text().split("\n")
    (tmp_path / "vocab.txt").write_text("\n".join(word for word in words if word != "?"))
    with pytest.raises(InputError, match=r"lacks \?"):
        load_tokenizer(tmp_path)


def test_a_missing_tokenizer_and_a_broken_text_are_named(tmp_path):
    with pytest.raises(InputError, match=r"no tokenizer\.json"):
        load_tokenizer(tmp_path)
    with pytest.raises(InputError, match="not a tokenizer in JSON"):
        tokenizer_from_text("{}")


@pytest.mark.parametrize(
    ("caption", "spans", "columns"),
    [
        ("cat. red apple. ", [[(0, 3)], [(5, 14)]], [[1], [3, 4]]),
        ("cat. red apple. ", [[(3, 8)]], [[2, 3]]),
        ("cat  red", [[(3, 8)]], [[2]]),  # two blanks before are stepped over
        ("cat   red", [[(3, 9)]], [[]]),  # three are not, as in the reference
        ("cat  ", [[(0, 5)]], [[1]]),
        ("cat red dog", [[(0, 3), (8, 11)]], [[1, 3]]),
        ("cat.    dog", [[(5, 6)]], [[]]),
    ],
)
def test_tokens_of_spans(caption, spans, columns, tokenizer):
    assert tokens_of_spans(caption, spans, tokenizer) == columns


def test_a_phrase_beyond_the_cut_is_refused_and_one_before_it_is_not(tokenizer):
    caption = "cat. " * 5
    assert tokens_of_spans(caption, [[(15, 18)]], tokenizer, max_tokens=9) == [[7]]
    with pytest.raises(CaptionTooLong, match="chunks"):
        tokens_of_spans(caption, [[(20, 23)]], tokenizer, max_tokens=9)
    assert tokens_of_spans(caption, [[(20, 23)]], tokenizer, max_tokens=12) == [[9]]


def test_a_folder_cannot_run_its_own_python(tmp_path, monkeypatch):
    trace = tmp_path / "executed"
    config = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "own.py").write_text(f"open({str(trace)!r}, 'w')\n\n\nclass Own:\n    pass\n")
    monkeypatch.setattr("builtins.input", lambda *prompt: "y")  # transformers asks whether it may
    with pytest.raises(InputError):
        load_tokenizer(tmp_path)
    assert not trace.exists()
