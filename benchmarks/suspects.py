"""How many of the most suspicious labels are wrong: planted errors, compared with cleanlab's ranking of the same input.

    python benchmarks/suspects.py --coco128 data/coco128     # pip install 'groundhog[cleanlab]' to compare

Errors are planted in true boxes (benchmarks/disturbed_labels.py, 3 % of each kind). The second model is simulated,
since no detector of coco128 is available: the truth with independent errors, by the noise model of `simulated_model`.
Both rankings get the same labels and the same boxes. Prints Markdown: precision at 50 and 100, mean of the seeds.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from audit_coverage import table
from disturbed_labels import (
    Disturbance,
    Planted,
    anywhere,
    disturb,
    drawn_scenes,
    moved,
    read_coco128,
)

from flows.audit.evidence import Evidence, named_boxes_of
from flows.audit.suspects import Suspect, find_suspects, rank_images
from formats.boxes import pairwise_iou
from formats.record import Box, Instance, Record
from formats.reviewed import key_of

ERRORS = Disturbance(0.03, 0.03, 0.03, 0.03, 0.03)
AT = (50, 100)
KIND_OF = {
    "overlooked": "dropped",
    "badly placed": "moved",
    "wrong category": "renamed",
    "doubled": "doubled",
    "sliver": "doubled",
    "nothing there": "invented",
}


def simulated_model(truth: list[Record], names: tuple[str, ...], seed: int) -> list[Record]:
    """What a detector of middling quality would find: 85 % of the objects with scores of Beta(6, 2), at an IoU of 0.6
    to 0.95 with the truth; 7 % of those under another name; for one object in four a weaker second guess of another
    category too, Beta(2, 6); and half a false box an image, Beta(2, 4).
    """
    rng = np.random.default_rng(seed)

    def named(box: Box, label: int, score: float) -> Instance:
        return Instance(box, label, names[label], score=round(float(score), 4))

    def other(label: int) -> int:
        return int((label + 1 + rng.integers(len(names) - 1)) % len(names))

    found = []
    for record in truth:
        boxes = []
        for true in record.instances or ():
            if rng.random() >= 0.85:
                continue
            box = moved(true.box, record, rng, 0.6, 0.95)
            boxes.append(named(box, true.label if rng.random() >= 0.07 else other(true.label), rng.beta(6, 2)))
            if rng.random() < 0.25:
                boxes.append(named(moved(true.box, record, rng, 0.6, 0.95), other(true.label), rng.beta(2, 6)))
        for _ in range(rng.poisson(0.5)):
            boxes.append(named(anywhere(record, rng), int(rng.integers(len(names))), rng.beta(2, 4)))
        found.append(replace(record, instances=tuple(boxes)))
    return found


# Rankings: (file name, box, kind) of boxes, and file names of images, worst first

RankedBox = tuple[str, Box, str]


def our_ranking(labels: list[Record], found: list[Record]) -> tuple[list[RankedBox], list[str]]:
    suspects: list[Suspect] = find_suspects(
        labels, Evidence({key_of(each): named_boxes_of(each) for each in found}, False)
    )
    images = [image.suspects[0].filename for image in rank_images(suspects)]
    return [(each.filename, each.box, each.kind) for each in suspects], images


def cleanlab_ranking(
    labels: list[Record], found: list[Record], names: tuple[str, ...]
) -> tuple[list[RankedBox], list[str]]:
    """Boxes by the lowest of cleanlab's three scores of a box, images by its label quality score."""
    from cleanlab.object_detection import rank

    cleanlab_labels = [_cleanlab_labels(each) for each in labels]
    predictions = [_cleanlab_predictions(each, len(names)) for each in found]
    quality = rank.get_label_quality_scores(cleanlab_labels, predictions, verbose=False)
    ranked: list[tuple[float, RankedBox]] = []
    scores = {
        "badly placed": rank.compute_badloc_box_scores(labels=cleanlab_labels, predictions=predictions),
        "wrong category": rank.compute_swap_box_scores(labels=cleanlab_labels, predictions=predictions),
    }
    for index, record in enumerate(labels):
        for row, instance in enumerate(record.instances or ()):
            value, kind = min((float(scores_of_kind[index][row]), kind) for kind, scores_of_kind in scores.items())
            ranked.append((value, (record.filename, instance.box, kind)))
    overlooked = rank.compute_overlooked_box_scores(labels=cleanlab_labels, predictions=predictions)
    for index, record in enumerate(found):
        boxes = np.concatenate([each.reshape(-1, 5) for each in predictions[index]])[:, :4]
        values = np.asarray(overlooked[index])
        ranked += [(v, (record.filename, tuple(box), "overlooked")) for v, box in zip(values, boxes) if np.isfinite(v)]
    order = np.argsort(quality, kind="stable")
    return [each for _, each in sorted(ranked, key=lambda item: item[0])], [labels[index].filename for index in order]


def _cleanlab_labels(record: Record) -> dict[str, np.ndarray]:
    instances = record.instances or ()
    boxes = np.array([each.box for each in instances], float).reshape(-1, 4)
    return {"bboxes": boxes, "labels": np.array([each.label for each in instances], int)}


def _cleanlab_predictions(record: Record, categories: int) -> np.ndarray:
    rows = np.empty(categories, object)
    for label in range(categories):
        boxes = [(*each.box, each.score) for each in record.instances or () if each.label == label]
        rows[label] = np.array(boxes, np.float32).reshape(-1, 5)
    return rows


# Precision


def is_planted(box: RankedBox, planted: list[Planted], with_kind: bool = False) -> bool:
    """A label with an error is the same box; what was overlooked overlaps the box that was dropped."""
    filename, corners, kind = box
    for each in planted:
        if each.filename != filename or (with_kind and KIND_OF.get(kind) != each.kind):
            continue
        dropped = each.kind == "dropped"
        if dropped == (kind == "overlooked"):
            overlap = pairwise_iou([corners], [each.box])[0, 0]
            if overlap >= (0.5 if dropped else 0.99):
                return True
    return False


def measure(truth: list[Record], names: tuple[str, ...], seed: int, yardstick: bool) -> dict[str, list[float]]:
    labels, planted = disturb(truth, names, ERRORS, seed)
    labels = [replace(each, instances=tuple(replace(i, score=None) for i in each.instances or ())) for each in labels]
    found = simulated_model(truth, names, seed + 1000)
    wrong = {each.filename for each in planted}
    rankings = {"groundhog suspects": our_ranking(labels, found)}
    if yardstick:
        rankings["cleanlab"] = cleanlab_ranking(labels, found, names)
    boxes = sum(len(each.instances or ()) for each in labels)
    rows = {"random": [*[(len(planted) / boxes)] * 2, *[0.0] * 2, *[len(wrong) / len(labels)] * 2]}
    for name, (ranked, images) in rankings.items():
        row = [float(np.mean([is_planted(each, planted) for each in ranked[:n]])) for n in AT]
        row += [float(np.mean([is_planted(each, planted, with_kind=True) for each in ranked[:n]])) for n in AT]
        rows[name] = row + [float(np.mean([image in wrong for image in images[:n]])) for n in AT]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--coco128", type=Path, metavar="DIR", help="else drawn scenes are used")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds (default 5)")
    options = parser.parse_args()
    truth, names = drawn_scenes(400, domain="dense") if options.coco128 is None else read_coco128(options.coco128)
    try:
        import cleanlab  # noqa: F401

        yardstick = True
    except ImportError:
        yardstick = False
    measured = [measure(truth, names, seed, yardstick) for seed in range(options.seeds)]
    head = ["ranking", *(f"boxes@{n}" for n in AT), *(f"and kind@{n}" for n in AT), *(f"images@{n}" for n in AT)]
    means = {name: np.mean([each[name] for each in measured], 0) for name in measured[0]}
    print(table(head, ([name, *(f"{value:.2f}" for value in row)] for name, row in means.items())))


if __name__ == "__main__":
    main()
