"""Duplicates, leaks, odd pictures, selection, and a published folder that the programs of others read."""

from __future__ import annotations

import io
import itertools
import json
import os
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from PIL import Image, ImageOps

from flows import bootstrap_od
from flows.cli.command import main
from flows.curation.check import check_images, describe_report
from flows.curation.data_card import DataCard, SplitCounts, write_data_card
from flows.curation.duplicates import MIN_DOUBTFUL, MIN_INLIERS, agreeing_points, find_duplicates
from flows.curation.fingerprints import HASH_BITS, fingerprint
from flows.curation.publish import publish
from flows.curation.similarity import most_similar, select_diverse
from formats import (
    InputError,
    Instance,
    Record,
    read_coco,
    read_huggingface,
    read_odvg,
    read_yolo,
    write_label_map,
    write_odvg,
)
from formats.candidates import (
    Candidates,
    ImageCandidates,
    ImageFeature,
    ImageProblem,
    candidates_key,
    read_candidates,
    read_image_features,
    write_candidates,
)
from formats.dataset_names import label_map_beside
from formats.images import image_size, list_images
from formats.io.markdown import markdown_text
from grounding_model.glyphs import write_scenes

SIDES = 400


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    return [textured(seed) for seed in range(6)]


def textured(seed: int) -> Image.Image:
    """A picture with structure at every scale, as photos have and flat drawings have not."""
    random = np.random.default_rng(seed)
    picture = np.zeros((SIDES, SIDES, 3))
    for cells in (4, 10, 25, 200):
        noise = Image.fromarray(random.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        picture += np.asarray(noise.resize((SIDES, SIDES), Image.Resampling.BICUBIC), float) / 4
    return Image.fromarray(picture.astype(np.uint8))


def seen(tmp_path, *images: Image.Image):
    found = []
    for index, image in enumerate(images):
        image.save(tmp_path / f"{index}.png")
        found.append(fingerprint(tmp_path / f"{index}.png"))
    return found


def encoded(image: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream).convert("RGB")


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        (lambda image: image, "equal files"),
        (lambda image: encoded(image, 20), "near duplicate"),
        (lambda image: image.resize((150, 150)), "near duplicate"),
        (ImageOps.mirror, "mirrored"),
        (lambda image: image.crop((40, 60, 380, 370)), "cropped"),
        (lambda image: encoded(image.crop((40, 40, 360, 360)).resize((200, 200)), 40), "cropped"),  # few key points
    ],
)
def test_a_copy_is_found_among_others_and_nothing_else(tmp_path, pictures, spoil, kind):
    pairs = find_duplicates(seen(tmp_path, *pictures, spoil(pictures[2])))
    assert [(pair.first, pair.second, pair.kind) for pair in pairs] == [(2, 6, kind)]


def test_few_agreeing_key_points_count_only_if_the_pictures_are_similar(tmp_path, pictures):
    spoiled = encoded(pictures[2].crop((40, 40, 360, 360)).resize((200, 200)), 40)
    whole, part, other = seen(tmp_path, pictures[2], spoiled, pictures[3])
    assert MIN_DOUBTFUL <= agreeing_points(whole, part) < MIN_INLIERS
    assert agreeing_points(whole, replace(part, thumbnail=other.thumbnail[:80, :80])) == 0


def test_duplicates_do_not_depend_on_the_order(tmp_path, pictures):
    images = seen(tmp_path, *pictures, encoded(pictures[1], 30), pictures[4].crop((0, 0, 330, 330)))
    for order in (images, images[::-1]):
        pairs = [sorted((order[pair.first].filename, order[pair.second].filename)) for pair in find_duplicates(order)]
        assert sorted(pairs) == [["1.png", "6.png"], ["4.png", "7.png"]]


def test_even_pictures_are_no_copies_of_one_another(tmp_path):
    grey, white = (Image.new("RGB", (64, 64), (value,) * 3) for value in (90, 250))
    assert find_duplicates(seen(tmp_path, grey, white)) == []


@pytest.mark.parametrize("size", [(1, 1), (3000, 3), (1, 700), (63, 62)])
def test_strips_and_single_pixels_have_fingerprints(tmp_path, pictures, size):
    strip, same, other = seen(tmp_path, *(picture.resize(size) for picture in (*pictures[:1] * 2, pictures[1])))
    assert [(pair.first, pair.second) for pair in find_duplicates([strip, same, other])][:1] == [(0, 1)]
    assert (strip.width, strip.height) == size


def test_a_fingerprint_has_the_size_after_rotation(tmp_path, pictures):
    exif = Image.Exif()
    exif[0x0112] = 6
    pictures[0].crop((0, 0, 300, 200)).save(tmp_path / "a.jpg", exif=exif)
    found = fingerprint(tmp_path / "a.jpg")
    assert (found.height, found.width) == image_size(tmp_path / "a.jpg") == (300, 200)
    assert found.bits.shape == (HASH_BITS,)


def test_leaks_and_odd_pictures_are_named(tmp_path, pictures):
    for name in ("train", "test"):
        (tmp_path / name).mkdir()
    for index, picture in enumerate(pictures):
        picture.save(tmp_path / "train" / f"{index}.png")
    encoded(pictures[3], 40).save(tmp_path / "test" / "x.jpg", quality=60)
    Image.new("RGB", (80, 80), (128,) * 3).save(tmp_path / "train/even.png")
    pictures[0].point(lambda value: value // 12).save(tmp_path / "train/night.png")
    pictures[0].resize((4, 4)).resize((400, 400), Image.Resampling.BICUBIC).save(tmp_path / "train/soft.png")
    pictures[0].crop((0, 0, 300, 20)).save(tmp_path / "train/strip.png")
    (tmp_path / "train/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    report = check_images({name: (tmp_path / name, None) for name in ("train", "test")}, progress=False)
    leaks = [{report.images[pair.first].filename, report.images[pair.second].filename} for pair in report.leaks]
    assert leaks == [{"3.png", "x.jpg"}]
    kinds = {(finding.filename, finding.kind) for finding in report.findings}
    odd = {("even.png", "empty"), ("night.png", "dark"), ("soft.png", "blurred"), ("broken.png", "unreadable")}
    assert kinds == odd | {("strip.png", "tiny"), ("strip.png", "elongated")}
    assert "1 leak" in describe_report(report)


def test_check_ends_with_1_for_a_leak_and_0_for_a_blurred_picture(tmp_path, pictures, capsys):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    pictures[0].save(tmp_path / "a/0.png")
    pictures[1].resize((4, 4)).resize((400, 400)).save(tmp_path / "a/soft.png")
    assert main(["check", "--images", str(tmp_path / "a")]) == 0
    encoded(pictures[0], 50).save(tmp_path / "b/1.jpg")
    assert main(["check", "--images", str(tmp_path / "a"), "--against", str(tmp_path / "b")]) == 1
    assert "leak" in capsys.readouterr().out
    assert main(["check"]) == 2


def test_a_folder_without_images_is_no_clean_set(tmp_path, pictures, capsys):
    (tmp_path / "none").mkdir()
    (tmp_path / "some").mkdir()
    pictures[0].save(tmp_path / "some" / "a.png")
    for order in (["none"], ["some", "--against", str(tmp_path / "none")]):
        assert main(["check", "--images", str(tmp_path / order[0]), *order[1:]]) == 2
        assert "none: has no images; expected a folder of images" in capsys.readouterr().err


def test_sets_of_one_folder_are_compared_by_their_annotation_files(tmp_path, pictures, capsys):
    (tmp_path / "images").mkdir()
    for index, picture in enumerate(pictures[:4]):
        picture.save(tmp_path / f"images/{index}.png")
    encoded(pictures[0], 50).save(tmp_path / "images/copy.jpg")
    box = (Instance((1.0, 1.0, 9.0, 9.0), 0, "cat"),)
    for name, images in {"train": ["0.png", "1.png"], "held": ["2.png"], "test": ["copy.jpg", "2.png"]}.items():
        write_odvg(tmp_path / f"{name}_od.json", [Record(each, SIDES, SIDES, box) for each in images])
    train, held, test = (str(tmp_path / f"{name}_od.json") for name in ("train", "held", "test"))
    command = ["check", train, "--images", str(tmp_path / "images"), "--against"]
    assert main([*command, held]) == 0
    assert main([*command, held, "--against", test]) == 1
    printed = capsys.readouterr().out
    assert "2 leaks" in printed
    assert f"{held}: 2.png = {test}: 2.png (equal files" in printed
    for wrong, message in (
        (train, "is given twice"),
        ("nowhere", "does not exist"),
        (str(tmp_path), "is inside the other"),
    ):
        assert main([*command, held, "--against", wrong]) == 2
        assert message in capsys.readouterr().err


def test_a_folder_is_not_compared_with_itself(tmp_path, pictures, capsys):
    (tmp_path / "a/b").mkdir(parents=True)
    pictures[0].save(tmp_path / "a/0.png")
    for other, message in (
        ("a", "are the same folder"),
        ("a/b", "is inside the other"),
        ("a/../a/", "are the same folder"),
    ):
        assert main(["check", "--images", str(tmp_path / "a"), "--against", str(tmp_path / other)]) == 2
        assert message in capsys.readouterr().err


def test_a_diverse_set_covers_within_twice_the_best():
    """Against every subset of a small set: the radius of farthest-first is at most twice the optimum."""
    features = np.random.default_rng(0).normal(size=(11, 3))
    between = np.linalg.norm(features[:, None] - features, axis=2)
    chosen = select_diverse(features, 3)
    best = min(between[list(subset)].min(0).max() for subset in itertools.combinations(range(11), 3))
    assert len(set(chosen)) == 3
    assert best <= between[chosen].min(0).max() <= 2 * best


def test_images_that_are_selected_already_are_not_selected_again():
    features = np.array([[0.0], [1.0], [10.0], [11.0]])
    assert select_diverse(features, 1, start=[0]) == [3]
    assert sorted(select_diverse(features, 3, start=[0])) == [1, 2, 3]
    with pytest.raises(ValueError, match="cannot be selected"):
        select_diverse(features, 4, start=[0])


def test_most_similar_comes_first():
    features = np.array([[0.0], [5.0], [1.0]])
    assert most_similar(features, np.array([0.9]), 2) == [2, 0]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """Six drawn scenes labelled by the embedded model; the last is the first once more, flipped upside down."""
    folder = tmp_path_factory.mktemp("labelled")
    write_scenes(str(folder / "d"), "cats", 5, 0, labelled=False)
    first = folder / "d/images" / list_images(folder / "d/images")[0]
    ImageOps.flip(Image.open(first)).save(first.with_name(f"flipped_{first.name}"))
    command = ["infer", str(folder / "d/cats_od.json"), str(folder / "d/images"), str(folder / "w")]
    bootstrap_od(folder / "d/images", ["cat"], folder / "d/cats_od.json")
    assert main([*command, "--shard-size", "4"]) == 0
    return folder


@pytest.mark.slow
def test_a_labelling_keeps_a_feature_of_every_image_and_select_uses_it(labelled, capsys):
    shards = sorted((labelled / "w/candidates").glob("*.parquet"))
    kept = [each for shard in shards for each in read_image_features(shard)]
    names = [each.filename for each in kept]
    assert sorted(names) == list_images(labelled / "d/images")
    assert {(each.feature.dtype, each.feature.shape) for each in kept} == {
        (np.dtype(np.float16), kept[0].feature.shape)
    }
    flipped = next(name for name in names if name.startswith("flipped"))
    capsys.readouterr()
    assert main(["select", "--work-dir", str(labelled / "w"), "-n", "2", "--like", flipped]) == 0
    assert capsys.readouterr().out.split() == [flipped, flipped.removeprefix("flipped_")]
    assert main(["select", "--work-dir", str(labelled / "w"), "-n", "5", "--diverse"]) == 0
    chosen = capsys.readouterr().out.split()
    assert len({name.removeprefix("flipped_") for name in chosen}) == 5
    assert main(["select", "--work-dir", str(labelled / "w"), "-n", "2", "--like", "other.png"]) == 2


def test_features_are_beside_the_candidates_and_equal_ones_give_equal_bytes(tmp_path):
    box = ImageCandidates(0, "a.jpg", np.array([0], np.int32), np.ones((1, 4), np.float32), np.ones(1, np.float32))
    candidates = Candidates.of_images([box], [ImageProblem(2, "c.jpg", "is empty")])
    features = [ImageFeature(line, name, np.full(3, line, np.float16)) for line, name in ((1, "b.jpg"), (0, "a.jpg"))]
    for name, each in (("one", features), ("two", features[::-1]), ("without", [])):
        write_candidates(tmp_path / name, candidates, "key", each)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert [(each.filename, each.feature.tolist()) for each in read_image_features(tmp_path / "one")] == [
        ("a.jpg", [0.0] * 3),
        ("b.jpg", [1.0] * 3),
    ]
    assert read_image_features(tmp_path / "without") == []
    for name in ("one", "without"):
        back = read_candidates(tmp_path / name)
        assert candidates_key(tmp_path / name) == "key"
        assert (back.line.tolist(), back.problems) == ([0], candidates.problems)


@pytest.fixture
def labels(tmp_path):
    """Twelve drawn scenes in two splits, with scores, an ignored box and an image without objects."""
    (tmp_path / "images/sub").mkdir(parents=True)
    (tmp_path / "labels").mkdir()
    records = []
    for index in range(6):
        name = f"sub/{index}.png"
        textured(index).crop((0, 0, 120, 80)).save(tmp_path / "images" / name)
        boxes = [Instance((10.0, 5.0, 50.5, 40.0), index % 2, ("cat", "dog")[index % 2], 0.5)]
        boxes += [
            Instance((0.0, 0.0, 20.0, 20.0), 0, "cat", 0.2, ignore=True),
            Instance((60.0, 10.0, 90.0, 70.0), 1, "dog"),
        ]
        records.append(Record(name, 80, 120, tuple(boxes if index else ())))
    for split, part in (("train", records[:4]), ("test", records[4:])):
        write_odvg(tmp_path / "labels" / f"pets_{split}_od.json", part)
        write_label_map(tmp_path / "labels" / f"pets_{split}_label_map.json", {0: "cat", 1: "dog"})
    return tmp_path


def published(labels, **options):
    splits = {name: labels / "labels" / f"pets_{name}_od.json" for name in ("train", "test")}
    return publish(splits, labels / "images", labels / "out", progress=False, **options)


def test_a_published_folder_holds_the_same_boxes_in_every_format(labels):
    done = published(labels, name="pets", license="mit")
    out, names = done.folder, ("cat", "dog")
    for split, count in (("train", 4), ("test", 2)):
        face = list(read_huggingface(out / split))
        assert len(face) == count
        coco = list(read_coco(out / "annotations" / f"{split}.json"))
        yolo = list(read_yolo(out / split / "labels", out / split / "images", names))
        for one, other, third in zip(face, coco, yolo):
            assert one.filename == f"images/{other.filename}" == f"images/{third.filename}"
            kept = [(box.box, box.category) for box in other.instances if not box.ignore]
            assert [(box.box, box.category) for box in one.instances] == kept
            assert [box.category for box in third.instances] == [category for _, category in kept]
            assert np.allclose([box.box for box in third.instances], [box for box, _ in kept], atol=1e-4) or not kept
    assert done.left_out["YOLO"]["ignored boxes, left out"] == 5


def test_what_is_published_is_whole_or_not_there(labels):
    os.remove(labels / "images/sub/5.png")
    with pytest.raises(InputError, match=r"5\.png: does not exist"):
        published(labels)
    assert not (labels / "out").exists()


def test_a_split_without_images_is_refused(labels):
    write_odvg(labels / "labels/pets_test_od.json", [])
    with pytest.raises(InputError, match=r"test_od\.json: has no images; expected labels of some for split test"):
        published(labels)
    assert not (labels / "out").exists()


def test_an_image_in_two_splits_is_refused(labels):
    twice = {"train": labels / "labels/pets_train_od.json", "test": labels / "labels/pets_train_od.json"}
    with pytest.raises(InputError, match="is in split train too"):
        publish(twice, labels / "images", labels / "out", progress=False)


def meta_of(weights: str, **more: object) -> str:
    meta = {"weights": weights, "weights_sha256": "ab" * 32, "prompt": ["cat", "dog"]}
    meta |= {"policy": {"score_threshold": 0.3}, "counts": {"candidates": 40, "kept": 7, "reviewed": 1}}
    return json.dumps(meta | more)


def test_the_card_describes_how_the_labels_were_made_in_each_round(labels):
    parent = {"labels": "pets_first_od.json"}
    (labels / "labels/pets_train_od.meta.json").write_text(meta_of("best.safetensors", round=2, trained_on=parent))
    (labels / "labels/pets_first_od.meta.json").write_text(meta_of("llmdet_tiny", round=1, trained_on=None))
    (labels / "labels/pets_test_od.meta.json").write_text(meta_of("other.pth"))
    cite = "@misc{pets, title={Pets}}"
    out = published(labels, citation=cite).folder
    card = (out / "README.md").read_text()
    for part in (
        "round 2 of self-training",
        "licence of the weights: Apache-2.0, from `llmdet_tiny`, with which self-training began",
        "licence of the weights: unknown; check the licence of `other.pth`",
        "40 candidates, 7 kept, 1 image corrected",
        "| 1 | `llmdet_tiny` | 7 | 1 | no |",
        "| boxes of dog | 5 | 3 |",
        cite,
    ):
        assert part in card, part
    assert json.loads((out / "croissant.json").read_text())["citeAs"] == cite


def test_names_of_users_are_text_in_a_card_and_no_markup() -> None:
    assert markdown_text("<b>a|b</b> & *c*") == r"\<b\>a\|b\</b\> \& \*c\*"
    assert markdown_text("traffic_light, stop sign (red)\n") == "traffic_light, stop sign (red)"
    counts = SplitCounts("train", 1, 0, {"<script>x</script>": 1}, 0, 1)
    card = DataCard("my <set>", "mit", ("<script>x</script>",), (counts,))
    with TemporaryDirectory() as folder:
        write_data_card(Path(folder) / "README.md", card)
        text = (Path(folder) / "README.md").read_text().split("---\n", 2)[2]
    assert "<s" not in text.replace("\\<", "")


def test_the_card_names_the_categories_that_are_mixed_up_and_who_says_so(labels):
    audit = {"reviews": 12, "precision": {"value": 0.9, "low": 0.8, "high": 0.95, "images": 11}, "recall": None}
    audit["confusions"] = [{"label": "cat", "object": "a|b", "boxes": 3}]
    suspects = {"against": "x_od_v2.json", "images": 4, "kinds": {"wrong category": 2, "overlooked": 1}}
    suspects["confusions"] = [{"label": "dog", "found": "cat", "boxes": 2}]
    meta = meta_of("glyph-tiny", audit=audit, suspects=suspects)
    (labels / "labels/pets_train_od.meta.json").write_text(meta)
    out = published(labels).folder
    card = (out / "README.md").read_text()
    for part in (
        "In 12 images that a person reviewed, labels had the right position but a wrong category",
        "| cat | a\\|b | 3 |",
        "Compared with x_od_v2.json in 4 images",
        "2 wrong category, 1 overlooked",
        "| dog | cat | 2 |",
        "| all | precision | 0.900 | 0.800 | 0.950 | 11 |",
    ):
        assert part in card, part
    assert "precision of train, from 12 reviews" in (out / "index.html").read_text()


def test_images_with_the_same_stem_keep_separate_label_files(tmp_path):
    names = ["a/x.png", "b/x.png", "c.png", "c.bmp", "C.png", "c_bmp.png"]
    (tmp_path / "images/a").mkdir(parents=True)
    (tmp_path / "images/b").mkdir()
    for index, name in enumerate(names):
        Image.new("RGB", (40 + index, 30), (index, 0, 0)).save(tmp_path / "images" / name)
    box = (1.0, 1.0, 20.0, 20.0)
    lines = [Record(name, 30, 40 + index, (Instance(box, index, name),)) for index, name in enumerate(names)]
    write_odvg(tmp_path / "x_od.json", lines)
    write_label_map(tmp_path / "x_label_map.json", dict(enumerate(names)))
    done = publish({"train": tmp_path / "x_od.json"}, tmp_path / "images", tmp_path / "out", progress=False)
    assert set(done.renamed) == {"c.bmp", "C.png"}
    stems = [name.rpartition(".")[0].casefold() for name in list_images(done.folder / "train/images")]
    assert len(set(stems)) == len(names)
    back = read_yolo(done.folder / "train/labels", done.folder / "train/images", names)
    assert sorted((each.width, each.instances[0].category) for each in back) == sorted(
        (40 + index, name) for index, name in enumerate(names)
    )
    for each in read_huggingface(done.folder):
        assert image_size(done.folder / "train" / each.filename) == (30, each.width)


def test_splits_of_a_model_and_of_a_person_have_the_same_columns(labels):
    path = labels / "labels/pets_test_od.json"
    people = [
        replace(each, instances=tuple(replace(i, score=None) for i in each.instances)) for each in read_odvg(path)
    ]
    write_odvg(path, people)
    out = published(labels).folder
    lines = [json.loads((out / split / "metadata.jsonl").read_text().splitlines()[-1]) for split in ("train", "test")]
    assert [set(line["objects"]) for line in lines] == [{"bbox", "categories", "score"}] * 2
    assert lines[1]["objects"]["score"] == [1.0, 1.0]


@pytest.mark.slow
def test_datasets_and_croissant_read_what_is_published(labels, monkeypatch):
    datasets, croissant = pytest.importorskip("datasets"), pytest.importorskip("mlcroissant")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    out = published(labels, license="mit", citation="Somebody, 2026").folder
    loaded = datasets.load_dataset(str(out), cache_dir=str(labels / "cache"))
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 4, "test": 2}
    row = loaded["test"][0]
    assert row["image"].size == (120, 80)
    assert row["objects"]["bbox"] == [[10.0, 5.0, 40.5, 35.0], [60.0, 10.0, 30.0, 60.0]]
    assert row["objects"]["categories"] == [0, 1]
    assert [rows.features["objects"]["categories"].feature.names for rows in loaded.values()] == [["cat", "dog"]] * 2
    assert loaded["train"][0]["objects"]["bbox"] == []  # an image without objects
    metadata = croissant.Dataset(jsonld=str(out / "croissant.json"))
    assert next(iter(metadata.records("test")))["test/width"] == 120


def test_the_commands_select_and_publish(labels, capsys):
    images = str(labels / "images")
    assert main(["select", images, "-n", "3", "--diverse", "--out", str(labels / "first_od.json")]) == 0
    assert len((labels / "first_od.json").read_text().splitlines()) == 3
    capsys.readouterr()
    assert main(["select", images, "-n", "2", "--like", "sub/3.png"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "sub/3.png"
    assert main(["select", images, "-n", "99", "--diverse"]) == 2
    train, test = (str(labels / f"labels/pets_{name}_od.json") for name in ("train", "test"))
    (labels / "cite.bib").write_text("@misc{pets}")
    command = ["publish", train, str(labels / "p"), "--images", images, "--split", f"test={test}"]
    assert main([*command, "--cite", str(labels / "cite.bib")]) == 0
    assert "@misc{pets}" in (labels / "p/README.md").read_text()
    assert main(["publish", train, str(labels / "p"), "--images", images]) == 2
    assert "already exists" in capsys.readouterr().err


def test_select_keeps_all_captions_of_an_image_and_the_label_map(labels, capsys):
    images = labels / "images"
    lines = [
        {"filename": f"sub/{number}.png", "height": 9, "width": 9, "grounding": {"caption": caption, "regions": []}}
        for number in range(1, 4)
        for caption in ("a cat", "two cats")
    ]
    (labels / "c_vg.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = labels / "out" / "c_vg.json"
    select = ["select", str(labels / "c_vg.json"), "--images", str(images), "-n", "2", "--diverse", "--out", str(out)]
    assert main(select) == 0
    assert "c_vg.json: 2 images" in capsys.readouterr().out
    assert sorted(record.caption or "" for record in read_odvg(out)) == ["a cat", "a cat", "two cats", "two cats"]
    train, chosen = labels / "labels/pets_train_od.json", labels / "out" / "some_od.json"
    assert main(["select", str(train), "--images", str(images), "-n", "1", "--diverse", "--out", str(chosen)]) == 0
    assert label_map_beside(chosen).read_text() == label_map_beside(train).read_text()


def test_select_says_what_it_cannot_choose_from(labels, capsys, caplog):
    images = labels / "images"
    (images / "broken.png").write_bytes((images / "sub/3.png").read_bytes()[:60])
    assert main(["select", str(images), "-n", "2", "--diverse"]) == 0
    assert "1 image cannot be read, and is skipped" in caplog.text
    other = labels / "other_od.json"
    other.write_text('{"filename": "elsewhere.png", "height": 9, "width": 9}')
    for arguments, said in (
        (["nothing"], "nothing: does not exist; expected an image folder"),
        ([str(other), "--images", "nothing"], "nothing: does not exist; expected a folder of images"),
        ([str(images), "--beside", str(other)], "other_od.json: has no image of"),
    ):
        capsys.readouterr()
        assert main(["select", *arguments, "-n", "1", "--diverse"]) == 2
        assert said in capsys.readouterr().err
