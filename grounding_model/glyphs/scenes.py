"""Draws glyph scenes, as a pure function of domain, seed and index.

Images are (SIDE, SIDE, 3) uint8 RGB; boxes are x1, y1, x2, y2 in pixels, x2 and y2 exclusive.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from formats.io.errors import InputError, expected_one_of
from formats.record import Box
from grounding_model.glyphs.pictograms import CHARACTERS, COLOURS, HELD_OUT_PAIRS, NOUNS, placed_mask

SIDE = 160


@dataclass(frozen=True)
class Domain:
    """The distribution of scenes. hardness: 0..1, strength of the disturbances that the source domain lacks.

    objects: minimum and maximum number per scene. size: minimum and maximum, as a share of the image's side.
    cats: probabilities of 0, 1, 2, 3 cats; None for all nouns with equal probability.
    """

    objects: tuple[int, int] = (1, 5)
    size: tuple[float, float] = (0.18, 0.45)
    hardness: float = 0.0
    cats: tuple[float, ...] | None = None
    code: int = 0  # part of the random seed, different for each domain


DOMAINS = {
    "source": Domain(),
    "dense": Domain(objects=(3, 9), size=(0.16, 0.4), code=1),
    # Stands for a new user's photos: cats in surroundings that the model does not know. docs/glyphs.md explains it.
    "cats": Domain(objects=(1, 4), size=(0.14, 0.36), hardness=0.6, cats=(0.15, 0.45, 0.25, 0.15), code=2),
}


class Thing(NamedTuple):
    """One pictogram of a scene."""

    noun: str
    colour: str
    box: Box


class Scene(NamedTuple):
    image: np.ndarray  # (SIDE, SIDE, 3) uint8 RGB
    things: tuple[Thing, ...]


def domain_named(name: str) -> Domain:
    if name not in DOMAINS:
        raise InputError("domain", f"'{name}'", expected_one_of(DOMAINS, name))
    return DOMAINS[name]


def draw(domain: Domain, seed: int, index: int, forbidden: Collection[tuple[str, str]] = ()) -> Scene:
    """One scene. forbidden: (colour, noun) pairs that must not occur in it."""
    rng = np.random.default_rng([seed, index, domain.code])
    canvas = _background(rng, domain.hardness)
    things: list[Thing] = []
    for noun in _nouns(rng, domain):
        thing = _place(canvas, things, noun, rng, domain, forbidden)
        if thing is not None:
            things.append(thing)
    if domain.hardness:
        canvas = _spoil(canvas, rng, domain.hardness)
    return Scene(np.clip(canvas, 0, 255).astype(np.uint8), tuple(things))


def _nouns(rng: np.random.Generator, domain: Domain) -> list[str]:
    count = int(rng.integers(domain.objects[0], domain.objects[1] + 1))
    if domain.cats is not None:
        cats = int(rng.choice(len(domain.cats), p=domain.cats))
        return ["cat"] * cats + [str(noun) for noun in rng.choice(NOUNS[1:], count)]
    nouns: list[str] = []
    for _ in range(count):
        # Sometimes repeats a noun, so that only the colour distinguishes two objects.
        again = nouns and rng.random() < 0.3
        nouns.append(str(rng.choice(nouns if again else NOUNS)))
    return nouns


def _place(
    canvas: np.ndarray,
    things: list[Thing],
    noun: str,
    rng: np.random.Generator,
    domain: Domain,
    forbidden: Collection[tuple[str, str]],
) -> Thing | None:
    """Draws the noun where it covers nothing and has enough contrast; None if no such position was found."""
    character = str(rng.choice(list(CHARACTERS[noun])))
    size = rng.uniform(*domain.size) * SIDE
    mask = placed_mask(character, size, rng.uniform(-20, 20))
    height, width = mask.shape
    if height >= SIDE or width >= SIDE:
        return None
    for _ in range(20):
        x, y = int(rng.integers(0, SIDE - width + 1)), int(rng.integers(0, SIDE - height + 1))
        box = (float(x), float(y), float(x + width), float(y + height))
        if any(_overlap(box, other.box) > 0.05 for other in things):
            continue
        ground = canvas[y : y + height, x : x + width]
        colour = _colour(ground, noun, things, rng, domain, forbidden)
        if colour is None:
            continue
        paint = np.clip(np.array(COLOURS[colour]) + rng.normal(0, 8, 3), 0, 255)
        opacity = 1 - domain.hardness * rng.uniform(0, 0.45)
        alpha = mask[..., None] * opacity
        ground[:] = ground * (1 - alpha) + paint * alpha
        return Thing(noun, colour, box)
    return None


def _overlap(first: Box, second: Box) -> float:
    """The intersection divided by the smaller area."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return width * height / min(areas)


def _colour(
    ground: np.ndarray,
    noun: str,
    things: list[Thing],
    rng: np.random.Generator,
    domain: Domain,
    forbidden: Collection[tuple[str, str]],
) -> str | None:
    """A colour with enough contrast to the background; hard domains allow less contrast. None if there is none."""
    ground_colour = ground.reshape(-1, 3).mean(0)
    min_distance = 110 - 40 * domain.hardness
    names = [str(name) for name in rng.permutation(list(COLOURS))]
    used = {thing.colour for thing in things if thing.noun == noun}
    names.sort(key=lambda name: name in used)  # prefer a new colour for a second object of the same noun
    if things and rng.random() < 0.3:  # sometimes prefer the colour of the last object
        names.sort(key=lambda name: name != things[-1].colour)
    for name in names:
        apart = np.abs(np.array(COLOURS[name]) - ground_colour).max()
        if apart >= min_distance and (name, noun) not in forbidden:
            return name
    return None


def _background(rng: np.random.Generator, hardness: float) -> np.ndarray:
    """(SIDE, SIDE, 3) float32."""
    first, second = rng.uniform(30, 235, 3), rng.uniform(30, 235, 3)
    kind = rng.random()
    if hardness and kind < 0.85:
        canvas = _hard_background(rng, first, second, hardness)
    elif kind < 0.35:
        canvas = np.broadcast_to(first, (SIDE, SIDE, 3)).astype(np.float32)
    elif kind < 0.7:
        canvas = _mix(first, second, _ramp(rng))
    else:
        canvas = _mix(first, first + (second - first) * 0.35, _noise(rng, int(rng.integers(3, 9))))
    return np.array(canvas + rng.normal(0, 3, canvas.shape), dtype=np.float32)


def _hard_background(rng: np.random.Generator, first: np.ndarray, second: np.ndarray, hardness: float) -> np.ndarray:
    second = first + (second - first) * (0.3 + 0.5 * hardness)
    kind = rng.integers(4)
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    if kind == 0:  # stripes
        angle, period = rng.uniform(0, np.pi), rng.uniform(8, 30)
        share = (np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / period) > 0).astype(np.float32)
        return _mix(first, second, share)
    if kind == 1:  # checks
        period = rng.uniform(10, 30)
        return _mix(first, second, ((x // period + y // period) % 2).astype(np.float32))
    if kind == 2:  # coarse noise
        return _mix(first, second, _noise(rng, int(rng.integers(10, 26))))
    canvas = np.ascontiguousarray(_mix(first, second, _ramp(rng)), dtype=np.float32)  # clutter
    for _ in range(int(4 + 14 * hardness)):
        paint = tuple(float(value) for value in first + (rng.uniform(0, 255, 3) - first) * 0.6)
        start, end = (tuple(int(value) for value in rng.integers(0, SIDE, 2)) for _ in range(2))
        if rng.random() < 0.5:
            cv2.line(canvas, start, end, paint, int(rng.integers(1, 4)), cv2.LINE_AA)
        else:
            axes = (int(rng.integers(4, 24)), int(rng.integers(4, 24)))
            thickness = int(rng.choice([-1, 1, 2]))
            cv2.ellipse(canvas, start, axes, float(rng.uniform(0, 180)), 0, 360, paint, thickness, cv2.LINE_AA)
    return canvas


def _ramp(rng: np.random.Generator) -> np.ndarray:
    """(SIDE, SIDE) in 0..1, rising in a random direction."""
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32) / SIDE - 0.5
    return np.clip(x * np.cos(angle) + y * np.sin(angle) + 0.5, 0, 1)


def _noise(rng: np.random.Generator, cells: int) -> np.ndarray:
    """(SIDE, SIDE) in 0..1: smooth noise, interpolated from cells x cells random values."""
    grid = rng.uniform(0, 1, (cells, cells)).astype(np.float32)
    return cv2.resize(grid, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)


def _mix(first: np.ndarray, second: np.ndarray, share: np.ndarray) -> np.ndarray:
    return first + (second - first) * share[..., None]


def _spoil(canvas: np.ndarray, rng: np.random.Generator, hardness: float) -> np.ndarray:
    """Adds camera effects: blur, contrast, brightness, sensor noise."""
    canvas = cv2.GaussianBlur(canvas, (0, 0), 0.05 + hardness * rng.uniform(0, 1.3))
    contrast = 1 - hardness * rng.uniform(0, 0.6)
    canvas = (canvas - 128) * contrast + 128 + hardness * rng.uniform(-50, 50)
    return canvas + rng.normal(0, 1 + hardness * rng.uniform(0, 18), canvas.shape)


def forbidden_pairs(pairs: str) -> Collection[tuple[str, str]]:
    """The pairs to exclude from a scene: HELD_OUT_PAIRS for 'train', none for 'all'."""
    if pairs not in ("train", "all"):
        raise InputError("pairs", f"'{pairs}'", "expected train or all")
    return HELD_OUT_PAIRS if pairs == "train" else frozenset()
