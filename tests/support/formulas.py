"""Random inputs of a formula, and its gradients."""

from __future__ import annotations

import torch
from torch import Tensor


def vectors(*shape: int, seed: int = 0) -> Tensor:
    """float64 numbers that want a gradient."""
    generator = torch.Generator().manual_seed(seed + 100 * shape[0])
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


def grads(loss: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    """Gradients of a scalar."""
    return torch.autograd.grad(loss, inputs)
