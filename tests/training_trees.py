"""Small samples of the data sets that configs/ train on, laid out as they are published: a few images each."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from grounding_model.inputs.category_lists import read_category_list

WIDTH, HEIGHT = 64, 48
BOX = [10, 10, 20, 16]  # x, y, width, height
CAPTION = "a red cat on the mat"
SPAN = [[2, 9]]


def write_published_data(folder: Path) -> None:
    """data/… in the folder, as a new user has it before the first `groundhog convert`."""
    data = folder / "data"
    _write_detection(data)
    _write_captions(data)
    _write_open_images(data / "OpenImages")
    _write_cityscapes(data / "cityscapes")


def _write_detection(data: Path) -> None:
    names = ["Person", "Sneakers"]
    coco_file(data / "objects365v1/objects365_train.json", ["a.jpg", "b.jpg"], names, data / "objects365v1/train")
    coco_file(data / "v3det/annotations/v3det_2023_v1_train.json", ["images/a00000066/a.jpg"], names, data / "v3det")
    coco_file(data / "objects365v2/annotations/zhiyuan_objv2_train.json", ["images/v1/patch8/a.jpg"], names)
    grey(data / "objects365v2/train/patch8/a.jpg")
    coco = data / "coco"
    photos = [f"{number:012d}.jpg" for number in (1, 9, 25)]
    for part in ("train2017", "val2017"):
        file = coco / f"annotations/instances_{part}.json"
        coco_file(file, photos, read_category_list("coco"), coco / part)
    _write_lvis(coco)
    for name, where, images in (
        ("cat", "annotations/trainval.json", "images"),
        ("cat", "annotations/test.json", "images"),
        ("RTTS", "annotations_json/rtts_train.json", ""),
        ("RTTS", "annotations_json/rtts_val.json", ""),
        ("RUOD", "RUOD_ANN/instances_train.json", "RUOD_pic/train"),
        ("RUOD", "RUOD_ANN/instances_test.json", "RUOD_pic/test"),
        ("brain_tumor_v2", "train/_annotations.coco.json", "train"),
        ("brain_tumor_v2", "valid/_annotations.coco.json", "valid"),
        ("people_in_painting_v2", "train/_annotations.coco.json", "train"),
        ("people_in_painting_v2", "valid/_annotations.coco.json", "valid"),
    ):
        coco_file(
            data / name / where, ["JPEGImages/a.png" if name == "RTTS" else "a.jpg"], NAMES[name], data / name / images
        )


NAMES = {
    "cat": ["cat"],
    "RTTS": ["bicycle", "bus", "car", "motorbike", "person"],
    "RUOD": [
        *("holothurian", "echinus", "scallop", "starfish", "fish"),
        *("corals", "diver", "cuttlefish", "turtle", "jellyfish"),
    ],
    "brain_tumor_v2": ["tumor", "label0", "label1", "label2"],  # the first is Roboflow's group
    "people_in_painting_v2": ["people", "Human"],
}


def grey(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), 90, np.uint8)).save(path)


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def image(number: int, name: str, **more: object) -> dict:
    return {"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT, **more}


def annotation(number: int, image_id: int, category_id: int, **more: object) -> dict:
    rest = {"area": BOX[2] * BOX[3], "iscrowd": 0, "bbox": BOX}
    return {"id": number, "image_id": image_id, "category_id": category_id, **rest, **more}


def coco_file(path: Path, files: Sequence[str], names: Sequence[str], image_root: Path | None = None) -> None:
    """A box of the last category in every image."""
    content = {
        "images": [image(index, name) for index, name in enumerate(files)],
        "annotations": [annotation(index, index, len(names)) for index in range(len(files))],
        "categories": [{"id": index, "name": name} for index, name in enumerate(names, 1)],
    }
    write_json(path, content)
    for name in files if image_root else ():
        grey(image_root / name)  # type: ignore[operator]


def _write_lvis(coco: Path) -> None:
    address = "http://images.cocodataset.org/train2017/000000000009.jpg"
    entry = {"coco_url": address, "neg_category_ids": [], "not_exhaustive_category_ids": []}
    content = {
        "images": [{key: value for key, value in image(9, "").items() if key != "file_name"} | entry],
        "annotations": [annotation(number, 9, number) for number in (1, 2, 3)],
        "categories": [
            {"id": number, "name": name, "frequency": frequency}
            for number, (name, frequency) in enumerate([("aerosol_can", "c"), ("apple", "f"), ("applesauce", "r")], 1)
        ],
    }
    write_json(coco / "annotations/lvis_v1_train.json", content)


def _write_captions(data: Path) -> None:
    photo = "COCO_train2014_000000000025.jpg"
    grey(data / "coco/train2014" / photo)
    mdetr_file(data / "flickr30k_entities/final_flickr_separateGT_train.json", ["1000092795.jpg"])
    grey(data / "flickr30k_entities/flickr30k_images/1000092795.jpg")
    mdetr_file(data / "gqa/final_mixed_train_no_coco.json", ["9.jpg"])  # Visual Genome's 9, not COCO's
    grey(data / "gqa/images/9.jpg")
    annotations = data / "coco/mdetr_annotations"
    mdetr_file(annotations / "final_mixed_train.json", ["9.jpg", photo])
    for name in ("refcoco", "refcoco+", "refcocog"):
        mdetr_file(annotations / f"finetune_{name}_train.json", [photo])
    mdetr_file(annotations / "final_refexp_val.json", ["COCO_train2014_000000000009.jpg"], dataset_name="refcoco")
    _write_grefs(data / "coco/grefs", photo)
    _write_grit(data)


def _write_grit(data: Path) -> None:
    """As img2dataset leaves it, and the image unpacked."""
    sample = {"key": "000000000", "caption": CAPTION, "width": WIDTH, "height": HEIGHT}
    text = json.dumps(sample | {"ref_exps": [[2, 9, 0.2, 0.2, 0.5, 0.6, 0.9]], "status": "success"}).encode()
    grey(data / "grit_processed/images/00000/000000000.jpg")
    (data / "grit_raw").mkdir()
    with tarfile.open(data / "grit_raw/00000.tar", "w") as archive:
        member = tarfile.TarInfo("000000000.json")
        member.size = len(text)
        archive.addfile(member, io.BytesIO(text))


def mdetr_file(path: Path, files: Sequence[str], **more: object) -> None:
    content: Mapping[str, list] = {
        "images": [image(index, name, caption=CAPTION, **more) for index, name in enumerate(files)],
        "annotations": [annotation(index, index, 1, tokens_positive=SPAN) for index in range(len(files))],
        "categories": [{"id": 1, "name": "object"}],
    }
    write_json(path, content)


def _write_grefs(folder: Path, photo: str) -> None:
    content = {
        "images": [image(25, photo)],
        "annotations": [annotation(1, 25, 1)],
        "categories": [{"id": 1, "name": "x"}],
    }
    write_json(folder / "instances.json", content)
    refs = [
        {"ref_id": number, "image_id": 25, "ann_id": ids, "split": split, "sentences": [{"sent": sentence}]}
        for number, (ids, split, sentence) in enumerate(
            [([1], "train", "the red cat"), ([-1], "train", "the blue cat"), ([1], "val", "the cat")]
        )
    ]
    write_json(folder / "grefs(unc).json", refs)


def _write_open_images(folder: Path) -> None:
    grey(folder / "OpenImages/train/000002b66c9c498e.jpg")
    annotations = folder / "annotations"
    annotations.mkdir()
    head = (
        "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside"
    )
    row = ["000002b66c9c498e", "xclick", "/m/01g317", 1, 0.2, 0.5, 0.2, 0.6, 0, 0, 0, 0, 0]
    with open(annotations / "oidv6-train-annotations-bbox.csv", "w", newline="") as file:
        csv.writer(file).writerows([head.split(","), row])
    (annotations / "class-descriptions-boxable.csv").write_text("/m/01g317,Person\n")


def _write_cityscapes(folder: Path) -> None:
    for split in ("train", "val"):
        numbers = np.zeros((HEIGHT, WIDTH), np.uint16)
        numbers[10:26, 10:30] = 24000  # a person
        target = folder / f"gtFine/{split}/aachen/aachen_000000_000019_gtFine_instanceIds.png"
        target.parent.mkdir(parents=True)
        Image.fromarray(numbers).save(target)
        grey(folder / f"leftImg8bit/{split}/aachen/aachen_000000_000019_leftImg8bit.png")
