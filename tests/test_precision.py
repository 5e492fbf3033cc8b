"""bfloat16 rounds the large linear layers of the image side, and nothing that places or ranks a box."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from formats.io.errors import InputError
from grounding_model.detector import Detector, load_detector
from grounding_model.glyphs import categories_of, draw_scene
from grounding_model.metrics.coco import evaluate_coco
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
