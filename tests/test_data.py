"""Records become batches: the reference's boxes, an order that can be entered anywhere, nothing lost in silence."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from formats.odvg import read_odvg, write_odvg
from formats.problems import InputError
from formats.record import Instance, Record, Region
from grounding_model.augment import AugmentConfig
from grounding_model.data import OdvgData, OdvgDataset
from grounding_model.mixed_order import Draw, MixedOrder
from grounding_model.samples import Collate, TrainingSamples, usable_boxes
from grounding_model.text_tokens import load_tokenizer
from tests.paths import GOLDEN

PLAIN = AugmentConfig(flip=0.0, short_sides=())
TOKENIZER = load_tokenizer(GOLDEN / "a" / "bert")


@pytest.mark.parametrize(("name", "case"), [("od.jsonl", "od_testFalse"), ("vg.jsonl", "vg_testFalse")])
def test_boxes_are_those_of_the_reference(name: str, case: str) -> None:
    """Up to the cut at the image's edge, which the reference makes later, when it resizes."""
    reference = json.loads((GOLDEN / "data" / "loader_results.json").read_text())[case]
    for record, expected in zip(read_odvg(GOLDEN / "data" / name), reference, strict=True):
        ours = [(box.group, *box.box) for box in usable_boxes(record)]
        theirs = [
            (one["bbox_label"], *np.clip(one["bbox"], 0, [record.width, record.height] * 2))
            for one in expected["instances"]
        ]
        assert ours == theirs


# The order


@pytest.mark.parametrize("first_step", [0, 1, 7, 23, 39])
def test_the_order_is_the_same_wherever_it_is_entered(first_step: int) -> None:
    def order(step: int) -> list[list[Draw]]:
        return list(MixedOrder([10, 7], [1.0, 0.5], batch_size=3, steps=40, seed=5, first_step=step))

    assert order(first_step) == order(0)[first_step:]


def test_every_item_comes_once_an_epoch_and_epochs_differ() -> None:
    order = MixedOrder([10, 6], [1.0, 1.0], batch_size=4, steps=8, seed=0)
    draws = [(draw.dataset, draw.item) for batch in order for draw in batch]
    assert set(Counter(draws[:16]).values()) == {1}
    assert sorted(draws[:16]) == sorted(draws[16:])
    assert draws[:16] != draws[16:]


def test_a_weight_is_passes_an_epoch() -> None:
    order = MixedOrder([10, 10], [2.0, 0.5], batch_size=25, steps=2, seed=0)
    first, second = (Counter((draw.dataset, draw.item) for draw in batch) for batch in order)
    assert [first[0, item] for item in range(10)] == [2] * 10
    assert [first[1, item] + second[1, item] for item in range(10)] == [1] * 10


def test_positions_count_on() -> None:
    order = MixedOrder([5], [1.0], batch_size=3, steps=4, seed=0)
    assert [draw.position for batch in order for draw in batch] == list(range(12))


# Samples


def write_data(folder: Path, records: list[Record]) -> OdvgData:
    for record in records:
        pixels = np.full((record.height, record.width, 3), 128, np.uint8)
        Image.fromarray(pixels).save(folder / record.filename)
    write_odvg(folder / "od.jsonl", records)
    return OdvgData(folder / "od.jsonl", folder)


def cats(count: int) -> list[Record]:
    return [
        Record(f"{index}.png", 40, 60, (Instance((10, 10, 30, 20), 0, "cat"), Instance((0, 0, 60, 40), 3, "dog")))
        for index in range(count)
    ]


def samples_of(data: OdvgData, settings: AugmentConfig = PLAIN, max_tokens: int = 256) -> TrainingSamples:
    return TrainingSamples([OdvgDataset(data)], settings, TOKENIZER, max_tokens, seed=0)


def test_a_batch_holds_what_the_records_say(tmp_path: Path) -> None:
    samples = samples_of(write_data(tmp_path, cats(2)))
    batch = Collate(TOKENIZER, 256)([samples[Draw(index, 0, index)] for index in range(2)])
    assert batch.images.pixels.shape == (2, 3, 40, 60)
    for image, target in enumerate(batch.targets):
        torch.testing.assert_close(target.boxes[0], torch.tensor([20 / 60, 15 / 40, 20 / 60, 10 / 40]))
        torch.testing.assert_close(target.boxes[1], torch.tensor([0.5, 0.5, 1.0, 1.0]))
        assert [batch.names[image][label] for label in target.labels] == ["cat", "dog"]
        words = [
            TOKENIZER.decode(batch.text.input_ids[image][row]).replace(" ", "").replace("##", "")
            for row in target.tokens
        ]
        assert words == ["cat", "dog"]
        assert target.size == (40, 60)
    assert batch.problems == []


def test_weight_and_ignore_are_kept(tmp_path: Path) -> None:
    instances = (Instance((1, 1, 9, 9), 0, "cat", 0.4, weight=0.5), Instance((5, 5, 9, 9), 0, "cat", ignore=True))
    samples = samples_of(write_data(tmp_path, [Record("a.png", 10, 10, instances)]))
    (target,) = Collate(TOKENIZER, 256)([samples[Draw(0, 0, 0)]]).targets
    assert target.weights.tolist() == [0.5, 1.0]
    assert target.ignore.tolist() == [False, True]


def test_a_caption_names_its_regions(tmp_path: Path) -> None:
    regions = (
        Region(((1, 1, 9, 9), (2, 2, 8, 8)), ("two men",), ((0, 7),)),
        Region(((90, 90, 95, 95),), ("near",), ((8, 12),)),
        Region(((3, 3, 9, 9),), ("a horse",), ((13, 20),)),
    )
    record = Record("a.png", 50, 60, caption="Two men near a Horse", regions=regions)
    sample = samples_of(write_data(tmp_path, [record]))[Draw(0, 0, 0)]
    assert [sample.names[entity] for entity in sample.entities] == ["two men", "two men", "a horse"]


def test_a_phrase_beyond_the_tokens_is_left_out_and_told(tmp_path: Path) -> None:
    caption = "a cat " + "and so on " * 20 + "a horse"
    regions = (
        Region(((1, 1, 9, 9),), ("a cat",), ((0, 5),)),
        Region(((3, 3, 9, 9),), ("a horse",), ((len(caption) - 7, len(caption)),)),
    )
    record = Record("a.png", 50, 60, caption=caption, regions=regions)
    sample = samples_of(write_data(tmp_path, [record]), max_tokens=32)[Draw(0, 0, 0)]
    assert [sample.names[entity] for entity in sample.entities] == ["a cat"]
    assert "a.png" in sample.problems[0]


def test_a_sample_is_a_function_of_seed_and_position(tmp_path: Path) -> None:
    data = write_data(tmp_path, cats(3))
    settings = AugmentConfig(short_sides=(30, 40, 50))
    first, second = samples_of(data, settings), samples_of(data, settings)
    second[Draw(9, 0, 1)]  # what was drawn before does not matter
    np.testing.assert_array_equal(first[Draw(4, 0, 2)].boxes, second[Draw(4, 0, 2)].boxes)
    assert first[Draw(4, 0, 2)].caption == second[Draw(4, 0, 2)].caption
    assert len({first[Draw(position, 0, 2)].image.shape for position in range(20)}) > 1


# What is wrong with files


def test_bad_images_and_lines_are_replaced_and_told(tmp_path: Path) -> None:
    data = write_data(tmp_path, cats(5))
    (tmp_path / "0.png").write_bytes(b"no image")
    (tmp_path / "1.png").unlink()
    lines = data.annotations.read_text().splitlines()
    lines[2] = lines[2][:-5]
    lines[3] = lines[3].replace('"width": 60', '"width": 61')
    data.annotations.write_text("\n".join(lines))
    sample = samples_of(data)[Draw(0, 0, 0)]
    assert sample.image.shape == (40, 60, 3)
    for problem, name in zip(sample.problems, ["0.png", "1.png", "od.jsonl", "3.png"], strict=True):
        assert name in problem


def test_when_nothing_can_be_used_training_ends(tmp_path: Path) -> None:
    data = write_data(tmp_path, cats(2))
    for name in ("0.png", "1.png"):
        (tmp_path / name).unlink()
    with pytest.raises(InputError, match="2 images in a row"):
        samples_of(data)[Draw(0, 0, 0)]


def test_unlabelled_lines_are_not_taken_for_empty_images(tmp_path: Path) -> None:
    unlabelled = Record("0.png", 40, 60)
    phrases = Record("1.png", 40, 60, caption="a cat", regions=(Region((), ("a cat",), ((0, 5),)),))
    nothing_there = Record("2.png", 40, 60, ())
    data = write_data(tmp_path, [unlabelled, phrases, nothing_there, *cats(5)[3:]])
    write_odvg(data.annotations, [unlabelled, phrases, nothing_there, *cats(5)[3:]], placeholder=True)
    sample = samples_of(data)[Draw(0, 0, 0)]
    assert len(sample.problems) == 2
    assert len(sample.boxes) == 0


def test_quarantined_and_blank_lines_are_no_items(tmp_path: Path) -> None:
    data = write_data(tmp_path, cats(2))
    with open(data.annotations, "a") as stream:
        stream.write('\n{"filename": "x.png", "quarantined": "truncated"}\n  \n')
    assert len(OdvgDataset(data)) == 2


def test_a_line_of_brackets_without_end_is_no_record(tmp_path: Path) -> None:
    (tmp_path / "od.jsonl").write_text('{"a":' * 100_000)
    with pytest.raises(InputError, match="not JSON"):
        OdvgDataset(OdvgData(tmp_path / "od.jsonl", tmp_path)).record(0)


def test_files_without_lines_and_arrays_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "od.jsonl"
    for content, words in (("", "no line"), ('[{"filename": "a"}]', "array")):
        path.write_text(content)
        with pytest.raises(InputError, match=words):
            OdvgDataset(OdvgData(path, tmp_path))
    with pytest.raises(InputError, match=r"missing\.jsonl"):
        OdvgDataset(OdvgData(tmp_path / "missing.jsonl", tmp_path))


def test_a_huge_file_costs_its_offsets_only(tmp_path: Path) -> None:
    data = write_data(tmp_path, cats(1))
    label_map = tmp_path / "map.json"
    label_map.write_text('{"0": "cat", "3": "dog"}')
    data.annotations.write_text(data.annotations.read_text() * 2000)
    dataset = OdvgDataset(OdvgData(data.annotations, tmp_path, label_map))
    assert len(dataset) == 2000
    assert dataset._offsets.itemsize * len(dataset) == 16_000
    assert dataset.record(1999) == cats(1)[0]
