"""Nothing in the model's layers asks a device for a value: on a GPU each such question waits for all work before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from grounding_model.detector import LabelScoring, _best_pairs
from grounding_model.inputs.image_batch import ImageBatch
from grounding_model.inputs.tokens import TextBatch
from grounding_model.model.config import GLYPH_TINY
from grounding_model.model.grounding import GroundingModel

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
def test_the_model_asks_nothing_of_the_device(
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


def test_label_scores_and_the_best_pairs_ask_nothing_of_the_device() -> None:
    scoring = LabelScoring.of([[1], [2, 3], [4]], [0, 1, 0], torch.device("cpu"))
    with NoQuestions():
        found = _best_pairs(torch.randn(7, 6), torch.rand(7, 4), scoring, count=5, columns=2)
    assert found.boxes.shape == (5, 4)


def test_such_a_question_is_noticed() -> None:
    with pytest.raises(AssertionError, match="asks the device"), NoQuestions():
        bool(torch.ones(2).any())
