"""Reads D3 (described object detection): d3_json/d3_full_annotations.json, d3_pkl/{images,groups,sentences}.pkl.

The categories are descriptions such as "a dog not being held by a leash". The pickles give the descriptions that each
image is queried with (those of its group; arXiv 2307.12813, section 3.4), and those about the absence of something.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from formats.coco import needed
from formats.coco_dialects import read_coco_by_category_id
from formats.io.errors import InputError
from formats.io.plain_pickle import read_plain_pickle
from formats.omissions import Omissions
from formats.record import Record


class DodDetails(NamedTuple):
    """What the metric and the prompt need of D3 besides boxes.

    queried: file name -> labels of the descriptions of the image's group, ascending. absence: labels of the
    descriptions about the absence of something.
    """

    queried: dict[str, tuple[int, ...]]
    absence: frozenset[int]


def read_dod(ann_file: str | Path, omissions: Omissions | None = None) -> Iterator[Record]:
    """Yields the records of D3's JSON: a label is the id of the description minus one, the category its text."""
    yield from read_coco_by_category_id(ann_file, omissions)


def read_dod_details(pickles: str | Path) -> DodDetails:
    """The details in the folder d3_pkl. Raises InputError if its pickles contain more than plain containers."""
    images, groups, sentences = (_load(Path(pickles) / f"{name}.pkl") for name in ("images", "groups", "sentences"))
    queries: dict[str, tuple[int, ...]] = {}
    for image_id, image in images.items():
        location = f"{Path(pickles) / 'images.pkl'}: image {image_id!r}"
        group_id = needed(image, "group_id", location)
        if group_id not in groups:
            raise InputError(
                location, f"group_id {group_id!r} is not a group", "expected the id of a group in groups.pkl"
            )
        ids = needed(groups[group_id], "inner_sent_id", f"{Path(pickles) / 'groups.pkl'}: group {group_id!r}")
        queries[needed(image, "file_name", location)] = tuple(sorted(each - 1 for each in ids))
    absence = frozenset(each - 1 for each, sentence in sentences.items() if sentence.get("is_negative"))
    return DodDetails(queries, absence)


def _load(path: Path) -> Mapping[Any, dict]:
    content = read_plain_pickle(path)
    if not isinstance(content, dict) or not all(isinstance(entry, dict) for entry in content.values()):
        raise InputError(path, "is not a dict of entries by id", "expected the published file")
    return content
