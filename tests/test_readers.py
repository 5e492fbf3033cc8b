"""What every reader owes: what it leaves out is counted; whatever stands in its files, InputError alone comes out."""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path

import pytest

from formats import CATEGORIES, READERS, InputError, Omissions
from formats.convert import call
from tests.format_samples import SAMPLES

_COCO_LOSSES = {"segmentation of annotations": 1, "license of images": 1, "date_captured of images": 1}
_COCO_LOSSES |= {"supercategory of categories": 1}
_LOST = {
    "coco": _COCO_LOSSES,
    "objects365v1": _COCO_LOSSES,
    "v3det": _COCO_LOSSES,
    "odinw": _COCO_LOSSES,
    "d3": _COCO_LOSSES,
    "objects365v2": {**_COCO_LOSSES, "segmentation of annotations": 0, "isfake of annotations": 1},
    "lvis": {"neg_category_ids of images": 1, "frequency of categories": 2, "synset of categories": 2},
    "voc": {"pose of objects": 1, "truncated of objects": 1},
    "yolo": {"polygons, only the bounding box is read": 1},
    "labelstudio": {"annotations or predictions other than the one that is read": 1, "results of type choices": 1},
    "cvat": {
        "polygons, only the bounding box is read": 1,
        "tags of whole images": 1,
        "attributes of shapes": 1,
        "occluded of shapes": 1,
    },
    "fiftyone": {"age of boxes' attributes": 1},
    "huggingface": {"author of lines": 1},
    "openimages": {"IsOccluded": 1},
    "cityscapes": {"masks, only the bounding box is read": 1},
    "mdetr": {"dataset_name of images": 1, "boxes without words in the caption, left out": 1},
    "flickr30k": {"phrases of invisible things": 1, "numbers of entities": 2},
    "grit": {"url of samples": 1, "noun_chunks of samples": 1},
    "refcoco": {"category_id of refs": 1, "sentences that a ref repeats, read once": 1},
}


def test_every_reader_has_a_sample():
    assert set(SAMPLES) == set(READERS)


@pytest.mark.parametrize("name", _LOST)
def test_what_a_record_has_no_field_for_is_counted(tmp_path, name):
    source, options = SAMPLES[name](tmp_path)
    omissions = Omissions()
    assert list(READERS[name](source, omissions=omissions, **options)) == list(READERS[name](source, **options))
    assert +omissions == +Omissions(_LOST[name])


# Mutations of a sample's bytes: cut, doubled, swapped for what breaks readers.

_NASTY = [b"", b"\x00", b"\xff\xfe", b"NaN", b"-1", b"1e999", b"9" * 400, b"null", b"[]", b"{}", b'""', b"true", b'"']
_NASTY += [b"[", b"}", b"<", b">", b"&", b",", b" ", b"-0.5", b"\xe2\x80\xa8", b"../", b"/", b'{"id": []}']


def mutated(content: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(content) + 1)
    kind = chance.randrange(4)
    if kind == 0:
        return content[:start]
    if kind == 1:  # a word or number for another
        words = [word for word in content.replace(b'"', b" ").replace(b",", b" ").split() if word]
        return content.replace(chance.choice(words or [b" "]), chance.choice(_NASTY), chance.choice([1, -1]))
    end = min(start + chance.randrange(12), len(content))
    return content[:start] + (chance.choice(_NASTY) if kind == 2 else content[start:end] * 2) + content[end:]


def read_mutated(name: str, folder: Path, seed: int) -> None:
    """Reads a sample of which one file is mutated. Raises whatever the reader raises but InputError."""
    source, options = SAMPLES[name](folder)
    chance = random.Random(seed)
    path = chance.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
    for _ in range(chance.randrange(1, 4)):
        path.write_bytes(mutated(path.read_bytes(), chance))
    for function in (READERS[name], CATEGORIES.get(name)):
        if function is not None:
            with suppress(InputError):
                list(call(name, function, {**options, "omissions": Omissions()}, source))


@pytest.mark.parametrize("name", SAMPLES)
def test_nothing_but_input_errors_comes_out(tmp_path, name):
    for seed in range(40):
        (tmp_path / str(seed)).mkdir()
        read_mutated(name, tmp_path / str(seed), seed)
