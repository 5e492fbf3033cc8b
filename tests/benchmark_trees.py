"""Small trees of every benchmark, as a new user has them who did what `get` of its configuration says.

Two glyph scenes: a thing of the first name at A and one of the second at B in image 0, one of the first at C in 1.
`Placed` remembers what is where, so that an oracle can be right about it in the words of any prompt.
"""

from __future__ import annotations

import json
import pickle
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from grounding_model.glyphs import SIDE, draw_scene
from grounding_model.inputs.category_lists import read_category_list

A, B, C = (10, 20, 40, 30), (80, 60, 50, 60), (30, 90, 60, 40)  # x, y, width, height
SCENES = (((0, A), (1, B)), ((0, C),))  # (place of the name, box) of each image
Placed = dict[str, dict[str, list[tuple[float, ...]]]]  # path of an image -> words -> corners


def index(path: Path, number: int, names: tuple[str, ...], placed: Placed) -> Path:
    """Image `number` as a file; its things go by these names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draw_scene("dense", 0, number)[0]).save(path)
    boxes = placed.setdefault(str(path), {})
    for name, (x, y, width, height) in SCENES[number]:
        boxes.setdefault(names[name], []).append((float(x), float(y), float(x + width), float(y + height)))
    return path


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def coco_file(files: tuple[str, str], names: tuple[str, ...], **of_images: Any) -> dict[str, Any]:
    """Categories have ids from 1; of_images: fields of every image."""
    entries = [(image, name, box) for image, scene in enumerate(SCENES) for name, box in scene]
    return {
        "images": [
            {"id": number, "file_name": file, "width": SIDE, "height": SIDE} | of_images
            for number, file in enumerate(files)
        ],
        "annotations": [
            {"id": number, "image_id": image, "category_id": name + 1, "bbox": list(box), "iscrowd": 0}
            | {"area": box[2] * box[3]}
            for number, (image, name, box) in enumerate(entries, start=1)
        ],
        "categories": [{"id": number, "name": name} for number, name in enumerate(names, start=1)],
    }


def coco(data: Path, placed: Placed) -> None:
    names = tuple(name.replace("_", " ") for name in read_category_list("coco"))
    files = ("000000000139.jpg", "000000000285.jpg")
    for number, file in enumerate(files):
        index(data / "coco/val2017" / file, number, names, placed)
    write(data / "coco/annotations/instances_val2017.json", coco_file(files, names))


def custom(data: Path, placed: Placed) -> None:
    for number in (0, 1):
        index(data / f"custom/images/{number}.png", number, ("screw", "nut"), placed)
    write(data / "custom/test.json", coco_file(("0.png", "1.png"), ("screw", "nut")))


def raccoon(data: Path, placed: Placed) -> None:
    root = data / "raccoon"
    lines = []
    for number, scene in enumerate(SCENES):
        image = index(root / f"images/raccoon-{number}.jpg", number, ("raccoon", "raccoon"), placed)
        boxes = [(x, y, x + width, y + height) for _, (x, y, width, height) in scene]
        instances = [{"bbox": box, "label": 0, "category": "raccoon"} for box in boxes]
        lines.append({"filename": image.name, "height": SIDE, "width": SIDE, "detection": {"instances": instances}})
    (root / "raccoon_test_od.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write(root / "raccoon_all_label_map.json", {"0": "raccoon"})


def coco128(data: Path, placed: Placed) -> None:
    names = read_category_list("coco")
    for number, scene in enumerate(SCENES):
        image = index(data / f"coco128/images/train2017/{number:012}.jpg", number, names, placed)
        label = data / f"coco128/labels/train2017/{image.stem}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        rows = ((name, (x + w / 2) / SIDE, (y + h / 2) / SIDE, w / SIDE, h / SIDE) for name, (x, y, w, h) in scene)
        label.write_text("\n".join(" ".join(map(str, row)) for row in rows))


def cityscapes(data: Path, placed: Placed) -> None:
    root = data / "cityscapes"
    for number, scene in enumerate(SCENES):
        name = f"frankfurt_000000_00029{number}"
        index(root / f"leftImg8bit/val/frankfurt/{name}_leftImg8bit.png", number, ("person", "car"), placed)
        numbers = np.full((SIDE, SIDE), 7, np.uint16)  # road
        for thing, (x, y, width, height) in scene:
            numbers[y : y + height, x : x + width] = (24000, 26000)[thing]
        path = root / f"gtFine/val/frankfurt/{name}_gtFine_instanceIds.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(numbers).save(path)


def voc(data: Path, placed: Placed) -> None:
    root = data / "VOCdevkit/VOC2007"
    for number, scene in enumerate(SCENES):
        index(root / f"JPEGImages/00000{number}.jpg", number, ("dog", "person"), placed)
        things = ""
        for thing, (x, y, w, h) in scene:
            box = f"<xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax>"
            things += f"<object><name>{('dog', 'person')[thing]}</name><bndbox>{box}</bndbox></object>"
        size = f"<size><width>{SIDE}</width><height>{SIDE}</height><depth>3</depth></size>"
        path = root / f"Annotations/00000{number}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"<annotation><filename>00000{number}.jpg</filename>{size}{things}</annotation>")


def objects365(data: Path, placed: Placed) -> None:
    names = ("human", "sneakers")
    files = ("obj365_val_000000000301.jpg", "obj365_val_000000000314.jpg")
    for number, file in enumerate(files):
        index(data / "objects365v1/val" / file, number, names, placed)
    write(data / "objects365v1/objects365_val.json", coco_file(files, names))


def lvis(file: str) -> Callable[[Path, Placed], None]:
    def written(data: Path, placed: Placed) -> None:
        names = ("baboon", "saddle_blanket")
        files = ("val2017/000000397133.jpg", "train2017/000000037777.jpg")
        for number, each in enumerate(files):
            index(data / "coco" / each, number, names, placed)
        content = coco_file(files, names, neg_category_ids=[], not_exhaustive_category_ids=[])
        for image in content["images"]:
            image["coco_url"] = f"http://images.cocodataset.org/{image['file_name']}"
        for category, frequency in zip(content["categories"], "rf"):
            category["frequency"] = frequency
        write(data / "coco/annotations" / file, content)

    return written


def odinw(config: str) -> Callable[[Path, Placed], None]:
    def written(data: Path, placed: Placed) -> None:
        table = tomllib.loads((Path(__file__).parent.parent / f"configs/{config}.toml").read_text(encoding="utf-8"))
        prompts = table["truth"].get("prompts", {})
        for name, split in table["truth"]["sets"].items():
            # Where some are asked for in other words, these.
            names = tuple(dict.fromkeys((*prompts.get(name, ()), "crack", "bump")))[:2]
            path = data / "odinw" / split
            if path.suffix != ".json":
                path = path / "annotations_without_background.json"
            for number in (0, 1):
                index(path.parent / f"{number}_jpg.rf.0.jpg", number, names, placed)
            write(path, coco_file(("0_jpg.rf.0.jpg", "1_jpg.rf.0.jpg"), names))

    return written


def flickr30k(data: Path, placed: Placed) -> None:
    root = data / "flickr30k_entities"
    names = ("a man", "a dog")
    files = ("1007129816.jpg", "1009434119.jpg")
    for number, file in enumerate(files):
        index(root / "flickr30k_images" / file, number, names, placed)
    captions = ("a man walks a dog", "a dog looks at a man", "here is a man")  # the first image has two
    content = coco_file(files, names)
    boxes = {box: entry for entry, (_, box) in zip(content["annotations"], [*SCENES[0], *SCENES[1]])}
    content["images"], content["annotations"] = [], []
    for number, caption in enumerate(captions):
        scene = dict(SCENES[number // 2])
        known = sorted((caption.index(name), name, scene[thing]) for thing, name in enumerate(names) if thing in scene)
        spans = [[[start, start + len(name)]] for start, name, _ in known]
        content["images"].append(
            {"id": number, "file_name": files[number // 2], "width": SIDE, "height": SIDE, "caption": caption}
            | {"tokens_positive_eval": spans, "dataset_name": "flickr"}
        )
        for phrase, ((_, _, box), span) in enumerate(zip(known, spans)):
            more = {"id": len(content["annotations"]), "image_id": number, "phrase_ids": [phrase]}
            content["annotations"].append(boxes[box] | more | {"tokens_positive": span, "category_id": 1})
    write(root / "final_flickr_separateGT_val.json", content)


def refcoco(data: Path, placed: Placed) -> None:
    """One file holds the val splits of three data sets; several expressions of one image do not stand together."""
    files = ("COCO_train2014_000000000009.jpg", "COCO_train2014_000000000025.jpg")
    images, annotations = [], []
    for data_set in ("refcoco", "refcoco+", "refcocog"):
        words = (f"left one of {data_set}", f"right one of {data_set}")
        for number, file in enumerate(files):
            index(data / "coco/train2014" / file, number, words, placed)
        for image, thing, box in ((0, 0, A), (1, 0, C), (0, 1, B)):
            entry = {"id": len(images), "file_name": files[image], "width": SIDE, "height": SIDE}
            images.append(entry | {"caption": words[thing], "dataset_name": data_set, "original_id": image})
            annotations.append(
                {"id": len(annotations), "image_id": entry["id"], "category_id": 1, "bbox": list(box)}
                | {"area": box[2] * box[3], "iscrowd": 0, "tokens_positive": [[0, len(words[thing])]]}
            )
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "object"}]}
    write(data / "coco/mdetr_annotations/final_refexp_val.json", content)


def grefcoco(data: Path, placed: Placed) -> None:
    """Two things, one thing, and nothing."""
    files = ("COCO_train2014_000000000009.jpg", "COCO_train2014_000000000025.jpg")
    for number, file in enumerate(files):
        index(data / "coco/train2014" / file, number, ("everything", "everything"), placed)
        index(data / "coco/train2014" / file, number, ("the left one", "the right one"), placed)
    write(data / "coco/grefs/instances.json", coco_file(files, ("person", "dog")))
    meant = ((0, [1, 2], "everything"), (0, [2], "the right one"), (1, [3], "the left one"), (1, [-1], "a cow"))
    refs = [
        {"ref_id": index, "image_id": image, "ann_id": box_id, "split": "val", "no_target": box_id == [-1]}
        | {"sentences": [{"sent_id": index, "sent": words, "raw": words, "tokens": words.split()}]}
        for index, (image, box_id, words) in enumerate(meant)
    ]
    write(data / "coco/grefs/grefs(unc).json", refs)


def d3(data: Path, placed: Placed) -> None:
    """Three descriptions; the second is of something absent, the third is never true."""
    names = ("a dog on a lawn", "a person without a hat", "a cow")
    for number in (0, 1):
        index(data / f"d3/d3_images/{number}.jpg", number, names, placed)
    write(data / "d3/d3_json/d3_full_annotations.json", coco_file(("0.jpg", "1.jpg"), names))
    tables: Mapping[str, Any] = {
        "images": {number: {"file_name": f"{number}.jpg", "group_id": 0} for number in (0, 1)},
        "groups": {0: {"inner_sent_id": [1, 2, 3], "img_id": [0, 1]}},
        "sentences": {number: {"is_negative": number == 2, "raw_sent": names[number - 1]} for number in (1, 2, 3)},
    }
    for name, table in tables.items():
        path = data / f"d3/d3_pkl/{name}.pkl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pickle.dumps(table))


TREES: Mapping[str, Callable[[Path, Placed], None]] = {
    "evaluate_cityscapes": cityscapes,
    "evaluate_coco": coco,
    "evaluate_coco128": coco128,
    "evaluate_coco_48_17": coco,
    "evaluate_custom": custom,
    "evaluate_dod_concat": d3,
    "evaluate_dod_parallel": d3,
    "evaluate_flickr30k": flickr30k,
    "evaluate_grefcoco": grefcoco,
    "evaluate_lvis_minival": lvis("lvis_v1_minival_inserted_image_name.json"),
    "evaluate_lvis_val": lvis("lvis_od_val.json"),
    "evaluate_objects365": objects365,
    "evaluate_odinw13": odinw("evaluate_odinw13"),
    "evaluate_odinw35": odinw("evaluate_odinw35"),
    "evaluate_raccoon": raccoon,
    "evaluate_refcoco": refcoco,
    "evaluate_refcoco_plus": refcoco,
    "evaluate_refcocog": refcoco,
    "evaluate_voc": voc,
}
