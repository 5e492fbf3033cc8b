"""Keystrokes and seconds to review an image: drawing missing boxes, or taking them from the candidates.

    PYTHONPATH=. python benchmarks/reviewing.py COCO128 WORK_DIR            both ways, on the real page in Chromium
    PYTHONPATH=. python benchmarks/reviewing.py COCO128 WORK_DIR --only-data  writes the perturbed data set

COCO128: the folder of the coco128 data set (images/, labels/, classes.yaml). Its labels are the truth; what the
page shows is the truth with typical errors of pseudo-labels: missing boxes, most of them among the candidates, wrong
categories, shifted boxes, and boxes without an object.

Seconds are estimated by the keystroke-level model (Card, Moran & Newell, 1980), which covers a person's actions; the
time that the page itself takes is measured and listed separately.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from formats.boxes import pairwise_iou
from formats.candidates import Candidates, ImageCandidates, read_candidates, write_candidates
from formats.label_map import write_label_map
from formats.odvg import write_odvg
from formats.record import Box, Instance, Record
from formats.reviewed import corrections_for
from formats.yolo import read_yolo
from tests.chromium import Page, chromium_page, find_chromium

ROOT = Path(__file__).parent.parent
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


# What a person would do to make the labels true, as steps on the page


@dataclass(frozen=True)
class Step:
    """One thing that a person does: keys, typed text, or the pointer.

    kind: "key", "type", "drag", "click", "look". value: the key, the text, or the box or point in the image's pixels.
    """

    kind: str
    value: object = None


# Seconds of the keystroke-level model: a key, pointing, pressing and releasing, changing the hand, thinking.
KEY_SECONDS, POINT_SECONDS, BUTTON_SECONDS, HAND_SECONDS, THINK_SECONDS = 0.28, 1.1, 0.2, 0.4, 1.35
SAME = 0.9  # IoU from which a box need not be corrected
TAKEN = 0.7  # IoU of a candidate with a missing object from which it is taken


def seconds_of(steps: Sequence[Step]) -> float:
    """What the steps of one image take a person."""
    total, on_pointer = 0.0, False
    for step in steps:
        pointer = step.kind in ("drag", "click")
        total += HAND_SECONDS * (pointer != on_pointer and step.kind != "look")
        on_pointer = pointer if step.kind != "look" else on_pointer
        if step.kind == "key":
            total += KEY_SECONDS
        elif step.kind == "type":
            total += KEY_SECONDS * len(str(step.value))
        elif step.kind == "click":
            total += POINT_SECONDS + BUTTON_SECONDS
        elif step.kind == "drag":
            total += 2 * (POINT_SECONDS + BUTTON_SECONDS / 2)
        else:
            total += THINK_SECONDS
    return total


def steps_for(truth: Record, labels: Record, weak: Sequence[Instance], with_candidates: bool) -> list[Step]:
    """The steps that make an image's boxes true, then accept it. weak: the candidates that the page shows."""
    steps = [Step("look")]
    boxes = list(labels.instances or ())
    left, correct = _paired(truth, boxes)
    for index, box in enumerate(boxes):
        wanted = correct.get(index)
        if wanted is None or box.label != wanted.label or _iou(box.box, wanted.box) < SAME:
            steps += _correct(box, wanted)
    for missing in left:
        near = [each for each in weak if each.label == missing.label and _iou(each.box, missing.box) >= TAKEN]
        if with_candidates and near:
            steps += [Step("look"), Step("click", _middle(near[0].box))]
        else:
            steps += [Step("look"), Step("drag", missing.box), *_named(missing.category), Step("key", "Escape")]
    return [*steps, Step("key", "Enter")]


def _correct(box: Instance, wanted: Instance | None) -> list[Step]:
    """A click selects the box; then it goes, gets another name, or another place."""
    chosen = [Step("look"), Step("click", _middle(box.box))]
    if wanted is None:
        return [*chosen, Step("key", "x")]
    if box.label != wanted.label:
        return [*chosen, *_named(wanted.category), Step("key", "Escape")]
    return [*chosen, Step("key", "x"), Step("drag", wanted.box), *_named(wanted.category), Step("key", "Escape")]


def _named(name: str) -> list[Step]:
    return [Step("key", "c"), Step("type", name), Step("key", "Enter")]


def _paired(truth: Record, boxes: Sequence[Instance]) -> tuple[list[Instance], dict[int, Instance]]:
    """(objects without a box, place of a box -> its object), best overlap first."""
    objects = list(truth.instances or ())
    if not boxes or not objects:
        return objects, {}
    iou = pairwise_iou([each.box for each in boxes], [each.box for each in objects])
    correct: dict[int, Instance] = {}
    taken: set[int] = set()
    for index in np.argsort(-iou, axis=None, kind="stable"):
        box, thing = divmod(int(index), len(objects))
        if iou[box, thing] >= 0.3 and box not in correct and thing not in taken:
            correct[box] = objects[thing]
            taken.add(thing)
    return [each for index, each in enumerate(objects) if index not in taken], correct


def _iou(one: Box, other: Box) -> float:
    return float(pairwise_iou([one], [other])[0, 0])


def _middle(box: Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def replay(data: Perturbed, with_candidates: bool, images: int) -> dict[str, float]:
    """Does the steps on the real page; what they were, what they take a person, and what the page took."""
    for old in data.folder.glob("*reviewed*"):
        old.unlink()
    found = {each.line: each for each in read_candidates(data.folder / "work/candidates/shard-00000.parquet").by_line()}
    names = sorted({each.label: each.category for record in data.truth for each in record.instances or ()}.items())
    count: Counter[str] = Counter()
    person = machine = 0.0
    with ExitStack() as stack:
        address = stack.enter_context(_served(data))
        profile = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        page = stack.enter_context(chromium_page(find_chromium() or "", profile))
        page.open(address)
        for number in range(images):
            record = data.labels[number]
            ready = "document.getElementById('picture').naturalWidth > 0 && !document.getElementById('picture').hidden"
            page.wait(f"document.getElementById('position').textContent.startsWith('{number + 1} /') && {ready}")
            weak = _weak(found.get(number), record, names)
            steps = steps_for(data.truth[number], record, weak, with_candidates)
            person += seconds_of(steps)
            count.update(step.kind for step in steps)
            count["letters"] += sum(len(str(step.value)) for step in steps if step.kind == "type")
            start = time.perf_counter()
            for step in steps:
                _do(page, step, record)
            page.wait(f"document.getElementById('progress').textContent.startsWith('{number + 1} of')")
            machine += time.perf_counter() - start
    accepted = corrections_for(data.folder / "x_od_reviewed.json")
    assert len(accepted) == images, f"{len(accepted)} of {images} images were accepted"
    keys = count["key"] + count["letters"]
    right = sum(_right(data.truth[number], accepted[data.truth[number].filename, None]) for number in range(images))
    boxes = sum(len(record.instances or ()) for record in data.truth[:images])
    return {
        "keys": keys / images, "clicks": count["click"] / images, "drags": count["drag"] / images,
        "seconds": person / images, "page": machine / images, "right": right / boxes,
    }  # fmt: skip


def _weak(image: ImageCandidates | None, record: Record, names: Sequence[tuple[int, str]]) -> list[Instance]:
    """The candidates that are no labels, above where the page's sliders begin."""
    if image is None:
        return []
    rows = zip(image.box.tolist(), image.region.tolist(), image.score.tolist())
    return [
        Instance(tuple(box), *names[region], score) for box, region, score in rows if 0.6 * THRESHOLD <= score < 0.3
    ]


def _right(truth: Record, accepted: Record) -> int:
    """How many objects have a box of their name that overlaps them by half or more."""
    found = 0
    left = list(accepted.instances or ())
    for thing in truth.instances or ():
        match = next((each for each in left if each.label == thing.label and _iou(each.box, thing.box) >= 0.5), None)
        if match is not None:
            left.remove(match)
            found += 1
    return found


def _do(page: Page, step: Step, record: Record) -> None:
    if step.kind == "key":
        page.press(str(step.value))
    elif step.kind == "type":
        page.wait("document.getElementById('search').open")
        page.type(str(step.value))
    elif step.kind == "click":
        point = _on_screen(page, record, step.value)  # type: ignore[arg-type]
        page.drag(point, point)
    elif step.kind == "drag":
        x1, y1, x2, y2 = step.value  # type: ignore[misc]
        ends = _on_screen(page, record, (x1, y1)), _on_screen(page, record, (x2, y2))
        page.drag(*ends, modifiers=8)  # Shift: a new box, whatever lies below


def _on_screen(page: Page, record: Record, point: tuple[float, float]) -> tuple[float, float]:
    left, top, scale = page.value(
        "(() => { const at = document.getElementById('overlay').getBoundingClientRect();"
        f" return [at.left, at.top, at.width / {record.width}]; }})()"
    )
    return left + point[0] * scale, top + point[1] * scale


@contextmanager
def _served(data: Perturbed) -> Iterator[str]:
    command = [sys.executable, "-m", "browse", "serve", str(data.folder), "x_od_v1.json", "images", "--no-open"]
    process = subprocess.Popen([*command, "--port", "0"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield next(line.split()[2] for line in process.stdout if line.startswith("review at"))
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("coco128", type=Path)
    parser.add_argument("work_dir", type=Path)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--only-data", action="store_true")
    options = parser.parse_args()
    data = perturb(options.coco128, options.work_dir)
    if options.only_data:
        return
    print("an image:                keys  clicks  drags  seconds of a person  of the page  objects right")
    for title, with_candidates in (("drawing what is missing", False), ("taking candidates", True)):
        done = replay(data, with_candidates, min(options.images, len(data.truth)))
        print(
            f"{title:24} {done['keys']:5.1f}  {done['clicks']:6.2f}  {done['drags']:5.2f}  {done['seconds']:19.1f}"
            f"  {done['page']:11.2f}  {done['right']:13.1%}",
            flush=True,
        )


if __name__ == "__main__":
    main()
