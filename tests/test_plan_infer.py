"""Plans and labelling: deterministic shards, complete or missing, and no image that costs another its labels."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flows.labelling import infer as inference
from flows.labelling import plan as planning
from flows.labelling.bootstrap import bootstrap_od, bootstrap_vg
from flows.labelling.detector_pool import LocalDetectorPool, devices_of
from flows.labelling.filter import filter_candidates
from flows.labelling.infer import ThreadExecutor, infer, label_shard
from flows.labelling.manifest import Manifest, read_lines, read_manifest
from flows.labelling.plan import plan
from flows.labelling.settings import Workers
from flows.labelling.shards import missing_shards, problems_of
from formats.candidates import read_candidates
from formats.dataset_names import label_map_beside
from formats.io.errors import InputError
from formats.io.files import write_whole
from formats.io.locks import lock
from formats.io.storage import as_path
from grounding_model.detector import load_detector
from grounding_model.inputs.prompt import Prompt
from tests.forked import fork, is_running
from tests.pipeline_cases import FakeDetector, make_images, make_weights, plan_images

ROOT = Path(__file__).parent.parent


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten images, bootstrapped for one category, and stand-in weights."""
    make_images(tmp_path / "images", 10)
    make_weights(tmp_path)
    bootstrap_od(tmp_path / "images", ["cat", "dog"], tmp_path / "x_od.json")
    return tmp_path


def plan_od(folder: Path, work_dir: str = "work", shard_size: int = 4):
    return plan_images(folder, folder / "x_od.json", folder / "x_label_map.json", folder / work_dir, shard_size)


def test_shards_hold_every_line_once(folder: Path) -> None:
    manifest = plan_od(folder)
    assert [shard.lines for shard in manifest.shards] == [4, 4, 2]
    by_shard = [line for shard in manifest.shards for line in read_lines(manifest.source, shard)]
    assert by_shard == list(read_lines(manifest.source))
    assert read_manifest(manifest.path) == manifest


def test_a_category_that_is_listed_twice_is_named_with_its_file(folder: Path) -> None:
    label_map = folder / "x_label_map.json"
    label_map.write_text('{"0": "cat", "1": "cat"}')
    with pytest.raises(InputError, match=rf"^{re.escape(str(label_map))}: categories: 'cat' is listed twice"):
        plan_od(folder)


def test_there_are_never_more_than_a_folder_bears(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "MAX_SHARDS", 200)
    with open(folder / "x_od.json", "a") as file:
        file.writelines(
            json.dumps({"filename": f"{index}.png", "height": 1, "width": 1}) + "\n" for index in range(999)
        )
    manifest = plan_od(folder, shard_size=2)
    assert len(manifest.shards) == 169  # of six lines, since of four there would be 253
    by_shard = [line for shard in manifest.shards for line in read_lines(manifest.source, shard)]
    assert by_shard == list(read_lines(manifest.source))


def test_sizes_follow_the_model_by_default(folder: Path) -> None:
    manifest = plan_od(folder)
    assert json.loads(manifest.path.read_text())["scale"] is None
    other = plan(folder / "x_od.json", folder / "images", folder / "weights.safetensors", folder / "b", scale=(80, 90))
    assert read_manifest(other.path).scale == (80, 90)
    assert other.key != manifest.key


def test_the_label_map_beside_an_od_file_is_used(folder: Path) -> None:
    manifest = plan_images(folder, folder / "x_od.json", None, folder / "work")
    assert manifest.label_map == {"0": "cat", "1": "dog"}
    (folder / "x_label_map.json").unlink()
    with pytest.raises(InputError, match="no label map and no captions"):
        plan_images(folder, folder / "x_od.json", None, folder / "other")


@pytest.mark.parametrize(
    ("annotations", "label_map"),
    [
        ("x_od.json", "x_label_map.json"),
        ("x_od_v12.json", "x_label_map.json"),
        ("photos_v2.json", "photos_v2_label_map.json"),
    ],
)
def test_labels_of_any_version_have_one_label_map(annotations: str, label_map: str) -> None:
    assert label_map_beside(Path("data", annotations)) == Path("data", label_map)


def test_our_own_labels_can_be_planned_again(folder: Path) -> None:
    (folder / "x_od.json").rename(folder / "x_od_v1.json")
    assert plan_images(folder, folder / "x_od_v1.json", None, folder / "work").label_map == {"0": "cat", "1": "dog"}


def test_another_plan_in_the_folder_is_refused_by_name(folder: Path) -> None:
    first = plan_od(folder)
    assert plan_od(folder).key == first.key
    (folder / "weights.safetensors").write_bytes(b"other weights")
    with pytest.raises(InputError, match="weights_sha256"):
        plan_od(folder)


def test_overwriting_takes_the_other_plans_candidates_away(folder: Path) -> None:
    first = plan_od(folder)
    infer(first, FakeDetector(), progress=False)
    settings = {"label_map": folder / "x_label_map.json", "shard_size": 4, "overwrite": True}
    arguments = (folder / "x_od.json", folder / "images", folder / "weights.safetensors", folder / "work")
    assert missing_shards(plan(*arguments, **settings)) == []
    other = plan(*arguments, **settings, score_floor=0.2)
    assert missing_shards(other) == [0, 1, 2]
    assert list((folder / "work" / "candidates").iterdir()) == []


def test_complete_shards_are_not_labelled_again(folder: Path) -> None:
    manifest = plan_od(folder)
    label_shard(manifest, 1, FakeDetector())
    assert missing_shards(manifest) == [0, 2]
    detector = FakeDetector()
    infer(manifest, detector, progress=False)
    assert detector.seen == 6
    assert missing_shards(manifest) == []


def test_candidates_do_not_depend_on_the_images_of_the_same_batch(tmp_path: Path) -> None:
    """Padded to the largest of its batch, an image would get other boxes than by itself."""
    for name in make_images(tmp_path / "images", 4):
        size = (48 + 16 * int(name[-5]), 64)
        Image.open(tmp_path / "images" / name).resize(size).save(tmp_path / "images" / name)
    made = bootstrap_od(tmp_path / "images", ["red cat", "blue cat"], tmp_path / "x_od.json")
    detector, found = load_detector(device="cpu"), []
    for batch_size in (1, 5):
        manifest = plan(made, work_dir=tmp_path / f"work-{batch_size}", scale=(64, 96), score_floor=0.01)
        shard = label_shard(manifest, 0, detector, batch_size=batch_size)
        found.append(read_candidates(shard))
    assert len(found[0].score) > 5
    np.testing.assert_allclose(found[0].box, found[1].box, atol=0.01)
    np.testing.assert_allclose(found[0].score, found[1].score, atol=1e-4)


def test_a_broken_shard_is_missing(folder: Path) -> None:
    manifest = plan_od(folder)
    path = infer(manifest, FakeDetector(), progress=False)[1]
    path.write_bytes(path.read_bytes()[:-20])
    assert missing_shards(manifest) == [1]


def test_every_candidate_above_the_floor_is_kept(folder: Path) -> None:
    path = infer(plan_od(folder), FakeDetector(boxes=50), progress=False)[0]
    candidates = read_candidates(path)
    assert len(candidates.score) > 4 * 2 * 40  # of 50 uniform scores, those above 0.05
    assert candidates.score.min() > 0.05


def test_what_is_wrong_with_an_image_or_a_line_stays_its_own_problem(folder: Path) -> None:
    (folder / "images" / "image-001.png").write_text("text")
    data = (folder / "images" / "image-002.png").read_bytes()
    (folder / "images" / "image-002.png").write_bytes(data[: len(data) // 2])
    (folder / "images" / "image-003.png").unlink()
    with open(folder / "x_od.json", "a") as file:
        file.write(
            '{"filename": "../outside.png", "height": 3, "width": 4}\n{"height": 3, "width": 4}\n[1, 2]\nbroken\n'
        )
        file.write("[" * 100_000 + "\n")
    manifest = plan_od(folder)
    detector = FakeDetector()
    infer(manifest, detector, progress=False)
    found = [read_candidates(manifest.shard_path(shard.index)) for shard in manifest.shards]
    problems = {problem.line: problem for shard in found for problem in shard.problems}
    assert sorted(problems) == [1, 2, 3, 10, 11, 12, 13, 14]
    assert problems[10].filename == "../outside.png"
    assert not any(str(folder) in problem.reason for problem in problems.values())
    assert problems_of(manifest) == [problems[line] for line in sorted(problems)]
    assert detector.seen == 7


def test_a_broken_detector_is_no_problem_of_the_images(folder: Path) -> None:
    class Broken:
        def predict_each(self, images, prompt, **settings):
            raise RuntimeError("out of memory")

    manifest = plan_od(folder)
    with pytest.raises(RuntimeError, match="3 of 3 shards failed"):
        infer(manifest, Broken(), progress=False)
    assert missing_shards(manifest) == [0, 1, 2]


def test_a_source_that_changed_after_its_plan_is_refused(folder: Path) -> None:
    manifest = plan_od(folder)
    infer(manifest, FakeDetector(), progress=False)
    source = folder / "x_od.json"
    source.write_text("".join(reversed(source.read_text().splitlines(keepends=True))))
    with pytest.raises(InputError, match="has changed"):
        filter_candidates(manifest)
    manifest.shard_path(1).unlink()
    with pytest.raises(InputError, match="has changed"):
        infer(manifest, FakeDetector(), progress=False)


def test_settings_that_cannot_work_are_no_problem_of_the_images(folder: Path) -> None:
    class Refusing:
        def predict_each(self, images, prompt, **settings):
            raise InputError("chunk_size", "0", "expected at least 1")

    with pytest.raises(InputError, match="chunk_size"):
        infer(plan_od(folder), Refusing(), progress=False)


def test_a_byte_order_mark_is_no_broken_line(folder: Path) -> None:
    source = folder / "x_od.json"
    source.write_bytes(b"\xef\xbb\xbf" + source.read_bytes())
    manifest = plan_od(folder)
    infer(manifest, FakeDetector(), progress=False)
    assert problems_of(manifest) == []


def test_captions_are_labelled_phrase_by_phrase(tmp_path: Path) -> None:
    names = make_images(tmp_path / "images", 3)
    make_weights(tmp_path)
    caption = "a cat and a dog"
    bootstrap_vg(
        tmp_path / "images", dict.fromkeys(names, caption), tmp_path / "x_vg.json", {caption: ["a cat", "a dog"]}
    )
    manifest = plan_images(tmp_path, tmp_path / "x_vg.json", None, tmp_path / "work")
    candidates = read_candidates(infer(manifest, FakeDetector(), progress=False)[0])
    assert set(candidates.region.tolist()) == {0, 1}


class SlowDetector(FakeDetector):
    def predict_each(self, images: Sequence[Path], prompt: Prompt | Sequence[Prompt], **settings: object) -> Iterator:
        time.sleep(0.15)
        return super().predict_each(images, prompt, **settings)


@pytest.mark.skipif(os.name != "posix", reason="kill -9")
def test_killed_labelling_resumes_with_equal_bytes(folder: Path) -> None:
    manifest = plan_od(folder, "killed", shard_size=1)
    child = fork(lambda: infer(manifest, SlowDetector(), progress=False))
    while len(missing_shards(manifest)) > 7:
        assert is_running(child), "the labelling ended by itself"
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    done = [manifest.shard_path(index) for index in range(10) if index not in missing_shards(manifest)]
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in done}
    assert 3 <= len(done) < 10

    infer(manifest, FakeDetector(), progress=False)
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in done} == before
    undisturbed = plan_od(folder, "undisturbed", shard_size=1)
    infer(undisturbed, FakeDetector(), progress=False)
    after_kill = filter_candidates(manifest, out=folder / "a" / "x_od_v1.json")
    never_killed = filter_candidates(undisturbed, out=folder / "b" / "x_od_v1.json")
    assert after_kill.labels.read_bytes() == never_killed.labels.read_bytes()
    assert after_kill.meta.read_bytes() == never_killed.meta.read_bytes()


def test_several_devices_label_at_once_and_write_what_one_writes(folder: Path) -> None:
    detectors, together = [], threading.Barrier(2, timeout=30)

    class Slow(FakeDetector):
        def predict_each(self, images, prompt, **settings):
            if not self.seen:
                together.wait()  # both have a shard before either goes on
            return super().predict_each(images, prompt, **settings)

    def load(manifest: Manifest, device: str) -> FakeDetector:
        detectors.append(Slow())
        return detectors[-1]

    one, two = plan_od(folder, "one", 2), plan_od(folder, "two", 2)
    infer(one, FakeDetector(), progress=False)
    infer(two, executor=ThreadExecutor(LocalDetectorPool(["cpu", "cpu"], load), progress=False))
    assert len(detectors) == 2
    assert sum(detector.seen for detector in detectors) == 10
    assert all(
        one.shard_path(shard.index).read_bytes() == two.shard_path(shard.index).read_bytes() for shard in one.shards
    )


def test_an_executor_labels_what_is_missing_and_nothing_else(folder: Path) -> None:
    manifest = plan_od(folder, "work", shard_size=2)
    infer(manifest, FakeDetector(), progress=False)
    manifest.shard_path(1).unlink()
    calls = []

    def executor(manifest: Manifest, shards: Sequence[int], batch_size: int) -> None:
        calls.append((list(shards), batch_size))
        inference.label_shards(manifest, shards, FakeDetector(), batch_size=batch_size)

    assert infer(manifest, executor=executor, batch_size=3) == [manifest.shard_path(index) for index in range(5)]
    assert infer(manifest, executor=executor)
    assert calls == [([1], 3)]


def test_an_executor_that_leaves_a_shard_out_is_not_believed(folder: Path) -> None:
    manifest = plan_od(folder, "work", shard_size=2)
    with pytest.raises(RuntimeError, match=r"4 of 5 shards failed; run again to resume"):
        infer(manifest, executor=lambda plan, shards, size: inference.label_shards(plan, shards[:1], FakeDetector()))


def test_ray_outside_a_flow_says_where_it_works(folder: Path) -> None:
    with pytest.raises(InputError, match="inside a Prefect flow"):
        infer(plan_od(folder), workers=Workers("ray"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"runner": "ray", "devices": ("cpu",)}, "Ray assigns the devices itself"),
        ({"address": "head:6379"}, "threads have no address"),
        ({"runner": "dask"}, 'expected "threads" or "ray"'),
    ],
)
def test_workers_of_two_kinds_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Workers(**settings)


def test_workers_without_devices_take_the_one_that_is_named() -> None:
    assert Workers().on("cuda:1").devices == ("cuda:1",)
    assert Workers(devices=("cpu", "cpu")).on("cuda:1").devices == ("cpu", "cpu")
    assert Workers("ray").on("cuda:1").devices == ()
    assert devices_of(("cpu", "cpu")) == ["cpu", "cpu"]


def test_a_full_disk_ends_the_run_at_the_first_shard(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = FakeDetector()

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "shard")

    monkeypatch.setattr(inference, "write_candidates", full)
    with pytest.raises(OSError, match="No space left"):
        infer(plan_od(folder), detector, progress=False)
    assert detector.seen == 4


def test_a_second_labelling_of_the_same_plan_is_refused(folder: Path) -> None:
    manifest = plan_od(folder)
    with lock(manifest.work_dir), pytest.raises(InputError, match=f"in use by process {os.getpid()}"):
        infer(manifest, FakeDetector(), progress=False)


def test_from_images_to_labels_at_an_address(folder: Path) -> None:
    (folder / "images" / "broken.png").write_bytes(b"no image")
    root = f"memory://{uuid.uuid4().hex}"
    for path in (folder / "images").iterdir():
        with write_whole(f"{root}/images/{path.name}", "wb") as stream:
            stream.write(path.read_bytes())
    labels = []
    for place in (str(folder), root):
        made = bootstrap_od(f"{place}/images", ["cat", "dog"], f"{place}/y_od.json")
        manifest = plan(
            made.annotations, f"{place}/images", folder / "weights.safetensors", f"{place}/work", shard_size=4
        )
        assert read_manifest(f"{place}/work") == manifest
        detector = FakeDetector()
        infer(manifest, detector, progress=False)
        infer(manifest, detector, progress=False)
        assert detector.seen == 10
        labels.append(filter_candidates(manifest))
    here, there = labels
    assert there.counts == here.counts
    assert str(there.labels) == f"{root}/y_od_v1.json"
    assert as_path(there.labels).read_bytes() == here.labels.read_bytes()


@pytest.mark.parametrize("name", ["source", "image_root", "weights", "text_encoder", "software"])
@pytest.mark.parametrize("value", [5, [], {}])
def test_a_plan_with_something_else_than_a_text_is_named(folder: Path, name: str, value: object) -> None:
    path = plan_od(folder).path
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    with pytest.raises(InputError, match=rf"manifest\.json: not a manifest \({name} is "):
        read_manifest(path)
