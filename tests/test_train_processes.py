"""One step of several processes or micro-batches is the step of one batch that holds all their images."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import distributed

from flows.training import torchrun as launching
from flows.training.torchrun import train_in_processes
from formats.io.errors import InputError
from formats.io.toml_config import read_config, write_config
from grounding_model.data.augment import AugmentConfig
from grounding_model.data.sources import OdvgData
from grounding_model.model.kernels.compiled_gather import library
from grounding_model.training.config import FromScratch, TrainConfig
from grounding_model.training.distributed import check_devices, run_on_first
from grounding_model.training.loop import TrainingFailed, TrainResult, _report, run_training
from grounding_model.training.settings import OptimizerConfig
from tests.forked import fork
from tests.paths import GOLDEN
from tests.training_data import DETERMINED, no_curves, weights_of, write_rectangles

__all__ = ["no_curves"]
pytestmark = pytest.mark.usefixtures("no_curves")

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> OdvgData:
    return write_rectangles(tmp_path_factory.mktemp("data"), count=8)[0]


@pytest.fixture
def config(data: OdvgData, tmp_path: Path) -> TrainConfig:
    return TrainConfig(
        work_dir=tmp_path / "whole",
        datasets=(data,),
        start=FromScratch(tokenizer=str(GOLDEN / "a" / "bert"), architecture=DETERMINED),
        steps=3,
        batch_size=4,
        augment=AugmentConfig(short_sides=(), flip=0.0),
        optimizer=OptimizerConfig(learning_rate=1e-4, clip_norm=1.0),
        moving_average=0.5,
        workers=0,
        log_every=1,
        checkpoint_every=1,
        check_memory=False,
        device="cpu",
    )


def numbers_of(result: TrainResult) -> list[dict[str, float]]:
    """The parts of the loss and the gradient's norm of every step."""
    lines = [json.loads(line) for line in result.log.read_text().splitlines()]
    return [{name: value for name, value in line.items() if "loss" in name or "norm" in name} for line in lines]


def assert_equal(one: TrainResult, other: TrainResult, later_norms: float = 1e-3) -> None:
    """later_norms: tolerance of the gradient's norm after the first step."""
    for step, (expected, found) in enumerate(zip(numbers_of(one), numbers_of(other), strict=True)):
        norms = [numbers.pop("gradient_norm") for numbers in (found, expected)]
        assert norms[0] == pytest.approx(norms[1], rel=later_norms if step else 1e-5)
        assert found == pytest.approx(expected, rel=1e-3 if step else 1e-5, abs=1e-6)
    expected, found = weights_of(one), weights_of(other)
    difference = torch.cat([(found[name] - value).abs().flatten() for name, value in expected.items()])
    # AdamW divides by a gradient's own size: where that is next to nothing, a rounding error turns a step round.
    assert (difference > 1e-6).float().mean() < 0.02
    assert difference.max() < 3 * 2 * 1e-4


@pytest.fixture
def plain_sampling(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No compiled loop, in this process and in those that it starts."""
    monkeypatch.setenv("GROUNDHOG_COMPILE", "0")
    library.cache_clear()
    yield
    library.cache_clear()


def assert_micro_batches_add_up(config: TrainConfig, later_norms: float) -> None:
    divided = replace(config, work_dir=config.work_dir.with_name("divided"), batch_size=1, accumulate=4)
    assert_equal(run_training(config), run_training(divided), later_norms)


@pytest.mark.slow
@pytest.mark.usefixtures("plain_sampling")
def test_micro_batches_add_up_to_one_batch(config: TrainConfig) -> None:
    assert_micro_batches_add_up(config, later_norms=1e-3)


@pytest.mark.slow
def test_micro_batches_add_up_with_the_compiled_loop(config: TrainConfig) -> None:
    # Measured: 1.2e-3 at the second step, most of it in the neck's coarsest map; 4.8e-4 at the third without the loop.
    assert_micro_batches_add_up(config, later_norms=5e-3)


@pytest.mark.slow
@pytest.mark.usefixtures("plain_sampling")
def test_two_processes_equal_one_with_the_doubled_batch(config: TrainConfig, tmp_path: Path) -> None:
    lines: list[dict] = []
    together = replace(config, work_dir=tmp_path / "together", batch_size=1, accumulate=2, processes=2)
    assert_equal(run_training(config), train_in_processes(together, lines.append))
    assert [line["step"] for line in lines] == [1, 2, 3]


def ask_first(rank: int, folder: Path) -> None:
    """One of two processes: what the first one finds, and what it cannot read, into a file of its own."""
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)

    def missing() -> None:
        raise InputError(f"{rank}.json", "no such file", "expected it")

    found = run_on_first(lambda: {"found by": rank})
    with pytest.raises(InputError) as refusal:
        run_on_first(missing)
    (folder / str(rank)).write_text(f"{found} {refusal.value}")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_what_the_first_process_finds_or_raises_all_of_them_do(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(ask_first, (tmp_path,), nprocs=2)
    expected = "{'found by': 0} 0.json: no such file; expected it"
    assert [(tmp_path / str(rank)).read_text() for rank in range(2)] == [expected, expected]


@pytest.mark.slow
def test_killed_processes_go_on_as_if_nothing_had_been(config: TrainConfig, tmp_path: Path) -> None:
    whole = train_in_processes(replace(config, processes=2, batch_size=2, steps=4))
    config = replace(config, work_dir=tmp_path / "killed", processes=2, batch_size=2, steps=4)
    write_config(tmp_path / "config.toml", config)
    code = f"""
from flows.training import torchrun as launching
from flows.training.torchrun import train_in_processes
from formats.io.toml_config import read_config
from grounding_model.training.config import TrainConfig
train_in_processes(read_config({str(tmp_path / "config.toml")!r}, TrainConfig))
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    log = config.work_dir / "log.jsonl"
    while not (log.exists() and len(log.read_text().splitlines()) >= 2):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until_gone(config.work_dir)
    assert_same_bits(whole, train_in_processes(config))


def wait_until_gone(work_dir: Path) -> None:
    """Until no process names the work_dir in its command line: none outlives its parent."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if os.access(path, os.R_OK)]
        if not any(str(work_dir).encode() in command for command in commands):
            return
        time.sleep(0.2)
    pytest.fail("processes outlive the one that started them")


def assert_same_bits(one: TrainResult, other: TrainResult) -> None:
    expected, found = weights_of(one), weights_of(other)
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []


def test_reports_of_processes_that_share_a_pipe_do_not_mix(tmp_path: Path) -> None:
    reading, writing = os.pipe()

    def report(name: str) -> None:
        os.dup2(writing, 1)
        sys.stdout = os.fdopen(1, "w", closefd=False)
        (tmp_path / name).touch()
        while len(list(tmp_path.iterdir())) < 2:  # both at once
            time.sleep(0.001)
        for number in range(5000):
            _report("progress", number, word="x" * 300)

    both = [fork(partial(report, name)) for name in "ab"]
    os.close(writing)
    with open(reading, encoding="utf-8") as lines:
        items = [json.loads(line)["progress"] for line in lines]
    assert [os.waitpid(child, 0)[1] for child in both] == [0, 0]
    assert sorted(items) == sorted([*range(5000), *range(5000)])


@pytest.mark.slow
def test_what_went_wrong_in_a_process_is_told_by_the_one_that_started_it(config: TrainConfig) -> None:
    with pytest.raises(TrainingFailed, match=r"process \d: TrainingFailed: step \d: .*not finite"):
        train_in_processes(
            replace(
                config, processes=2, optimizer=OptimizerConfig(learning_rate=10.0, base_batch_size=1, clip_norm=0.0)
            )
        )


@pytest.mark.slow
def test_bad_input_of_a_process_is_bad_input(tmp_path: Path) -> None:
    bad = tmp_path / "config.toml"
    bad.write_text("steps = 1\nwork_dir = 'x'\n")
    command = [sys.executable, "-m", "grounding_model.training.loop", str(bad), "--report"]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process,
        pytest.raises(InputError, match="datasets: is empty; expected at least one"),
    ):
        launching._follow(process, None)


def test_several_processes_that_nobody_started_are_refused(config: TrainConfig) -> None:
    with pytest.raises(InputError, match=r"is 2, but this run has one; expected torchrun --nproc-per-node 2"):
        run_training(replace(config, processes=2))


def test_processes_do_not_share_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_devices(2, "auto")
    check_devices(8, "cpu")
    with pytest.raises(InputError, match=r"is 8, but there are only 2 GPUs; expected at most 2, .* accumulate times 4"):
        check_devices(8, "auto")


def test_processes_are_not_many_more_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    check_devices(8, "cpu")
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    check_devices(64, "cpu")
    with pytest.raises(InputError, match=r"is 65, but there are only 64 cores; expected at most 64"):
        check_devices(65, "cpu")


def test_a_written_configuration_is_read_back(config: TrainConfig, tmp_path: Path) -> None:
    write_config(tmp_path / "config.toml", config)
    assert read_config(tmp_path / "config.toml", TrainConfig) == config
