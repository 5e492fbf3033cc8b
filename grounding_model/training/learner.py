"""The interface between the training loop and a kind of model, and its implementation for MM-Grounding-DINO."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from torch.utils.data import Dataset

from grounding_model.checkpoints.checkpoint import save_checkpoint
from grounding_model.checkpoints.pretrained_parts import load_parts, load_rest
from grounding_model.checkpoints.weights import load_checkpoint
from grounding_model.data.samples import Collate, TrainingSamples
from grounding_model.data.sources import LabelledImages
from grounding_model.detector import Detector, choose_device
from grounding_model.glyphs.tokenizer import glyph_tokenizer
from grounding_model.inputs.tokens import CaptionTokenizer, load_tokenizer
from grounding_model.model.activation_checkpointing import set_recompute
from grounding_model.model.grounding import GroundingModel
from grounding_model.model.kernels.compiled_gather import use_compiled_gather
from grounding_model.model.targets import Target
from grounding_model.training.config import FromScratch, FromWeights, TrainConfig
from grounding_model.training.memory import check_memory, estimate_run
from grounding_model.training.objective import Objective
from grounding_model.training.state import AUTOCAST
from grounding_model.training.validation import Validated


class Batch(Protocol):
    """Some images of a step with their targets. problems: what was skipped while loading."""

    @property
    def targets(self) -> Sequence[Target]: ...
    @property
    def problems(self) -> Sequence[str]: ...
    def to(self, device: torch.device) -> Any: ...


class Learner(Protocol):
    """A model and everything that depends on its kind: batches, losses and files.

    weights_name, best_name: of the file or folder of the final and of the best weights. skips_parameters: whether a
    step may leave parameters without a gradient.
    """

    weights_name: str
    best_name: str
    skips_parameters: bool

    @property
    def model(self) -> nn.Module: ...
    def check_memory(self, device: torch.device) -> None:
        """Raises InputError when a step will not fit."""

    def check_categories(self, datasets: Sequence[LabelledImages]) -> None:
        """Raises InputError when the model cannot be validated on these data sets."""

    def objective(self) -> nn.Module:
        """A module that returns the weighted parts of the loss by name for (a batch on its device, the step)."""
        ...

    def samples(self, datasets: Sequence[LabelledImages]) -> Dataset:
        """Draw -> sample; in worker processes."""
        ...

    def collate(self) -> Callable[[Sequence[Any]], Any]:
        """Samples -> batch; in worker processes."""
        ...

    def detector(self, device: torch.device) -> Validated:
        """A detector with the current weights, for validation."""
        ...

    def save(self, path: Path, provenance: Mapping[str, str]) -> None:
        """Writes the weights atomically."""


class GroundingLearner:
    """MM-Grounding-DINO, on captions."""

    weights_name = "model.safetensors"
    best_name = "best.safetensors"

    def __init__(self, config: TrainConfig) -> None:
        assert isinstance(config.start, FromWeights | FromScratch)
        self._config = config
        self.model, self.tokenizer = start_model(config.start)
        if config.dropout is not None:
            set_dropout(self.model, config.dropout)
        set_recompute(self.model, config.recompute)
        if choose_device(config.device).type == "cpu":
            use_compiled_gather(self.model)  # before the first step, since validation does the same
        self.skips_parameters = config.region_words.alone_until > 0  # the transformer, at first

    def check_memory(self, device: torch.device) -> None:
        if self._config.check_memory:
            check_memory(estimate_run(self._config, self.model), device)

    def check_categories(self, datasets: Sequence[LabelledImages]) -> None:
        """Any category can be queried; open_for_validation has checked that they make a prompt."""

    def objective(self) -> Objective:
        config = self._config
        words = config.region_words
        return Objective(self.model, config.losses, words.weight, AUTOCAST[config.precision], words.alone_until)

    def samples(self, datasets: Sequence[LabelledImages]) -> TrainingSamples:
        config, architecture = self._config, self.model.config
        augment = config.augment.fitted_to(architecture.image_scale)
        tokens = architecture.max_text_tokens
        return TrainingSamples(datasets, augment, self.tokenizer, tokens, config.seed, config.absent_names)

    def collate(self) -> Collate:
        return Collate(self.tokenizer, self.model.config.max_text_tokens)

    def detector(self, device: torch.device) -> Detector:
        return Detector(self.model, self.tokenizer, device, in_training=True)

    def save(self, path: Path, provenance: Mapping[str, str]) -> None:
        save_checkpoint(path, self.model, self.tokenizer, provenance, half=self._config.half)


def set_dropout(model: GroundingModel, share: float) -> None:
    """The share of activations that encoder and decoder zero in training; the text encoder keeps BERT's."""
    for module in (*model.encoder.modules(), *model.decoder.modules()):
        if isinstance(module, nn.Dropout):
            module.p = share
        elif isinstance(module, nn.MultiheadAttention):
            module.dropout = share


def start_model(start: FromWeights | FromScratch) -> tuple[GroundingModel, CaptionTokenizer]:
    """The model that training starts from and its tokenizer."""
    if isinstance(start, FromWeights):
        loaded = load_checkpoint(start.source, start.text_encoder)
        return loaded.model, loaded.tokenizer
    if start.tokenizer == "glyphs":
        tokenizer = glyph_tokenizer()
    else:
        tokenizer = load_tokenizer(start.tokenizer)
    architecture = start.model_config()
    # The vocabulary determines the number of rows of the word embedding.
    text = replace(architecture.text, vocab_size=len(tokenizer))
    model = GroundingModel(replace(architecture, text=text))
    load_parts(model, start.backbone, start.text_encoder)
    if start.rest is not None:
        load_rest(model, start.rest)
    return model, tokenizer
