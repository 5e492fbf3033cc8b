"""Trained parts of a new model are computed as those who trained them compute them, or they are refused."""

from __future__ import annotations

import re

import pytest
import torch
from timm.models.swin_transformer import SwinTransformer as TimmSwin
from transformers import BertConfig, BertForMaskedLM

from formats.io.errors import InputError
from grounding_model.checkpoints.pretrained_parts import load_backbone, load_bert
from grounding_model.model.backbone import build_backbone
from grounding_model.model.config import SwinBackbone, TextEncoder, TimmBackbone
from grounding_model.model.text_encoder import BertEncoder

SWIN = SwinBackbone(embed_dim=8, depths=(2, 1, 1, 1), heads=(1, 2, 2, 4), window=2, out_stages=(0, 1, 2, 3))


@pytest.fixture
def classifier():
    """timm's Swin with random weights; equal to Microsoft's where every map is a multiple of the window."""
    torch.manual_seed(0)
    return TimmSwin(
        img_size=64, embed_dim=8, depths=SWIN.depths, num_heads=SWIN.heads, window_size=2, always_partition=True
    ).eval()


def saved(classifier, path):
    """As Microsoft writes it: downsampling at the end of a stage, and what belongs to the window beside the weights."""
    names = {
        name: re.sub(r"layers\.(\d)\.downsample", lambda found: f"layers.{int(found[1]) - 1}.downsample", name)
        for name in classifier.state_dict()
    }
    tensors = {names[name].replace("head.fc", "head"): tensor for name, tensor in classifier.state_dict().items()}
    tensors["layers.0.blocks.1.attn_mask"] = torch.zeros(1)
    tensors["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(1, dtype=torch.int64)
    torch.save({"model": tensors}, path)
    return path


@torch.no_grad()
def test_the_swin_of_imagenet_gives_the_maps_of_the_classifier(classifier, tmp_path):
    backbone = build_backbone(SWIN).eval()
    load_backbone(backbone, saved(classifier, tmp_path / "swin.pth"))
    pixels = torch.rand(2, 3, 64, 64)
    maps = classifier.forward_intermediates(pixels, intermediates_only=True)
    for ours, theirs in zip(backbone(pixels), maps, strict=True):
        # The norm of each map is new: weight 1, bias 0.
        wanted = torch.nn.functional.layer_norm(theirs.permute(0, 2, 3, 1), theirs.shape[1:2]).permute(0, 3, 1, 2)
        torch.testing.assert_close(ours, wanted, atol=1e-5, rtol=1e-4)


def test_another_variant_a_missing_file_and_another_network_are_refused(classifier, tmp_path):
    path = saved(classifier, tmp_path / "swin.pth")
    with pytest.raises(InputError, match=r"missing or of another shape; expected the variant of the model"):
        load_backbone(build_backbone(SwinBackbone(embed_dim=16, depths=(2, 1, 1, 1), heads=SWIN.heads, window=2)), path)
    with pytest.raises(InputError, match=r"none.pth: no such file; expected a Swin trained on ImageNet from https://"):
        load_backbone(build_backbone(SWIN), tmp_path / "none.pth")
    with pytest.raises(InputError, match=r"missing or of another shape; expected weights of this network"):
        load_backbone(build_backbone(TimmBackbone(name="resnet18", out_indices=(3, 4))), path)


TEXT = TextEncoder(vocab_size=50, width=8, layers=2, heads=2, feedforward=16, positions=32)


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    settings = BertConfig(
        vocab_size=50,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
    )
    BertForMaskedLM(settings).save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


def test_bert_comes_without_the_head_that_it_was_trained_with(folder):
    encoder = BertEncoder(TEXT, width=4)
    load_bert(encoder.bert, str(folder))
    trained = BertForMaskedLM.from_pretrained(folder).bert.state_dict()
    assert all(torch.equal(tensor, trained[name]) for name, tensor in encoder.bert.state_dict().items())


def test_a_bert_of_another_size_or_none_is_refused(folder, tmp_path):
    with pytest.raises(InputError, match=r"missing or of another shape"):
        load_bert(BertEncoder(TextEncoder(vocab_size=50, width=16, layers=1, heads=2), width=4).bert, str(folder))
    with pytest.raises(InputError, match=r"has no BERT .*; expected a folder with config.json and model.safetensors"):
        load_bert(BertEncoder(TEXT, width=4).bert, str(tmp_path / "nothing"))
