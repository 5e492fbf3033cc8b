"""Small data and a small model for the tests of training: coloured rectangles, and a model of some thousand weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from formats.odvg import write_odvg
from formats.record import Instance, Record, Region
from grounding_model.checkpoints.weights import load_checkpoint
from grounding_model.data.sources import OdvgData
from grounding_model.model.config import Denoising, ModelConfig, SwinBackbone, TextEncoder, TimmBackbone
from grounding_model.training import log as training_log
from grounding_model.training.loop import TrainResult

MICRO = ModelConfig(
    backbone=TimmBackbone(name="resnet10t", out_indices=(3, 4)),
    text=TextEncoder(width=16, layers=1, heads=2, feedforward=16),
    width=32,
    levels=2,
    queries=6,
    encoder_layers=1,
    decoder_layers=2,
    heads=2,
    feedforward=32,
    text_feedforward=32,
    fusion_width=32,
    denoising=Denoising(queries=4),
)

# Nothing in it is drawn at random, and no image of a batch changes the answer of another.
DETERMINED = ModelConfig(
    backbone=SwinBackbone(embed_dim=8, depths=(1, 1, 2, 1), heads=(1, 1, 2, 2), window=3, drop_path=0.0),
    text=TextEncoder(width=16, layers=1, heads=2, feedforward=16, dropout=0.0),
    width=64,
    levels=4,
    queries=6,
    encoder_layers=2,
    decoder_layers=2,
    heads=2,
    feedforward=32,
    text_feedforward=32,
    fusion_width=64,
    fusion_dropout=0.0,
    denoising=Denoising(queries=4, label_noise=0.0, box_noise=0.0),
)


def write_rectangles(folder: Path, count: int = 5) -> tuple[OdvgData, OdvgData]:
    """Images of one rectangle each, red, green or blue: a detection file and one of captions."""
    rng = np.random.default_rng(0)
    detections, captions = [], []
    for index in range(count):
        name = f"{index}.png"
        image = rng.integers(0, 60, (48, 64, 3), dtype=np.uint8)
        image[10:30, 20:50, index % 3] = 255
        Image.fromarray(image).save(folder / name)
        box = (20.0, 10.0, 50.0, 30.0)
        detections.append(Record(name, 48, 64, (Instance(box, index % 3, ("red", "green", "blue")[index % 3]),)))
        captions.append(Record(name, 48, 64, caption="a box", regions=(Region((box,), ("a box",), ((0, 5),)),)))
    write_odvg(folder / "od.jsonl", detections)
    write_odvg(folder / "vg.jsonl", captions)
    return OdvgData(folder / "od.jsonl", folder), OdvgData(folder / "vg.jsonl", folder)


def weights_of(result: TrainResult) -> dict[str, torch.Tensor]:
    """The final weights of a run, by name."""
    return load_checkpoint(result.checkpoint).model.state_dict()


@pytest.fixture
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings of a second do without their plot, which takes a third of one."""
    monkeypatch.setattr(training_log, "draw_curves", lambda log, out: None)
