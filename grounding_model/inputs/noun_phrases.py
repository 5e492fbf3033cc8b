"""Finds the noun phrases of a caption and their positions.

Tags come from NLTK's averaged perceptron; a phrase is an optional determiner, adjectives, nouns. A phrase is located by
the offsets of its tokens, not by searching for its text: "container" never matches inside "container number", and a
phrase that occurs twice is two phrases at two positions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from formats.io.errors import InputError
from formats.record import Span

GRAMMAR = "NP: {<DT>?<JJ.*>*<NN.*>+}"
TAGGER_DATA = "averaged_perceptron_tagger_eng"
# A full stop at a word's end ends the sentence; the tokenizer splits off only the last one of a caption.
SENTENCE_END = re.compile(r"(?<=[a-z]{2}[.!?])\s+")
# The tokenizer replaces straight double quotes with TeX's.
QUOTES = ('"', "``", "''")
PUNCTUATION = " .,:;!?()[]{}|^*\"'`’‘“”"

TaggedToken = tuple[str, str]


def noun_phrases(caption: str) -> list[Span]:
    """Spans of the caption's noun phrases, in order.

    Raises InputError when NLTK's tagger data is not on this machine; it is never downloaded automatically.
    """
    spans = []
    for start, sentence in _sentences(_lower(caption)):
        tokens = _nltk().tokenizer.tokenize(sentence)
        spans += [(start + first, start + last) for first, last in spans_of_tags(sentence, _tagger().tag(tokens))]
    return spans


def spans_of_tags(text: str, tagged: Sequence[TaggedToken]) -> list[Span]:
    """Spans of the noun phrases of a lower-case text with tagged tokens, without punctuation at their ends."""
    offsets = _token_offsets(text, [token for token, _ in tagged])
    spans = []
    for first, last in _chunks(tagged):
        located = [offset for offset in offsets[first:last] if offset is not None]
        if located:
            start, end = located[0][0], located[-1][1]
            phrase = text[start:end]
            start += len(phrase) - len(phrase.lstrip(PUNCTUATION))
            end -= len(phrase) - len(phrase.rstrip(PUNCTUATION))
            if start < end:
                spans.append((start, end))
    return spans


def _lower(text: str) -> str:
    """Lower case of the same length: the few letters whose lower case is longer are not changed."""
    return "".join(lower if len(lower := letter.lower()) == 1 else letter for letter in text)


def _sentences(text: str) -> Iterator[tuple[int, str]]:
    start = 0
    for gap in SENTENCE_END.finditer(text):
        yield start, text[start : gap.start()]
        start = gap.end()
    yield start, text[start:]


def _chunks(tagged: Sequence[TaggedToken]) -> Iterator[tuple[int, int]]:
    """Token range (start, end) of every noun phrase, end exclusive."""
    if not tagged:
        return
    start = 0
    for node in _nltk().parser.parse(list(tagged)):
        size = len(node) if hasattr(node, "label") else 1
        if hasattr(node, "label"):
            yield start, start + size
        start += size


def _token_offsets(text: str, tokens: Sequence[str]) -> list[Span | None]:
    """Span of each token; None for a token that the tokenizer rewrote and that does not occur in the text."""
    offsets: list[Span | None] = []
    cursor = 0
    for token in tokens:
        spellings = QUOTES if token in QUOTES else (token,)
        spans = [(at, at + len(word)) for word in spellings if (at := text.find(word, cursor)) >= 0]
        offset = min(spans, default=None)
        offsets.append(offset)
        cursor = offset[1] if offset else cursor
    return offsets


class _Nltk(NamedTuple):
    """The parts of NLTK that are used here. tagger: a class, whose data may be missing."""

    parser: Any
    tokenizer: Any
    tagger: Any


@lru_cache(maxsize=1)
def _nltk() -> _Nltk:
    from nltk import RegexpParser  # NLTK takes a second to import, and most prompts need no noun phrases
    from nltk.tag.perceptron import PerceptronTagger
    from nltk.tokenize import NLTKWordTokenizer

    return _Nltk(RegexpParser(GRAMMAR), NLTKWordTokenizer(), PerceptronTagger)


@lru_cache(maxsize=1)
def _tagger() -> Any:
    try:
        return _nltk().tagger(lang="eng")
    except LookupError as error:
        raise InputError(
            "noun phrases",
            f"NLTK's {TAGGER_DATA} is not on this machine (looked in NLTK_DATA and ~/nltk_data)",
            f"run `python -m nltk.downloader {TAGGER_DATA}`, or specify the phrases (detect: --tokens-positive, "
            "bootstrap: --phrases, self-train: data.phrases)",
        ) from error
