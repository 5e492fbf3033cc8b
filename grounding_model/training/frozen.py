"""Parts of a model that are not trained."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from formats.io.errors import InputError


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


def set_training(model: nn.Module, frozen: Sequence[nn.Module]) -> None:
    """Training mode, except for frozen modules: no dropout, and their batch statistics do not change."""
    model.train()
    for module in frozen:
        module.eval()
