"""Reads captions in MDETR's COCO-like JSON: GoldG (mixed and Flickr30k), RefCOCO, RefCOCO+, RefCOCOg and gRefCOCO.

Each image entry is one caption of an image; each annotation is a box with `tokens_positive`, the spans of the caption
that name it. In evaluation files without it, the box belongs to the whole caption (a referring expression) or, with
`phrase_ids`, to a phrase of the image's `tokens_positive_eval`. An annotation of category -1 means that the expression
has no target (gRefCOCO).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from formats.coco import annotations_by_image, box_of, file_name_of, load_coco, needed, record_of
from formats.io.errors import InputError
from formats.omissions import Omissions
from formats.record import Box, Record, Region, Span

_NOTHING = -1
_READ = ("caption", "tokens_positive", "tokens_positive_eval", "phrase_ids")


def read_mdetr(ann_file: str | Path, omissions: Omissions | None = None) -> Iterator[Record]:
    """Yields a record for each caption, in file order; boxes with the same spans make one region.

    Spans separated by a single space are joined, since they cover the same tokens. The reference (mmdet 3.3.0,
    goldg2odvg.py) makes one region of all boxes whose phrases have the same text, with the spans of the first; here "a
    man" and a later "a man" are two regions. Crowds become separate regions with `ignore` set. Boxes without words are
    left out and counted in `omissions`. A caption without boxes has regions (). Raises InputError for spans outside the
    caption and for annotations without an image.
    """
    content = load_coco(ann_file, omissions, _READ)
    found = annotations_by_image(content)
    for image_id, image in content.images.items():
        location = f"{ann_file}: image {image_id!r}"
        caption = needed(image, "caption", location)
        if not isinstance(caption, str):
            raise InputError(location, f"caption {caption!r} is not text", "expected the caption")
        regions = None
        if content.annotations is not None:
            entries = [
                (f"{ann_file}: annotation {index}", content.annotations[index]) for index in found.get(image_id, ())
            ]
            regions = _regions(caption, image, entries, omissions)
        yield record_of(image, location, file_name_of(image, location), caption=caption, regions=regions)


def _regions(
    caption: str, image: Mapping, annotations: list[tuple[str, dict]], omissions: Omissions | None
) -> tuple[Region, ...]:
    boxes: dict[tuple[tuple[Span, ...], bool], list[Box]] = {}
    phrases = _numbered_phrases(caption, image, annotations)
    for spans in phrases.values():
        boxes[spans, False] = []
    for location, entry in annotations:
        spans = phrases[entry["phrase_ids"]] if phrases else _spans(caption, entry, location)
        found = boxes.setdefault((spans, bool(entry.get("iscrowd"))), [])
        if entry.get("category_id") != _NOTHING:
            found.append(box_of(needed(entry, "bbox", location), location))
    if omissions is not None:
        omissions["boxes without words in the caption, left out"] += sum(
            len(found) for (spans, _), found in boxes.items() if not spans
        )
    return tuple(
        Region(tuple(found), tuple(caption[start:end] for start, end in spans), spans, ignore=crowd)
        for (spans, crowd), found in boxes.items()
        if spans
    )


def _numbered_phrases(caption: str, image: Mapping, annotations: list[tuple[str, dict]]) -> dict[int, tuple[Span, ...]]:
    """Phrase id -> spans, in the order of the caption's phrases; {} if the annotations have their own spans.

    The ids of a caption, in ascending order, correspond to its phrases (mmdet 3.3.0, flickr30k.py).
    """
    if "tokens_positive_eval" not in image or not annotations or "tokens_positive" in annotations[0][1]:
        return {}
    ids = set()
    for location, entry in annotations:
        phrase_id = needed(entry, "phrase_ids", location)
        if type(phrase_id) is not int:
            raise InputError(location, f"phrase_ids {phrase_id!r} is not a number", "expected the number of a phrase")
        ids.add(phrase_id)
    location, phrases = annotations[0][0], image["tokens_positive_eval"]
    if not isinstance(phrases, list) or len(ids) > len(phrases):
        raise InputError(
            location, f"the caption has {len(ids)} phrase ids for {phrases!r}", "expected a phrase for each id"
        )
    return {
        phrase_id: _spans(caption, {"tokens_positive": spans}, location)
        for phrase_id, spans in zip(sorted(ids), phrases)
    }


def _spans(caption: str, entry: Mapping, location: str) -> tuple[Span, ...]:
    """The spans of an annotation in reading order, joined where a single space separates them; () if it has none."""
    spans = entry.get("tokens_positive", [[0, len(caption)]])
    if spans == []:
        return ()
    try:
        pairs = sorted((start, end) for start, end in spans)
        whole = all(type(end) is int for pair in pairs for end in pair)
    except (TypeError, ValueError):
        pairs, whole = [], False
    if not whole:
        raise InputError(location, f"tokens_positive {spans!r} is not a list of spans", "expected [[start, end], ...]")
    if any(not 0 <= start < end <= len(caption) for start, end in pairs):
        raise InputError(
            location,
            f"tokens_positive {spans!r} leaves the caption of {len(caption)} characters",
            "expected spans inside it",
        )
    joined = [pairs[0]]
    for start, end in pairs[1:]:
        last_start, last_end = joined[-1]
        if caption[last_end:start] == " ":
            joined[-1] = (last_start, end)
        elif (start, end) != joined[-1]:
            joined.append((start, end))
    return tuple(joined)
