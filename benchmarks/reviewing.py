"""How many keys and seconds an image takes to review: drawing what is missing, or taking it from the candidates.

    python benchmarks/reviewing.py COCO128 WORK_DIR            both ways, on the real page in Chromium
    python benchmarks/reviewing.py COCO128 WORK_DIR --only-data  writes the perturbed data set

COCO128: the folder of the coco128 data set (images/, labels/, classes.yaml). Its labels are the truth; what the
page shows is the truth with the errors of pseudo-labels: boxes that are missing, most of them among the candidates,
wrong categories, shifted boxes, and boxes of nothing.

Seconds are those of the keystroke-level model (Card, Moran & Newell, 1980), which counts what a person does, not what
the machine takes; the time that the page itself takes is measured and stands beside it.
"""

from __future__ import annotations

import json
import random
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from formats.candidates import Candidates, ImageCandidates, write_candidates
from formats.label_map import write_label_map
from formats.odvg import write_odvg
from formats.record import Box, Instance, Record
from formats.yolo import read_yolo

THRESHOLD = 0.3
FLOOR = 0.05
MISSING, CONFUSED, SHIFTED = 0.16, 0.06, 0.08  # of the true boxes
SPURIOUS = 0.08  # boxes of nothing, for each true one
AMONG_CANDIDATES = 0.85  # of the missing ones
NOISE = 0.6  # candidates of nothing, for each true box
KEY = "perturbed"


@dataclass(frozen=True)
class Perturbed:
    """A data set to review. truth, labels: the records in the order of the file. folder: where it lies."""

    truth: list[Record]
    labels: list[Record]
    folder: Path


def perturb(coco128: Path, out: Path, seed: int = 0) -> Perturbed:
    """Writes out/x_od_v1.json with its label map, .meta.json and candidates, and out/x_truth_od.json; gives them."""
    chance = random.Random(seed)
    truth = list(read_yolo(coco128 / "labels", coco128 / "images", coco128 / "classes.yaml"))
    names = {each.label: each.category for record in truth for each in record.instances or ()}
    out.mkdir(parents=True, exist_ok=True)
    labels, images = [], []
    order = sorted(names)
    for line, record in enumerate(truth):
        kept, weak = _perturbed(record, names, chance)
        labels.append(replace(record, instances=tuple(kept)))
        every = sorted((*kept, *weak), key=lambda each: -(each.score or 0))
        boxes = np.array([each.box for each in every], np.float32).reshape(-1, 4)
        regions = np.array([order.index(each.label) for each in every], np.int32)
        scores = np.array([each.score for each in every], np.float32)
        images.append(ImageCandidates(line, record.filename, regions, boxes, scores))
    write_odvg(out / "x_od.json", [replace(record, instances=None) for record in truth])
    write_odvg(out / "x_od_v1.json", labels)
    write_odvg(out / "x_truth_od.json", truth)
    write_label_map(out / "x_label_map.json", {label: names[label] for label in order})
    meta = {"plan": KEY, "folder": "work", "policy": {"score_threshold": THRESHOLD, "class_thresholds": {}}}
    (out / "x_od_v1.meta.json").write_text(json.dumps(meta))
    write_candidates(out / "work" / "candidates" / "shard-00000.parquet", Candidates.of_images(images), KEY)
    shards = [{"index": 0, "first_line": 0, "lines": len(truth), "offset": 0}]
    label_map = {str(label): names[label] for label in order}
    manifest = {"key": KEY, "source": str(out / "x_od.json"), "label_map": label_map, "shards": shards}
    (out / "work" / "manifest.json").write_text(json.dumps(manifest))
    if not (out / "images").exists():
        (out / "images").symlink_to((coco128 / "images").resolve())
    return Perturbed(truth, labels, out)


def _perturbed(record: Record, names: dict[int, str], chance: random.Random) -> tuple[list[Instance], list[Instance]]:
    """(labels, candidates below the threshold) as a model might have given them."""
    kept: list[Instance] = []
    weak: list[Instance] = []
    for each in record.instances or ():
        score = min(0.99, max(THRESHOLD + 0.005, chance.gauss(0.62, 0.17)))
        draw = chance.random()
        jittered = _moved(each.box, record, chance, 0.02)
        if draw < MISSING:
            if chance.random() < AMONG_CANDIDATES:
                weak.append(replace(each, box=jittered, score=chance.uniform(0.4, 0.99) * THRESHOLD))
        elif draw < MISSING + CONFUSED:
            label = chance.choice([label for label in names if label != each.label])
            kept.append(Instance(jittered, label, names[label], score))
        elif draw < MISSING + CONFUSED + SHIFTED:
            kept.append(replace(each, box=_moved(each.box, record, chance, 0.3), score=score))
        else:
            kept.append(replace(each, box=each.box, score=score))
    for _ in record.instances or ():
        if chance.random() < SPURIOUS:
            kept.append(_of_nothing(record, names, chance, chance.uniform(THRESHOLD, 0.55)))
        if chance.random() < NOISE:
            weak.append(_of_nothing(record, names, chance, chance.uniform(FLOOR, 0.6 * THRESHOLD)))
    return kept, weak


def _moved(box: Box, record: Record, chance: random.Random, share: float) -> Box:
    width, height = box[2] - box[0], box[3] - box[1]
    moves = [chance.uniform(-share, share) * side for side in (width, height, width, height)]
    sides = (record.width, record.height, record.width, record.height)
    x1, y1, x2, y2 = (min(max(side + move, 0), most) for side, move, most in zip(box, moves, sides))
    return (x1, y1, x2, y2) if x1 + 1 < x2 and y1 + 1 < y2 else box


def _of_nothing(record: Record, names: dict[int, str], chance: random.Random, score: float) -> Instance:
    width, height = (side * chance.uniform(0.08, 0.4) for side in (record.width, record.height))
    x, y = chance.uniform(0, record.width - width), chance.uniform(0, record.height - height)
    label = chance.choice(list(names))
    return Instance((x, y, x + width, y + height), label, names[label], score)
