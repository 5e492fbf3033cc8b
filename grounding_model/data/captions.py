"""From a record to the words of one training sample: which names or phrases the caption holds, and where they stand.

Detection records follow mmdet's RandomSamplingNegPos: the names present and a random number of absent ones, shuffled.
The reference compares ids as text with ids as numbers, so a name that is present can be drawn once more as if absent;
here that cannot happen, and two labels whose words are the same share one place in the caption.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from formats.io.errors import InputError
from formats.record import Record, Span
from grounding_model.inputs import prompt


class TrainingText(NamedTuple):
    """What one image is asked. G boxes of the record, in the record's order.

    caption: the text. spans: characters of every entity (a category name or a phrase), by entity.
    box_entities: (G,) entity of each box, or -1 where the caption does not name it.
    """

    caption: str
    spans: tuple[tuple[Span, ...], ...]
    box_entities: tuple[int, ...]


@dataclass(frozen=True)
class AbsentNames:
    """How many names of absent categories a caption is given; the default is the reference's."""

    most: int = 85
    most_probability: float = 0.5  # how often that many are drawn; otherwise their number is uniform in 1..most
    alike: float = 0.0  # share of them taken, where there are any, from names that share a word with a present one

    def __post_init__(self) -> None:
        if self.most < 0 or not 0 <= self.most_probability <= 1 or not 0 <= self.alike <= 1:
            raise InputError("absent_names", str(self), "expected most >= 0, a probability and a share in 0..1")


class CategorySampler:
    """Draws captions of category names.

    categories: label -> name; 'a/b' offers alternatives, of which every call takes one.
    count_tokens: how many tokens a text makes, special tokens not counted; asked once a name.
    max_tokens: tokens of the longest caption, [CLS] and [SEP] included.
    """

    def __init__(
        self,
        categories: Mapping[int, str],
        count_tokens: Callable[[str], int],
        max_tokens: int = 256,
        absent: AbsentNames = AbsentNames(),
    ) -> None:
        self.labels = tuple(categories)
        self.names = {label: _alternatives(name) for label, name in categories.items()}
        self.budget = max_tokens - 2
        self.most_absent = min(absent.most, len(categories))
        self.most_probability = absent.most_probability
        self.alike = absent.alike
        self._count_tokens = count_tokens
        self._tokens: dict[str, int] = {}
        self._positions_of_word: dict[str, list[int]] = {}
        for position, label in enumerate(self.labels):
            for word in {word for name in self.names[label] for word in name.split()}:
                self._positions_of_word.setdefault(word, []).append(position)

    def draw(self, box_labels: tuple[int, ...], rng: np.random.Generator) -> TrainingText:
        """The caption for an image whose boxes have these labels; every label must be a known category."""
        names = {label: _one_of(choices, rng) for label, choices in self.names.items()}
        present, spare = self._fitting_present(box_labels, names, rng)
        chosen = present + self._fitting_absent(set(present), spare, set(box_labels), names, rng)
        rng.shuffle(chosen)
        caption, spans = join_names(chosen)
        places = {name: place for place, name in enumerate(chosen)}
        kept = set(present)
        entities = (places[names[label]] if names[label] in kept else -1 for label in box_labels)
        return TrainingText(caption, spans, tuple(entities))

    def _fitting_present(
        self, box_labels: tuple[int, ...], names: Mapping[int, str], rng: np.random.Generator
    ) -> tuple[list[str], int]:
        """Names that have boxes, in random order until one does not fit, and the tokens left."""
        present = sorted({names[label] for label in box_labels})
        rng.shuffle(present)
        kept: list[str] = []
        spare = self.budget
        for name in present:
            spare -= self._length(name)
            if spare < 0:
                return kept, 0
            kept.append(name)
        return kept, spare

    def _fitting_absent(
        self,
        present: set[str],
        spare: int,
        present_labels: set[int],
        names: Mapping[int, str],
        rng: np.random.Generator,
    ) -> list[str]:
        """Names without boxes, in random order until one would use up the tokens left."""
        if not self.most_absent:
            return []
        wanted = self.most_absent if rng.random() < self.most_probability else int(rng.integers(self.most_absent)) + 1
        drawn = rng.choice(len(self.labels), size=wanted, replace=False)
        if self.alike:
            drawn = np.concatenate([self._alike(present, int(wanted * self.alike), rng), drawn])[:wanted]
        forbidden = present | {names[label] for label in present_labels}
        absent: list[str] = []
        for position in drawn:
            name = names[self.labels[position]]
            if name in forbidden:
                continue
            spare -= self._length(name)
            if spare <= 0:
                break
            forbidden.add(name)
            absent.append(name)
        return absent

    def _alike(self, present: set[str], wanted: int, rng: np.random.Generator) -> np.ndarray:
        """Positions of categories that share a word with a present name: "blue cat" beside "red cat"."""
        words = {word for name in present for word in name.split()}
        positions = {position for word in words for position in self._positions_of_word.get(word, ())}
        found = np.array(sorted(positions), dtype=np.int64)
        return rng.permutation(found)[:wanted]

    def _length(self, name: str) -> int:
        if name not in self._tokens:
            self._tokens[name] = self._count_tokens(name + ". ")
        return self._tokens[name]


def clean_name(name: str) -> str:
    """A category's name as training reads it: as a prompt has it, in lower case."""
    return prompt.clean_name(name).lower()


def _one_of(choices: tuple[str, ...], rng: np.random.Generator) -> str:
    return choices[rng.integers(len(choices))] if len(choices) > 1 else choices[0]


def _alternatives(name: str) -> tuple[str, ...]:
    choices = tuple(clean_name(part.strip()) for part in name.split("/")) if "/" in name else (clean_name(name),)
    return tuple(choice for choice in choices if choice.strip()) or (clean_name(name),)


def join_names(names: list[str]) -> tuple[str, tuple[tuple[Span, ...], ...]]:
    """The caption 'cat. dog. ' and the span of each name in it."""
    caption, spans = "", []
    for name in names:
        spans.append(((len(caption), len(caption) + len(name)),))
        caption += name + ". "
    return caption, tuple(spans)


def caption_text(record: Record) -> TrainingText:
    """The caption of a grounding record in lower case, stripped, ended by a full stop; one entity a region.

    Spans move with the leading blanks that are stripped (the reference leaves them where they were).
    A region without spans names nothing in the caption; its boxes are not trained on.
    """
    original = record.caption or ""
    lowered = _lower_in_place(original)
    shift = len(lowered) - len(lowered.lstrip())
    caption = lowered.strip()
    spans: list[tuple[Span, ...]] = []
    entities: list[int] = []
    for index, region in enumerate(record.regions or ()):
        spans.append(_shifted(region.spans, shift, len(caption)))
        entities += [index if spans[-1] else -1] * len(region.boxes)
    if not caption.endswith("."):
        caption += ". "
    return TrainingText(caption, tuple(spans), tuple(entities))


def _lower_in_place(text: str) -> str:
    """Lower case without changing the number of characters, so that spans stay true (a capital dotted I would not)."""
    return "".join(lower if len(lower := character.lower()) == 1 else character for character in text)


def _shifted(spans: tuple[Span, ...], shift: int, length: int) -> tuple[Span, ...]:
    moved = ((max(start - shift, 0), min(end - shift, length)) for start, end in spans)
    return tuple((start, end) for start, end in moved if start < end)
