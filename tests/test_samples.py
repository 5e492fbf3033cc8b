"""Records become batches: the reference's boxes, every box with the words that name it, nothing lost in silence."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from formats.coco import write_coco
from formats.io.errors import InputError
from formats.odvg import read_odvg, write_odvg
from formats.record import Instance, Record, Region
from grounding_model.data.augment import AugmentConfig
from grounding_model.data.sampler import Draw
from grounding_model.data.samples import UNNAMED_BOX, UNUSABLE_BOX, Collate, TrainingSamples, usable_boxes
from grounding_model.data.sources import CocoData, CocoDataset, OdvgData, OdvgDataset
from grounding_model.inputs.tokens import load_tokenizer
from tests.grey_images import write_images
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


def write_data(folder: Path, records: list[Record]) -> OdvgData:
    write_images(folder, records)
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
            TOKENIZER.backend_tokenizer.decode(batch.text.input_ids[image][row]).replace(" ", "").replace("##", "")
            for row in target.tokens
        ]
        assert words == ["cat", "dog"]
        assert target.size == (40, 60)
    assert batch.problems == []


def test_the_same_labels_in_either_format_are_the_same_samples(tmp_path: Path) -> None:
    """So what is said of training on ODVG files is true of COCO files."""
    records = [
        Record(
            "0.png", 40, 60, (Instance((10, 10, 30, 20), 0, "cat"), Instance((0, 0, 60, 40), 1, "dog", ignore=True))
        ),
        Record("1.png", 60, 40, ()),
    ]
    data = write_data(tmp_path, records)
    write_coco(tmp_path / "coco.json", records, ["cat", "dog"])
    settings = AugmentConfig(short_sides=(30, 40))
    datasets = OdvgDataset(data), CocoDataset(CocoData(tmp_path / "coco.json", tmp_path, ("cat", "dog")))
    first, second = (TrainingSamples([dataset], settings, TOKENIZER, 256, seed=0) for dataset in datasets)
    for position in range(8):
        for one, other in zip(first[Draw(position, 0, position % 2)], second[Draw(position, 0, position % 2)]):
            np.testing.assert_equal(one, other)


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
    assert sample.problems == [UNUSABLE_BOX]


# Few boxes and many


def test_images_and_batches_without_boxes(tmp_path: Path) -> None:
    empty = Record("empty.png", 40, 60, ())
    caption = Record("caption.png", 30, 30, caption="nothing of interest", regions=())
    samples = samples_of(write_data(tmp_path, [empty, caption, *cats(1)]))
    for items in ([0], [0, 1], [1, 2]):
        batch = Collate(TOKENIZER, 256)([samples[Draw(position, 0, item)] for position, item in enumerate(items)])
        for item, target in zip(items, batch.targets):
            boxes = 2 if item == 2 else 0
            assert target.boxes.shape == (boxes, 4)
            assert target.tokens.shape == (boxes, batch.text.input_ids.shape[1])
            assert len(target.labels) == len(target.weights) == len(target.ignore) == boxes
        assert batch.problems == []


def test_an_empty_image_is_asked_for_names_that_it_does_not_hold(tmp_path: Path) -> None:
    data = write_data(tmp_path, [Record("empty.png", 40, 60, ()), *cats(1)])
    captions = {samples_of(data)[Draw(position, 0, 0)].caption for position in range(20)}
    assert {name for caption in captions for name in caption.split(". ")[:-1]} == {"cat", "dog"}


def test_five_hundred_boxes(tmp_path: Path) -> None:
    corners = [(x, y, x + 4, y + 4) for x in range(0, 125, 5) for y in range(0, 100, 5)]
    record = Record(
        "many.png", 100, 125, tuple(Instance(box, index % 7, f"kind {index % 7}") for index, box in enumerate(corners))
    )
    sample = samples_of(write_data(tmp_path, [record]))[Draw(0, 0, 0)]
    (target,) = Collate(TOKENIZER, 256)([sample]).targets
    assert len(target.boxes) == 500
    assert [sample.names[label] for label in target.labels] == [f"kind {index % 7}" for index in range(500)]


# What is left out is told


def test_a_phrase_beyond_the_tokens_is_left_out_and_counted(tmp_path: Path) -> None:
    caption = "a cat " + "and so on " * 20 + "a horse"
    regions = (
        Region(((1, 1, 9, 9),), ("a cat",), ((0, 5),)),
        Region(((3, 3, 9, 9), (3, 3, 8, 8)), ("a horse",), ((len(caption) - 7, len(caption)),)),
    )
    records = [Record(name, 50, 60, caption=caption, regions=regions) for name in ("a.png", "b.png")]
    samples = samples_of(write_data(tmp_path, records), max_tokens=32)
    batch = Collate(TOKENIZER, 32)([samples[Draw(item, 0, item)] for item in range(2)])
    assert [batch.names[0][label] for label in batch.targets[0].labels] == ["a cat"]
    # One line for all of them, whatever the image.
    assert Counter(batch.problems) == {UNNAMED_BOX.format(32): 4}


def test_categories_for_which_the_caption_has_no_room_are_counted(tmp_path: Path) -> None:
    instances = tuple(Instance((1, 1, 9, 9), label, f"animal number {label}") for label in range(12))
    sample = samples_of(write_data(tmp_path, [Record("a.png", 50, 60, instances)]), max_tokens=32)[Draw(0, 0, 0)]
    assert 0 < len(sample.boxes) < 12
    assert Counter(sample.problems) == {UNNAMED_BOX.format(32): 12 - len(sample.boxes)}


def test_a_sample_is_a_function_of_seed_and_position(tmp_path: Path) -> None:
    data = write_data(tmp_path, cats(3))
    settings = AugmentConfig(short_sides=(30, 40, 50))
    first, second = samples_of(data, settings), samples_of(data, settings)
    second[Draw(9, 0, 1)]  # what was drawn before does not matter
    np.testing.assert_array_equal(first[Draw(4, 0, 2)].boxes, second[Draw(4, 0, 2)].boxes)
    assert first[Draw(4, 0, 2)].caption == second[Draw(4, 0, 2)].caption
    assert len({first[Draw(position, 0, 2)].image.shape for position in range(20)}) > 1


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
