"""Evaluates a model of the glyph world on scenes that are in no training set.

    python benchmarks/glyph_tiny.py [--weights glyph-tiny] [--scenes 300]

prints a Markdown table:

all nouns         COCO AP, the names of all 41 nouns in the prompt
colours           COCO AP on scenes with a noun in two colours ("red cat" beside "blue cat"); the prompt has the pairs
                  of the scene and near misses: for each, two more colours of its noun and two more nouns of its colour
... colour-blind  the same, with every box given to all colours of its noun: the AP without recognising colours
... held-out      the same, over the pairs that never occurred in training
captions          share of phrases whose best box is right (IoU of at least 0.5)
expressions       the same for referring expressions
cats              COCO AP of "cat" in the target domain
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from statistics import fmean

import numpy as np

from formats.record import Instance, Record
from grounding_model import Detector, Prompt, load_detector
from grounding_model.glyphs import COLOURS, HELD_OUT_PAIRS, NOUNS, categories_of, draw_scene
from grounding_model.metrics.coco import evaluate_coco
from grounding_model.metrics.expressions import expression_precision
from grounding_model.metrics.phrases import recall_at

SEED = 9000  # training scenes have seeds of one digit
BATCH = 16
FLOOR = 0.01


def numbered(scenes: int, domain: str, task: str, seed: int = SEED) -> tuple[list[np.ndarray], list[Record]]:
    drawn = [draw_scene(domain, seed, index, task, pairs="all") for index in range(scenes)]
    return [image for image, _ in drawn], [
        replace(record, filename=f"image-{index}") for index, (_, record) in enumerate(drawn)
    ]


def average_precision(detector: Detector, scenes: int, domain: str) -> float:
    images, truth = numbered(scenes, domain, "od")
    names = categories_of(domain, "od")
    found = detector.predict(images, list(names), score_threshold=FLOOR, max_per_image=100, batch_size=BATCH)
    return evaluate_coco(truth, found, names).ap


def near_misses(present: Sequence[str], rng: np.random.Generator) -> list[str]:
    """Pairs that are not in the scene: two more colours of each noun, two more nouns of each colour."""
    missed: set[str] = set()
    for pair in present:
        colour, noun = pair.split()
        missed |= {f"{other} {noun}" for other in rng.choice([c for c in COLOURS if c != colour], 2, replace=False)}
        missed |= {f"{colour} {other}" for other in rng.choice([n for n in NOUNS if n != noun], 2, replace=False)}
    return sorted(missed - set(present))


def colour_scenes(scenes: int) -> Iterator[tuple[np.ndarray, Record]]:
    """Scenes that contain some noun in two colours."""
    index = 0
    while scenes:
        image, record = draw_scene("source", SEED + 1, index, "colours", pairs="all")
        index += 1
        nouns = [pair.split()[1] for pair in {instance.category for instance in record.instances or ()}]
        if len(nouns) > len(set(nouns)):
            scenes -= 1
            yield image, replace(record, filename=f"image-{index}")


def colour_blind(record: Record) -> Record:
    """Every box with each colour of its noun in the prompt, with the best of their scores."""
    best: dict[tuple[tuple[float, ...], str], float] = {}
    names = {instance.category for instance in record.instances or ()}
    for instance in record.instances or ():
        key = (instance.box, instance.category.split()[1])
        best[key] = max(best.get(key, 0.0), instance.score or 0.0)
    return replace(
        record,
        instances=tuple(
            Instance(box, 0, name, score)
            for (box, noun), score in best.items()
            for name in names
            if name.endswith(noun)
        ),
    )


def colours(detector: Detector, scenes: int) -> tuple[float, float, float]:
    """AP over all pairs, AP of the same predictions without colours, AP over the held-out pairs."""
    truth, found, blind = [], [], []
    for image, record in colour_scenes(scenes):
        present = sorted({instance.category for instance in record.instances or ()})
        rng = np.random.default_rng([SEED, len(truth)])
        names = present + near_misses(present, rng)
        [answer] = detector.predict([image], names, score_threshold=FLOOR, max_per_image=300)
        answer = replace(answer, filename=record.filename)
        truth.append(record)
        found.append(answer)
        blind.append(colour_blind(answer))
    names = sorted({instance.category for record in truth for instance in record.instances or ()})
    # A near miss that is in no scene is not a category of the truth.
    found, blind = ([only(record, names) for record in records] for records in (found, blind))
    result = evaluate_coco(truth, found, names)
    held_out = {f"{colour} {noun}" for colour, noun in HELD_OUT_PAIRS}
    per_pair = {name: ap for name, ap in result.per_category.items() if ap is not None}
    return result.ap, evaluate_coco(truth, blind, names).ap, fmean(ap for n, ap in per_pair.items() if n in held_out)


def only(record: Record, names: Sequence[str]) -> Record:
    return replace(record, instances=tuple(one for one in record.instances or () if one.category in names))


def sentences(detector: Detector, scenes: int, task: str) -> float:
    """Share of phrases (or expressions) whose best box is right."""
    images, truth = numbered(scenes, "source", task, SEED + 2)
    asked = [(image, record) for image, record in zip(images, truth) if record.regions]
    found = []
    for image, record in asked:
        caption, regions = record.caption or "", record.regions or ()
        prompt = (
            Prompt.expression(caption)
            if task == "expressions"
            else Prompt.phrases(caption, [list(region.spans) for region in regions])
        )
        [answer] = detector.predict([image], prompt, score_threshold=0.0, max_per_image=30)
        found.append(replace(answer, filename=record.filename))
    measure = expression_precision if task == "expressions" else recall_at
    return measure([record for _, record in asked], found, ks=(1,))[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="glyph-tiny")
    parser.add_argument("--scenes", type=int, default=300, help="of each kind (default %(default)s)")
    options = parser.parse_args()
    detector = load_detector(options.weights)
    print(f"| {options.weights}, {options.scenes} scenes each | |\n|:--|--:|")
    print(f"| all nouns, AP | {average_precision(detector, options.scenes, 'source'):.3f} |", flush=True)
    pairs, blind, held_out = colours(detector, options.scenes)
    print(f"| colours, AP | {pairs:.3f} |\n| ... colour-blind | {blind:.3f} |\n| ... held-out pairs | {held_out:.3f} |")
    print(f"| captions, recall@1 | {sentences(detector, options.scenes, 'captions'):.3f} |", flush=True)
    print(f"| expressions, precision@1 | {sentences(detector, options.scenes, 'expressions'):.3f} |", flush=True)
    print(f"| cats in the target domain, AP | {average_precision(detector, options.scenes, 'cats'):.3f} |")


if __name__ == "__main__":
    main()
