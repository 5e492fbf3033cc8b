"""bfloat16 rounds the large linear layers of the image side, and nothing that places or ranks a box."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from flows.labelling.bootstrap import bootstrap_od
from flows.labelling.detector_pool import LocalDetectorPool
from flows.labelling.manifest import read_manifest
from flows.labelling.plan import plan
from flows.labelling.settings import Execution, LabellingSettings, Workers
from formats.io.errors import InputError
from grounding_model.detector import Detector, load_detector
from grounding_model.glyphs import categories_of, draw_scene, write_scenes
from grounding_model.metrics.coco import evaluate_coco
from grounding_model.model.backbone import TimmFeatures
from grounding_model.model.config import TimmBackbone
from grounding_model.model.precision import BFloat16Linear, choose_dtype
from tests.paths import GOLDEN

A = GOLDEN / "a"


def loaded(dtype: str) -> Detector:
    return load_detector(A / "checkpoint.pth", A / "bert", device="cpu", dtype=dtype)


@pytest.fixture(scope="module")
def rounded() -> Detector:
    return loaded("bfloat16")


def test_bfloat16_detects_as_well_as_float32() -> None:
    """By COCO AP: single boxes change, since queries on the same thing lie within rounding of each other."""
    pictures, truth = zip(*(draw_scene("source", 9000, index, "od", pairs="all") for index in range(50)))
    truth = [replace(record, filename=f"image-{index}") for index, record in enumerate(truth)]
    names = list(categories_of("source", "od"))
    found = [
        load_detector(device="cpu", dtype=dtype).predict(pictures, names, score_threshold=0.01, batch_size=10)
        for dtype in ("float32", "bfloat16")
    ]
    assert found[0] != found[1]
    full, half = (evaluate_coco(truth, records, names).ap for records in found)
    assert full > 0.7
    assert half == pytest.approx(full, abs=0.01)


def test_what_places_and_ranks_boxes_stays_float32(rounded: Detector) -> None:
    layers = {name for name, module in rounded.model.named_modules() if isinstance(module, BFloat16Linear)}
    last_words = {name.split(".")[-1] for name in layers}
    assert last_words == {"qkv", "proj", "fc1", "fc2", "reduction", "value", "output", "expand", "shrink"}
    assert {name.split(".")[0] for name in layers} == {"backbone", "encoder", "decoder"}
    assert {name.split(".", 3)[-1] for name in layers if name.startswith("decoder")} == {"image_attention.value"}
    assert not [name for name in layers if "fusion" in name or "text" in name]
    kept = {module.weight.dtype for module in rounded.model.modules() if isinstance(module, nn.Linear)}
    assert kept == {torch.float32}


def test_float32_is_the_default_and_changes_no_layer() -> None:
    detector = load_detector(A / "checkpoint.pth", A / "bert", device="cpu")
    assert detector.dtype == "float32"
    assert not any(isinstance(module, BFloat16Linear) for module in detector.model.modules())


@pytest.mark.parametrize(
    ("features", "dtype"),
    [({"avx512_bf16": True}, "bfloat16"), ({"amx_bf16": True}, "bfloat16"), ({"avx512_f": True}, "float32")],
)
def test_auto_is_bfloat16_only_where_the_cpu_multiplies_it(
    features: dict[str, bool], dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)
    assert choose_dtype("auto", torch.device("cpu")) == dtype


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(InputError, match="dtype: 'float8'"):
        loaded("float8")


@pytest.fixture
def questions(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Source, images and work_dir of a labelling of one scene."""
    write_scenes(tmp_path, "cats", 1, 0, labelled=False)
    source = bootstrap_od(tmp_path / "images", ["cat"], tmp_path / "cats_od.json").annotations
    return source, tmp_path / "images", tmp_path / "work_dir"


def test_the_plan_says_the_dtype_and_its_detector_has_it(questions: tuple[Path, Path, Path]) -> None:
    source, images, work_dir = questions
    plain = plan(source, images, work_dir=work_dir)
    assert "dtype" not in json.loads(plain.path.read_text())  # plans made before there was a choice keep their keys
    with pytest.raises(InputError, match='dtype: null there, "bfloat16" requested'):
        plan(source, images, work_dir=work_dir, dtype="bfloat16")
    rounded = plan(source, images, work_dir=work_dir, dtype="bfloat16", overwrite=True)
    assert rounded.key != plain.key
    with LocalDetectorPool(["cpu"]).acquire(rounded) as detector:
        assert detector.dtype == "bfloat16"


def test_auto_is_decided_by_the_plan_and_stays_so_elsewhere(
    questions: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, images, work_dir = questions
    execution = Execution(workers=Workers(devices=("cpu",)))
    keys = {}
    for dtype, native in (("float32", False), ("bfloat16", True)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda native=native: {"avx512_bf16": native})
        made = plan(source, images, work_dir=work_dir / dtype, dtype="auto", execution=execution)
        assert made.dtype == read_manifest(work_dir / dtype).dtype == dtype
        keys[dtype] = made.key
    assert keys["float32"] == plan(source, images, work_dir=work_dir / "plain").key
    for dtype in keys:  # on a machine with other capabilities
        assert plan(source, images, work_dir=work_dir / dtype, dtype="auto", execution=execution).key == keys[dtype]
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {})


def test_a_setting_that_is_no_dtype_is_refused() -> None:
    with pytest.raises(InputError, match="expected one of auto, float32, bfloat16"):
        LabellingSettings(dtype="half")  # type: ignore[arg-type]


@pytest.mark.parametrize("weights", ["glyph-tiny", "photo-tiny"])
def test_an_embedded_backbone_answers_in_float32_from_rounded_convolutions(weights: str) -> None:
    full, half = (load_detector(weights, device="cpu", dtype=dtype).model.backbone for dtype in ("float32", "bfloat16"))
    assert {weight.dtype for weight in full.parameters()} == {torch.float32}
    assert {weight.dtype for weight in half.parameters()} == {torch.bfloat16}
    pixels = torch.randn(1, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for expected, found in zip(full(pixels), half(pixels)):
            assert found.dtype == torch.float32
            assert 0 < (found - expected).abs().max() < 0.1 * expected.abs().max()


def test_a_backbone_whose_norms_are_not_folded_stays_float32() -> None:
    backbone = TimmFeatures(TimmBackbone(name="resnet18", out_indices=(3, 4), options={"channels": (32, 64, 128, 256)}))
    backbone.use_bfloat16()
    assert {weight.dtype for weight in backbone.parameters()} == {torch.float32}
