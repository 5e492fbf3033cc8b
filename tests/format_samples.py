"""A small source of every format that is read, made as the published ones are, with what a record has no field for."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

# What a reader takes beside its path: parameter -> value.
Given = dict[str, Any]

_IMAGE = {"id": 7, "file_name": "a.jpg", "height": 40, "width": 60}
_BOX = {"id": 1, "image_id": 7, "category_id": 1, "bbox": [1, 2, 30.5, 20], "area": 610, "iscrowd": 0}
_COCO = {
    "info": {"year": 2017},
    "images": [{**_IMAGE, "license": 3, "date_captured": "2013"}],
    "annotations": [{**_BOX, "segmentation": [[1, 2, 31, 2, 1, 22]]}, {**_BOX, "id": 2, "iscrowd": 1}],
    "categories": [{"id": 2, "name": "dog", "supercategory": "animal"}, {"id": 1, "name": "cat"}],
}
_LVIS = {
    "images": [
        {
            "id": 7,
            "height": 40,
            "width": 60,
            "coco_url": "http://images.cocodataset.org/val2017/000000000007.jpg",
            "neg_category_ids": [2],
            "not_exhaustive_category_ids": [],
        }
    ],
    "annotations": [_BOX],
    "categories": [
        {"id": 1, "name": "cat", "frequency": "f", "synset": "cat.n.01"},
        {"id": 2, "name": "bat", "frequency": "r", "synset": "bat.n.01"},
    ],
}
_MDETR = {
    "images": [{**_IMAGE, "caption": "a cat and a dog", "dataset_name": "mixed"}],
    "annotations": [
        {**_BOX, "tokens_positive": [[0, 5]]},
        {**_BOX, "tokens_positive": [[10, 12], [13, 15]]},
        {**_BOX, "tokens_positive": []},
    ],
    "categories": [{"id": 1, "name": "object"}],
}
_GRIT = {
    "key": "000000012",
    "caption": "a wire hanger with a paper cover",
    "height": 100,
    "width": 200,
    "url": "https://images.test/12.jpg",
    "noun_chunks": [[0, 13, 0.1, 0.2, 0.3, 0.4, 0.5]],
    "ref_exps": [[19, 32, 0.25, 0.5, 0.75, 1.0, 0.875]],
}
_FACE = {
    "file_name": "images/a.jpg",
    "width": 60,
    "height": 40,
    "author": "somebody",
    "objects": {"bbox": [[1, 2, 30.5, 20]], "categories": ["cat"], "score": [0.5]},
}
_VOC = """<annotation><folder>f</folder><filename>a.jpg</filename>
<size><width>60</width><height>40</height><depth>3</depth></size>
<object><name>cat</name><pose>Left</pose><truncated>1</truncated><difficult>0</difficult>
<bndbox><xmin>2</xmin><ymin>3</ymin><xmax>31</xmax><ymax>22</ymax></bndbox></object></annotation>"""
_CVAT = """<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version>
<meta><task><labels><label><name>cat</name></label></labels></task></meta>
<image id="0" name="a.jpg" width="60" height="40">
<box label="cat" occluded="1" xtl="1" ytl="2" xbr="31" ybr="22" z_order="0"><attribute name="age">2</attribute></box>
<polygon label="cat" occluded="0" points="1,2;3,4;5,1"></polygon><tag label="outdoors"></tag></image></annotations>"""
_SENTENCES = "[/EN#1/people A girl] and [/EN#2/animals two cats] in [/EN#0/notvisual the sun] .\n"
_ENTITIES = """<annotation><filename>36979.jpg</filename>
<size><width>60</width><height>40</height><depth>3</depth></size>
<object><name>1</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>30</xmax><ymax>40</ymax></bndbox></object>
<object><name>2</name><scene>1</scene><nobndbox>1</nobndbox></object></annotation>"""
_OPEN_IMAGES = """\
ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside
a,xclick,/m/01,1,0.25,0.75,0.5,1,1,0,0,0,0
"""
_REF = {
    "ref_id": 1,
    "ann_id": 1,
    "image_id": 7,
    "split": "val",
    "category_id": 1,
    "sent_ids": [0, 1],
    "sentences": [{"sent": "left cat", "sent_id": 0}, {"sent": "left cat", "sent_id": 1}],
}
_RECTANGLE = {
    "type": "rectanglelabels",
    "original_width": 60,
    "original_height": 40,
    "value": {"x": 10, "y": 20, "width": 30, "height": 40, "rotation": 0, "rectanglelabels": ["cat"]},
}
_TASK = {
    "data": {"image": "/data/local-files/?d=a.jpg"},
    "annotations": [{"result": [_RECTANGLE, {"type": "choices", "value": {"choices": ["day"]}}]}],
    "predictions": [{"result": [{**_RECTANGLE, "score": 0.5}]}],
}
_ODVG = [
    {**{key: _IMAGE[key] for key in ("height", "width")}, "filename": "a.jpg", "detection": {"instances": [
        {"bbox": [1, 2, 3, 4], "label": 0, "category": "cat", "score": 0.5}]}},
    {"filename": "b.jpg", "height": 40, "width": 60, "grounding": {"caption": "a cat", "regions": [
        {"bbox": [[1, 2, 3, 4]], "phrase": "a cat", "tokens_positive": [[0, 5]]}]}},
]  # fmt: skip
_ODVG_LINES = "\n".join(json.dumps(line) for line in _ODVG)


def _file(name: str, content: Any) -> Callable[[Path], tuple[Path, Given]]:
    def make(folder: Path) -> tuple[Path, Given]:
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
        return folder / name, {}

    return make


def _image(folder: Path) -> Path:
    (folder / "images").mkdir()
    Image.new("RGB", (60, 40)).save(folder / "images/a.jpg")
    return folder / "images"


def _coco_results(folder: Path) -> tuple[Path, Given]:
    truth, _ = _file("truth.json", _COCO)(folder)
    return _file("results.json", [{**_BOX, "score": 0.5}])(folder)[0], {"truth": truth}


def _voc(folder: Path) -> tuple[Path, Given]:
    _file("a.xml", _VOC)(folder)
    return folder, {}


def _yolo(folder: Path) -> tuple[Path, Given]:
    (folder / "labels").mkdir()
    (folder / "labels/a.txt").write_text("0 0.5 0.5 0.2 0.2\n0 0.1 0.1 0.2 0.1 0.2 0.2\n")
    return folder / "labels", {"image_dir": _image(folder), "categories": ["cat"]}


def _fiftyone(folder: Path) -> tuple[Path, Given]:
    entry = {"label": 0, "bounding_box": [0.1, 0.2, 0.3, 0.4], "attributes": {"age": 3}}
    _file("labels.json", {"classes": ["cat"], "labels": {"a": [entry]}})(folder)
    return folder, {"image_dir": _image(folder)}


def _openimages(folder: Path) -> tuple[Path, Given]:
    (folder / "classes.csv").write_text("/m/01,Cat\n")
    boxes, _ = _file("boxes.csv", _OPEN_IMAGES)(folder)
    return boxes, {"classes": folder / "classes.csv", "image_dir": _image(folder)}


def _cityscapes(folder: Path) -> tuple[Path, Given]:
    numbers = np.full((40, 60), 7, np.uint16)
    numbers[10:20, 5:30] = 26001
    (folder / "bonn").mkdir()
    Image.fromarray(numbers).save(folder / "bonn/bonn_000000_000019_gtFine_instanceIds.png")
    return folder, {}


def _flickr30k(folder: Path) -> tuple[Path, Given]:
    for kind, name, text in (("Sentences", "36979.txt", _SENTENCES), ("Annotations", "36979.xml", _ENTITIES)):
        (folder / kind).mkdir()
        (folder / kind / name).write_text(text)
    return folder, {}


def _refcoco(folder: Path) -> tuple[Path, Given]:
    (folder / "refs.p").write_bytes(pickle.dumps([_REF], protocol=2))
    return _file("instances.json", _COCO)(folder)[0], {"refs": folder / "refs.p"}


def write_hub_table(
    path: Path, names: Sequence[str | None], sized: bool = False, classes: Sequence[str] = ("cat", "dog")
) -> None:
    """A Parquet file as `datasets` writes it: a row for each name of an image, which it holds; boxes of all classes."""
    boxes = {"bbox": [[1.0, 2.0, 30.5, 20.0]] * len(classes), "category": list(range(len(classes)))}
    rows = []
    for index, name in enumerate(names):
        stream = io.BytesIO()
        Image.new("RGB", (60 + index, 40)).save(stream, "PNG")
        rows.append({"image": {"bytes": stream.getvalue(), "path": name}, "objects": boxes, "licence": "mit"})
        rows[-1] |= {"width": 60 + index, "height": 40} if sized else {}
    label = {"feature": {"names": list(classes), "_type": "ClassLabel"}, "_type": "List"}
    features = {"features": {"label": {"names": ["x"], "_type": "ClassLabel"}, "objects": {"category": label}}}
    table = pa.Table.from_pylist(rows).replace_schema_metadata({"huggingface": json.dumps({"info": features})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


# format -> what writes its sample into an empty folder and gives (source, what the reader takes beside)
SAMPLES: dict[str, Callable[[Path], tuple[Path, Given]]] = {
    "odvg": _file("a.json", _ODVG_LINES),
    "open-groundingdino": _file("a.jsonl", _ODVG_LINES),
    "coco": _file("a.json", _COCO),
    "coco-results": _coco_results,
    "voc": _voc,
    "yolo": _yolo,
    "images": lambda folder: (_image(folder), {}),
    "labelstudio": _file("a.json", [_TASK]),
    "cvat": _file("a.xml", _CVAT),
    "fiftyone": _fiftyone,
    "huggingface": _file("metadata.jsonl", json.dumps(_FACE)),
    "lvis": _file("a.json", _LVIS),
    "objects365v1": _file("a.json", _COCO),
    "objects365v2": _file("a.json", {**_COCO, "annotations": [{**_BOX, "isfake": 1}]}),
    "v3det": _file("a.json", _COCO),
    "odinw": _file("a.json", _COCO),
    "openimages": _openimages,
    "cityscapes": _cityscapes,
    "mdetr": _file("a.json", _MDETR),
    "flickr30k": _flickr30k,
    "grit": _file("a.json", [_GRIT]),
    "refcoco": _refcoco,
    "d3": _file("a.json", _COCO),
}
