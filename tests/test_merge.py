"""Mixing: the ratio is kept, the data sets are not copied, and the mixture is recorded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flows.training.mixture import count_images, merge
from formats.coco import write_coco
from formats.io.errors import InputError
from formats.record import Record
from grounding_model.data.sources import CocoData, GlyphData, OdvgData


def write_lines(path: Path, count: int) -> OdvgData:
    path.write_text("".join(f'{{"filename": "{index}.png", "height": 1, "width": 1}}\n' for index in range(count)))
    return OdvgData(path, path.parent)


@pytest.mark.parametrize("ratio", [0.25, 1.0, 3.0])
def test_an_epoch_holds_the_stated_ratio(tmp_path: Path, ratio: float) -> None:
    pseudo = write_lines(tmp_path / "pseudo.json", 100)
    pretraining = [write_lines(tmp_path / "a.json", 50), GlyphData(count=300, weight=0.5)]
    first, a, glyphs = merge(pseudo, pretraining, ratio)
    assert first == pseudo
    assert a.weight * 50 + glyphs.weight * 300 == pytest.approx(ratio * 100)
    assert a.weight == pytest.approx(2 * glyphs.weight)  # as they were to one another


def test_quarantined_lines_do_not_count(tmp_path: Path) -> None:
    pseudo = write_lines(tmp_path / "pseudo.json", 10)
    with open(pseudo.annotations, "a") as file:
        file.write('{"filename": "bad.png", "quarantined": "empty"}\n')
    assert merge(pseudo, [GlyphData(count=10)], 1.0)[1].weight == pytest.approx(1.0)


def test_a_ratio_of_zero_leaves_the_pretraining_data_out(tmp_path: Path) -> None:
    pseudo = write_lines(tmp_path / "pseudo.json", 10)
    assert merge(pseudo, [GlyphData()], 0.0) == (pseudo,)


def test_the_mixture_is_recorded(tmp_path: Path) -> None:
    merge(write_lines(tmp_path / "pseudo.json", 10), [GlyphData(count=20)], 2.0, tmp_path / "merge.json")
    payload = json.loads((tmp_path / "merge.json").read_text())
    assert payload["ratio"] == 2.0
    assert [(entry["images"], entry["weight"]) for entry in payload["datasets"]] == [(10, 1.0), (20, 1.0)]


def test_what_cannot_be_mixed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="negative"):
        merge(write_lines(tmp_path / "pseudo.json", 1), [], -1)
    with pytest.raises(InputError, match="has no line"):
        merge(write_lines(tmp_path / "empty.json", 0))


def test_images_of_a_coco_file_are_counted_one_by_one(tmp_path: Path) -> None:
    records = [Record(f"{index}.png", 9, 9, ()) for index in range(7)]
    write_coco(tmp_path / "coco.json", records, ["cat"])
    assert count_images(CocoData(tmp_path / "coco.json", tmp_path)) == 7
