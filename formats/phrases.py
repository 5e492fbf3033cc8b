"""Finds phrases in captions: as whole words, ignoring letter case."""

from __future__ import annotations

import re
from itertools import chain

from formats.io.errors import InputError
from formats.record import Region, Span


def occurrences(caption: str, phrase: str) -> list[Span]:
    """The spans of `phrase` in the caption, as whole words in any case: "container" is not in "containers"."""
    if not phrase:
        return []
    # Not \b: a phrase may begin or end with punctuation, as in "c++".
    pattern = re.compile(rf"(?<!\w){re.escape(phrase)}(?!\w)", re.IGNORECASE)
    return [match.span() for match in pattern.finditer(caption)]


def find_phrase(caption: str, phrase: str) -> Span:
    """The first span of a phrase in a caption. Raises InputError if it does not occur."""
    found_spans = occurrences(caption, phrase)
    if not found_spans:
        raise InputError(caption, f"the phrase {phrase!r} is not in this caption", "expected words of the caption")
    return found_spans[0]


def with_spans_found(caption: str, regions: list[Region]) -> list[Region]:
    """Adds spans to regions that lack them, where the position of their phrase in the caption is unambiguous.

    Phrases match as whole words, ignoring case. A phrase that occurs once gets that span. One that occurs as often as
    there are regions with it is assigned in reading order. Otherwise the region stays without spans.
    """
    # Keyed by the phrase in lower case, since the search ignores case.
    wanted = [tuple(text.strip().lower() for text in region.phrase) for region in regions if not region.spans]
    spans_of = {text: occurrences(caption, text) for text in chain.from_iterable(wanted)}
    counts = {text: sum(text in phrase for phrase in wanted) for text in spans_of}
    taken = dict.fromkeys(spans_of, 0)
    found: list[Region] = []
    for region in regions:
        if region.spans:
            found.append(region)
            continue
        spans: list[Span] = []
        for text in (text.strip().lower() for text in region.phrase):
            found_spans = spans_of[text]
            if len(found_spans) == 1:
                spans.append(found_spans[0])
            elif found_spans and len(found_spans) == counts[text]:
                spans.append(found_spans[taken[text]])
                taken[text] += 1
        complete = len(spans) == len(region.phrase)
        found.append(
            Region(
                region.boxes,
                region.phrase,
                tuple(spans) if complete else (),
                region.scores,
                region.weight,
                region.ignore,
            )
        )
    return found
