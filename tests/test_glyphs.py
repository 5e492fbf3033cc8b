"""Laws of the glyph world: what a record says of a scene is what stands in it, and the same at every time."""

from __future__ import annotations

import hashlib
import inspect
import itertools
import os
import re
import subprocess
import sys
from collections import Counter
from functools import cache

import numpy as np
import pytest
from matplotlib.ft2font import FT2Font
from PIL import Image

from formats.io.errors import InputError
from formats.label_map import read_label_map
from formats.odvg import read_odvg
from formats.record import Record
from grounding_model.glyphs import (
    COLOURS,
    DOMAINS,
    HELD_OUT_PAIRS,
    NOUNS,
    SIDE,
    categories_of,
    draw_scene,
    scenes,
    write_scenes,
)
from grounding_model.glyphs.pictograms import CHARACTERS, PLURALS, font_path, mask_of, placed_mask
from grounding_model.glyphs.records import TASKS
from grounding_model.glyphs.scenes import Scene, Thing, draw, forbidden_pairs
from grounding_model.glyphs.tokenizer import glyph_tokenizer
from grounding_model.glyphs.words import words

SEED = 7
INDICES = range(40)
EVERY_DOMAIN = pytest.mark.parametrize("domain", DOMAINS)


@cache
def scene(domain: str, index: int, pairs: str = "train") -> Scene:
    return draw(DOMAINS[domain], SEED, index, forbidden_pairs(pairs))


@cache
def record(domain: str, index: int, task: str, pairs: str = "train") -> Record:
    return draw_scene(domain, SEED, index, task, pairs)[1]


def digest(indices) -> dict[int, str]:
    """index -> hash of pixels and of all records of the domain "cats", which uses every part of the world."""
    return {
        index: hashlib.sha256(
            draw_scene("cats", SEED, index)[0].tobytes()
            + repr([draw_scene("cats", SEED, index, task)[1] for task in TASKS]).encode()
        ).hexdigest()
        for index in indices
    }


# Determinism


def test_a_scene_does_not_depend_on_what_was_drawn_before():
    assert digest([3, 1, 2]) == digest([1, 2, 3])


def test_a_scene_does_not_depend_on_the_process():
    code = "import hashlib; from grounding_model.glyphs import draw_scene\n"
    code += "from grounding_model.glyphs.records import TASKS\n"
    code += f"SEED = {SEED}\n{inspect.getsource(digest)}\nprint(digest([0, 5]))"  # without the imports of this file
    environment = os.environ | {"PYTHONHASHSEED": "12345"}
    other = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert other.stdout.strip() == str(digest([0, 5]))


def test_domain_seed_and_index_part_scenes_and_the_task_does_not():
    images = [draw_scene(domain, seed, index)[0] for domain in DOMAINS for seed in (0, 1) for index in (0, 1)]
    assert len({image.tobytes() for image in images}) == len(images)
    assert len({draw_scene("source", SEED, 0, task)[0].tobytes() for task in TASKS}) == 1


def test_hardness_is_that_of_the_domain_by_default():
    default = draw_scene("cats", SEED, 0)[0]
    assert np.array_equal(default, draw_scene("cats", SEED, 0, hardness=DOMAINS["cats"].hardness)[0])
    assert not np.array_equal(default, draw_scene("cats", SEED, 0, hardness=0.0)[0])


# Pictograms


def test_the_font_has_every_character():
    known = FT2Font(str(font_path())).get_charmap()
    assert not [
        (noun, char) for noun, characters in CHARACTERS.items() for char in characters if ord(char) not in known
    ]


def test_no_two_nouns_share_a_picture():
    pictures = [mask_of(character) for characters in CHARACTERS.values() for character in characters]
    assert len({(picture.shape, picture.tobytes()) for picture in pictures}) == len(pictures)


@pytest.mark.parametrize("noun", NOUNS)
def test_masks_are_cut_to_their_ink(noun):
    for character, size, degrees in itertools.product(CHARACTERS[noun], (22, 60), (-20, 0, 13)):
        mask = placed_mask(character, size, degrees)
        assert 0 <= mask.min() <= mask.max() <= 1
        for border in (mask[0], mask[-1], mask[:, 0], mask[:, -1]):
            assert border.max() > 0.3, (hex(ord(character)), size, degrees)


@EVERY_DOMAIN
def test_a_box_holds_exactly_what_drawing_its_thing_changed(domain, monkeypatch):
    """The oracle: the picture before the thing was drawn and after."""
    place, placed = scenes._place, []

    def watched(canvas, *rest):
        before = canvas.copy()
        thing = place(canvas, *rest)
        rows, columns = np.nonzero((canvas != before).any(-1))
        placed.append(thing)
        if thing is None:
            assert not len(rows)
        else:
            assert thing.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        return thing

    monkeypatch.setattr(scenes, "_place", watched)
    for index in range(30):
        draw(DOMAINS[domain], SEED, index)
    assert len(placed) > 60


def test_a_thing_has_the_colour_of_its_name(monkeypatch):
    """The oracle: the nearest of all colours to the paint where the ink is full."""
    place, cut = scenes._place, scenes.placed_mask
    masks, checked = [], []

    def watched(canvas, *rest):
        thing = place(canvas, *rest)
        full = masks.pop() > 0.99
        if thing is not None and full.any():
            x1, y1, x2, y2 = map(int, thing.box)
            paint = canvas[y1:y2, x1:x2][full].mean(0)
            assert thing.colour == min(COLOURS, key=lambda name: np.abs(np.array(COLOURS[name]) - paint).sum())
            checked.append(thing)
        return thing

    monkeypatch.setattr(scenes, "placed_mask", lambda *rest: masks.append(cut(*rest)) or masks[-1])
    monkeypatch.setattr(scenes, "_place", watched)
    for index in range(40):
        draw(DOMAINS["dense"], SEED, index)
    assert len(checked) > 100


# Scenes


@EVERY_DOMAIN
def test_scenes_have_one_size_and_hold_their_things(domain):
    for index in INDICES:
        image, things = scene(domain, index)
        assert image.shape == (SIDE, SIDE, 3)
        assert image.dtype == np.uint8
        for x1, y1, x2, y2 in (thing.box for thing in things):
            assert 0 <= x1 < x2 <= SIDE
            assert 0 <= y1 < y2 <= SIDE


@EVERY_DOMAIN
def test_things_hardly_hide_one_another(domain):
    for index in INDICES:
        for first, second in itertools.combinations(scene(domain, index).things, 2):
            width = min(first.box[2], second.box[2]) - max(first.box[0], second.box[0])
            height = min(first.box[3], second.box[3]) - max(first.box[1], second.box[1])
            assert max(width, 0) * max(height, 0) <= 0.05 * min(area(first), area(second)) + 1e-9


def test_domains_keep_their_counts():
    for index in INDICES:
        assert len(scene("source", index).things) <= 5
        assert len(scene("dense", index).things) <= 9
        cats = [thing for thing in scene("cats", index).things if thing.noun == "cat"]
        assert len(cats) <= 3
        assert len(scene("cats", index).things) - len(cats) <= 4
    assert sum(len(scene("dense", index).things) for index in INDICES) > 3 * len(INDICES)


def test_scenes_of_cats_hold_as_many_as_the_domain_says():
    counts = Counter(len(record("cats", index, "od").instances) for index in range(150))
    for cats, share in enumerate(DOMAINS["cats"].cats):
        assert counts[cats] / 150 == pytest.approx(share, abs=0.1)


def test_every_noun_and_every_colour_can_be_trained():
    allowed = {(colour, noun) for colour in COLOURS for noun in NOUNS} - HELD_OUT_PAIRS
    assert {colour for colour, _ in allowed} == set(COLOURS)
    assert {noun for _, noun in allowed} == set(NOUNS)
    assert {colour for colour, _ in HELD_OUT_PAIRS} == set(COLOURS)
    assert {noun for _, noun in HELD_OUT_PAIRS} == set(NOUNS)
    assert len(allowed) > 0.8 * len(COLOURS) * len(NOUNS)


@EVERY_DOMAIN
def test_held_out_pairs_are_never_seen_in_training(domain):
    held_out_names = {f"{colour} {noun}" for colour, noun in HELD_OUT_PAIRS}
    held_out_names |= {f"{colour} {PLURALS[noun]}" for colour, noun in HELD_OUT_PAIRS}
    assert not held_out_names & set(categories_of(domain, "colours"))
    for index in INDICES:
        assert not HELD_OUT_PAIRS & {(thing.colour, thing.noun) for thing in scene(domain, index).things}
        assert not held_out_names & {each.category for each in record(domain, index, "colours").instances}
        for task in ("captions", "expressions"):
            text = record(domain, index, task).caption
            assert not [name for name in held_out_names if re.search(rf"\b{name}\b", text)]


def test_held_out_pairs_occur_if_requested():
    seen = {(thing.colour, thing.noun) for index in INDICES for thing in scene("dense", index, "all").things}
    assert seen & HELD_OUT_PAIRS
    assert len(categories_of("source", "colours", "all")) == len(COLOURS) * len(NOUNS)


# Records


@EVERY_DOMAIN
def test_instances_are_the_things(domain):
    asked = {"cat"} if domain == "cats" else set(NOUNS)
    for index in INDICES:
        things = scene(domain, index).things
        for task in ("od", "colours"):
            instances = record(domain, index, task).instances
            categories = categories_of(domain, task)
            assert all(categories[each.label] == each.category for each in instances)
            named = [(each.category, each.box) for each in instances]
            if task == "od":
                assert named == [(thing.noun, thing.box) for thing in things if thing.noun in asked]
            else:
                assert named == [(f"{thing.colour} {thing.noun}", thing.box) for thing in things]


NUMBER_WORDS = {"a": 1, "an": 1} | {
    word: count for count, word in enumerate("two three four five six seven eight nine".split(), start=2)
}
SINGULARS = {plural: noun for noun, plural in PLURALS.items()} | {noun: noun for noun in NOUNS}


def read_phrase(phrase: str) -> tuple[int, str | None, str]:
    """("two red mice") -> 2, "red", "mouse"."""
    number, *colour, noun = phrase.split()
    return NUMBER_WORDS[number], colour[0] if colour else None, SINGULARS[noun]


@EVERY_DOMAIN
@pytest.mark.parametrize("task", ["captions", "expressions"])
def test_spans_spell_their_phrase(domain, task):
    for index in INDICES:
        one = record(domain, index, task)
        for region in one.regions:
            assert [one.caption[start:end] for start, end in region.spans] == list(region.phrase)


@EVERY_DOMAIN
def test_phrases_hold_every_thing_that_they_name_and_no_other(domain):
    for index in INDICES:
        things = scene(domain, index).things
        phrases = [region.phrase[0] for region in record(domain, index, "captions").regions]
        assert len(set(phrases)) == len(phrases)
        for region in record(domain, index, "captions").regions:
            number, colour, noun = read_phrase(region.phrase[0])
            meant = [thing.box for thing in things if thing.noun == noun and colour in (None, thing.colour)]
            assert sorted(region.boxes) == sorted(meant)
            assert number == len(meant)
            article, following = region.phrase[0].split()[:2]
            assert number > 1 or (article == "an") == (following[0] in "aeiou")


def test_captions_name_most_of_a_scene():
    named = sum(len(region.boxes) for index in INDICES for region in record("dense", index, "captions").regions)
    assert named > 0.8 * sum(len(scene("dense", index).things) for index in INDICES)


def read_expression(text: str, things: tuple[Thing, ...]) -> list[Thing]:
    """Every thing that a careful reader could take the words to mean."""
    kind, colour, noun, side = re.fullmatch(
        rf"the (largest |smallest )?({'|'.join(COLOURS)})? ?({'|'.join(NOUNS)})( on the left| on the right)?", text
    ).groups()
    fitting = [thing for thing in things if thing.noun == noun and colour in (None, thing.colour)]
    if kind:
        best = {"largest ": max, "smallest ": min}[kind](map(area, fitting))
        return [thing for thing in fitting if 1 / 1.25 < area(thing) / best < 1.25]
    if side:
        best = {" on the left": min, " on the right": max}[side](map(centre, fitting))
        return [thing for thing in fitting if abs(centre(thing) - best) <= 8]
    return fitting


def area(thing: Thing) -> float:
    return (thing.box[2] - thing.box[0]) * (thing.box[3] - thing.box[1])


def centre(thing: Thing) -> float:
    return (thing.box[0] + thing.box[2]) / 2


@EVERY_DOMAIN
def test_expressions_mean_exactly_one_thing(domain):
    forms = set()
    for index in range(150):
        one = record(domain, index, "expressions")
        things = scene(domain, index).things
        if one.caption == "nothing":
            assert one.regions == ()
            continue
        meant = read_expression(one.caption, things)
        assert [thing.box for thing in meant] == [box for region in one.regions for box in region.boxes]
        assert len(meant) == (1 if things else 0)
        forms |= set(re.findall("largest|smallest|left|right", one.caption))
    if domain != "source":  # whose scenes seldom hold two of a kind
        assert forms == {"largest", "smallest", "left", "right"}


# Words


def test_every_word_of_the_world_is_one_token():
    vocabulary, tokenizer = words(), glyph_tokenizer()
    said = {*NOUNS, *COLOURS, *PLURALS.values(), "nothing"}  # "nothing": the caption of an empty scene
    for domain, index, task in itertools.product(DOMAINS, INDICES, ("captions", "expressions")):
        said |= set(re.findall(r"\w+|[^\w\s]", record(domain, index, task).caption))
    for word in sorted(said):
        assert tokenizer.backend_tokenizer.encode(word, add_special_tokens=False).tokens == [word]
    assert len(set(vocabulary)) == len(vocabulary)
    assert [vocabulary[tokenizer.id_of(word)] for word in sorted(said)] == sorted(said)


def test_no_word_is_unknown():
    tokenizer = glyph_tokenizer().backend_tokenizer
    assert tokenizer.encode("Zxq-4", add_special_tokens=False).tokens == ["z", "##x", "##q", "-", "4"]
    for text in ("Zyzzyva", "kästchen", "don't", "a red cat.", "c++ (2nd) #3", "Raccoon; fox?"):
        assert "[UNK]" not in tokenizer.encode(text).tokens


# Files


@EVERY_DOMAIN
@pytest.mark.parametrize("task", TASKS)
def test_what_is_written_is_what_is_drawn(tmp_path, domain, task):
    annotations = write_scenes(tmp_path, domain, 4, SEED, task)
    read = list(read_odvg(annotations))
    assert read == [record(domain, index, task) for index in range(4)]
    for index, one in enumerate(read):
        assert np.array_equal(np.asarray(Image.open(tmp_path / "images" / one.filename)), scene(domain, index).image)
    categories = categories_of(domain, task)
    kind = "od" if categories else "vg"
    assert annotations.name == f"{domain}_{kind}.json"
    label_map = tmp_path / f"{domain}_label_map.json"
    assert label_map.exists() == bool(categories)
    assert not categories or tuple(read_label_map(label_map).values()) == categories


def test_bytes_of_files_depend_on_the_arguments_only(tmp_path):
    for folder in ("a", "b"):
        write_scenes(tmp_path / folder, "cats", 3, SEED, "captions")
    files = [sorted((tmp_path / folder).rglob("*.*")) for folder in ("a", "b")]
    assert [path.relative_to(tmp_path / "a") for path in files[0]] == [
        path.relative_to(tmp_path / "b") for path in files[1]
    ]
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]


def test_more_scenes_leave_the_first_as_they_were(tmp_path):
    for count in (2, 3):
        write_scenes(tmp_path / str(count), "source", count, SEED)
    for path in (tmp_path / "2" / "images").iterdir():
        assert path.read_bytes() == (tmp_path / "3" / "images" / path.name).read_bytes()


def test_unlabelled_scenes_are_pictures_alone(tmp_path):
    assert write_scenes(tmp_path, "cats", 2, SEED, labelled=False) is None
    names = [path.name for path in sorted(tmp_path.rglob("*")) if path.is_file()]
    assert names == ["000000.png", "000001.png"]


@pytest.mark.parametrize(
    "wrong",
    [{"domain": "dogs"}, {"task": "segmentation"}, {"pairs": "some"}, {"hardness": 1.5}, {"hardness": -0.1}],
    ids=lambda wrong: "-".join(wrong),
)
def test_what_is_not_known_is_named(wrong):
    (place,) = wrong
    with pytest.raises(InputError, match=f"^{place}: "):
        draw_scene(**{"domain": "source", "seed": 0, "index": 0} | wrong)


def test_drawing_needs_no_torch():
    code = "import sys; from grounding_model.glyphs import draw_scene; draw_scene('source', 0, 0); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "grounding_model.glyphs" in loaded
    assert not {"torch", "transformers"} & set(loaded)
