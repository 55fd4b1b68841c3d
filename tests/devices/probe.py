"""A device whose memory is the CPU's: proves, without a GPU, that no tensor is where it should not be.

`probe` is a PrivateUse1 backend written in Python: its tensors hold CPU tensors, so every number equals the CPU's. As
on a GPU, an operation that mixes devices raises and `.numpy()` raises; what makes the host wait for the device, and
what is copied between the two, is counted by the line of the library that does it. PyTorch calls the interface
experimental: this file alone uses it, and with a PyTorch without it the tests are skipped.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_unflatten

import recsys

NAME = "probe"
LIBRARY = Path(recsys.__file__).resolve().parent
ATEN = torch.ops.aten
COPIES = (ATEN._to_copy.default, ATEN.copy_.default)
INDEXING = (ATEN.index.Tensor, ATEN.index_put.default, ATEN.index_put_.default, ATEN._index_put_impl_.default)
WAITS = (
    ATEN._local_scalar_dense.default,
    ATEN.bincount.default,
    ATEN.equal.default,
    ATEN.masked_select.default,
    ATEN.nonzero.default,
    ATEN.unique_consecutive.default,
    ATEN.unique_dim.default,
    ATEN._unique2.default,
)
"""Operations of which the host has to know the result, or the result's shape."""
BY_DEVICE = (torch.lstm, torch.gru, F.scaled_dot_product_attention, F.silu)
"""Operations for which PyTorch takes another kernel on every kind of device: here the CPU's."""


@dataclass
class Crossings:
    """What crossed between host and device: `file.py:line operation` -> how often."""

    waits: Counter[str] = field(default_factory=Counter)
    to_device: Counter[str] = field(default_factory=Counter)
    to_host: Counter[str] = field(default_factory=Counter)

    def clear(self) -> None:
        """Count from here on."""
        for counter in (self.waits, self.to_device, self.to_host):
            counter.clear()


_crossings = Crossings()


class ProbeTensor(Tensor):
    """A tensor of the probe around the CPU tensor `held`."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> ProbeTensor:
        place: dict[str, Any] = {}
        if held.layout == torch.strided:
            place = {"strides": held.stride(), "storage_offset": held.storage_offset()}
        with torch.inference_mode(False):
            made: ProbeTensor = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
                cls, held.shape, dtype=held.dtype, device=torch.device(NAME, 0), layout=held.layout, **place
            )
        made.held = held
        return made

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError(f"can't convert {NAME}:0 device type tensor to numpy; results leave by to_host")

    def __repr__(self, *, tensor_contents: Any = None) -> Any:  # type: ignore[override]
        return f"ProbeTensor({self.held!r})"

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in BY_DEVICE:
            leaves, spec = tree_flatten((args, kwargs or {}))
            found = _AsOnTheCPU.apply(func, spec, *leaves)  # type: ignore[no-untyped-call]
            return found[0] if len(found) == 1 else found
        if func is Tensor.tolist:
            return args[0].cpu().tolist()
        return torch._C._disabled_torch_function_impl(func, types, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        return _run(func, args, kwargs or {})


class _FromNumbers(TorchFunctionMode):
    """`torch.tensor` of numbers: made on the CPU and copied, as on a GPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = dict(kwargs or {})
        if func is torch.tensor and given.get("device") is not None and torch.device(given["device"]).type == NAME:
            return func(*args, **{**given, "device": "cpu"}).to(NAME)
        return func(*args, **given)


class _Factories(TorchDispatchMode):
    """Catches what makes tensors out of nothing: no argument of it is a `ProbeTensor`."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _AsOnTheCPU(torch.autograd.Function):
    """One of `BY_DEVICE`, forth and back, by the kernel that the CPU has for it."""

    @staticmethod
    def forward(ctx: Any, func: Any, spec: Any, *leaves: Any) -> Any:
        held = [
            leaf.held.detach().requires_grad_(leaf.requires_grad) if isinstance(leaf, ProbeTensor) else leaf
            for leaf in leaves
        ]
        args, kwargs = tree_unflatten(held, spec)
        with torch.enable_grad():
            made = func(*args, **kwargs)
        ctx.made = made if isinstance(made, tuple) else (made,)
        ctx.held = held
        return tuple(ProbeTensor(part.detach()) for part in ctx.made)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        asked = [leaf for leaf in ctx.held if isinstance(leaf, Tensor) and leaf.requires_grad]
        found = iter(torch.autograd.grad(ctx.made, asked, [grad.held for grad in grads], allow_unused=True))
        given = (next(found) if isinstance(leaf, Tensor) and leaf.requires_grad else None for leaf in ctx.held)
        return None, None, *(None if grad is None else ProbeTensor(grad) for grad in given)


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """One operation on the tensors held, under the rules of a GPU."""
    if func.overloadpacket is ATEN.to:  # in inference mode it comes whole
        named = {**dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)), **kwargs}
        given = {name: named[name] for name in ("dtype", "device") if named.get(name) is not None}
        return _run(COPIES[0], (named["self"],), given)
    tensors = list(_tensors((args, *kwargs.values())))
    wanted = kwargs.get("device")
    here = any(isinstance(tensor, ProbeTensor) for tensor in tensors)
    there = here if wanted is None else torch.device(wanted).type == NAME
    if not here and not there:
        return func(*args, **kwargs)
    if func in COPIES:
        source, target = (args[0], None) if func is COPIES[0] else (args[1], args[0])
        there = there if target is None else isinstance(target, ProbeTensor)
        _count_copy(isinstance(source, ProbeTensor), there, func)
    else:
        for tensor in tensors:
            if not isinstance(tensor, ProbeTensor) and tensor.dim():
                raise RuntimeError(f"{func} met a CPU tensor of shape {list(tensor.shape)} on the {NAME}: {_line()}")
        if func in WAITS or _knows_no_shape(func, args, kwargs):
            _crossings.waits[f"{_line()} {func}"] += 1
    if wanted is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    found = func(*map(_held, args), **{name: _held(value) for name, value in kwargs.items()})
    if not there:
        return found
    known = {id(tensor.held): tensor for tensor in tensors if isinstance(tensor, ProbeTensor)}
    return _wrapped(found, known)


def _count_copy(from_device: bool, to_device: bool, func: Any) -> None:
    if to_device and not from_device:
        _crossings.to_device[f"{_line()} {func}"] += 1
    elif from_device and not to_device:
        _crossings.to_host[f"{_line()} {func}"] += 1
        _crossings.waits[f"{_line()} {func}"] += 1


def _knows_no_shape(func: Any, args: Any, kwargs: dict[str, Any]) -> bool:
    """Whether a GPU would have to look into its tensors for the shape of the result."""
    if func in INDEXING:
        return any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1])
    return func is ATEN.repeat_interleave.Tensor and kwargs.get("output_size") is None


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


def _held(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_held(part) for part in value]
    return value.held if isinstance(value, ProbeTensor) else value


def _wrapped(value: Any, known: dict[int, ProbeTensor]) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(_wrapped(part, known) for part in value)
    return known.get(id(value)) if id(value) in known else ProbeTensor(value) if isinstance(value, Tensor) else value


def _line() -> str:
    """File and line of the library's own code that is running."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if LIBRARY in path.parents and (place := path.relative_to(LIBRARY)).parts[0] not in ("tests", ".venv"):
            return f"{place}:{frame.f_lineno}"
        frame = frame.f_back
    return "a test"


class _Module:
    """What PyTorch asks of a device's module."""

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return True

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1

    def manual_seed_all(self, seed: int) -> None:
        """Draws are the CPU's."""

    def _is_in_bad_fork(self) -> bool:
        return False

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


@cache
def _missing() -> str:
    """Register the device; why that cannot be done, or nothing."""
    try:
        from torch.utils.backend_registration import _setup_privateuseone_for_python_backend
    except ImportError:
        return f"PyTorch {torch.__version__} takes no backend that is written in Python"
    _setup_privateuseone_for_python_backend(NAME, _Module())
    return ""


@contextmanager
def probe() -> Iterator[Crossings]:
    """Inside, `torch.device("probe", 0)` exists; what crosses between it and the host is counted from zero."""
    if reason := _missing():
        pytest.skip(reason)
    _crossings.clear()
    # The mode belongs to a thread, so the backward pass has to stay on this one.
    factories: Any = _Factories
    with _FromNumbers(), factories(), torch.autograd.set_multithreading_enabled(False):
        yield _crossings
