"""A model's pass as it was recorded once: the same operations in the same order, without Python between them.

Half of what a single request costs a small model is Python that decides what to compute. For inputs of the same shapes
the decision is the same, so it is made once: the operations of one pass are recorded (`torch.jit.trace`) and run from
then on. A pass in which the value of a tensor reaches Python might decide otherwise the next time; it is not recorded.

The recorded operations hold the model's weights: a model whose weights move needs a new recording. What shapes and
weights alone decide (decay factors, positions, weights side by side) is computed once, when a pass is recorded.
"""

from __future__ import annotations

import copy
import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

MET = 4
"""Passes over inputs of the same shapes before one is recorded: shapes that are met once cost no recording."""
SHAPES = 4
"""Recordings tried of one model unless told otherwise; inputs of further shapes are computed by the model."""

Shapes = tuple[torch.Size, ...]
Pass = Callable[..., tuple[Tensor, ...]]

_TELLING = ("__bool__", "__int__", "__float__", "__index__", "__contains__", "item", "tolist", "numpy")
_SHAPED_BY_VALUES = ("equal", "allclose", "nonzero", "unique", "unique_consecutive", "masked_select", "bincount")
_TELL_VALUES = frozenset(
    [getattr(Tensor, name) for name in _TELLING]
    + [getattr(owner, name) for name in _SHAPED_BY_VALUES for owner in (Tensor, torch) if hasattr(owner, name)]
)


class ValueReachedPythonError(Exception):
    """What a pass computes may depend on a value and not on shapes alone."""


class Watch(TorchFunctionMode):
    """Raises `ValueReachedPythonError` where the value of a tensor reaches Python, or decides a shape."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _TELL_VALUES:
            raise ValueReachedPythonError(getattr(func, "__name__", str(func)))
        return func(*args, **(kwargs or {}))


class Recorded:
    """A model's passes, recorded where they can be; the results are the model's, bit for bit. Threads may share it.

    Args:
        model: in evaluation mode, its weights at rest.
        run: a model and tensors -> tensors, by calling the model.
        shapes: how many recordings are tried.
    """

    def __init__(self, model: nn.Module, run: Pass, shapes: int = SHAPES) -> None:
        self._model, self._run, self._most = model, run, shapes
        self._met: dict[Shapes, int] = {}
        self._passes: dict[Shapes, Pass | None] = {}
        self._lock = threading.Lock()

    def __call__(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """What `run` makes of the inputs; to be called in inference mode."""
        shapes = tuple(tensor.shape for tensor in inputs)
        found = self._passes.get(shapes)
        if found is not None:
            return found(*inputs)
        if shapes not in self._passes and len(self._passes) < self._most and self._lock.acquire(blocking=False):
            try:
                met = self._met[shapes] = self._met.get(shapes, 0) + 1
                if met >= MET and not self._model.training:
                    self._passes[shapes] = self._recorded(inputs)
            finally:
                self._lock.release()
        return self._run(self._model, *inputs)

    @property
    def recordings(self) -> int:
        """How many passes are recorded."""
        return sum(found is not None for found in self._passes.values())

    def _recorded(self, inputs: Sequence[Tensor]) -> Pass | None:
        """The pass over such inputs; None where a value reaches Python, or the results are not those of the model."""
        still = _at_rest(self._model)

        def run(*tensors: Tensor) -> tuple[Tensor, ...]:
            return self._run(still, *tensors)

        try:
            with Watch():
                expected = self._run(self._model, *inputs)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of shapes that reach Python: recordings are kept by shape
                found = _folded(_operations(run, inputs))
        except (ValueReachedPythonError, RuntimeError):
            return None
        # The interpreter rewrites the operations while it meets them the first times.
        passes = [found(*inputs) for _ in range(3)]
        return found if all(torch.equal(a, b) for one in passes for a, b in zip(one, expected, strict=True)) else None


def _operations(run: Pass, inputs: Sequence[Tensor]) -> Any:
    """The operations of a pass, as a graph that is nobody's.

    `torch.jit.trace` would keep its function, and with it the weights, until the process ends.
    """
    graph, _ = torch._C._create_graph_by_tracing(run, tuple(inputs), lambda _: "", True, False)
    return graph


def _folded(graph: Any) -> Pass:
    """The operations of a pass but for those that every pass would repeat with the same result."""
    torch._C._jit_pass_inline(graph)
    for _ in range(2):  # a shape that is known decides what is constant, which decides what is shared
        torch._C._jit_pass_peephole(graph, False)
        torch._C._jit_pass_constant_propagation(graph)
        torch._C._jit_pass_cse(graph)
        torch._C._jit_pass_dce(graph)
    found: Pass = torch._C._create_function_from_graph("forward", graph)
    return found


def _at_rest(model: nn.Module) -> nn.Module:
    """The model over the same memory of weights, without gradients: what has one cannot be held by a recording."""
    tensors = (*model.parameters(), *model.buffers())
    known: dict[int, Any] = {id(tensor): nn.Parameter(tensor.detach(), requires_grad=False) for tensor in tensors}
    return copy.deepcopy(model, known)
