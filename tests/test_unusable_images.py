"""A stage that could use no image fails; one that could use few of them says so loudly."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from PIL import Image

from flows.labelling.bootstrap import bootstrap_od, bootstrap_vg
from flows.labelling.filter import filter_candidates
from flows.labelling.infer import infer
from flows.labelling.manifest import Manifest
from flows.labelling.plan import plan
from flows.labelling.shards import missing_shards, problems_of, share_warning
from formats.candidates import Candidates, ImageProblem, write_candidates
from formats.io.errors import InputError
from tests.pipeline_cases import FakeDetector, make_images, make_weights


@pytest.fixture
def planned(tmp_path: Path) -> Manifest:
    make_images(tmp_path / "images", 6)
    make_weights(tmp_path)
    made = bootstrap_od(tmp_path / "images", ["cat"], tmp_path / "x_od.json")
    weights = tmp_path / "weights.safetensors"
    return plan(made.annotations, tmp_path / "images", weights, tmp_path / "work", shard_size=4)


def move_away(manifest: Manifest, count: int) -> None:
    for path in sorted(Path(manifest.image_root).iterdir())[:count]:
        path.rename(path.with_name(f"{path.name}.away"))


def test_a_labelling_of_images_that_are_not_there_fails_and_is_done_once_they_are(planned: Manifest) -> None:
    move_away(planned, 6)
    with pytest.raises(InputError, match=r"x_od\.json: not one of 6 images could be used; first image-000\.png: "):
        infer(planned, FakeDetector(), progress=False)
    with pytest.raises(InputError, match="has no candidates for 2 of 2 shards"):
        filter_candidates(planned)
    for path in Path(planned.image_root).iterdir():
        path.rename(path.with_suffix(""))
    infer(planned, FakeDetector(), progress=False)
    assert filter_candidates(planned).counts["kept"] > 0


def test_a_labelling_that_misses_many_images_says_so(planned: Manifest, caplog: pytest.LogCaptureFixture) -> None:
    move_away(planned, 4)  # the whole first shard
    infer(planned, FakeDetector(), progress=False)
    assert "4 of 6 images could not be used (67%)" in caplog.text
    assert not missing_shards(planned)
    caplog.clear()
    filter_candidates(planned)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "4 of 6 images could not be used" in caplog.text


def test_few_missing_images_are_no_alarm() -> None:
    assert share_warning(0, 0) == share_warning(100, 1000) == ""
    assert "101 of 1000 images" in share_warning(101, 1000)


def test_candidates_without_one_image_make_no_labels(planned: Manifest) -> None:
    """Such shards may be there from a labelling by a scheduler, which sees one shard at a time."""
    for shard in planned.shards:
        lines = range(shard.first_line, shard.first_line + shard.lines)
        problems = [ImageProblem(line, f"image-{line:03d}.png", "no such file") for line in lines]
        write_candidates(planned.shard_path(shard.index), Candidates.of_images([], problems), planned.key)
    with pytest.raises(InputError, match="not one of 6 images could be used"):
        filter_candidates(planned)
    assert not list(Path(planned.source).parent.glob("*_v1*"))


def test_a_folder_of_files_that_are_no_images_is_not_bootstrapped(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_text("text")
    with pytest.raises(InputError, match=r"not one of 1 image could be read; first a\.jpg: "):
        bootstrap_od(tmp_path / "images", ["cat"], tmp_path / "x_od.json")
    with pytest.raises(InputError, match="not one of 1 image could be read"):
        bootstrap_vg(tmp_path / "images", {"b.jpg": "a cat"}, tmp_path / "x_vg.json", {"a cat": ["a cat"]})
    assert not (tmp_path / "x_od.json").exists()
    assert not (tmp_path / "x_vg.json").exists()


def test_a_picture_of_another_size_than_its_line_is_quarantined(planned: Manifest) -> None:
    """Its boxes would be pixels of another picture: one that was replaced, or turned by its EXIF data."""
    path = Path(planned.image_root) / "image-002.png"
    with Image.open(path) as image:
        image.resize((image.width * 2, image.height)).save(path)
    infer(planned, FakeDetector(), progress=False)
    [problem] = problems_of(planned)
    assert problem.filename == "image-002.png"
    assert "the image is 80x30, its line says 40x30" in problem.reason
