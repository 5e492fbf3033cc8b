"""Counts of what is left out: what records have no field for when reading, what a format cannot store when writing."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from formats.io.errors import InputError
from formats.io.plurals import singular
from formats.record import Instance, Record

# What was left out -> how often. A writer returns it. A reader adds to the one it is passed, which is complete once
# all records have been read.
Omissions = Counter[str]


def count_omissions(omissions: Omissions, record: Record, holds: Collection[str] = ()) -> None:
    """Counts what a detection record has besides boxes and categories.

    holds: what the format can represent, of "score", "weight", "ignore" and "unlabelled" (an unlabelled image differs
    from one without objects).
    """
    if record.instances is None and "unlabelled" not in holds:
        omissions["unlabelled images, now without objects"] += 1
    for instance in record.instances or ():
        if instance.score is not None and "score" not in holds:
            omissions["scores"] += 1
        if instance.weight != 1 and "weight" not in holds:
            omissions["weights"] += 1
        if instance.ignore and "ignore" not in holds:
            omissions["ignored boxes, left out"] += 1


def count_unread(omissions: Omissions | None, entry: Mapping[str, Any], read: Collection[str], of: str) -> None:
    """Counts the keys of an entry that its reader does not read, as `segmentation of annotations`.

    None, 0, "" and empty containers do not count.
    """
    if omissions is not None and not (isinstance(read, frozenset) and read.issuperset(entry)):
        omissions.update(f"{key} of {of}" for key, value in entry.items() if value and key not in read)


def refuse_caption(record: Record, format_name: str) -> None:
    """Raises InputError for a caption record, in a writer whose format has only categories."""
    if record.caption is not None:
        raise InputError(
            record.filename, "is a caption with phrases", f"expected detection records; {format_name} has no captions"
        )


def check_category(instance: Instance, categories: Sequence[str], location: str) -> None:
    """Raises InputError unless `categories` has the instance's category at its label."""
    known = 0 <= instance.label < len(categories)
    if not known or categories[instance.label] != instance.category:
        listed = f"is {categories[instance.label]!r}" if known else "is missing"
        raise InputError(
            location,
            f"label {instance.label} is {instance.category!r}, in the category list it {listed}",
            "expected the same names in the same order",
        )


def describe_omissions(omissions: Omissions) -> str:
    """A line for each kind, such as `  3 scores`; "" if nothing was left out."""
    return "\n".join(f"  {_counted(count, what)}" for what, count in sorted(omissions.items()) if count)


# The noun that is counted, as in "boxes", "rotated boxes"; not a key, as in "keypoints of annotations".
_HEAD = re.compile(
    r"(?:(?:unlabelled|ignored|quarantined|rotated|track) )?([a-z]+s)\b"
    r"(?! of (?:annotations|images|categories|lines|detection|grounding|instances|regions)$)"
)


def _counted(count: int, what: str) -> str:
    """ "boxes with several labels" -> "1 box with several labels". Names of keys, `num_keypoints`, do not change."""
    head = _HEAD.match(what)
    if count != 1 or head is None:
        return f"{count} {what}"
    start, end = head.span(1)
    return f"{count} {what[:start]}{singular(head[1])}{what[end:]}"
