"""A picture that is replaced after its labelling is labelled again; one that was only copied or touched is not."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from flows.labelling.bootstrap import bootstrap_od
from flows.labelling.image_state import states_path
from flows.labelling.infer import infer
from flows.labelling.manifest import Manifest
from flows.labelling.plan import plan
from formats.io.storage import as_path
from tests.pipeline_cases import FakeDetector, make_images, make_weights, plan_images


@pytest.fixture
def labelled(tmp_path: Path) -> Manifest:
    """Six images in three shards, all labelled."""
    make_images(tmp_path / "images", 6)
    make_weights(tmp_path)
    made = bootstrap_od(tmp_path / "images", ["cat"], tmp_path / "x_od.json")
    manifest = plan_images(tmp_path, made.annotations, made.label_map, tmp_path / "work", 2)
    infer(manifest, FakeDetector(), progress=False)
    return manifest


def images_seen(manifest: Manifest) -> int:
    """How many images another labelling of the same plan gives to the detector."""
    detector = FakeDetector()
    infer(manifest, detector, progress=False)
    return detector.seen


def first_image(manifest: Manifest) -> Path:
    return sorted(manifest.image_root.iterdir())[0]


def repaint(path: Path) -> None:
    """Another picture of the same size in pixels."""
    with Image.open(path) as image:
        size = image.size
    Image.effect_noise(size, 80).convert("RGB").save(path)


def test_only_the_shard_of_a_replaced_picture_is_labelled_again(
    labelled: Manifest, caplog: pytest.LogCaptureFixture
) -> None:
    before = {shard.index: labelled.shard_path(shard.index).stat().st_mtime_ns for shard in labelled.shards}
    repaint(first_image(labelled))
    with caplog.at_level(logging.WARNING):
        assert images_seen(labelled) == 2
    assert f"1 image changed since the labelling ({first_image(labelled).name} …): labelling 1 of 3" in caplog.text
    after = {shard.index: labelled.shard_path(shard.index).stat().st_mtime_ns for shard in labelled.shards}
    assert [index for index in after if after[index] != before[index]] == [0]
    assert images_seen(labelled) == 0


def test_a_run_that_ends_before_the_new_candidates_leaves_none_of_the_old(
    labelled: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would pass for those of the new picture, whose state is recorded by then."""
    repaint(first_image(labelled))
    with monkeypatch.context() as broken:
        broken.setattr("flows.labelling.infer.write_candidates", lambda *arguments: 1 / 0)
        with pytest.raises(RuntimeError, match="1 of 3 shards failed"):
            infer(labelled, FakeDetector(), progress=False)
    assert images_seen(labelled) == 2


def test_a_replaced_picture_of_as_many_bytes_is_noticed(labelled: Manifest) -> None:
    path = first_image(labelled)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # behind the picture's end
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))
    assert images_seen(labelled) == 2


def test_copied_pictures_are_not_labelled_again(labelled: Manifest) -> None:
    for path in labelled.image_root.iterdir():
        copy = path.with_name(path.name + ".copy")
        shutil.copyfile(path, copy)
        copy.replace(path)
        os.utime(path, ns=(1, 1))
    assert images_seen(labelled) == 0


def test_a_restored_picture_is_labelled(labelled: Manifest) -> None:
    path = first_image(labelled)
    content = path.read_bytes()
    path.unlink()
    assert images_seen(labelled) == 1  # the other image of its shard
    path.write_bytes(content)
    assert images_seen(labelled) == 2


def test_shards_of_older_versions_are_kept_and_watched_from_then_on(labelled: Manifest) -> None:
    for shard in labelled.shards:
        states_path(labelled, shard.index).unlink()
    assert images_seen(labelled) == 0
    repaint(first_image(labelled))
    assert images_seen(labelled) == 2


def test_a_replaced_object_of_a_store_is_labelled_again(tmp_path: Path) -> None:
    make_images(tmp_path / "images", 4)
    make_weights(tmp_path)
    root = as_path("memory://groundhog-changed/images")
    root.mkdir(parents=True, exist_ok=True)
    for path in (tmp_path / "images").iterdir():
        (root / path.name).write_bytes(path.read_bytes())
    made = bootstrap_od(root, ["cat"], tmp_path / "x_od.json")
    manifest = plan(made.annotations, root, tmp_path / "weights.safetensors", tmp_path / "work", shard_size=2)
    assert images_seen(manifest) == 4
    assert images_seen(manifest) == 0
    path = sorted((tmp_path / "images").iterdir())[3]
    repaint(path)
    (root / path.name).write_bytes(path.read_bytes())
    assert images_seen(manifest) == 2
