"""A feed-forward layer for training on a CPU: a few rows at a time, forward and backward.

Its hidden activations, eight times as wide as its input, stay in the cache and are computed once more in the backward
pass, which costs less than reading them from memory. Gradients of weights are summed in place.

N rows, C width, H hidden width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

ROWS = 1024  # at a time: 8 MiB of hidden activations of the full-size model


def feed_forward(x: Tensor, expand: tuple[Tensor, Tensor], shrink: tuple[Tensor, Tensor]) -> Tensor:
    """relu(x @ W1.T + b1) @ W2.T + b2 with its gradients: x (N, C), expand W1 (H, C), b1; shrink W2 (C, H), b2."""
    return _FeedForward.apply(x, *expand, *shrink)  # type: ignore[no-any-return]


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, *weights: Tensor) -> Tensor:
        ctx.save_for_backward(x, *weights)
        expand, expand_bias, shrink, shrink_bias = weights
        output = x.new_empty(len(x), len(shrink))
        for rows, out in zip(x.split(ROWS), output.split(ROWS)):
            torch.addmm(shrink_bias, _hidden(rows, expand, expand_bias), shrink.T, out=out)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, expand, expand_bias, shrink, shrink_bias = ctx.saved_tensors
        grads = [
            torch.empty_like(x),
            *(torch.zeros_like(weight) for weight in (expand, expand_bias, shrink, shrink_bias)),
        ]
        x_grad, expand_grad, expand_bias_grad, shrink_grad, shrink_bias_grad = grads
        for rows, out_grad, rows_grad in zip(x.split(ROWS), grad.split(ROWS), x_grad.split(ROWS)):
            hidden = _hidden(rows, expand, expand_bias)
            shrink_grad.addmm_(out_grad.T, hidden)
            shrink_bias_grad += out_grad.sum(0)
            hidden_grad = out_grad @ shrink
            torch.ops.aten.threshold_backward.grad_input(hidden_grad, hidden, 0, grad_input=hidden_grad)
            expand_grad.addmm_(hidden_grad.T, rows)
            expand_bias_grad += hidden_grad.sum(0)
            torch.mm(hidden_grad, expand, out=rows_grad)
        return tuple(each if needed else None for each, needed in zip(grads, ctx.needs_input_grad))


def _hidden(rows: Tensor, expand: Tensor, bias: Tensor) -> Tensor:
    return torch.addmm(bias, rows, expand.T).relu_()
