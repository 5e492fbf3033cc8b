"""The loop with stand-ins for the model: versions, what is done again and what is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from flows.distillation.distill import distill
from flows.labelling import infer as inference
from flows.labelling.settings import View
from flows.policies.policy import Policy
from flows.self_training.config import (
    CaptionedImages,
    GlyphScenes,
    ImageFolder,
    SelfTrainConfig,
    StudentStage,
    read_self_train,
)
from flows.self_training.loop import self_train
from flows.self_training.report import write_run_report
from flows.self_training.scores import evaluate_weights
from flows.self_training.source import prepare
from flows.self_training.stages import Stages
from flows.self_training.state import refuse_labels_of_other_runs
from flows.training import train as training
from formats.dataset_names import label_map_beside
from formats.io.errors import InputError
from formats.io.files import sha256_of, write_json
from formats.label_map import read_label_map, write_label_map
from formats.odvg import write_odvg
from formats.record import Instance, Record
from grounding_model.data.coco_folder import CocoFolder
from grounding_model.data.sources import CocoData, GlyphData, OdvgData
from grounding_model.detector import load_detector
from grounding_model.students.config import FromStudent
from grounding_model.students.export import onnx_metadata
from grounding_model.training.config import FromWeights, TrainConfig
from tests.pipeline_cases import FakeDetector, make_images, make_weights

ROOT = Path(__file__).parent.parent


class Recorder:
    """Stages whose model is a stand-in; counts what was really done."""

    def __init__(self) -> None:
        self.detector, self.trained, self.datasets = FakeDetector(), 0, []

    def stages(self) -> Stages:
        return Stages(
            infer=self.infer,
            train=self.train,
            evaluate=lambda *arguments, **settings: {"ap": 0.5},
            report=self.report,
        )

    def report(self, run_dir):
        (run_dir / "report.html").write_text("")
        return run_dir / "report.html"

    def infer(self, manifest, **settings):
        return inference.infer(manifest, self.detector, progress=False)

    def train(self, config, on_progress):
        path = config.work_dir / "model.safetensors"
        if not path.exists():
            path.parent.mkdir(parents=True)
            path.write_bytes(str(config.work_dir).encode())
            self.trained += 1
        self.datasets.append(config.datasets)
        return path


@pytest.fixture
def config(tmp_path: Path) -> SelfTrainConfig:
    make_images(tmp_path / "images", 5)
    make_weights(tmp_path)
    return SelfTrainConfig(
        name="test",
        data=ImageFolder(tmp_path / "images", tmp_path / "x_od.json", ("cat",)),
        train=TrainConfig(
            work_dir=tmp_path / "work",
            datasets=(GlyphData(count=10),),
            steps=1,
            start=FromWeights(str(tmp_path / "weights.safetensors")),
        ),
        rounds=2,
        evaluation=GlyphData(count=2),
    )


def test_every_round_makes_its_version_beside_the_source(config: SelfTrainConfig, tmp_path: Path) -> None:
    recorder, events = Recorder(), []
    result = self_train(config, events.append, recorder.stages())
    assert [done.labels.name for done in result.rounds] == ["x_od_v1.json", "x_od_v2.json", "x_od_v3.json"]
    assert all(done.labels.exists() and done.labels.parent == tmp_path for done in result.rounds)
    assert recorder.trained == 2
    assert result.rounds[1].weights != result.rounds[0].weights
    assert result.weights == result.rounds[2].weights
    first = recorder.datasets[0]
    assert first[0].annotations == result.rounds[0].labels
    assert first[1].weight == pytest.approx(0.5)  # five images against ten scenes, one to one
    assert {(event["round"], event["stage"]) for event in events} >= {(1, "infer"), (2, "train"), (3, "evaluate")}
    payload = json.loads(result.summary.read_text())
    assert [entry["ap"] for entry in payload["rounds"]] == [0.5] * 3


def test_a_finished_run_is_not_done_again(config: SelfTrainConfig) -> None:
    recorder = Recorder()
    first = self_train(config, stages=recorder.stages())
    assert recorder.detector.seen == 15
    again = self_train(config, stages=recorder.stages())
    assert again == first
    assert (recorder.detector.seen, recorder.trained) == (15, 2)


def test_another_policy_labels_anew_without_looking_at_the_first_round_again(config: SelfTrainConfig) -> None:
    recorder = Recorder()
    self_train(config, stages=recorder.stages())
    other = replace(config, policy=Policy(score_threshold=0.8))
    self_train(
        replace(other, labelling=replace(config.labelling, overwrite=True)),
        stages=recorder.stages(),
    )
    assert recorder.detector.seen == 15 + 10  # rounds 2 and 3 have other models now
    assert recorder.trained == 4


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"policy": Policy(score_threshold=0.8)}, "policy.score_threshold: .* there, 0.8 requested"),
        ({"student": 0.5}, "loop.student: 1.0 there, 0.5 requested"),
        ({"ratio": 2.0}, "loop.ratio"),
    ],
)
def test_rounds_of_other_settings_are_not_made_anew_in_silence(config: SelfTrainConfig, change, named: str) -> None:
    recorder = Recorder()
    result = self_train(config, stages=recorder.stages())
    labels = [each.labels.read_bytes() for each in result.rounds]
    with pytest.raises(InputError, match=f"contains 3 rounds with other settings .*{named}.*overwrite"):
        self_train(replace(config, **change), stages=recorder.stages())
    assert [each.labels.read_bytes() for each in result.rounds] == labels
    assert (recorder.detector.seen, recorder.trained) == (15, 2)


def test_more_rounds_and_a_threshold_for_the_first_are_no_other_settings(config: SelfTrainConfig) -> None:
    recorder = Recorder()
    self_train(replace(config, rounds=0), stages=recorder.stages())
    assert (
        len(self_train(replace(config, rounds=0, policy=Policy(score_threshold=0.8)), stages=recorder.stages()).rounds)
        == 1
    )
    assert recorder.detector.seen == 5
    again = replace(config, rounds=1, policy=Policy(score_threshold=0.8))
    assert len(self_train(again, stages=recorder.stages()).rounds) == 2


def test_missing_images_say_how_to_get_them(config: SelfTrainConfig, tmp_path: Path) -> None:
    data = ImageFolder(tmp_path / "none", tmp_path / "y_od.json", ("cat",), how_to_get="ask the librarian")
    with pytest.raises(InputError, match="ask the librarian"):
        self_train(replace(config, data=data))


def test_annotations_that_are_there_are_never_written_over(config: SelfTrainConfig, tmp_path: Path) -> None:
    own = '{"filename": "image-000.png", "height": 30, "width": 40}\n'
    (tmp_path / "x_od.json").write_text(own)
    prepare(config)
    assert (tmp_path / "x_od.json").read_text() == own
    assert read_label_map(tmp_path / "x_label_map.json") == {0: "cat"}


def test_categories_that_are_not_those_of_the_label_map_are_refused(config: SelfTrainConfig) -> None:
    prepare(config)
    with pytest.raises(InputError, match=r"has cat; expected data\.categories: dog"):
        prepare(replace(config, data=replace(config.data, categories=("dog",))))


def test_scenes_of_one_seed_do_not_pass_for_those_of_another(config: SelfTrainConfig) -> None:
    prepare(replace(config, data=GlyphScenes(count=2)))
    prepare(replace(config, data=GlyphScenes(count=2)))
    with pytest.raises(InputError, match="other scenes"):
        prepare(replace(config, data=GlyphScenes(count=2, seed=1)))


def test_missing_truth_is_said_before_anything_is_labelled(config: SelfTrainConfig, tmp_path: Path) -> None:
    recorder = Recorder()
    with pytest.raises(InputError, match="no such file"):
        self_train(
            replace(config, evaluation=CocoData(tmp_path / "test.json", tmp_path / "images")), stages=recorder.stages()
        )
    assert recorder.detector.seen == 0


def test_pretraining_data_need_not_be(config: SelfTrainConfig) -> None:
    recorder = Recorder()
    alone = replace(config, train=replace(config.train, datasets=()), rounds=1)
    assert self_train(alone, stages=recorder.stages()).rounds[1].counts["kept"] > 0
    assert [len(datasets) for datasets in recorder.datasets] == [1]
    with pytest.raises(InputError, match="datasets: is empty"):
        training.train(alone.train)


def test_captions_go_through_the_loop(config: SelfTrainConfig, tmp_path: Path) -> None:
    captions = {f"image-{index:03d}.png": "a cat" for index in range(5)}
    (tmp_path / "captions.json").write_text(json.dumps(captions))

    (tmp_path / "phrases.json").write_text('{"a cat": ["a cat"]}')
    data = CaptionedImages(
        tmp_path / "images", tmp_path / "captions.json", tmp_path / "x_vg.json", tmp_path / "phrases.json"
    )
    result = self_train(replace(config, data=data, rounds=1), stages=Recorder().stages())
    assert result.rounds[1].labels == tmp_path / "x_vg_v2.json"
    assert result.rounds[1].counts["kept"] > 0


def test_a_training_is_done_once_for_the_same_labels(
    config: SelfTrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def fake_train(run, on_progress):
        calls.append(run)
        checkpoint = run.work_dir / "model.safetensors"
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.write_bytes(b"trained")
        return SimpleNamespace(checkpoint=checkpoint, metrics={"loss": 1.0}, problems={}, best=None, best_ap=None)

    monkeypatch.setattr("grounding_model.training.loop.run_training", fake_train)
    first = training.train(config.train)
    assert training.train(config.train) == first
    assert len(calls) == 1
    training.train(replace(config.train, steps=2))
    assert len(calls) == 2
    first.write_bytes(b"damaged")
    training.train(replace(config.train, steps=2))
    assert len(calls) == 3


def test_an_evaluation_is_done_once_for_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def fake_evaluate(config):
        calls.append(config)
        config.work_dir.mkdir(exist_ok=True)
        (config.work_dir / "samples.npz").write_bytes(b"")
        return SimpleNamespace(numbers={"ap": 0.5, "headline": "ap", "weights": config.weights})

    monkeypatch.setattr("flows.self_training.scores.evaluate_benchmark", fake_evaluate)
    manifest = SimpleNamespace(weights="a", weights_sha256="a", text_encoder=None)

    def ask(manifest: SimpleNamespace) -> dict:
        return evaluate_weights(GlyphData(count=2), manifest, "cpu", tmp_path / "e.json", categories=("cat",))

    assert [ask(manifest) for _ in range(2)] == [{"ap": 0.5, "headline": "ap"}] * 2
    assert len(calls) == 1
    ask(SimpleNamespace(weights="b", weights_sha256="b", text_encoder=None))
    assert len(calls) == 2
    (tmp_path / "e" / "samples.npz").unlink()  # the gate could not draw an interval
    ask(SimpleNamespace(weights="b", weights_sha256="b", text_encoder=None))
    assert len(calls) == 3


@pytest.mark.parametrize("name", ["glyphs", "cat", "flickr30k"])
def test_the_configurations_of_the_deployments_are_valid(name: str) -> None:
    assert read_self_train(ROOT / "configs" / f"self_train_{name}.toml").name == name


def test_the_loop_takes_the_path_of_its_configuration(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        self_train(tmp_path / "none.toml")


def test_the_last_labels_that_passed_teach_a_student(config: SelfTrainConfig, tmp_path: Path) -> None:
    distilled, recorder = [], Recorder()
    stages = recorder.stages()._replace(
        distill=lambda settings: distilled.append(settings) or SimpleNamespace(table="|")
    )
    result = self_train(replace(config, distill=StudentStage(steps=7)), stages=stages)
    (settings,) = distilled
    assert (settings.labels, settings.teacher) == (result.rounds[-1].labels, result.rounds[-1].weights)
    assert (settings.work_dir, settings.train.steps) == (tmp_path / "work" / "student", 7)
    assert settings.truth == config.evaluation


@pytest.mark.slow
def test_the_last_stage_writes_a_student_that_detects(config: SelfTrainConfig, tmp_path: Path) -> None:
    start = FromStudent("glyph-student", image_size=64)
    stage = StudentStage(start, steps=1, trust="scores", licence="MIT")
    data = replace(config.data, categories=("cat", "dog"))
    settings = replace(config, data=data, rounds=0, distill=stage, train=replace(config.train, device="cpu"))
    events: list[dict] = []
    # The teacher's file is a stand-in's, which nothing but its own detector reads.
    stages = Recorder().stages()._replace(distill=lambda made: distill(replace(made, teacher="", truth=None)))
    last = self_train(settings, events.append, stages).rounds[-1]
    (table,) = [event["table"] for event in events if (event["stage"], event["state"]) == ("distill", "finished")]
    assert "| student, ONNX Runtime |" in table
    metadata = onnx_metadata(tmp_path / "work" / "student" / "student.onnx")
    assert metadata["teacher_licence"] == "MIT"
    assert metadata["labels_sha256"] == sha256_of(last.labels)
    detector = load_detector(tmp_path / "work" / "student" / "student")
    (answer,) = detector.predict(tmp_path / "images" / "image-000.png", ["dog"], score_threshold=0.0)
    assert {each.category for each in answer.instances or ()} == {"dog"}


def test_the_report_shows_the_student_of_these_labels_alone(config: SelfTrainConfig, tmp_path: Path) -> None:
    last = self_train(config, stages=Recorder().stages()).rounds[-1]
    facts = {"labels": last.labels.name, "labels_sha256": sha256_of(last.labels)}
    row = {"name": "student, ONNX Runtime", "ap": 0.7, "milliseconds": 1.5, "megabytes": 2.5}
    result = tmp_path / "work" / "student" / "distill.json"
    write_json(result, {"facts": facts, "rows": [row]})
    assert "student, ONNX Runtime" in write_run_report(tmp_path / "work").read_text()
    write_json(result, {"facts": facts | {"labels_sha256": "other"}, "rows": [row]})
    assert "student, ONNX Runtime" not in write_run_report(tmp_path / "work").read_text()


def cats(path: Path, *names: str) -> Path:
    """An ODVG file with a box in each image, and its label map."""
    cat = Instance((1.0, 1.0, 9.0, 9.0), 0, "cat")
    write_odvg(path, [Record(name, 32, 32, (cat,)) for name in names])
    write_label_map(label_map_beside(path), {0: "cat"})
    return path


def held_out(folder: Path, *names: str) -> OdvgData:
    return OdvgData(cats(folder / "test_od.json", *names), folder / "images", folder / "test_label_map.json")


def student_of(folder: Path, start: FromStudent) -> StudentStage:
    return StudentStage(start, steps=1, onnx=False)


REFUSED_AT_ONCE: dict[str, tuple[Callable[[SelfTrainConfig, Path], SelfTrainConfig], str]] = {
    "a threshold of no category": (
        lambda config, folder: replace(config, policy=Policy(class_thresholds={"cta": 0.5})),
        r"policy.class_thresholds: 'cta' is not in the prompt; did you mean",
    ),
    "a distractor that is a category": (
        lambda config, folder: replace(config, policy=Policy(distractors=("cat",))),
        r"policy.distractors",
    ),
    "a category of no truth": (
        lambda config, folder: replace(config, evaluated_categories=("unicorn",)),
        r"categories: the truth has no unicorn",
    ),
    "truth without its images": (
        lambda config, folder: replace(config, evaluation=held_out(folder, "image-000.png", "gone.png")),
        r"images: does not contain 1 of 2 images of .*test_od.json, such as gone.png",
    ),
    "truth that is not read": (
        lambda config, folder: replace(
            config, evaluation=replace(held_out(folder), annotations=folder / "broken.json")
        ),
        r"broken.json:1: is not JSON",
    ),
    "pretraining data that are not there": (
        lambda config, folder: replace(config, train=replace(config.train, datasets=(held_out(folder / "no"),))),
        r"no/images: no such folder",
    ),
    "a device of another machine": (
        lambda config, folder: replace(config, train=replace(config.train, device="cuda:99")),
        r"device: 'cuda:99' cannot be used",
    ),
    "a folder of COCO for the training": (
        lambda config, folder: replace(config, train=replace(config.train, data=CocoFolder(folder))),
        r"train.data: is set",
    ),
    "a view of no size": (
        lambda config, folder: replace(config, labelling=replace(config.labelling, views=(View(scale=(0, 5)),))),
        r"scale: \(0, 5\) is not a short and a long side",
    ),
    "the folder of the images as work_dir": (
        lambda config, folder: replace(config, train=replace(config.train, work_dir=folder / "images")),
        r"images: is the folder of the images",
    ),
    "a student of classes that no label has": (
        lambda config, folder: replace(config, distill=student_of(folder, FromStudent(names=("dog",)))),
        r"start.names: are dog; expected some of cat",
    ),
    "a student of no backbone": (
        lambda config, folder: replace(config, distill=student_of(folder, FromStudent(backbone="resnot18"))),
        r"start.backbone: timm has no network 'resnot18'",
    ),
    "a student of other classes than the truth": (
        lambda config, folder: replace(
            config,
            data=replace(config.data, categories=("dog",), annotations=folder / "dogs_od.json"),
            distill=student_of(folder, FromStudent("glyph-student", image_size=96)),
        ),
        r"its categories are cat, mouse, .*; expected some of the student's: dog",
    ),
    "a correction of an image that is not there": (
        lambda config, folder: cats(folder / "x_od_reviewed.json", "other.png") and config,
        r"x_od_reviewed.json:1: 'other.png' is not a line of x_od.json",
    ),
    "labels that somebody made": (
        lambda config, folder: cats(folder / "x_od_v2.json", "image-000.png") and config,
        r"x_od_v2.json: contains labels, but no x_od_v2.meta.json beside it",
    ),
}


@pytest.mark.parametrize("case", REFUSED_AT_ONCE)
def test_what_a_later_stage_would_refuse_is_refused_before_any_work(
    config: SelfTrainConfig, tmp_path: Path, case: str
) -> None:
    (tmp_path / "broken.json").write_text("no JSON")
    (tmp_path / "no").mkdir()
    change, message = REFUSED_AT_ONCE[case]
    recorder = Recorder()
    with pytest.raises(InputError, match=message):
        self_train(change(config, tmp_path), stages=recorder.stages())
    assert (recorder.detector.seen, recorder.trained) == (0, 0)


def test_labels_of_another_work_dir_are_refused_before_any_work_and_replaced_only_on_request(
    config: SelfTrainConfig, tmp_path: Path
) -> None:
    self_train(config, stages=Recorder().stages())
    later = replace(config, train=replace(config.train, work_dir=tmp_path / "later"), policy=Policy(0.8))
    recorder, before = Recorder(), (tmp_path / "x_od_v1.json").read_bytes()
    with pytest.raises(InputError, match=r"x_od_v2.json: contains the labels of another run, .* overwrite=True"):
        self_train(later, stages=recorder.stages())
    other = replace(later, rounds=0, labelling=replace(config.labelling, score_floor=0.2))
    with pytest.raises(InputError, match=r"x_od_v1.json: contains the labels of another plan"):
        self_train(other, stages=recorder.stages())
    assert (recorder.detector.seen, recorder.trained) == (0, 0)
    assert (tmp_path / "x_od_v1.json").read_bytes() == before
    self_train(replace(other, labelling=replace(other.labelling, overwrite=True)), stages=recorder.stages())
    assert (tmp_path / "x_od_v1.json").read_bytes() != before


def test_a_work_dir_that_was_moved_still_owns_its_labels(config: SelfTrainConfig, tmp_path: Path) -> None:
    self_train(config, stages=Recorder().stages())
    config.train.work_dir.rename(tmp_path / "moved")
    moved = replace(config, train=replace(config.train, work_dir=tmp_path / "moved"))
    refuse_labels_of_other_runs(moved.train.work_dir, tmp_path / "x_od.json", range(1, 4))
