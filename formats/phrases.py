"""Where phrases stand in their caption: whole words, letter case apart."""

from __future__ import annotations

import re
from itertools import chain

from formats.io.errors import InputError
from formats.record import Region, Span


def occurrences(caption: str, phrase: str) -> list[Span]:
    """Where `phrase` is in the caption as whole words, in any case: "container" is not in "containers"."""
    if not phrase:
        return []
    # Not \b: a phrase may begin or end with a sign, as "c++ sign" does.
    pattern = re.compile(rf"(?<!\w){re.escape(phrase)}(?!\w)", re.IGNORECASE)
    return [match.span() for match in pattern.finditer(caption)]


def find_phrase(caption: str, phrase: str) -> Span:
    """Where a phrase first occurs in a caption. Raises InputError when it does not."""
    found_spans = occurrences(caption, phrase)
    if not found_spans:
        raise InputError(caption, f"the phrase {phrase!r} is not in this caption", "expected words of the caption")
    return found_spans[0]


def with_spans_found(caption: str, regions: list[Region]) -> list[Region]:
    """Regions without spans, given those of their phrase in the caption where that is certain.

    Whole words, letter case apart. A phrase that occurs once has that span. One that occurs as often as
    regions name it is taken in reading order. Otherwise the region stays without spans.
    """
    # Keyed by the phrase in one case, since that is how it is looked for.
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
