"""Tokenization of captions, with an attention mask that lets the tokens of a phrase attend only to one another.

Shapes: B captions, L tokens of the longest caption, n tokens of one caption ([CLS] and [SEP] included).

The sub-sentence mask is that of Grounding DINO (arXiv 2303.05499, section 3.4): [CLS], [SEP], '.' and '?' split a
caption into groups; attention is full within a group, and every other token attends only to itself. Here the last token
of a caption ends its last group, whatever its padding, so that its mask is the same alone and in any batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import Encoding, Tokenizer
from tokenizers.implementations import BertWordPieceTokenizer
from torch import Tensor

from formats.io.errors import InputError
from formats.record import Span
from grounding_model.inputs.image_batch import send

TOKENIZER_FILES = ("tokenizer.json", "vocab.txt")  # that load_tokenizer looks for in a folder
SEPARATORS = ("[CLS]", "[SEP]", ".", "?")
SPECIAL_TOKENS = {  # by transformers' names
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}


class CaptionTokenizer:
    """A tokenizer with BERT's special tokens.

    Equivalent to transformers' PreTrainedTokenizerFast, which takes half a second to import.
    """

    def __init__(self, backend_tokenizer: Tokenizer) -> None:
        self.backend_tokenizer = backend_tokenizer
        backend_tokenizer.add_special_tokens(list(SPECIAL_TOKENS.values()))  # never split in a text
        self.pad_token_id = self.id_of(SPECIAL_TOKENS["pad_token"])
        self.unk_token_id = self.id_of(SPECIAL_TOKENS["unk_token"])

    def id_of(self, token: str) -> int:
        """Raises KeyError when the vocabulary lacks the token."""
        found = self.backend_tokenizer.token_to_id(token)
        if found is None:
            raise KeyError(token)
        return found

    def __len__(self) -> int:
        """The size of the vocabulary."""
        return self.backend_tokenizer.get_vocab_size()

    def get_vocab(self) -> dict[str, int]:
        return self.backend_tokenizer.get_vocab()


class CaptionTooLong(InputError):
    """A phrase ends beyond the maximum number of tokens of the text encoder."""


class TextBatch(NamedTuple):
    """B captions as tokens.

    input_ids: (B, L) int64, [PAD] after the caption
    token_mask: (B, L) bool, True for tokens, False for padding ([CLS], '.', [SEP] are tokens)
    position_ids: (B, L) int64, restarting in every sub-sentence
    attention: (B, L, L) bool, True where token i attends to token j
    """

    input_ids: Tensor
    token_mask: Tensor
    position_ids: Tensor
    attention: Tensor

    def to(self, device: torch.device | str) -> TextBatch:
        return TextBatch(*(send(tensor, torch.device(device)) for tensor in self))


def tokenize(captions: Sequence[str], tokenizer: CaptionTokenizer, max_tokens: int = 256) -> TextBatch:
    """Captions -> TextBatch, padded to the longest; captions are truncated to max_tokens and keep [SEP] at the end.

    Raises InputError when the list is empty or the vocabulary lacks a separator.
    """
    if not captions:
        raise InputError("captions", "the list is empty", "expected at least one caption")
    separator_ids = torch.tensor(_separator_ids(tokenizer))
    rows = [
        _truncated(encoding.ids, max_tokens) for encoding in tokenizer.backend_tokenizer.encode_batch(list(captions))
    ]
    count, longest = len(rows), max(len(row) for row in rows)

    input_ids = torch.full((count, longest), tokenizer.pad_token_id, dtype=torch.int64)
    token_mask = torch.zeros(count, longest, dtype=torch.bool)
    position_ids = torch.zeros(count, longest, dtype=torch.int64)
    attention = torch.eye(longest, dtype=torch.bool).repeat(count, 1, 1)
    for index, row in enumerate(rows):
        length = len(row)
        input_ids[index, :length] = torch.tensor(row)
        token_mask[index, :length] = True
        positions, allowed = _sub_sentences(torch.isin(input_ids[index, :length], separator_ids))
        position_ids[index, :length] = positions
        attention[index, :length, :length] = allowed
    return TextBatch(input_ids, token_mask, position_ids, attention)


def count_tokens(text: str, tokenizer: CaptionTokenizer) -> int:
    """Number of tokens of the text, without [CLS] and [SEP]."""
    return len(tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids)


def tokens_of_spans(
    caption: str,
    spans_per_entity: Sequence[Sequence[Span]],
    tokenizer: CaptionTokenizer,
    max_tokens: int = 256,
) -> list[list[int]]:
    """The token columns of each entity, ascending; [] for an entity without tokens (blanks only).

    Raises CaptionTooLong when an entity extends beyond max_tokens.
    """
    encoding = tokenizer.backend_tokenizer.encode(caption)
    # A truncated caption keeps its first max_tokens - 1 tokens and [SEP].
    limit = max_tokens if len(encoding.ids) <= max_tokens else max_tokens - 1
    entities = []
    for spans in spans_per_entity:
        columns = sorted({column for span in spans for column in _columns(encoding, span)})
        if columns and columns[-1] >= limit:
            phrase = " / ".join(caption[start:end] for start, end in spans)
            raise CaptionTooLong(
                f"caption '{caption[:40]}…'",
                f"'{phrase}' ends at token {columns[-1] + 1}, the text encoder takes {limit}",
                "split the prompt into chunks",
            )
        entities.append(columns)
    return entities


def unknown_phrases(
    caption: str, columns_per_entity: Sequence[Sequence[int]], tokenizer: CaptionTokenizer
) -> list[int]:
    """Indices of the entities that consist only of [UNK], which the model cannot distinguish.

    columns_per_entity: as returned by tokens_of_spans.
    """
    ids, unknown = tokenizer.backend_tokenizer.encode(caption).ids, tokenizer.unk_token_id
    return [
        index
        for index, columns in enumerate(columns_per_entity)
        if columns and all(ids[column] == unknown for column in columns)
    ]


def load_tokenizer(source: str | Path, local_files_only: bool = True) -> CaptionTokenizer:
    """Loads a folder with tokenizer.json or vocab.txt, or one of these files, or a name on the Hugging Face hub.

    local_files_only: no download. Raises InputError when the source has no tokenizer, or its vocabulary lacks a token
    that the model needs.
    """
    path = Path(source)
    for candidate in (*(path / name for name in TOKENIZER_FILES), path):
        if candidate.is_file():
            return _tokenizer_from_file(candidate)
    from transformers import AutoTokenizer  # slow to import and seldom needed

    try:
        # Otherwise the auto_map of a folder could run its Python code after a "y" on standard input.
        loaded = AutoTokenizer.from_pretrained(str(source), local_files_only=local_files_only, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise InputError(
            source,
            "has no tokenizer.json or vocab.txt",
            "expected a folder with one of them, such as bert-base-uncased",
        ) from error
    return tokenizer_from_text(loaded.backend_tokenizer.to_str())


def tokenizer_from_text(json_text: str) -> CaptionTokenizer:
    """The inverse of tokenizer_to_text. Raises InputError when the model cannot use the tokenizer."""
    try:
        tokenizer = Tokenizer.from_str(json_text)
    except Exception as error:  # tokenizers raises a bare Exception when it cannot parse a file
        raise InputError(
            "tokenizer", f"not a tokenizer in JSON ({error})", "expected the content of a tokenizer.json"
        ) from error
    return _wrap(tokenizer, "tokenizer")


def tokenizer_to_text(tokenizer: CaptionTokenizer) -> str:
    """The whole tokenizer as the JSON text of a tokenizer.json file."""
    return tokenizer.backend_tokenizer.to_str()


def _tokenizer_from_file(path: Path) -> CaptionTokenizer:
    try:
        if path.suffix == ".json":
            tokenizer = Tokenizer.from_file(str(path))
        else:
            tokenizer = Tokenizer.from_str(BertWordPieceTokenizer(str(path), lowercase=True).to_str())
    except Exception as error:  # tokenizers raises a bare Exception when it cannot parse a file
        raise InputError(
            path, f"is not a vocabulary ({error})", "expected tokenizer.json or vocab.txt of BERT"
        ) from error
    return _wrap(tokenizer, str(path))


def _wrap(tokenizer: Tokenizer, location: str) -> CaptionTokenizer:
    # Files of the hub may set a fixed length; here the length is that of the batch.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    missing = [token for token in ("[PAD]", "[UNK]", *SEPARATORS) if tokenizer.token_to_id(token) is None]
    if missing:
        raise InputError(
            location, f"the vocabulary lacks {', '.join(missing)}", "expected one like that of bert-base-uncased"
        )
    return CaptionTokenizer(tokenizer)


def _separator_ids(tokenizer: CaptionTokenizer) -> list[int]:
    ids = {token: tokenizer.backend_tokenizer.token_to_id(token) for token in SEPARATORS}
    missing = [token for token in SEPARATORS if ids[token] is None]
    if missing:
        raise InputError(
            "tokenizer", f"the vocabulary lacks {', '.join(missing)}", "expected '[CLS]', '[SEP]', '.' and '?'"
        )
    return [token_id for token_id in ids.values() if token_id is not None]


def _truncated(ids: list[int], max_tokens: int) -> list[int]:
    return ids if len(ids) <= max_tokens else [*ids[: max_tokens - 1], ids[-1]]


def _sub_sentences(is_separator: Tensor) -> tuple[Tensor, Tensor]:
    """(n,) bool -> (n,) positions, (n, n) attention mask.

    A separator ends its group and belongs to it. The group of the last token of a caption is never
    ended by a separator: its tokens attend only to themselves, at position 0.
    """
    length = len(is_separator)
    column = torch.arange(length)
    group = is_separator.long().cumsum(0) - is_separator.long()  # separators before this token
    closed = group < group[-1]
    start = torch.searchsorted(group, group)  # first column of the token's group
    positions = torch.where(closed, column - start, 0)
    same_group = group[:, None] == group[None, :]
    return positions, (same_group & closed[:, None]) | torch.eye(length, dtype=torch.bool)


def _columns(encoding: Encoding, span: Span) -> range:
    """Columns of the tokens from the span's first character to its last, ignoring blanks at its ends.

    Up to two characters are skipped at either end, as in the reference, whose results depend on it.
    """
    start, end = span
    first = _first_token(encoding, (start, start + 1, start + 2))
    last = _first_token(encoding, (end - 1, end - 2, end - 3))
    return range(0) if first is None or last is None else range(first, last + 1)


def _first_token(encoding: Encoding, characters: Sequence[int]) -> int | None:
    for character in characters:
        token = encoding.char_to_token(character) if character >= 0 else None
        if token is not None:
            return token
    return None
