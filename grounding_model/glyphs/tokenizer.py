"""The tokenizer of glyph-tiny; the only module of glyphs/ that imports torch."""

from __future__ import annotations

from functools import cache

from tokenizers.implementations import BertWordPieceTokenizer

from grounding_model.glyphs.words import words
from grounding_model.inputs.tokens import CaptionTokenizer, tokenizer_from_text


@cache
def glyph_tokenizer() -> CaptionTokenizer:
    """A lower-casing BERT tokenizer with the vocabulary words()."""
    vocabulary = {word: token_id for token_id, word in enumerate(words())}
    return tokenizer_from_text(BertWordPieceTokenizer(vocab=vocabulary, lowercase=True).to_str())
