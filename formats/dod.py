"""D3, described object detection: d3_json/d3_full_annotations.json and d3_pkl/{images,groups,sentences}.pkl.

The categories are descriptions such as "a dog not being held by a leash". The pickles say which of them each image is
asked for (those of its group; arXiv 2307.12813, section 3.4) and which speak of something absent.
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
    """What D3 knows beyond boxes; the metric and the prompt need it.

    queried: file name -> labels of the descriptions of the image's group, ascending. absence: labels of the
    descriptions that speak of something absent.
    """

    queried: dict[str, tuple[int, ...]]
    absence: frozenset[int]


def read_dod(ann_file: str | Path, omissions: Omissions | None = None) -> Iterator[Record]:
    """The records of D3's JSON: the label is the description's id less one, the category its words."""
    yield from read_coco_by_category_id(ann_file, omissions)


def read_dod_details(pickles: str | Path) -> DodDetails:
    """What the folder d3_pkl says. Raises InputError unless its pickles hold plain containers alone."""
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
        raise InputError(path, "is not a table of entries by their ids", "expected the published file")
    return content
