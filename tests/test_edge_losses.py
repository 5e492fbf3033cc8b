"""D-FINE's own losses: what they pull a distribution to, what they weigh, and who has them."""

from __future__ import annotations

import pytest
import torch
from transformers.models.d_fine.modeling_d_fine import distance2bbox, weighting_function

from grounding_model.model.targets import Matching, PaddedTargets, Target, pad_targets
from grounding_model.students.build import start_student
from grounding_model.students.config import FromStudent
from grounding_model.students.edge_losses import EdgeDistributions, edge_losses, true_offsets
from grounding_model.training.settings import LossSettings
from grounding_model.training.student_learner import ClassBatch, StudentObjective

SCALE, COUNT, QUERIES, LAYERS = 4.0, 33, 3, 2
OFFSETS = weighting_function(COUNT - 1, torch.tensor([0.5]), torch.tensor([SCALE]))  # type: ignore[arg-type]
TRUTH, NEAR = (0.5, 0.5, 0.3, 0.2), (0.45, 0.55, 0.25, 0.25)  # cx, cy, w, h
MATCHING = Matching(torch.tensor([0]), torch.tensor([1]), torch.tensor([0]))
ONE = torch.tensor(1.0)


def padded(weight: float = 1.0) -> PaddedTargets:
    named = (torch.ones(1, 1).bool(), torch.zeros(1, dtype=torch.int64))
    return pad_targets([Target(torch.tensor([TRUTH]), *named, torch.tensor([weight]), torch.tensor([False]), (64, 64))])


def distributions(logits: torch.Tensor) -> EdgeDistributions:
    references = torch.tensor(NEAR).expand(LAYERS, 1, QUERIES, 4)
    return EdgeDistributions(logits, references, OFFSETS, SCALE)


def losses_of(logits: torch.Tensor, weight: float = 1.0) -> list[dict[str, torch.Tensor]]:
    boxes = torch.tensor(TRUTH).expand(LAYERS, 1, QUERIES, 4)
    scores = torch.full((1, QUERIES), 0.5)
    return edge_losses(distributions(logits), boxes, scores, padded(weight), [MATCHING] * LAYERS, [ONE] * LAYERS)


def decoded(logits: torch.Tensor) -> torch.Tensor:
    """(4, N + 1) -> (4,) cx, cy, w, h, as transformers decodes them."""
    return distance2bbox(torch.tensor(NEAR), logits.softmax(-1) @ OFFSETS, SCALE)


def test_offsets_are_those_that_transformers_decodes_into_the_box() -> None:
    offsets = true_offsets(torch.tensor([NEAR]), torch.tensor([TRUTH]), SCALE)
    torch.testing.assert_close(distance2bbox(torch.tensor([NEAR]), offsets, SCALE), torch.tensor([TRUTH]))


def test_what_minimises_the_localization_decodes_to_the_true_box() -> None:
    logits = torch.zeros(LAYERS, 1, QUERIES, 4, COUNT, requires_grad=True)
    optimizer = torch.optim.Adam([logits], 0.5)
    for _ in range(60):
        optimizer.zero_grad()
        torch.stack([each["loss_fgl"] for each in losses_of(logits)]).sum().backward()
        optimizer.step()
    assert (decoded(torch.zeros(4, COUNT)) - torch.tensor(TRUTH)).abs().max() > 0.02
    torch.testing.assert_close(decoded(logits[0, 0, 1].detach()), torch.tensor(TRUTH), atol=2e-3, rtol=0)
    assert not logits[:, 0, [0, 2]].detach().any()  # nobody matched them


def test_a_weight_is_a_factor_on_the_localization() -> None:
    logits = torch.randn(LAYERS, 1, QUERIES, 4, COUNT)
    assert float(losses_of(logits, 0.25)[0]["loss_fgl"]) == pytest.approx(float(losses_of(logits)[0]["loss_fgl"]) / 4)
    assert float(losses_of(logits, 0.0)[1]["loss_fgl"]) == 0


def test_the_last_layer_teaches_the_others_and_learns_nothing_from_them() -> None:
    logits = torch.randn(LAYERS, 1, QUERIES, 4, COUNT, requires_grad=True)
    first, last = losses_of(logits)
    assert "loss_ddf" not in last
    first["loss_ddf"].backward()
    assert logits.grad is not None
    assert logits.grad[0].any()
    assert not logits.grad[1].any()
    alike = logits.detach()[1:].expand(LAYERS, -1, -1, -1, -1)
    assert float(losses_of(alike)[0]["loss_ddf"]) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(("name", "has_them"), [("dfine-nano", True), ("rtdetrv2-nano", False)])
def test_a_d_fine_student_alone_has_them(name: str, has_them: bool) -> None:
    student = start_student(FromStudent(name, image_size=160), ("cat",)).train()
    batch = ClassBatch(
        torch.randn(1, 3, 160, 160),
        [
            Target(
                torch.tensor([TRUTH]),
                torch.ones(1, 1).bool(),
                torch.zeros(1, dtype=torch.int64),
                ONE[None],
                ~ONE[None].bool(),
                (160, 160),
            )
        ],
        torch.ones(1, 1).bool(),
        [],
    )
    losses = StudentObjective(student, LossSettings(iou_aware=True))(batch)
    edge_names = {each for each in losses if each.endswith(("fgl", "ddf"))}
    layers = {"d1.", "d2.", ""}
    expected = {f"{layer}{kind}loss_fgl" for layer in layers for kind in ("", "dn_")}
    expected |= {f"{layer}{kind}loss_ddf" for layer in layers - {""} for kind in ("", "dn_")}
    assert edge_names == (expected if has_them else set())
    assert all(torch.isfinite(value) for value in losses.values())
