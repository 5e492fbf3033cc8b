"""Training: resumed equals uninterrupted, what is frozen stays, what is wrong is named."""

from __future__ import annotations

import copy
import importlib
import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from formats.io.errors import InputError
from formats.io.locks import lock
from formats.io.toml_config import read_config
from formats.label_map import write_label_map
from formats.odvg import write_odvg
from formats.record import Instance, Record
from grounding_model.checkpoints.weights import load_checkpoint
from grounding_model.data.augment import AugmentConfig
from grounding_model.data.sources import OdvgData, TrainingData, open_dataset, open_for_training
from grounding_model.model.activation_checkpointing import set_recompute
from grounding_model.model.swin import SwinTransformer
from grounding_model.training import log as training_log
from grounding_model.training import loop as training
from grounding_model.training import objective, validation
from grounding_model.training import state as training_state
from grounding_model.training.config import FromScratch, FromWeights, RegionWords, TrainConfig
from grounding_model.training.distributed import Processes
from grounding_model.training.learner import GroundingLearner, start_model
from grounding_model.training.loop import TrainingFailed, run_training
from grounding_model.training.optimizer import (
    MovingAverage,
    build_optimizer,
    learning_rate_at,
    multiplier_of,
    scaled_rate,
    set_learning_rate,
)
from grounding_model.training.settings import OptimizerConfig
from tests.paths import GOLDEN
from tests.training_data import DETERMINED, MICRO, no_curves, weights_of, write_rectangles

__all__ = ["no_curves"]
pytestmark = pytest.mark.usefixtures("no_curves")
draw_curves = training_log.draw_curves


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[OdvgData, OdvgData]:
    return write_rectangles(tmp_path_factory.mktemp("data"))


@pytest.fixture
def config(data: tuple[OdvgData, OdvgData], tmp_path: Path) -> TrainConfig:
    return TrainConfig(
        work_dir=tmp_path / "run",
        datasets=data,
        start=FromScratch(tokenizer=str(GOLDEN / "a" / "bert"), architecture=MICRO),
        seed=3,
        steps=6,
        batch_size=2,
        augment=AugmentConfig(short_sides=(32, 48)),
        region_words=RegionWords(weight=0.5, alone_until=1),
        moving_average=0.9,
        workers=0,
        log_every=1,
        checkpoint_every=1,
        check_memory=False,
        device="cpu",
    )


class Interrupted(Exception):
    """Stands for a killed process."""


def interrupt_at(step: int):
    def on_progress(line: dict) -> None:
        if line["step"] == step:
            raise Interrupted

    return on_progress


def losses_of(result: training.TrainResult) -> list[float]:
    return [json.loads(line)["loss"] for line in result.log.read_text().splitlines()]


def test_workers_do_not_run_the_exit_hooks_of_their_parent(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hook() -> None:
        raise AssertionError("for the parent's threads only, as Prefect's hooks are")

    monkeypatch.setattr(threading, "_threading_atexits", [hook])
    assert run_training(replace(config, workers=1)).checkpoint.exists()


def test_resumed_equals_uninterrupted(config: TrainConfig, tmp_path: Path) -> None:
    whole = run_training(config)
    resumed_config = replace(config, work_dir=tmp_path / "resumed", workers=1)
    with pytest.raises(Interrupted):
        run_training(resumed_config, interrupt_at(4))
    assert not (tmp_path / "resumed" / GroundingLearner.weights_name).exists()
    steps: list[int] = []
    resumed = run_training(resumed_config, lambda line: steps.append(line["step"]))
    assert steps == [4, 5, 6]
    assert losses_of(resumed) == losses_of(whole)
    expected, found = weights_of(whole), weights_of(resumed)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_run_killed_between_its_last_state_and_its_weights_only_writes_these(
    config: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    first = run_training(config)
    whole = weights_of(first)
    first.checkpoint.unlink()
    capsys.readouterr()
    again = run_training(config)
    assert "all 6 steps already done; writing the weights" in capsys.readouterr().err
    assert all(torch.equal(whole[name], value) for name, value in weights_of(again).items())


@pytest.mark.parametrize(
    "damage", ["flipped", "cut", *(pytest.param(each, marks=pytest.mark.slow) for each in ("empty", "text"))]
)
def test_a_damaged_state_is_named_and_the_one_before_taken_up(
    config: TrainConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    whole = run_training(config)
    with pytest.raises(Interrupted):
        run_training(replace(config, work_dir=tmp_path / "resumed"), interrupt_at(5))
    state = tmp_path / "resumed" / training_state.STATE_FILE
    damaged = bytearray(state.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    damaged = {"flipped": damaged, "cut": damaged[:-1000], "empty": b"", "text": b"not a state"}[damage]
    state.unlink()
    state.write_bytes(damaged)
    steps: list[int] = []
    resumed = run_training(replace(config, work_dir=tmp_path / "resumed"), lambda line: steps.append(line["step"]))
    assert steps == [4, 5, 6]
    assert f"{state}: is damaged" in caplog.text
    assert "resuming from state-before.pt, step 3" in caplog.text
    expected, found = weights_of(whole), weights_of(resumed)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert training_state.read_training_state(state)["step"] == 6
    state.unlink()
    state.write_bytes(damaged)
    training_state.before(state).unlink()
    with pytest.raises(InputError, match=r"state\.pt: is damaged") as raised:
        run_training(replace(config, work_dir=tmp_path / "resumed"))
    assert "weights_only" not in str(raised.value)


def test_a_state_that_was_written_without_a_checksum_is_still_taken_up(config: TrainConfig) -> None:
    with pytest.raises(Interrupted):
        run_training(config, interrupt_at(4))
    path = config.work_dir / training_state.STATE_FILE
    torch.save(training_state.read_training_state(path), path)
    steps: list[int] = []
    run_training(config, lambda line: steps.append(line["step"]))
    assert steps == [4, 5, 6]


def test_two_runs_do_not_train_in_one_folder(config: TrainConfig) -> None:
    with lock(config.work_dir), pytest.raises(InputError, match=rf"in use by process {os.getpid()}; stop it or choose"):
        run_training(config)
    assert not (config.work_dir / training_state.STATE_FILE).exists()
    run_training(replace(config, steps=1))


def test_a_finished_run_is_not_done_again(config: TrainConfig) -> None:
    config = replace(config, steps=2)
    first = run_training(config)
    again = run_training(config, lambda line: pytest.fail("trained again"))
    assert again.metrics == first.metrics
    assert torch.equal(*(weights_of(result)["level_embedding"] for result in (first, again)))


def test_threads_are_of_the_training_alone(config: TrainConfig) -> None:
    """A loop that goes on behind a training labels as one that has just trained, to the last bit."""
    before, during = torch.get_num_threads(), []
    torch.set_num_threads(3)
    try:
        run_training(replace(config, steps=1, threads=2), lambda line: during.append(torch.get_num_threads()))
        assert set(during) == {2}
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_state_of_other_settings_is_refused(config: TrainConfig) -> None:
    run_training(replace(config, steps=1))
    with pytest.raises(InputError, match="a different batch_size, steps"):
        run_training(replace(config, batch_size=1))


def test_going_on_from_weights_starts_a_fresh_run(config: TrainConfig, tmp_path: Path) -> None:
    first = run_training(replace(config, steps=2))
    second = replace(
        config,
        work_dir=tmp_path / "second",
        start=FromWeights(str(first.checkpoint)),
        steps=2,
        frozen=("backbone", "text_"),
    )
    before, after = weights_of(first), weights_of(run_training(second))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert not [name for name in moved if name.startswith(("backbone", "text_"))]


def test_the_checkpoint_says_how_it_came_about(config: TrainConfig) -> None:
    provenance = load_checkpoint(run_training(replace(config, steps=1)).checkpoint).provenance
    assert provenance["seed"] == "3"
    assert {"command", "commit", "datasets", "datasets.0.sha256"} <= provenance.keys()


def test_frozen_names_must_exist(config: TrainConfig) -> None:
    with pytest.raises(InputError, match=r"backbonne.*text_encoder"):
        run_training(replace(config, frozen=("backbonne",)))


def test_a_loss_that_is_not_finite_ends_training_and_is_named(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> dict[str, torch.Tensor]:
        return {"loss_cls": torch.tensor(1.0), "d0.loss_iou": torch.tensor(float("nan"))}

    monkeypatch.setattr(objective, "grounding_losses", broken)
    with pytest.raises(TrainingFailed, match=r"step 1: not finite: d0\.loss_iou;"):
        run_training(config)
    assert not (config.work_dir / GroundingLearner.weights_name).exists()


def test_skipped_samples_are_counted(config: TrainConfig, tmp_path: Path) -> None:
    (folder := tmp_path / "broken").mkdir()
    records = [Record(f"{index}.png", 8, 8, (Instance((1, 1, 7, 7), 0, "cat"),)) for index in range(2)]
    write_odvg(folder / "od.jsonl", records)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "1.png")
    result = run_training(replace(config, datasets=(OdvgData(folder / "od.jsonl", folder),), steps=2))
    ((problem, count),) = result.problems.items()
    assert "0.png" in problem
    assert count == 2


def test_a_toml_file_says_it_all(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(
        """
        work_dir = "outputs/x"
        epochs = 2
        [start]
        kind = "scratch"
        tokenizer = "glyphs"
        architecture.backbone = {kind = "timm", name = "resnet10t"}
        [[datasets]]
        kind = "odvg"
        annotations = "a.json"
        image_root = "images"
        [[datasets]]
        kind = "glyphs"
        count = 7
        [augment]
        short_sides = [160]
        [augment.photometric]
        noise = 0.1
        [optimizer]
        multipliers = {backbone = 0.5}
        """
    )
    config = read_config(path, TrainConfig, ["batch_size=16"])
    assert config.batch_size == 16
    assert config.datasets[1].count == 7
    assert config.optimizer.multipliers == {"backbone": 0.5}
    assert config.augment.photometric.noise == 0.1
    with pytest.raises(InputError, match="did you mean 'batch_size'"):
        read_config(path, TrainConfig, ["batchsize=16"])
    with pytest.raises(InputError, match="exactly one"):
        read_config(path, TrainConfig, ["steps=16"])


# The optimizer


def test_the_longest_key_decides_the_rate() -> None:
    multipliers = {"backbone": 0.1, "backbone.norm": 0.0, "text": 0.5}
    names = ("backbone.conv", "backbone.norm1", "text_encoder.bert", "decoder.0")
    assert [multiplier_of(name, multipliers) for name in names] == [0.1, 0.0, 0.5, 1.0]


def test_groups_have_their_rates() -> None:
    model = nn.ModuleDict({"backbone": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    optimizer = build_optimizer(model, OptimizerConfig(decay_vectors=False))
    set_learning_rate(optimizer, 1.0)
    groups = {(group["lr"], group["weight_decay"]): len(group["params"]) for group in optimizer.param_groups}
    assert groups == {(0.1, 1e-4): 1, (0.1, 0.0): 1, (1.0, 1e-4): 1, (1.0, 0.0): 1}


def test_a_multiplier_of_no_part_is_refused_unless_it_is_a_default() -> None:
    model = nn.ModuleDict({"backbone": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    build_optimizer(model, OptimizerConfig(multipliers={"text_encoder.bert": 0.1, "hea": 0.5}))
    with pytest.raises(InputError, match="no parameter's name contains 'haed'; expected one of backbone, head"):
        build_optimizer(model, OptimizerConfig(multipliers={"haed": 0.5}))


def test_the_folder_of_the_images_is_no_work_dir(config: TrainConfig, tmp_path: Path) -> None:
    data = config.datasets[0]
    assert isinstance(data, OdvgData)
    with pytest.raises(InputError, match="is the folder of the images; expected another work_dir"):
        training.check_data(replace(config, work_dir=data.image_root / "."))


def test_images_of_one_cell_name_their_setting(config: TrainConfig) -> None:
    class Small:
        targets = (None,)

        def to(self, device: torch.device) -> object:
            return self

    class Run:
        step = 0

        def parallel(self, batch: object, step: int) -> object:
            return nn.BatchNorm1d(2)(torch.zeros(1, 2))

    with pytest.raises(InputError, match="augment: makes images so small that a feature map of a batch of 1 has one"):
        training._losses(Run(), Small(), torch.device("cpu"))  # type: ignore[arg-type]


def test_the_rate_over_a_run() -> None:
    cosine = OptimizerConfig(learning_rate=1.0, schedule="cosine", warmup_steps=4, final_fraction=0.1)
    rates = [learning_rate_at(step, 104, cosine, 1.0) for step in range(105)]
    np.testing.assert_allclose(rates[:5], [0.25, 0.5, 0.75, 1.0, 1.0])
    np.testing.assert_allclose([rates[54], rates[104]], [0.55, 0.1])
    assert rates[4:] == sorted(rates[4:], reverse=True)
    step = OptimizerConfig(learning_rate=1.0, schedule="step", step_at=(0.5, 0.75))
    np.testing.assert_allclose(
        [learning_rate_at(at, 8, step, 1.0) for at in (0, 3, 4, 5, 6, 7)], [1, 1, 0.1, 0.1, 0.01, 0.01]
    )


def test_the_average_follows_the_weights() -> None:
    torch.manual_seed(0)
    model = nn.BatchNorm1d(3)
    average = MovingAverage(model, decay=0.5)
    expected = model.weight.detach().clone()
    for step in range(20):
        with torch.no_grad():
            model.weight.add_(1.0)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.weight.detach()
        average.update(model)
    torch.testing.assert_close(average.weights["weight"], expected)
    model.num_batches_tracked += 7
    average.update(model)
    assert average.weights["num_batches_tracked"] == 7


def test_validation_measures_and_counts_what_it_passes_over(config: TrainConfig, tmp_path: Path) -> None:
    detections = config.datasets[0]
    assert isinstance(detections, OdvgData)
    lines = detections.annotations.read_text() + '{"filename": "none.png", "height": 48, "width": 64, '
    (tmp_path / "od.jsonl").write_text(lines + '"detection": {"instances": []}}\n')
    validate = (replace(detections, annotations=tmp_path / "od.jsonl"),)
    result = run_training(replace(config, steps=2, validate=validate, validate_every=2, validate_scale=(48, 64)))
    assert 0 <= result.metrics["validation.0.ap"] <= result.metrics["validation.0.ap50"] <= 1
    assert [count for problem, count in result.problems.items() if problem.startswith("validation: ")] == [1]


def test_validation_data_are_opened_once(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[TrainingData] = []
    monkeypatch.setattr(validation, "open_dataset", lambda data: [opened.append(data), open_dataset(data)][1])
    validate = config.datasets[:1]
    result = run_training(replace(config, validate=validate, validate_every=2, validate_scale=(48, 64)))
    lines = [json.loads(line) for line in result.log.read_text().splitlines()]
    assert [line["step"] for line in lines if training_log.MEAN_AP in line] == [2, 4, 6]
    assert opened == list(validate)


def test_a_run_killed_while_it_validates_is_measured_when_it_goes_on(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    validate = config.datasets[:1]
    config = replace(config, steps=2, validate=validate, validate_every=5, validate_scale=(48, 64))

    def killed(*_: object) -> None:
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(training, "validate", killed)
        with pytest.raises(Interrupted):
            run_training(config)
    assert "validation.0.ap" in run_training(config).metrics
    run_training(config, lambda line: pytest.fail("measured again"))


def test_an_interrupted_run_goes_on_only_when_asked(config: TrainConfig, capsys: pytest.CaptureFixture[str]) -> None:
    training.check_resume(config, resume=False)
    training.check_resume(config, resume=True)
    assert "nothing to resume" in capsys.readouterr().err
    config.work_dir.mkdir()
    (config.work_dir / training_state.STATE_FILE).touch()
    training.check_resume(config, resume=True)
    with pytest.raises(InputError, match="contains an interrupted run; expected resume=True"):
        training.check_resume(config, resume=False)
    (config.work_dir / GroundingLearner.weights_name).touch()  # finished
    training.check_resume(config, resume=False)


def test_data_that_cannot_be_validated_on_are_refused_before_the_first_step(config: TrainConfig) -> None:
    with pytest.raises(InputError, match=r"validate\.0"):
        run_training(replace(config, validate=config.datasets[1:], validate_every=1))
    assert not (config.work_dir / training_log.LOG_FILE).exists()


# What costs less, or is told besides


def gradients_of(model: nn.Module, config: TrainConfig) -> dict[str, torch.Tensor]:
    """Of one batch of the configuration's data, dropout included."""
    datasets = [open_for_training(data) for data in config.datasets]
    learner, processes = GroundingLearner(config), Processes()
    learner.model = model
    loader = training._loader(config, datasets, learner, 0, 1, torch.device("cpu"), processes)
    run = training_state.TrainingState(learner, config, processes)
    torch.manual_seed(1)
    training._step(run, config, list(loader), 0.0, torch.device("cpu"))
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("backbone", [DETERMINED.backbone, MICRO.backbone], ids=["swin", "timm"])
def test_recomputed_activations_give_the_same_gradients(config: TrainConfig, backbone: object) -> None:
    architecture = replace(MICRO, backbone=backbone, levels=4, width=64, fusion_width=64)
    config = replace(config, start=replace(config.start, architecture=architecture), region_words=RegionWords())
    torch.manual_seed(0)
    model, _ = start_model(config.start)
    model.train()
    twin = copy.deepcopy(model)
    set_recompute(twin, True)
    kept, recomputed = gradients_of(model, config), gradients_of(twin, config)
    assert kept.keys() == recomputed.keys()
    for name, value in kept.items():
        torch.testing.assert_close(recomputed[name], value, rtol=1e-4, atol=1e-6, msg=name)


def test_recomputing_keeps_less(config: TrainConfig) -> None:
    """Bytes that the forward pass of a Swin keeps for the backward pass."""

    def kept(on: bool) -> int:
        set_recompute(swin, on)
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
            swin(torch.randn(1, 3, 96, 96))
        return sum(sizes)

    swin = SwinTransformer(replace(DETERMINED.backbone, depths=(2, 2, 6, 2)))
    assert kept(True) < kept(False) / 3


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_learns_the_same(config: TrainConfig, tmp_path: Path, precision: str) -> None:
    # Later steps part ways: a query that another box is matched with jumps.
    config = replace(config, start=replace(config.start, architecture=DETERMINED), batch_size=4, steps=3)
    full = run_training(config)
    half = run_training(replace(config, precision=precision, work_dir=tmp_path / precision))
    assert losses_of(half) == pytest.approx(losses_of(full), rel=0.1)
    assert losses_of(half) != losses_of(full)
    assert weights_of(half)["level_embedding"].dtype == torch.float32


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_learns_what_a_cpu_learns(config: TrainConfig, tmp_path: Path) -> None:
    """Interrupted or not; sums of a GPU's gradients differ in their last bits from run to run."""
    config = replace(config, start=replace(config.start, architecture=DETERMINED), batch_size=4, steps=4)
    on_cpu = run_training(config)
    on_gpu = replace(config, device="cuda", work_dir=tmp_path / "gpu")
    with pytest.raises(Interrupted):
        run_training(on_gpu, interrupt_at(3))
    assert losses_of(run_training(on_gpu)) == pytest.approx(losses_of(on_cpu), rel=0.01)
    rounded = run_training(replace(on_gpu, precision="bfloat16", work_dir=tmp_path / "bfloat16"))
    assert losses_of(rounded) == pytest.approx(losses_of(on_cpu), rel=0.1)


@pytest.mark.slow
def test_a_gradient_that_overflows_float16_costs_one_step_and_not_the_run(config: TrainConfig) -> None:
    """The scale of the loss starts high and falls until the gradients fit."""
    config = replace(config, precision="float16", steps=4)
    learner = GroundingLearner(config)
    model = learner.model
    run = training_state.TrainingState(learner, config, Processes())
    run.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    datasets = [open_for_training(data) for data in config.datasets]
    before = model.level_embedding.detach().clone()
    for batch in training._loader(config, datasets, learner, 1, 3, torch.device("cpu"), Processes()):
        run.step += 1
        training._step(run, config, [batch], 1e-3, torch.device("cpu"))
    assert run.scaler.get_scale() < 2.0**40
    assert torch.equal(model.level_embedding, before)
    run.scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    training._step(run, config, [batch], 1e-3, torch.device("cpu"))
    assert not torch.equal(model.level_embedding, before)


def test_the_best_weights_are_kept(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    found = iter([0.2, 0.6, 0.4])
    monkeypatch.setattr(training, "validate", lambda *_: {training_log.MEAN_AP: next(found)})
    result = run_training(replace(config, validate=config.datasets[:1], validate_every=2))
    assert result.best == config.work_dir / GroundingLearner.best_name
    best = load_checkpoint(result.best)
    assert (best.provenance["step"], best.provenance["ap"]) == ("4", "0.6")
    assert not torch.equal(best.model.level_embedding, weights_of(result)["level_embedding"])


def test_the_best_is_remembered_by_a_resumed_run(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {2: 0.6, 4: 0.4, 6: 0.5}
    monkeypatch.setattr(
        training, "validate", lambda *_: {training_log.MEAN_AP: found[training_log_step(config.work_dir)]}
    )
    config = replace(config, validate=config.datasets[:1], validate_every=2)
    with pytest.raises(Interrupted):
        run_training(config, interrupt_at(5))
    result = run_training(config)
    assert load_checkpoint(result.best).provenance["step"] == "2"


def training_log_step(work_dir: Path) -> int:
    return json.loads((work_dir / training_log.LOG_FILE).read_text().splitlines()[-1])["step"]


@pytest.mark.slow
def test_validation_may_be_asked_for_in_epochs(config: TrainConfig) -> None:
    """Ten images, two a step: an epoch has five steps."""
    config = replace(config, steps=10, validate=config.datasets[:1], validate_every_epochs=0.4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "validate", lambda *_: {training_log.MEAN_AP: 0.0})
        result = run_training(config)
    lines = [json.loads(line) for line in result.log.read_text().splitlines()]
    assert [line["step"] for line in lines if training_log.MEAN_AP in line] == [2, 4, 6, 8, 10]


def test_curves_and_events_are_written(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_log, "draw_curves", draw_curves)
    run_training(replace(config, tensorboard=True))
    picture = Image.open(config.work_dir / training_log.CURVES_FILE)
    assert picture.width > picture.height > 200
    accumulator = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(config.work_dir / training_log.TENSORBOARD_FOLDER)).Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4, 5, 6]


def test_curves_are_drawn_without_touching_what_a_notebook_draws_with(tmp_path: Path) -> None:
    log = tmp_path / training_log.LOG_FILE
    log.write_text('{"step": 1, "loss": 2.0, "validation.ap": 0.5}\n{"step": 2, "loss": 1.0}\n')
    drawn = (
        "import sys; from pathlib import Path; from grounding_model.training.log import draw_curves;"
        f"draw_curves(Path({str(log)!r}), Path({str(tmp_path / 'curves.png')!r}));"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", drawn], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "curves.png").is_file()


@pytest.mark.slow
def test_memory_stays_where_it_is(config: TrainConfig) -> None:
    """After the first steps, which load libraries and fill caches."""
    result = run_training(replace(config, steps=60, checkpoint_every=0))
    held = [json.loads(line)["memory_gib"] for line in result.log.read_text().splitlines()]
    assert held[0] > 0
    assert max(held[30:]) - held[29] < 0.02


def test_the_rate_follows_the_batch() -> None:
    config = OptimizerConfig(learning_rate=4e-4, base_batch_size=128, warmup_steps=10, warmup_from=0.1)
    assert scaled_rate(config, 32) == pytest.approx(1e-4)
    assert scaled_rate(replace(config, base_batch_size=None), 32) == pytest.approx(4e-4)
    rates = [learning_rate_at(step, 100, config, 1.0) for step in (0, 4, 9, 10)]
    np.testing.assert_allclose(rates, [0.19, 0.55, 1.0, 1.0])


def test_missing_data_are_told_with_where_to_get_them(config: TrainConfig) -> None:
    absent = replace(config.datasets[0], annotations=Path("data/none.json"))
    with pytest.raises(InputError, match=r"data/none\.json: no such file; expected it from the moon"):
        run_training(replace(config, datasets=(absent,), get="expected it from the moon"))


@pytest.mark.parametrize("counts", [(500, 1), (500, 0), (0, 0)], ids=["crowded", "crowded and empty", "empty"])
def test_images_with_hundreds_of_boxes_or_none_are_learnt_from(
    config: TrainConfig, tmp_path: Path, counts: tuple[int, ...]
) -> None:
    records = []
    for index, count in enumerate(counts):
        Image.fromarray(np.full((48, 64, 3), 90, np.uint8)).save(tmp_path / f"{index}.png")
        boxes = [Instance((x % 60, x % 40, x % 60 + 4, x % 40 + 8), x % 3, "abc"[x % 3]) for x in range(count)]
        records.append(Record(f"{index}.png", 48, 64, tuple(boxes)))
    write_odvg(tmp_path / "od.jsonl", records)
    write_label_map(tmp_path / "map.json", dict(enumerate("abc")))
    data = OdvgData(tmp_path / "od.jsonl", tmp_path, tmp_path / "map.json")
    result = run_training(replace(config, datasets=(data,), steps=3))
    assert np.isfinite(losses_of(result)).all()
    assert result.problems == {}


def test_a_git_that_was_killed_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Met by benchmarks/kill_harness.py: the weights said that nobody knew their commit."""
    answers = [(-9, ""), (0, "training_state.py"), (-9, ""), (0, "c0ffee-dirty")]

    def run(command: list[str], **settings: object) -> subprocess.CompletedProcess[str]:
        code, said = answers.pop(0)
        return subprocess.CompletedProcess(command, code, said, "")

    monkeypatch.setattr(subprocess, "run", run)
    assert training_state.source_commit() == "c0ffee-dirty"
    answers[:] = [(128, "")]
    assert training_state.source_commit() == "unknown"


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_data_are_an_input_error_whichever_process_meets_them(
    config: TrainConfig, tmp_path: Path, workers: int
) -> None:
    (tmp_path / "data").mkdir()
    config = replace(config, datasets=write_rectangles(tmp_path / "data"))  # not those that the other tests share
    for path in (tmp_path / "data").rglob("*.png"):
        Image.new("RGB", (9, 9)).save(path)
    with pytest.raises(InputError, match=r"data set \d: \d+ images in a row are unusable; .* the image is 9x9"):
        run_training(replace(config, workers=workers))
