"""AdamW with a rate for each part, warm-up and schedule, the moving average, and parts that are not trained."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from formats.io.errors import InputError
from grounding_model.model.backbone import TimmFeatures
from grounding_model.training.settings import OptimizerConfig


def multiplier_of(name: str, multipliers: Mapping[str, float]) -> float:
    """1 unless a key is part of the parameter's name; the longest such key decides."""
    matching = [key for key in multipliers if key in name]
    return multipliers[max(matching, key=len)] if matching else 1.0


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """One parameter group for each learning rate and decay; frozen parameters are left out.

    Raises InputError for a multiplier that applies to no parameter, unless it is a default one.
    """
    for key in config.multipliers.keys() - OptimizerConfig().multipliers.keys():
        if not any(key in name for name, _ in model.named_parameters()):
            names = (name.removeprefix("model.").split(".")[0] for name, _ in model.named_parameters())
            what = f"no parameter's name contains '{key}'"
            raise InputError("optimizer.multipliers", what, f"expected one of {', '.join(dict.fromkeys(names))}")
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decay = config.weight_decay if config.decay_vectors or parameter.ndim > 1 else 0.0
            groups.setdefault((multiplier_of(name, config.multipliers), decay), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "weight_decay": decay, "multiplier": multiplier}
            for (multiplier, decay), parameters in groups.items()
        ],
        lr=config.learning_rate,
        betas=config.betas,
        fused=True,
    )


def scaled_rate(config: OptimizerConfig, batch_size: int) -> float:
    """The learning rate for a batch size: scaled linearly (arXiv 1706.02677) if base_batch_size is set."""
    return config.learning_rate * (batch_size / config.base_batch_size if config.base_batch_size else 1)


def learning_rate_at(step: int, steps: int, config: OptimizerConfig, full_rate: float) -> float:
    """The learning rate of a step (from 0) in a run of `steps` steps: a pure function, so no state has to be stored.

    full_rate: the rate between warm-up and decay, from scaled_rate. It is scaled by the multipliers of the parts.
    """
    if step < config.warmup_steps:
        return full_rate * (config.warmup_from + (1 - config.warmup_from) * (step + 1) / config.warmup_steps)
    if config.schedule == "constant":
        return full_rate
    if config.schedule == "step":
        return full_rate * config.step_factor ** sum(step >= fraction * steps for fraction in config.step_at)
    done = (step - config.warmup_steps) / max(steps - config.warmup_steps, 1)
    cosine = 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
    return full_rate * (config.final_fraction + (1 - config.final_fraction) * cosine)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate * group["multiplier"]


class MovingAverage:
    """Exponential moving average of a model's weights; early steps count more, so that the start is soon forgotten.

    The decay of step t is min(decay, (1 + t) / (10 + t)), as in TensorFlow's ExponentialMovingAverage.
    Buffers that are not floating point are copied.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.weights = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        averages, values = [], []
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                averages.append(self.weights[name])
                values.append(value.detach())
            else:
                self.weights[name].copy_(value)
        torch._foreach_lerp_(averages, values, 1 - decay)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "weights": self.weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.steps = state["steps"]
        for name, value in state["weights"].items():
            self.weights[name].copy_(value)


# Parts of a model that are not trained


def freeze(model: nn.Module, prefixes: Sequence[str]) -> list[nn.Module]:
    """Freezes the parameters whose name begins with a prefix. Returns the frozen modules.

    Raises InputError for a prefix without parameters.
    """
    for prefix in prefixes:
        parameters = [value for name, value in model.named_parameters() if name.startswith(prefix)]
        if not parameters:
            parts = ", ".join(name for name, _ in model.named_children())
            raise InputError("frozen", f"no parameter begins with '{prefix}'", f"expected {parts} or a prefix below")
        for parameter in parameters:
            parameter.requires_grad_(False)
    return [module for name, module in model.named_modules() if any(name.startswith(prefix) for prefix in prefixes)]


def speed_up_frozen_backbone(model: nn.Module, autocast: torch.dtype | None) -> None:
    """Lets a timm backbone that is frozen as a whole compute its maps as in inference; its weights do not change.

    Called when the weights and the device are final. autocast: the precision of the training.
    """
    backbone = getattr(model, "backbone", None)
    if isinstance(backbone, TimmFeatures) and not any(weight.requires_grad for weight in backbone.parameters()):
        backbone.use_frozen_copy(bfloat16=autocast is torch.bfloat16)


def set_training(model: nn.Module, frozen: Sequence[nn.Module]) -> None:
    """Training mode, except for frozen modules: no dropout, and their batch statistics do not change."""
    model.train()
    for module in frozen:
        module.eval()
