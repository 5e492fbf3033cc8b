"""What to detect: categories, phrases of a caption, or one referring expression.

span   start, end in characters of the caption, end exclusive
label  index of a category in the list or of a phrase of the caption; 0 for an expression
entity a part of a built caption that is scored; several entities may share a label (synonyms)
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from formats.io.errors import InputError, expected_one_of
from formats.io.plurals import many
from formats.record import Span
from grounding_model.inputs.category_lists import read_category_list
from grounding_model.inputs.noun_phrases import noun_phrases

Spans = tuple[Span, ...]
ENHANCEMENT_PARTS = ("prefix", "name", "suffix")


class CaptionEntry(NamedTuple):
    """One name in a caption of categories: only `name` is scored, not prefix and suffix around it."""

    label: int
    name: str
    prefix: str = ""
    suffix: str = ""

    @property
    def text(self) -> str:
        return f"{self.prefix}{self.name}{self.suffix}. "


class BuiltPrompt(NamedTuple):
    """One caption for the text encoder.

    caption: the input of the text encoder. spans: the spans of each entity in it. labels: the label of each entity.
    An expression has no entities: every token counts.
    """

    caption: str
    spans: tuple[Spans, ...]
    labels: tuple[int, ...]


@dataclass(frozen=True)
class Prompt:
    """What to detect. Create it with Prompt.categories, .phrases, .expression or .parse, which check their arguments.

    labels: the name of each label, exactly as the caller wrote it.
    text: the caller's caption or expression, "" for categories. spans: the spans of each phrase, in characters of text.
    entries: the parts of a caption of categories.
    """

    kind: Literal["categories", "phrases", "expression"]
    labels: tuple[str, ...]
    text: str = ""
    spans: tuple[Spans, ...] = ()
    entries: tuple[CaptionEntry, ...] = ()

    @classmethod
    def categories(
        cls,
        names: Iterable[str | Sequence[str]],
        enhance: Mapping[str, Mapping[str, str]] | None = None,
    ) -> Prompt:
        """A prompt of categories. A tuple or list among the names contains synonyms; the first names the category.

        enhance: name (original or cleaned) -> `prefix`, `suffix` and an alternative `name` for the caption.
        Raises InputError for a text instead of a list, an empty list, a blank name, a duplicate name, or an
        enhancement of an unknown name or with an unknown part.
        """
        if isinstance(names, str):
            raise InputError("categories", f"the text '{names}'", f"expected a list of names, such as ['{names}']")
        synonyms = [tuple(entry) if isinstance(entry, tuple | list) else (entry,) for entry in names]
        if not synonyms:
            raise InputError("categories", "the list is empty", "expected at least one name")
        for index, entry in enumerate(synonyms):
            _check_names(index, entry)
        labels = tuple(entry[0] for entry in synonyms)
        _check_unique([name for entry in synonyms for name in entry])
        enhance = _check_enhancements(enhance or {}, [name for entry in synonyms for name in entry])
        entries = [_entry(label, name, enhance) for label, entry in enumerate(synonyms) for name in entry]
        return cls("categories", labels, entries=tuple(entries))

    @classmethod
    def phrases(cls, caption: str, spans: Sequence[Sequence[Sequence[int]]] | None = None) -> Prompt:
        """A prompt of phrases of a caption, each with one or more spans; by default the caption's noun phrases.

        Nothing is detected for a caption without noun phrases. Raises InputError for a blank caption, for a span
        outside the caption or over blanks only, and when noun phrases are needed but the tagger is not installed.
        """
        _check_text("caption", caption)
        if spans is None:
            checked: tuple[Spans, ...] = tuple((span,) for span in noun_phrases(caption))
        else:
            checked = tuple(_check_phrase(index, phrase, caption) for index, phrase in enumerate(spans))
        labels = tuple(" / ".join(caption[start:end] for start, end in phrase) for phrase in checked)
        return cls("phrases", labels, text=caption, spans=checked)

    @classmethod
    def expression(cls, text: str) -> Prompt:
        """A referring expression: the whole text describes one object. Raises InputError when it is blank."""
        _check_text("expression", text)
        return cls("expression", (text,), text=text)

    @classmethod
    def parse(cls, texts: str, custom_entities: bool = False, tokens_positive: object = None) -> Prompt:
        """A prompt from the arguments of the command line.

        '$: coco' stands for the categories of a data set. tokens_positive: -1 makes the text an expression; a list with
        the spans of each phrase (or its JSON) selects phrases. custom_entities splits the text at '. ' into categories.
        Otherwise the prompt is the noun phrases of the text. Raises InputError for anything that cannot be parsed.
        """
        if texts.startswith("$:"):
            if tokens_positive is not None:
                raise InputError("--tokens-positive", f"cannot be combined with '{texts}'", "expected one of the two")
            return cls.categories(read_category_list(texts[2:]))
        spans = _read_spans(tokens_positive)
        if spans == -1:
            return cls.expression(texts)
        if spans is not None:
            return cls.phrases(texts, spans)
        return cls._from_split_text(texts) if custom_entities else cls.phrases(texts)

    @classmethod
    def _from_split_text(cls, text: str) -> Prompt:
        # The reference keeps the blanks of "cat . dog" in the caption and in the names. The caption keeps them,
        # for equal numbers; names are stripped.
        names = [name for name in text.strip(". ").split(". ") if name]
        prompt = cls.categories([name.strip() for name in names])
        return cls(
            "categories",
            prompt.labels,
            entries=tuple(entry._replace(name=clean_name(name)) for entry, name in zip(prompt.entries, names)),
        )

    def build(self) -> BuiltPrompt:
        """Builds the whole prompt as one caption."""
        if self.kind == "categories":
            return _build_categories(self.entries)
        return BuiltPrompt(_end_sentence(self.text), self.spans, tuple(range(len(self.spans))))

    def chunks(
        self, count_tokens: Callable[[str], int], max_tokens: int, chunk_size: int | None = None
    ) -> list[BuiltPrompt]:
        """Splits the prompt into captions of at most max_tokens and, for categories, at most chunk_size names.

        count_tokens: returns the number of tokens of a text, which must be the sum over its words.
        Raises InputError when a single name, phrase or expression exceeds max_tokens.
        """
        if chunk_size is not None and chunk_size < 1:
            raise InputError("chunk_size", str(chunk_size), "expected at least 1, or None")
        if self.kind == "categories":
            return [
                _build_categories(entries) for entries in self._category_chunks(count_tokens, max_tokens, chunk_size)
            ]
        whole = self.build()
        tokens = count_tokens(whole.caption)
        if tokens <= max_tokens:
            return [whole]
        if self.kind == "expression":
            raise _too_long(self.text, tokens, max_tokens)
        return list(self._caption_chunks(count_tokens, max_tokens))

    def _category_chunks(
        self, count_tokens: Callable[[str], int], max_tokens: int, chunk_size: int | None
    ) -> Iterator[list[CaptionEntry]]:
        chunk: list[CaptionEntry] = []
        used = 0
        for entry in self.entries:
            tokens = count_tokens(entry.text)
            if tokens > max_tokens:
                raise _too_long(entry.text, tokens, max_tokens)
            if chunk and (used + tokens > max_tokens or len(chunk) == chunk_size):
                yield chunk
                chunk, used = [], 0
            chunk.append(entry)
            used += tokens
        yield chunk

    def _caption_chunks(self, count_tokens: Callable[[str], int], max_tokens: int) -> Iterator[BuiltPrompt]:
        """Splits the caption at ends of sentences, or else between words, but never inside a phrase."""
        cuts = self._cuts()
        budget = max_tokens - 1  # the full stop that ends a part
        start = 0
        while start < len(self.text):
            fitting = []
            for end in (cut for cut in cuts if cut > start):
                if count_tokens(self.text[start:end]) > budget:
                    break
                fitting.append(end)
            if not fitting:
                end = next(cut for cut in cuts if cut > start)
                raise _too_long(self.text[start:end], count_tokens(self.text[start:end]), budget)
            sentences = [end for end in fitting if self.text[:end].rstrip().endswith(".")]
            end = fitting[-1] if fitting[-1] == len(self.text) or not sentences else sentences[-1]
            yield self._part(start, end)
            start = end

    def _cuts(self) -> list[int]:
        """Offsets where the caption may be cut: after blanks and at its end, but not between the spans of a phrase."""
        hulls = [(min(start for start, _ in phrase), max(end for _, end in phrase)) for phrase in self.spans]
        after_blanks = [blank.end() for blank in re.finditer(r"\s+", self.text)]
        inside = {cut for cut in after_blanks for start, end in hulls if start < cut < end}
        return sorted({cut for cut in after_blanks if cut not in inside} | {len(self.text)})

    def _part(self, start: int, end: int) -> BuiltPrompt:
        inside = [label for label, phrase in enumerate(self.spans) if start <= phrase[0][0] < end]
        shifted = tuple(tuple((first - start, last - start) for first, last in self.spans[label]) for label in inside)
        return BuiltPrompt(_end_sentence(self.text[start:end]), shifted, tuple(inside))


def clean_name(name: str) -> str:
    """A category name as it appears in the caption: underscores become spaces, and '(' to the last ')' is removed.

    Double spaces are replaced once, as in the reference. Case is kept, since the tokenizer lower-cases.
    """
    return re.sub(r"\(.*\)", "", name).replace("_", " ").replace("  ", " ")


def _build_categories(entries: Sequence[CaptionEntry]) -> BuiltPrompt:
    caption, spans = "", []
    for entry in entries:
        start = len(caption) + len(entry.prefix)
        spans.append(((start, start + len(entry.name)),))
        caption += entry.text
    return BuiltPrompt(caption, tuple(spans), tuple(entry.label for entry in entries))


def _end_sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}. "


def _entry(label: int, name: str, enhance: Mapping[str, Mapping[str, str]]) -> CaptionEntry:
    cleaned = clean_name(name)
    parts = enhance.get(name, enhance.get(cleaned, {}))
    return CaptionEntry(label, parts.get("name", cleaned), parts.get("prefix", ""), parts.get("suffix", ""))


def _check_names(index: int, names: Sequence[str]) -> None:
    location = f"category {index}"
    if not names:
        raise InputError(location, "no synonyms", "expected at least one name")
    for name in names:
        if not isinstance(name, str):
            raise InputError(location, f"{name!r} is a {type(name).__name__}", "expected a name")
        if not clean_name(name).strip():
            raise InputError(
                location, f"'{name}' is empty without its brackets", "expected a name of at least one letter"
            )


def _check_unique(names: Sequence[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InputError("categories", f"'{name}' is listed twice", "expected unique names")
        seen.add(name)


def _check_enhancements(
    enhance: Mapping[str, Mapping[str, str]], names: Sequence[str]
) -> Mapping[str, Mapping[str, str]]:
    known = sorted({*names, *(clean_name(name) for name in names)})
    for name, parts in enhance.items():
        _check_known("enhance", name, known)
        for part, text in parts.items():
            _check_known(f"enhance['{name}']", part, ENHANCEMENT_PARTS)
            if not isinstance(text, str) or (part == "name" and not text.strip()):
                raise InputError(f"enhance['{name}']", f"{part} is {text!r}", "expected a string")
    return enhance


def _check_known(location: str, word: str, known: Sequence[str]) -> None:
    if word not in known:
        raise InputError(location, f"'{word}' is unknown", expected_one_of(known, word))


def _check_text(location: str, text: str) -> None:
    if not isinstance(text, str) or not text.strip(" ."):
        raise InputError(location, f"{text!r} is blank", "expected at least one word")


def _check_phrase(index: int, phrase: Sequence[Any], caption: str) -> Spans:
    """Checks a phrase and returns its spans; a single pair of numbers is a phrase with one span."""
    location = f"phrase {index}"
    if not isinstance(phrase, Sequence) or isinstance(phrase, str) or not phrase:
        raise InputError(location, f"{phrase!r}", "expected its spans, such as [[0, 7]]")
    spans = [phrase] if all(isinstance(number, int) for number in phrase) else phrase
    return tuple(_check_span(location, span, caption) for span in spans)


def _check_span(location: str, span: Sequence[int], caption: str) -> Span:
    if not isinstance(span, Sequence) or len(span) != 2 or not all(type(number) is int for number in span):
        raise InputError(location, f"span {span!r}", "expected [start, end] in characters of the caption")
    start, end = span
    if not 0 <= start < end <= len(caption):
        raise InputError(
            location, f"span [{start}, {end}]", f"expected 0 <= start < end <= {len(caption)}, the caption's length"
        )
    if not caption[start:end].strip():
        raise InputError(location, f"span [{start}, {end}] covers only blanks", "expected a word")
    return start, end


def _read_spans(tokens_positive: object) -> Any:
    """Returns None, -1 or a list; a string is parsed as JSON."""
    value = tokens_positive
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise _bad_tokens_positive(tokens_positive) from error
    if value is None or value == -1 or isinstance(value, Sequence):
        return value
    raise _bad_tokens_positive(tokens_positive)


def _bad_tokens_positive(value: object) -> InputError:
    return InputError("--tokens-positive", f"{value!r}", "expected -1 or a list such as [[[0, 7]], [[12, 20]]]")


def _too_long(text: str, tokens: int, limit: int) -> InputError:
    return InputError(f"prompt '{text[:40]}…'", f"{tokens} tokens that cannot be split", f"expected at most {limit}")


PromptSource = Prompt | Sequence[str | tuple[str, ...]]


def prompts_of(prompt: PromptSource | Sequence[PromptSource], count: int) -> Prompt | list[Prompt]:
    """One prompt for all images, or a list with one per image: Prompts, or lists of names.

    A tuple inside a list of names contains synonyms.
    """
    if isinstance(prompt, Prompt):
        return prompt
    if isinstance(prompt, str):
        raise InputError(
            "prompt", f"the text '{prompt}'", "expected a list of names, or a Prompt such as Prompt.phrases(text)"
        )
    entries: list[Any] = list(prompt)  # names and synonyms, or prompts and lists of names
    if not entries or not all(isinstance(entry, Prompt | list) for entry in entries):
        return Prompt.categories(entries)
    if len(entries) != count:
        raise InputError(
            "prompt",
            f"{many(len(entries), 'prompt')} for {many(count, 'image')}",
            "expected one for all images, or one for each",
        )
    return [entry if isinstance(entry, Prompt) else Prompt.categories(entry) for entry in entries]
