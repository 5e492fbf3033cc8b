"""Benchmarks on glyph scenes for the metrics of gRefCOCO, D3 and LVIS, with queries that do not occur in training:
expressions with no or several targets, descriptions by negation, and categories that are only partly labelled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple

import numpy as np

from formats.record import Instance, Record
from grounding_model.glyphs.pictograms import COLOURS, HELD_OUT_PAIRS, NOUNS, pair_name
from grounding_model.glyphs.records import article, plural, region_of, write_picture
from grounding_model.glyphs.scenes import Scene, Thing, domain_named, draw

Family = Literal["generalized_expressions", "described_objects", "lvis"]
ABSENT_NAMES = 4  # absent categories that are verified, per scene


class Questions(NamedTuple):
    """records: the ground truth. names: categories or descriptions, () for expressions. queried: names, per record.

    absence: descriptions by negation. absent, partly: filename -> names that are absent, and names of which only some
    objects are labelled. frequency: name -> "f" (a noun), "c" (a colour and a noun) or "r" (a pair held out of
    training).
    """

    records: list[Record]
    names: tuple[str, ...] = ()
    queried: tuple[tuple[str, ...], ...] = ()
    absence: tuple[str, ...] = ()
    absent: Mapping[str, frozenset[str]] = MappingProxyType({})
    partly: Mapping[str, frozenset[str]] = MappingProxyType({})
    frequency: Mapping[str, str] = MappingProxyType({})


def write_questions(folder: Path, family: Family, domain: str, count: int, seed: int) -> Questions:
    """Writes scenes, including held-out pairs, as FOLDER/*.png, and returns their queries; deterministic."""
    folder.mkdir(parents=True, exist_ok=True)
    scenes = []
    for index in range(count):
        scene = draw(domain_named(domain), seed, index)
        write_picture(folder / f"{index:06d}.png", scene.image)
        height, width = scene.image.shape[:2]
        scenes.append((Record(f"{index:06d}.png", height, width), scene))
    rng = np.random.default_rng([seed, domain_named(domain).code])
    if family == "generalized_expressions":
        return Questions([_expression(record, scene, rng) for record, scene in scenes])
    return _described(scenes, rng) if family == "described_objects" else _federated(scenes, rng)


def _names_of(thing: Thing) -> tuple[str, str]:
    return thing.noun, pair_name(thing.colour, thing.noun)


def _expression(record: Record, scene: Scene, rng: np.random.Generator) -> Record:
    """An expression with no target, one target or several, a third each if the scene allows it."""
    things: dict[str, list[Thing]] = {}
    for thing in scene.things:
        for name in _names_of(thing):
            things.setdefault(name, []).append(thing)
    wanted = int(rng.integers(3))
    fitting = [name for name, of_name in things.items() if min(len(of_name), 2) == wanted]
    choices = fitting or sorted({*NOUNS, *(pair_name(c, n) for n in NOUNS for c in COLOURS)} - things.keys())
    name = str(rng.choice(choices))
    boxes = [thing.box for thing in things.get(name, [])]
    caption = plural(name) if len(boxes) > 1 else article(name)
    return replace(record, caption=caption, regions=(region_of(boxes, caption, (0, len(caption))),) if boxes else ())


def _described(scenes: Sequence[tuple[Record, Scene]], rng: np.random.Generator) -> Questions:
    """Three descriptions per noun; a scene is queried with those of its nouns and of one noun that it lacks."""
    colours = {noun: str(rng.choice(list(COLOURS))) for noun in NOUNS}
    of_noun = {
        noun: (article(noun), article(pair_name(colour, noun)), f"{article(noun)} that is not {colour}")
        for noun, colour in colours.items()
    }
    names = tuple(name for descriptions in of_noun.values() for name in descriptions)
    indices = {name: index for index, name in enumerate(names)}
    records, queries = [], []
    for record, scene in scenes:
        here = {thing.noun for thing in scene.things}
        nouns = [*sorted(here), str(rng.choice([noun for noun in NOUNS if noun not in here]))]
        queries.append(tuple(name for noun in nouns for name in of_noun[noun]))
        found = []
        for thing in scene.things:
            plain, coloured, otherwise = of_noun[thing.noun]
            for name in (plain, coloured if thing.colour == colours[thing.noun] else otherwise):
                found.append(Instance(thing.box, indices[name], name))
        records.append(replace(record, instances=tuple(found)))
    return Questions(
        records, names, tuple(queries), absence=tuple(descriptions[2] for descriptions in of_noun.values())
    )


def _federated(scenes: Sequence[tuple[Record, Scene]], rng: np.random.Generator) -> Questions:
    """Nouns and pairs that occur. If several objects of a scene have the same name, sometimes only one is labelled."""
    seen = sorted({name for _, scene in scenes for thing in scene.things for name in _names_of(thing)})
    indices = {name: index for index, name in enumerate(seen)}
    rare = {pair_name(colour, noun) for colour, noun in HELD_OUT_PAIRS}
    records: list[Record] = []
    absent: dict[str, frozenset[str]] = {}
    partly: dict[str, frozenset[str]] = {}
    for record, scene in scenes:
        named = [(thing, name) for thing in scene.things for name in _names_of(thing)]
        here = [name for _, name in named]
        some = frozenset(name for name in dict.fromkeys(here) if here.count(name) > 1 and rng.random() < 0.5)
        kept = [pair for index, pair in enumerate(named) if pair[1] not in some or here.index(pair[1]) == index]
        instances = tuple(Instance(thing.box, indices[name], name) for thing, name in kept)
        records.append(replace(record, instances=instances))
        others = [name for name in seen if name not in here]
        drawn = rng.permutation(len(others))[:ABSENT_NAMES]
        absent[record.filename] = frozenset(others[index] for index in drawn)
        partly[record.filename] = some
    frequency = {name: "f" if name in NOUNS else "r" if name in rare else "c" for name in seen}
    return Questions(records, tuple(seen), absent=absent, partly=partly, frequency=frequency)
