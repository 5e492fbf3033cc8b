"""The loop that begins with a person's labels: what learns from them, what judges by them, what is labelled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from flows.distillation.config import DistillConfig
from flows.distillation.distill import DistillResult
from flows.labelling import infer as inference
from flows.self_training.config import GlyphScenes, ImageFolder, SelfTrainConfig, StudentStage
from flows.self_training.labelled import KnownLabels, split_labels
from flows.self_training.loop import self_train
from flows.self_training.stages import Stages
from formats.io.errors import InputError
from formats.label_map import write_label_map
from formats.odvg import read_odvg, write_odvg
from formats.record import Instance, Record
from grounding_model.data.sources import OdvgData
from grounding_model.students.config import FromStudent
from grounding_model.training.config import FromWeights, TrainConfig
from tests.pipeline_cases import FakeDetector, make_images, make_weights

LABELLED = [f"image-00{index}.png" for index in range(5)]


@pytest.fixture
def config(tmp_path: Path) -> SelfTrainConfig:
    """Eight images, five of them labelled, two of these held back."""
    make_images(tmp_path / "images", 8)
    make_weights(tmp_path)
    cat = Instance((1.0, 1.0, 9.0, 9.0), 0, "cat")
    write_odvg(tmp_path / "known_od.json", [Record(name, 32, 32, (cat,)) for name in LABELLED], ("cat",))
    write_label_map(tmp_path / "known_label_map.json", {0: "cat"})
    return SelfTrainConfig(
        name="test",
        data=ImageFolder(tmp_path / "images", tmp_path / "x_od.json", ("cat",)),
        train=TrainConfig(
            work_dir=tmp_path / "work", steps=7, start=FromWeights(str(tmp_path / "weights.safetensors"))
        ),
        rounds=1,
        labelled=KnownLabels(tmp_path / "known_od.json", held_back=0.4, share=0.5, steps=3),
    )


class Recorder:
    """Stages whose model is a stand-in; keeps what was trained and what judged."""

    def __init__(self) -> None:
        self.trained: list[TrainConfig] = []
        self.judged_by: list[object] = []

    def stages(self) -> Stages:
        return Stages(
            infer=lambda manifest, **settings: inference.infer(manifest, FakeDetector(), progress=False),
            train=self.train,
            evaluate=self.evaluate,
            report=lambda folder: folder / "report.html",
        )

    def train(self, config: TrainConfig, on_progress: object) -> Path:
        self.trained.append(config)
        path = config.work_dir / "model.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(str(len(self.trained)).encode())
        if config.validate:
            path.with_name("best.safetensors").write_bytes(f"best of {len(self.trained)}".encode())
            path.with_name("done.json").write_text('{"best": "best.safetensors"}')
        return path

    def evaluate(self, truth: object, *arguments: object, **settings: object) -> dict:
        self.judged_by.append(truth)
        return {"ap": 0.5}


def run(config: SelfTrainConfig) -> Recorder:
    recorder = Recorder()
    (config.train.work_dir).mkdir(exist_ok=True)
    (config.train.work_dir / "report.html").write_text("")
    self_train(config, stages=recorder.stages())
    return recorder


def names(data: object) -> set[str]:
    assert isinstance(data, OdvgData)
    return {record.filename for record in read_odvg(data.annotations)}


def test_the_first_model_learns_from_the_labels_and_labels_the_rest(config: SelfTrainConfig, tmp_path: Path) -> None:
    first, second = run(config).trained
    assert (first.steps, second.steps) == (3, 7)
    assert first.validate == second.validate == ()
    assert names(first.datasets[0]) < set(LABELLED)
    assert len(names(first.datasets[0])) == 3
    assert names(OdvgData(tmp_path / "x_od_v1.json", tmp_path)) == {f"image-00{index}.png" for index in (5, 6, 7)}
    assert first.start.source == str(tmp_path / "weights.safetensors")
    assert second.start.source.endswith("model.safetensors")


def test_every_later_epoch_has_its_share_of_them_at_full_weight(config: SelfTrainConfig) -> None:
    pseudo, known = run(config).trained[1].datasets
    assert names(pseudo) & set(LABELLED) == set()
    assert len(names(known)) * known.weight == pytest.approx(len(names(pseudo)))
    assert all(box.weight == 1.0 for record in read_odvg(known.annotations) for box in record.instances or ())


def test_held_back_labels_evaluate_and_are_never_trained_on(config: SelfTrainConfig) -> None:
    recorder = run(config)
    held_back = names(recorder.judged_by[0])
    assert len(held_back) == 2
    assert all(held_back & names(data) == set() for each in recorder.trained for data in each.datasets)


def test_the_best_weights_on_what_is_held_back_go_on(config: SelfTrainConfig) -> None:
    assert config.labelled is not None
    recorder = run(replace(config, labelled=replace(config.labelled, best_of=3)))
    assert [each.validate_every for each in recorder.trained] == [1, 3]  # of 3 and 7 steps
    assert all(names(data) == names(recorder.judged_by[0]) for each in recorder.trained for data in each.validate)
    assert recorder.trained[1].start.source.endswith("best.safetensors")
    with pytest.raises(InputError, match=r"labelled.best_of: 2, but held_back is 0"):
        replace(config.labelled, held_back=0.0, best_of=2)


def test_the_parts_are_the_same_in_every_run(config: SelfTrainConfig, tmp_path: Path) -> None:
    assert config.labelled is not None
    first, second = (split_labels(config.labelled, tmp_path, tmp_path / name) for name in ("a", "b"))
    assert names(first.training) == names(second.training)


def test_labels_of_every_image_or_of_none_are_refused(config: SelfTrainConfig, tmp_path: Path) -> None:
    assert config.labelled is not None
    for name in ("image-005.png", "image-006.png", "image-007.png"):
        (tmp_path / "images" / name).unlink()
    with pytest.raises(InputError, match="labels every image of the folder"):
        run(config)
    missing = replace(config, labelled=replace(config.labelled, annotations=tmp_path / "none.json"))
    with pytest.raises(InputError, match=r"none.json: does not exist"):
        run(missing)
    with pytest.raises(InputError, match=r"labelled: is set for glyphs"):
        replace(config, data=GlyphScenes())


def test_labels_that_cannot_teach_these_categories_are_refused_before_training(
    config: SelfTrainConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(changed: SelfTrainConfig, message: str) -> None:
        recorder = Recorder()
        with pytest.raises(InputError, match=message):
            self_train(changed, stages=recorder.stages())
        assert recorder.trained == []

    assert isinstance(config.data, ImageFolder)
    dogs = replace(config.data, categories=("dog",), annotations=tmp_path / "dogs_od.json")
    refused(replace(config, data=dogs), r"known_label_map.json: has cat, and none of data.categories: dog")
    both = replace(config.data, categories=("cat", "dog"), annotations=tmp_path / "both_od.json")
    run(replace(config, data=both, rounds=0, train=replace(config.train, work_dir=tmp_path / "other")))
    assert "has no category dog, so the first model does not learn it" in caplog.text
    (tmp_path / "images" / LABELLED[1]).unlink()
    refused(config, rf"does not contain 1 of 5 images of .*known_od.json, such as {LABELLED[1]}")


def test_other_settings_of_the_first_training_are_refused_before_it(config: SelfTrainConfig, tmp_path: Path) -> None:
    run(config)
    assert config.labelled is not None
    train = replace(config.train, work_dir=tmp_path / "other")
    recorder = Recorder()
    with pytest.raises(InputError, match=r"x_od_v1.json: contains the labels of another run"):
        self_train(replace(config, train=train, labelled=replace(config.labelled, best_of=2)), stages=recorder.stages())
    assert recorder.trained == []


def test_the_labels_of_a_person_teach_the_student_too(config: SelfTrainConfig, tmp_path: Path) -> None:
    taught: list[DistillConfig] = []

    def distilled(settings: DistillConfig) -> DistillResult:
        taught.append(settings)
        return DistillResult(tmp_path, None, ())

    stage = StudentStage(FromStudent("glyph-student", image_size=96), steps=1, onnx=False)
    config.train.work_dir.mkdir()
    (config.train.work_dir / "report.html").write_text("")
    self_train(replace(config, rounds=0, distill=stage), stages=Recorder().stages()._replace(distill=distilled))
    (known,) = taught[0].train.datasets
    assert taught[0].labels == tmp_path / "x_od_v1.json"
    assert names(known) < set(LABELLED)
    assert len(names(known)) == 3  # not those held back


def test_lines_without_labels_are_neither_trained_on_nor_left_unlabelled(
    config: SelfTrainConfig, tmp_path: Path
) -> None:
    known = [*read_odvg(tmp_path / "known_od.json")]
    write_odvg(tmp_path / "known_od.json", [*known[:4], replace(known[4], instances=None)])
    trained = run(config).trained
    assert names(trained[1].datasets[0]) >= {LABELLED[4]}
    assert all(LABELLED[4] not in names(each.datasets[-1]) for each in trained)


def test_an_image_is_not_both_labelled_by_a_person_and_to_be_labelled(config: SelfTrainConfig, tmp_path: Path) -> None:
    write_odvg(tmp_path / "x_od.json", [Record(name, 32, 32) for name in (LABELLED[2], "image-006.png")])
    recorder = Recorder()
    with pytest.raises(InputError, match=rf"x_od.json: lists 1 image that known_od.json labels, such as {LABELLED[2]}"):
        self_train(config, stages=recorder.stages())
    assert recorder.trained == []
