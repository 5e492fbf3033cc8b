"""The estimate of a step's memory: what it counts, what makes it smaller, what is said when it is too much."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from flows.cli.command import main
from formats.io.errors import InputError
from formats.io.toml_config import read_config
from grounding_model.data.augment import AugmentConfig
from grounding_model.model.config import GLYPH_TINY, SwinBackbone
from grounding_model.model.grounding import GroundingModel
from grounding_model.training import memory
from grounding_model.training.config import TrainConfig
from grounding_model.training.losses import grounding_losses
from grounding_model.training.memory import (
    GIB,
    MemoryEstimate,
    check_memory,
    describe_memory,
    estimate_memory,
    estimate_run,
    free_in_control_group,
    largest_canvas,
)
from tests.training_cases import random_target

ROOT = Path(__file__).parent.parent
SIZE, TOKENS, BOXES = (96, 128), 12, 5
SMALL = replace(GLYPH_TINY, text=replace(GLYPH_TINY.text, layers=1), decoder_layers=1)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model() -> GroundingModel:
    with torch.device("meta"):
        return GroundingModel(SMALL)


@pytest.fixture(scope="module")
def two_images(model: GroundingModel) -> MemoryEstimate:
    return estimate_memory(model, 2, SIZE, TOKENS, BOXES)


@pytest.fixture(scope="module")
def six_images(model: GroundingModel) -> MemoryEstimate:
    return estimate_memory(model, 6, SIZE, TOKENS, BOXES, moving_average=True)


def a_gib_each(batch_size: int, recompute: bool = False) -> MemoryEstimate:
    return MemoryEstimate(GIB, GIB, 2 * GIB, 0, batch_size * GIB, batch_size, (800, 1333), "float32", recompute)


def test_what_does_not_depend_on_the_batch_is_counted_from_the_parameters(
    model: GroundingModel, two_images: MemoryEstimate
) -> None:
    numbers = 4 * sum(parameter.numel() for parameter in model.parameters())
    assert (two_images.gradients, two_images.optimizer, two_images.average) == (numbers, 2 * numbers, 0)
    assert numbers <= two_images.weights < 1.01 * numbers  # statistics of batch norms belong to them
    assert two_images.total == two_images.weights + 3 * numbers + two_images.activations


def test_a_swin_transformer_is_estimated_too(two_images: MemoryEstimate) -> None:
    backbone = SwinBackbone(embed_dim=8, depths=(1, 1, 1, 1), heads=(1, 1, 1, 1), out_stages=(2, 3))
    with torch.device("meta"):
        model = GroundingModel(replace(SMALL, backbone=backbone))
    assert 0 < estimate_memory(model, 2, SIZE, TOKENS, BOXES).activations < 10 * two_images.activations


def test_nothing_is_allocated_and_the_model_stays_as_it_was(model: GroundingModel, two_images: MemoryEstimate) -> None:
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert all(parameter.grad is None for parameter in model.parameters())


def test_activations_grow_with_the_batch_and_never_faster(
    two_images: MemoryEstimate, six_images: MemoryEstimate
) -> None:
    """largest_batch takes them as proportional, which must not promise too much."""
    assert 2.3 * two_images.activations < six_images.activations <= 3 * two_images.activations
    assert six_images.average == six_images.weights == two_images.weights


def test_the_real_step_keeps_no_more_than_estimated(two_images: MemoryEstimate) -> None:
    """An oracle without an allocator: the storages that autograd really saves for the backward pass."""
    torch.manual_seed(0)
    real = GroundingModel(SMALL).train()
    parameters = {parameter.untyped_storage().data_ptr() for parameter in real.parameters()}
    saved: dict[int, int] = {}
    kept = []  # or a storage that is gone would lend its address to the next

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept.append(tensor)
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    images = memory.ImageBatch(torch.randn(2, 3, *SIZE), torch.tensor([SIZE, SIZE]))
    targets = [random_target(BOXES, torch.Generator().manual_seed(image), TOKENS, SIZE) for image in range(2)]
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        grounding = real(images, memory._captions(2, TOKENS), targets)
        loss = torch.stack([*grounding_losses(grounding, targets).values()]).sum()
    assert loss.isfinite()
    assert 0.65 < sum(saved.values()) / two_images.activations <= 1.0


@pytest.mark.parametrize("saving", [{"precision": "bfloat16"}, {"recompute": True}])
def test_what_is_advised_saves_memory(model: GroundingModel, six_images: MemoryEstimate, saving: dict) -> None:
    assert estimate_memory(model, 6, SIZE, TOKENS, BOXES, **saving).activations < 0.9 * six_images.activations


def test_frozen_parts_need_neither_gradients_nor_moments(two_images: MemoryEstimate) -> None:
    with torch.device("meta"):
        model = GroundingModel(SMALL)
    frozen = 4 * sum(parameter.requires_grad_(False).numel() for parameter in model.backbone.parameters())
    estimate = estimate_memory(model, 2, SIZE, TOKENS, BOXES)
    assert estimate.gradients == two_images.gradients - frozen
    assert estimate.optimizer == two_images.optimizer - 2 * frozen
    assert estimate.activations < two_images.activations


def test_the_memory_of_a_run_is_that_of_its_largest_batch(model: GroundingModel, two_images: MemoryEstimate) -> None:
    augment = AugmentConfig(short_sides=(64, 96), max_long_side=128)
    config = TrainConfig(Path("unused"), steps=1, batch_size=2, augment=augment, processes=2)
    estimate = estimate_run(config, model)
    assert (estimate.batch_size, estimate.image_size) == (2, (96, 128))
    assert estimate.activations > two_images.activations  # of longer captions and more boxes
    assert estimate.gradients == 2 * two_images.gradients  # several processes add them up in buckets


@pytest.mark.parametrize(
    ("augment", "one_aspect", "canvas"),
    [
        (AugmentConfig(), True, (800, 1333)),
        (AugmentConfig(), False, (1333, 1333)),
        (AugmentConfig(short_sides=(400, 600), max_long_side=900), True, (600, 900)),
        (AugmentConfig(short_sides=()), True, (800, 1333)),
    ],
)
def test_the_largest_canvas_of_an_augmentation(augment: AugmentConfig, one_aspect: bool, canvas) -> None:
    assert largest_canvas(augment, (800, 1333), one_aspect) == canvas


def test_a_batch_that_does_not_fit_is_refused_with_what_would(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda device: 7 * GIB)
    assert a_gib_each(8).largest_batch(7 * GIB) == 3
    check_memory(a_gib_each(3), CPU)
    with pytest.raises(InputError) as refused:
        check_memory(a_gib_each(8), CPU)
    assert str(refused.value) == (
        "batch_size: a step with 8 images of 1333 x 800 pixels needs about 12.0 GiB, 7.0 GiB are free on cpu; expected "
        "batch_size 3 (with accumulate 3 a step learns from as many images) or recompute = true or "
        'precision = "bfloat16" or smaller augment.short_sides and augment.max_long_side'
    )


def test_where_not_one_image_fits_no_batch_size_is_advised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda device: 2 * GIB)
    with pytest.raises(InputError, match=r'1 image of .* expected precision = "bfloat16"'):
        check_memory(a_gib_each(1, recompute=True), CPU)


def test_nothing_is_refused_if_the_free_memory_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda device: None)
    check_memory(a_gib_each(10**6), CPU)


def test_what_is_free_on_a_gpu_includes_what_pytorch_holds_in_reserve(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = {"mem_get_info": (5, 80), "memory_reserved": 3, "memory_allocated": 1}
    fake = SimpleNamespace(**{name: lambda device, value=value: value for name, value in numbers.items()})
    monkeypatch.setattr(torch, "cuda", fake)
    assert memory.free_memory(torch.device("cuda", 0)) == 7


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({"memory.max": "1000", "memory.current": "600", "memory.stat": "anon 1\ninactive_file 50"}, 450),
        ({"memory.max": "max", "memory.current": "600"}, None),
        ({"memory/memory.limit_in_bytes": "1000", "memory/memory.usage_in_bytes": "990"}, 10),
        ({}, None),
    ],
)
def test_the_limit_of_a_container_counts(files: dict[str, str], left: int | None, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content + "\n")
    assert free_in_control_group(tmp_path) == left


@pytest.mark.parametrize(("free", "message"), [(100 * GIB, "enough for batch_size"), (1, "too little for one image")])
def test_a_dry_run_lists_the_parts_of_memory(
    free: int, message: str, two_images: MemoryEstimate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda device: free)
    monkeypatch.setattr(memory, "estimate_run", lambda config, model: two_images)
    config = read_config(ROOT / "configs" / "finetune_glyphs.toml", TrainConfig, ["device=cpu"])
    lines = describe_memory(config).splitlines()
    assert lines[0] == "2 images of 128 x 96 pixels, float32"
    parts = "weights gradients optimizer average activations total free"
    assert [line.split()[0] for line in lines[1:]] == parts.split()
    assert message in lines[-1]


def test_a_dry_run_says_which_data_are_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setattr("grounding_model.training.memory.describe_memory", lambda config: "memory")
    config = tmp_path / "t.toml"
    config.write_text(f'work_dir = "{tmp_path}/t"\nsteps = 1\ndatasets = []\n[start]\nkind = "weights"\nsource = "x"\n')
    assert main(["train", str(config), "--dry-run"]) == 0
    said = capsys.readouterr()
    assert (said.out, said.err) == ("memory\n", "training would end with: datasets: is empty; expected at least one\n")


@pytest.mark.parametrize(("option", "said"), [(["--gpus", "0"], "processes: is 0"), (["--work-dir", ""], "work_dir")])
def test_options_that_are_zero_or_empty_are_not_ignored(
    tmp_path: Path, option: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "t.toml"
    config.write_text(f'work_dir = "{tmp_path}/t"\nsteps = 1\ndatasets = []\n[start]\nkind = "weights"\nsource = "x"\n')
    assert main(["train", str(config), "--dry-run", *option]) == 2
    assert said in capsys.readouterr().err
