"""Nothing in the model's layers asks a device for a value: on a GPU each such question waits for all work before it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from grounding_model import detector as detecting
from grounding_model.data.sources import GlyphData
from grounding_model.detector import current_device, load_detector
from grounding_model.glyphs import categories_of, draw_scene
from grounding_model.inputs.image_batch import ImageBatch
from grounding_model.inputs.tokens import TextBatch
from grounding_model.model.config import GLYPH_TINY, Denoising
from grounding_model.model.denoising import ContrastiveDenoising
from grounding_model.model.grounding import GroundingModel
from grounding_model.model.targets import Target, pad_targets
from grounding_model.postprocessing import LabelScoring, top_pairs
from grounding_model.training.config import TrainConfig
from grounding_model.training.learner import GroundingLearner
from grounding_model.training.loop import run_training
from grounding_model.training.losses import matched_sets, set_losses
from grounding_model.training.settings import REFERENCE_LOSSES

WAITING = {
    torch.ops.aten._local_scalar_dense.default,  # item, bool, int, float
    torch.ops.aten.nonzero.default,  # and indexing by a mask
    torch.ops.aten.masked_select.default,
    torch.ops.aten._unique2.default,
}


class NoQuestions(TorchDispatchMode):
    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        assert func not in WAITING, f"{func} asks the device for a value"
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def model() -> GroundingModel:
    torch.manual_seed(0)
    return GroundingModel(GLYPH_TINY).eval()


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_the_model_never_waits_for_the_device(
    padded: bool, training: bool, model: GroundingModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageBatch, "padded", padded)  # known from sizes, which are in the memory of the CPU
    # The chunks of a CPU, which may look at a mask, are left out as they are on a GPU.
    monkeypatch.setattr("grounding_model.model.attention.on_cpu", lambda x: False)
    images = ImageBatch(torch.rand(2, 3, 96, 128), torch.tensor([[96, 128], [80, 96] if padded else [96, 128]]))
    eye = torch.eye(5, dtype=torch.bool).repeat(2, 1, 1)
    ids = torch.arange(10).view(2, 5)
    text = TextBatch(ids, torch.ones(2, 5, dtype=torch.bool), torch.zeros_like(ids), eye)
    with torch.set_grad_enabled(training), NoQuestions():
        found = model(images, text)
        if training:
            found.logits.sigmoid().mean().backward()


def test_label_scores_and_the_best_pairs_never_wait_for_the_device() -> None:
    scoring = LabelScoring.of([[1], [2, 3], [4]], [0, 1, 0], torch.device("cpu"))
    with NoQuestions():
        found = top_pairs(torch.randn(7, 6), torch.rand(7, 4), scoring, count=5, columns=2)
    assert found.boxes.shape == (5, 4)


def test_losses_of_matched_queries_ask_nothing_of_the_device(model: GroundingModel) -> None:
    """Asked once for each of the 13 sets of queries, a GPU would be waited for 13 times a step."""
    images = ImageBatch(torch.rand(1, 3, 96, 128), torch.tensor([[96, 128]]))
    ids = torch.arange(5)[None]
    eye = torch.eye(5, dtype=torch.bool)[None]
    found = model(images, TextBatch(ids, torch.ones(1, 5, dtype=torch.bool), torch.zeros_like(ids), eye))
    boxes, tokens = torch.tensor([[0.3, 0.3, 0.2, 0.2], [0.6, 0.6, 0.3, 0.2]]), torch.ones(2, 5, dtype=torch.bool)
    ignore = torch.tensor([False, True])
    padded = pad_targets([Target(boxes, tokens, torch.arange(2), torch.ones(2), ignore, (96, 128))])
    sets = matched_sets(found, padded, REFERENCE_LOSSES)
    with NoQuestions():
        set_losses(sets, padded, found.token_mask, REFERENCE_LOSSES)


def test_targets_and_denoising_ask_nothing_of_the_device() -> None:
    """Of tensors on the device `meta` nothing can be asked."""
    boxes, tokens = torch.tensor([[0.3, 0.3, 0.2, 0.2], [0.6, 0.6, 0.3, 0.2]]), torch.ones(2, 5, dtype=torch.bool)
    ignore = torch.tensor([False, True])
    targets = [Target(boxes, tokens, torch.arange(2), torch.ones(2), ignore, (96, 128)).to("meta")] * 2
    queries = ContrastiveDenoising(Denoising(queries=20), width=8).to("meta")(targets, matching_queries=5)
    assert queries.content.device.type == "meta"
    assert queries.content.shape == (2, 40, 8)
    assert [len(part) for part in queries.positives] == [40] * 3
    padded = pad_targets(targets)
    assert (padded.wanted_count, padded.any_ignored) == (2, True)
    assert padded.wanted.device.type == padded.scale.device.type == "meta"


def test_such_a_question_is_noticed() -> None:
    with pytest.raises(AssertionError, match="asks the device"), NoQuestions():
        bool(torch.ones(2).any())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_one_forward_on_a_gpu_waits_for_nothing(model: GroundingModel) -> None:
    images = ImageBatch(torch.rand(2, 3, 96, 128), torch.tensor([[96, 128], [80, 96]])).to("cuda")
    ids = torch.arange(10).view(2, 5)
    eye = torch.eye(5, dtype=torch.bool).repeat(2, 1, 1)
    on_cpu = TextBatch(ids, torch.ones(2, 5, dtype=torch.bool), torch.zeros_like(ids), eye)
    text = on_cpu.to("cuda")
    on_gpu = deepcopy(model).cuda()
    with torch.inference_mode():
        on_gpu(images, text)  # constants of this size come to the device once
        torch.cuda.set_sync_debug_mode("error")
        try:
            on_gpu(images, on_cpu.to("cuda"))  # captions that are new come to the device without a wait
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_a_model_runs_while_its_gpu_is_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's kernels and the recording of graphs go to the current GPU, wherever their tensors are."""
    assert current_device(torch.device("cuda:1")).idx == 1
    detector, current = load_detector(device="cpu"), []
    monkeypatch.setattr(detecting, "current_device", lambda device: current.append(device) or nullcontext())
    detector.predict([draw_scene("source", 9000, 0, "od")[0]], ["cat"])
    assert current == [torch.device("cpu")]


def test_validation_replaces_no_layer_of_the_model_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels have no gradients, so a training on a GPU could not go on after its first validation."""
    learner, replaced = GroundingLearner(TrainConfig(Path("unused"), steps=1)), []
    assert detecting.fast_forward(deepcopy(learner.model), torch.device("cuda")) is not learner.model
    monkeypatch.setattr(detecting, "fast_forward", lambda model, device: replaced.append(model) or model)
    assert learner.detector(torch.device("cpu")).forward is learner.model
    assert not replaced
    load_detector(device="cpu")
    assert replaced


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_training_on_a_gpu_goes_on_after_a_validation(tmp_path: Path) -> None:
    data = GlyphData(count=4)
    config = TrainConfig(
        tmp_path, datasets=(data,), steps=2, batch_size=2, validate=(data,), validate_every=1, workers=0
    )
    assert run_training(replace(config, device="cuda")).steps == 2


def pictures_to_find_in() -> tuple[list[np.ndarray], list[str]]:
    pictures = [draw_scene("source", 9000, index, "od", pairs="all")[0] for index in range(4)]
    return pictures, list(categories_of("source", "od"))


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_the_second_gpu_finds_what_the_first_finds() -> None:
    pictures, names = pictures_to_find_in()
    one, other = (load_detector(device=f"cuda:{index}") for index in (0, 1))
    for _ in range(3):  # called, recorded, replayed
        assert other.predict(pictures, names, batch_size=4) == one.predict(pictures, names, batch_size=4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_finds_what_a_cpu_finds() -> None:
    pictures, names = pictures_to_find_in()
    found = [load_detector(device=device).predict(pictures, names, batch_size=4) for device in ("cpu", "cuda")]
    for one, other in zip(*found, strict=True):
        for mine, theirs in zip(one.instances or (), other.instances or (), strict=True):
            assert mine.category == theirs.category
            assert mine.score == pytest.approx(theirs.score, abs=1e-3)
            assert mine.box == pytest.approx(theirs.box, abs=0.1)


@pytest.mark.slow
def test_the_benchmark_of_a_gpu_runs_through_on_a_cpu() -> None:
    """Where a GPU is at hand at last, its minutes are not for finding out that a line of the script fails."""
    done = subprocess.run(
        [sys.executable, "benchmarks/gpu.py", "--dry"],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "failed" not in done.stdout, done.stdout
    assert "ours / transformers, bfloat16, batch 2" in done.stdout
    assert "| ours float32 | 1 |" in done.stdout
    assert "20 of 20" in done.stdout
