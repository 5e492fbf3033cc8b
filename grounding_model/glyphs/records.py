"""Records of glyph scenes, for four tasks on the same objects.

od           instances of nouns; in the domain "cats" only cats
colours      instances of colour-noun pairs: "red cat"
captions     a sentence and its phrases: "a red cat and two blue stars"
expressions  a sentence that refers to one object: "the red cat on the left"
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from formats.dataset_names import annotation_path, label_map_beside
from formats.io.errors import InputError, expected_one_of
from formats.io.files import write_whole
from formats.label_map import write_label_map
from formats.odvg import write_odvg
from formats.record import Instance, Record, Region, Span
from grounding_model.glyphs.pictograms import COLOURS, NOUNS, PLURALS, pair_name
from grounding_model.glyphs.scenes import Scene, Thing, domain_named, draw, forbidden_pairs

Task = Literal["od", "colours", "captions", "expressions"]
TASKS: tuple[Task, ...] = ("od", "colours", "captions", "expressions")

OPENINGS = ("", "", "a picture of ", "we see ", "here is ")
JOINTS = (" and ", " beside ", " with ", " next to ", " near ", ", ")
NUMBERS = ("", "", "two ", "three ", "four ", "five ", "six ", "seven ", "eight ", "nine ")


def categories_of(domain: str, task: str, pairs: str = "train") -> tuple[str, ...]:
    """The category names of a detection task in the order of the labels; () for the caption tasks."""
    if task == "od":
        return ("cat",) if domain_named(domain).cats else NOUNS
    if task == "colours":
        held_out = forbidden_pairs(pairs)
        return tuple(pair_name(c, n) for n in NOUNS for c in COLOURS if (c, n) not in held_out)
    _known(task)
    return ()


def draw_scene(
    domain: str, seed: int, index: int, task: str = "od", pairs: str = "train", hardness: float | None = None
) -> tuple[np.ndarray, Record]:
    """(SIDE, SIDE, 3) uint8 RGB and its record; equal arguments give equal results on every machine.

    pairs: "train" excludes HELD_OUT_PAIRS, "all" does not. hardness: 0..1, overrides that of the domain.
    Raises InputError for an unknown domain, task or value of pairs, and for a hardness outside 0..1.
    """
    settings = domain_named(domain)
    if hardness is not None:
        if not 0 <= hardness <= 1:
            raise InputError("hardness", f"{hardness}", "expected 0..1")
        settings = replace(settings, hardness=hardness)
    scene = draw(settings, seed, index, forbidden_pairs(pairs))
    rng = np.random.default_rng([seed, index, settings.code, 1 + TASKS.index(_known(task))])
    return scene.image, _record(scene, f"{index:06d}.png", domain, task, pairs, rng)


def _known(task: str) -> Task:
    if task not in TASKS:
        raise InputError("task", f"'{task}'", expected_one_of(TASKS, task))
    return task


def _record(scene: Scene, filename: str, domain: str, task: str, pairs: str, rng: np.random.Generator) -> Record:
    height, width = scene.image.shape[:2]
    if task == "captions":
        caption, regions = _caption(scene.things, rng)
        return Record(filename, height, width, caption=caption, regions=regions)
    if task == "expressions":
        caption, regions = _expression(scene.things, rng)
        return Record(filename, height, width, caption=caption, regions=regions)
    categories = categories_of(domain, task, pairs)
    names = [thing.noun if task == "od" else pair_name(thing.colour, thing.noun) for thing in scene.things]
    return Record(
        filename,
        height,
        width,
        instances=tuple(
            Instance(thing.box, categories.index(name), name)
            for thing, name in zip(scene.things, names)
            if name in categories
        ),
    )


def article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def _caption(things: Sequence[Thing], rng: np.random.Generator) -> tuple[str, tuple[Region, ...]]:
    """A sentence about some of the objects, equal ones grouped; a noun without a colour means all of that noun."""
    groups: dict[str, list[Thing]] = {}
    plain = {thing.noun for thing in things if rng.random() < 0.15}
    for thing in things:
        name = thing.noun if thing.noun in plain else pair_name(thing.colour, thing.noun)
        groups.setdefault(name, []).append(thing)
    names = [str(name) for name in rng.permutation(sorted(groups))]
    names = [name for index, name in enumerate(names) if index == 0 or rng.random() < 0.85]
    text, regions = str(rng.choice(OPENINGS)), []
    for index, name in enumerate(names):
        members = groups[name]
        if index:
            text += " and " if index == len(names) - 1 and index > 1 else str(rng.choice(JOINTS))
        phrase = article(name) if len(members) == 1 else NUMBERS[len(members)] + plural(name)
        regions.append(region_of([thing.box for thing in members], phrase, (len(text), len(text) + len(phrase))))
        text += phrase
    if not names:
        text += "nothing"
    return text + ".", tuple(regions)


def plural(name: str) -> str:
    colour, _, noun = name.rpartition(" ")
    return f"{colour} {PLURALS[noun]}".strip()


def region_of(boxes: Sequence[tuple[float, float, float, float]], phrase: str, span: Span) -> Region:
    return Region(boxes=tuple(boxes), phrase=(phrase,), spans=(span,))


def _expression(things: Sequence[Thing], rng: np.random.Generator) -> tuple[str, tuple[Region, ...]]:
    """An expression that refers to exactly one object; for an empty scene, to an object that is absent."""
    if not things:
        words = f"the {rng.choice(NOUNS)}"
        return words, ()
    order = rng.permutation(len(things))
    for index in order:
        descriptions = _descriptions(things[index], things)
        if descriptions:
            words = str(rng.choice(descriptions))
            return words, (region_of([things[index].box], words, (0, len(words))),)
    return "nothing", ()


def _descriptions(thing: Thing, things: Sequence[Thing]) -> list[str]:
    """All supported expressions that refer to this object and to no other of the scene."""
    found = []
    kin = [other for other in things if other.noun == thing.noun]
    twins = [other for other in kin if other.colour == thing.colour]
    name = pair_name(thing.colour, thing.noun)
    if len(kin) == 1:
        found.append(f"the {thing.noun}")
    if len(twins) == 1:
        found += [f"the {name}"] * 2
    for words, others in ((thing.noun, kin), (name, twins)):
        if len(others) > 1:
            centres = sorted((other.box[0] + other.box[2]) / 2 for other in others)
            mine = (thing.box[0] + thing.box[2]) / 2
            if mine == centres[0] and centres[1] - mine > 8:
                found.append(f"the {words} on the left")
            if mine == centres[-1] and mine - centres[-2] > 8:
                found.append(f"the {words} on the right")
            sizes = sorted(_area(other) for other in others)
            if _area(thing) > 1.3 * sizes[-2]:
                found.append(f"the largest {words}")
            if 1.3 * _area(thing) < sizes[1]:
                found.append(f"the smallest {words}")
    return found


def _area(thing: Thing) -> float:
    x1, y1, x2, y2 = thing.box
    return (x2 - x1) * (y2 - y1)


def write_picture(path: Path, image: np.ndarray) -> None:
    """Writes (H, W, 3) uint8 RGB as a PNG file."""
    with write_whole(path, "wb") as file:
        Image.fromarray(image).save(file, format="PNG")


def write_scenes(
    folder: str | Path,
    domain: str,
    count: int,
    seed: int,
    task: str = "od",
    pairs: str = "train",
    name: str | None = None,
    labelled: bool = True,
    hardness: float | None = None,
) -> Path | None:
    """Writes scenes in the layout of a user's data set; returns the path of the annotation file.

    Images are FOLDER/images/*.png. If `labelled`, annotations are FOLDER/NAME_od.json with NAME_label_map.json, or
    NAME_vg.json for captions and expressions.

    The bytes of every file depend only on the arguments. name: by default that of the domain.
    """
    folder, name = Path(folder), name or domain
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    records = []
    for index in range(count):
        image, record = draw_scene(domain, seed, index, task, pairs, hardness)
        write_picture(images / record.filename, image)
        records.append(record)
    if not labelled:
        return None
    categories = categories_of(domain, task, pairs)
    annotations = annotation_path(folder, name, "od" if categories else "vg")
    write_odvg(annotations, records)
    if categories:
        write_label_map(label_map_beside(annotations), dict(enumerate(categories)))
    return annotations
