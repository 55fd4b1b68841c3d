"""The dense parts of a model as PyTorch compiles them: experts, towers and perceptrons, behind the embeddings' lookup.

A class says with `dense` which of its methods are worth it. Lookups, row-sparse updates and losses over a catalogue
stay as they are: their shapes follow the data, and their kernels are the project's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def compiled_dense(model: nn.Module, backend: str | Callable[..., Any] = "inductor") -> Iterator[int]:
    """Inside, the dense parts of the model are compiled at first use; shapes may change without another compilation.

    Args:
        model: any; its weights and their names stay what they are.
        backend: of `torch.compile`.

    Returns:
        How many parts there are.
    """
    from torch._functorch import config

    parts = [(module, name) for module in model.modules() for name in getattr(module, "dense", ())]
    donated = config.donated_buffer
    config.donated_buffer = False  # balances of the tasks' gradients go through a graph more than once
    for module, name in parts:
        module.__dict__[name] = torch.compile(getattr(module, name), dynamic=True, backend=backend)
    try:
        yield len(parts)
    finally:
        config.donated_buffer = donated
        for module, name in parts:
            del module.__dict__[name]
