"""Selects records of a data set: splits, random samples, and exclusion of another data set's images.

All functions take a stream of records. The choice depends only on an image's file name and the seed, so that all
captions of an image stay together, and adding images does not move others.
"""

from __future__ import annotations

import hashlib
import heapq
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import accumulate

from formats.io.errors import InputError
from formats.omissions import Omissions
from formats.record import Record

# COCO's ids: 000000581857.jpg of 2017, COCO_train2014_000000581857.jpg of 2014; the same picture.
_COCO_NAME = re.compile(r"(?:^|/)(?:COCO_(?:train|val|test)\d{4}_)?(?P<id>\d{12})\.[A-Za-z]+$")


def parse_parts(text: str) -> dict[str, float]:
    """ "train=0.8,val=0.2" -> shares that sum to 1. Raises InputError for anything else."""
    want = "expected shares that sum to 1, such as train=0.8,val=0.2"
    parts: dict[str, float] = {}
    for item in text.split(","):
        name, _, share = item.partition("=")
        try:
            parts[name.strip()] = float(share)
        except ValueError:
            raise InputError("parts", f"{item!r} is not a share", want) from None
    if abs(sum(parts.values()) - 1) > 1e-6 or min(parts.values()) < 0 or "" in parts:
        raise InputError("parts", f"{text!r}", want)
    return parts


def part_of(filename: str, parts: Mapping[str, float], seed: int = 0) -> str:
    """The part to which an image belongs. parts: name -> share; shares sum to 1."""
    draw = _draw(filename, seed)
    for name, end in zip(parts, accumulate(parts.values())):
        if draw < end:
            return name
    return list(parts)[-1]  # the sum of the shares may be slightly below 1


def only_part(records: Iterable[Record], parts: Mapping[str, float], name: str, seed: int = 0) -> Iterator[Record]:
    """The records of one part, in order."""
    return (record for record in records if part_of(record.filename, parts, seed) == name)


def sample(records: Iterable[Record], images: int, seed: int = 0) -> list[Record]:
    """All records of `images` randomly drawn images, in order; all records if there are fewer images.

    Memory grows with the sample, not with the data set.
    """
    if images < 1:
        raise InputError("sample", f"{images}", "expected at least one image")
    chosen: dict[str, list[tuple[int, Record]]] = {}
    worst: list[tuple[float, str]] = []  # heap of the chosen, largest draw first
    for index, record in enumerate(records):
        if record.filename in chosen:
            chosen[record.filename].append((index, record))
            continue
        draw = _draw(record.filename, seed)
        if len(worst) == images and draw >= -worst[0][0]:
            continue
        heapq.heappush(worst, (-draw, record.filename))
        chosen[record.filename] = [(index, record)]
        if len(worst) > images:
            del chosen[heapq.heappop(worst)[1]]
    return [
        record for _, record in sorted((pair for pairs in chosen.values() for pair in pairs), key=lambda pair: pair[0])
    ]


def image_key(filename: str) -> str:
    """Equal for file names of the same image: the COCO id if the name has one, else the name."""
    match = _COCO_NAME.search(filename)
    return match["id"] if match else filename


def without_images(
    records: Iterable[Record], excluded: Collection[str], omissions: Omissions | None = None
) -> Iterator[Record]:
    """Yields the records whose image_key is not in `excluded`; omissions counts the others.

    The reference (mmdet 3.3.0, remove_cocotrain2017_from_refcoco.py) does this to remove the validation images of
    RefCOCO, RefCOCO+, RefCOCOg and gRefCOCO, which are from COCO train2014, from COCO train2017.
    """
    for record in records:
        if image_key(record.filename) not in excluded:
            yield record
        elif omissions is not None:
            omissions["records of images in --without, left out"] += 1


def _draw(filename: str, seed: int) -> float:
    """A pseudo-random number in [0, 1) that depends only on the name and the seed."""
    digest = hashlib.sha256(f"{seed}:{filename}".encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:7]) / 2**56
