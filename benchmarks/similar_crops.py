"""How well the similarity of crops predicts their class, for the order "similar" of the review page.

    PYTHONPATH=. python benchmarks/similar_crops.py COCO128

For each true object of coco128, the class of the most similar crop in all other images; the baseline is a random crop
of them.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from browse.review.serve import similarity_of
from browse.review.session import Review
from formats.label_map import write_label_map
from formats.odvg import write_odvg
from formats.yolo import read_yolo


def main(coco128: Path) -> None:
    records = list(read_yolo(coco128 / "labels", coco128 / "images", coco128 / "classes.yaml"))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "x_od.json"
        write_odvg(path, records)
        names = {each.label: each.category for record in records for each in record.instances or ()}
        write_label_map(path.with_name("x_label_map.json"), names)
        review = Review(path)
        objects = [(line, each) for line, record in enumerate(records) for each in record.instances or ()]
        start = time.process_time()
        appearances = similarity_of(review, coco128 / "images", None).crops(
            [(line, each.box) for line, each in objects]
        )
        print(f"{len(objects)} crops in {time.process_time() - start:.2f} CPU s")
        review.close()
    lines, labels = np.array([line for line, _ in objects]), np.array([each.label for _, each in objects])
    distance = ((appearances[:, None] - appearances[None]) ** 2).sum(axis=2)
    elsewhere = lines[:, None] != lines[None]
    nearest = np.where(elsewhere, distance, np.inf).argmin(axis=1)
    same = (labels[:, None] == labels[None]) & elsewhere
    print(
        f"same class: {np.mean(labels[nearest] == labels):.1%}, by chance {np.mean(same.sum(1) / elsewhere.sum(1)):.1%}"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
