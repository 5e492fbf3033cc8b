"""Parts of a model that a training leaves as they are."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from formats.io.errors import InputError


def freeze(model: nn.Module, prefixes: Sequence[str]) -> list[nn.Module]:
    """Parameters whose name begins with a prefix need no gradient. Returns the modules that thus hold still.

    Raises InputError for a prefix that no parameter has.
    """
    for prefix in prefixes:
        parameters = [value for name, value in model.named_parameters() if name.startswith(prefix)]
        if not parameters:
            parts = ", ".join(name for name, _ in model.named_children())
            raise InputError(
                "frozen", f"no parameter begins with '{prefix}'", f"expected one of {parts} or a part of it"
            )
        for parameter in parameters:
            parameter.requires_grad_(False)
    return [module for name, module in model.named_modules() if any(name.startswith(prefix) for prefix in prefixes)]


def set_training(model: nn.Module, frozen: Sequence[nn.Module]) -> None:
    """Training mode, but for frozen parts: their dropout is off and their batch statistics stay."""
    model.train()
    for module in frozen:
        module.eval()
