"""Reads RefCOCO, RefCOCO+, RefCOCOg and gRefCOCO as published: instances.json and refs(unc).p or grefs(unc).json.

A ref is an object (in gRefCOCO several, or none) and the sentences that refer to it: {"ref_id", "ann_id", "image_id",
"split", "sentences": [{"sent", "raw", "tokens", "sent_id"}]}.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from formats.coco import CocoContent, box_of, file_name_of, load_coco, needed, record_of
from formats.io.errors import InputError, expected_one_of
from formats.io.files import load_json
from formats.io.plain_pickle import read_plain_pickle
from formats.omissions import Omissions, count_unread
from formats.record import Box, Record, Region

_NO_TARGET = -1
_READ = frozenset({"image_id", "ann_id", "sentences", "split", "ref_id", "sent_ids", "file_name"})


def read_refcoco(
    instances: str | Path, refs: str | Path, split: str | None = None, omissions: Omissions | None = None
) -> Iterator[Record]:
    """Yields a record for each sentence, in the order of the refs. The whole sentence is the caption and its phrase.

    refs: the pickle of RefCOCO, RefCOCO+ or RefCOCOg (plain containers only), or gRefCOCO's JSON. split: train, val,
    test, testA or testB; by default all. A sentence that a ref repeats is read once; omissions counts these, and unread
    keys. A sentence without a target has a region without boxes. Raises InputError for refs whose objects or images are
    not in `instances`.
    """
    content = load_coco(instances)
    boxes = _boxes_by_id(content)
    entries = _load_refs(refs)
    splits = sorted({str(ref.get("split")) for ref in entries})
    if split is not None and split not in splits:
        raise InputError(refs, f"has no split {split!r}", expected_one_of(splits, split))
    for index, ref in enumerate(entries):
        if split is None or ref.get("split") == split:
            count_unread(omissions, ref, _READ, "refs")
            yield from _records(ref, content, boxes, f"{refs}: ref {index}", omissions)


def _load_refs(path: str | Path) -> list[dict]:
    want = "expected refs(unc).p, refs(umd).p or grefs(unc).json"
    entries = load_json(path, want) if Path(path).suffix == ".json" else read_plain_pickle(path)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InputError(path, "is not a list of refs", want)
    return entries


def _boxes_by_id(content: CocoContent) -> dict[Any, int]:
    """Annotation id -> its index in content.annotations."""
    ids = ((entry.get("id"), index) for index, entry in enumerate(content.annotations or ()))
    return {each: index for each, index in ids if isinstance(each, (int, str))}


def _records(
    ref: Mapping, content: CocoContent, annotations: Mapping[Any, int], location: str, omissions: Omissions | None
) -> Iterator[Record]:
    image_id = needed(ref, "image_id", location)
    image = content.images.get(image_id) if isinstance(image_id, (int, str)) else None
    if image is None:
        raise InputError(
            location, f"image_id {image_id!r} is not an image of {content.path}", "expected one of its images"
        )
    boxes = tuple(_boxes(ref, annotations, content, location))
    sentences = list(_sentences(ref, location))
    if omissions is not None:
        omissions["sentences that a ref repeats, read once"] += len(sentences) - len(set(sentences))
    for sentence in dict.fromkeys(sentences):
        region = Region(boxes, (sentence,), ((0, len(sentence)),))
        filename = file_name_of(image, f"{content.path}: image {image_id!r}")
        yield record_of(image, location, filename, caption=sentence, regions=(region,))


def _boxes(ref: Mapping, annotations: Mapping[Any, int], content: CocoContent, location: str) -> Iterator[Box]:
    annotation_ids = needed(ref, "ann_id", location)
    for annotation_id in annotation_ids if isinstance(annotation_ids, list) else [annotation_ids]:
        if annotation_id == _NO_TARGET:
            continue
        if not isinstance(annotation_id, (int, str)) or annotation_id not in annotations:
            raise InputError(
                location, f"ann_id {annotation_id!r} is not an annotation of {content.path}", "expected one of them"
            )
        entry = content.annotations[annotations[annotation_id]]  # type: ignore[index]  # the indices come from it
        where = f"{content.path}: annotation id {annotation_id!r}"
        yield box_of(needed(entry, "bbox", where), where)


def _sentences(ref: Mapping, location: str) -> Iterator[str]:
    sentences = needed(ref, "sentences", location)
    for entry in sentences if isinstance(sentences, (list, tuple)) else [sentences]:
        sentence = entry.get("sent") if isinstance(entry, dict) else None
        if not isinstance(sentence, str) or not sentence:
            raise InputError(location, f"sentence {entry!r} has no words", 'expected {"sent": "the words"}')
        yield sentence
