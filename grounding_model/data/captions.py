"""Turns a record into the caption of a training sample, with the spans of its names or phrases.

Detection records follow mmdet's RandomSamplingNegPos: the names present and a random number of absent ones, shuffled.
The reference compares ids as strings with ids as numbers, so a present name can also be drawn as an absent one; here
this cannot happen, and two labels with the same name share one entity of the caption.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from formats.io.errors import InputError
from formats.io.ranges import CountOrZero, Share
from formats.record import Record, Span
from grounding_model.inputs import prompt


class TrainingText(NamedTuple):
    """The caption of one image and the entities of its G boxes, in the order of the record.

    spans: of every entity (a category name or a phrase), in characters of the caption.
    box_entities: (G,) entity of each box, or -1 where the caption does not name it.
    """

    caption: str
    spans: tuple[tuple[Span, ...], ...]
    box_entities: tuple[int, ...]


@dataclass(frozen=True)
class AbsentNames:
    """Number of names of absent categories in a caption; the default is the reference's."""

    most: CountOrZero = 85
    most_probability: Share = 0.5  # probability of drawing that many; otherwise their number is uniform in 1..most
    alike: Share = 0.0  # share of them taken from names that have a word in common with a present one, if any

    def __post_init__(self) -> None:
        if self.most < 0 or not 0 <= self.most_probability <= 1 or not 0 <= self.alike <= 1:
            raise InputError("absent_names", str(self), "expected most >= 0, a probability and a share in 0..1")


class CategorySampler:
    """Draws captions of category names.

    categories: label -> name; 'a/b' are alternatives, one of which is drawn in every call.
    count_tokens: number of tokens of a text without special tokens; called once for each name.
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
        self.max_absent = min(absent.most, len(categories))
        self.most_probability = absent.most_probability
        self.alike = absent.alike
        self._count_tokens = count_tokens
        self._tokens: dict[str, int] = {}
        self._positions_of_word: dict[str, list[int]] = {}
        for position, label in enumerate(self.labels):
            for word in {word for name in self.names[label] for word in name.split()}:
                self._positions_of_word.setdefault(word, []).append(position)

    def draw(self, box_labels: tuple[int, ...], rng: np.random.Generator) -> TrainingText:
        """The caption of an image whose boxes have these labels; every label must be a key of categories."""
        names = {label: _one_of(choices, rng) for label, choices in self.names.items()}
        present, spare = self._fitting_present(box_labels, names, rng)
        drawn = present + self._fitting_absent(set(present), spare, set(box_labels), names, rng)
        rng.shuffle(drawn)
        caption, spans = join_caption(drawn)
        entity_of = {name: entity for entity, name in enumerate(drawn)}
        kept = set(present)
        entities = (entity_of[names[label]] if names[label] in kept else -1 for label in box_labels)
        return TrainingText(caption, spans, tuple(entities))

    def _fitting_present(
        self, box_labels: tuple[int, ...], names: Mapping[int, str], rng: np.random.Generator
    ) -> tuple[list[str], int]:
        """Names that have boxes, in random order, as many as fit, and the number of tokens left."""
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
        """Names without boxes, in random order, as many as fit into the tokens left."""
        if not self.max_absent:
            return []
        wanted = self.max_absent if rng.random() < self.most_probability else int(rng.integers(self.max_absent)) + 1
        drawn = rng.choice(len(self.labels), size=wanted, replace=False)
        if self.alike:
            drawn = np.concatenate([self._similar(present, int(wanted * self.alike), rng), drawn])[:wanted]
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

    def _similar(self, present: set[str], wanted: int, rng: np.random.Generator) -> np.ndarray:
        """Positions of categories that share a word with a present name: "blue cat" beside "red cat"."""
        words = {word for name in present for word in name.split()}
        positions = {position for word in words for position in self._positions_of_word.get(word, ())}
        return rng.permutation(np.array(sorted(positions), dtype=np.int64))[:wanted]

    def _length(self, name: str) -> int:
        if name not in self._tokens:
            self._tokens[name] = self._count_tokens(name + ". ")
        return self._tokens[name]


def clean_training_name(name: str) -> str:
    """A category's name for a training caption: as in a prompt, in lower case."""
    return prompt.clean_name(name).lower()


def _one_of(choices: tuple[str, ...], rng: np.random.Generator) -> str:
    return choices[rng.integers(len(choices))] if len(choices) > 1 else choices[0]


def _alternatives(name: str) -> tuple[str, ...]:
    choices = (
        tuple(clean_training_name(part.strip()) for part in name.split("/"))
        if "/" in name
        else (clean_training_name(name),)
    )
    return tuple(choice for choice in choices if choice.strip()) or (clean_training_name(name),)


def join_caption(names: list[str]) -> tuple[str, tuple[tuple[Span, ...], ...]]:
    """The caption 'cat. dog. ' and the span of each name in it."""
    caption, spans = "", []
    for name in names:
        spans.append(((len(caption), len(caption) + len(name)),))
        caption += name + ". "
    return caption, tuple(spans)


def caption_text(record: Record) -> TrainingText:
    """The caption of a grounding record in lower case, stripped, with a full stop at the end; one entity per region.

    Spans are shifted by the stripped leading blanks (the reference does not shift them).
    A region without spans has no words in the caption; its boxes are not trained on.
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
    """Lower case without changing the number of characters, so that spans stay valid (a capital dotted I is kept)."""
    return "".join(lower if len(lower := character.lower()) == 1 else character for character in text)


def _shifted(spans: tuple[Span, ...], shift: int, length: int) -> tuple[Span, ...]:
    moved = ((max(start - shift, 0), min(end - shift, length)) for start, end in spans)
    return tuple((start, end) for start, end in moved if start < end)
