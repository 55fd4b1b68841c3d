"""Reduced-precision arithmetic on request: bfloat16 products with float32 storage and accumulation.

Recent CPUs multiply bfloat16 matrices several times faster than float32 ones. PyTorch can round the operands of a
float32 product on the way into the multiplier and keep everything else (storage, accumulation, softmax, optimiser)
in float32; `reduced_matmul` switches that on for a stretch of code, backward passes included when they run inside.
Recurrent layers do not follow that switch; `recurrent_autocast` gives them the same arithmetic through autocast.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch


@lru_cache(maxsize=1)
def bf16_is_fast() -> bool:
    """Whether this CPU multiplies bfloat16 matrices in hardware (AMX or AVX512-BF16); asks the chip, never a clock."""
    capabilities = getattr(torch.cpu, "get_capabilities", None)
    if capabilities is None:
        return False
    found = capabilities()
    return bool(found.get("amx_bf16") or found.get("avx512_bf16"))


@contextmanager
def reduced_matmul(enabled: bool | None = None) -> Iterator[None]:
    """Round the operands of float32 matrix products: to bfloat16 on the CPU, to TF32 on a GPU.

    Relative error of a product of random vectors: about 2e-3. float64 products are never touched. The switch is one
    per process, so a second thread that multiplies meanwhile is affected too.

    Args:
        enabled: True or False; None means where `bf16_is_fast`, which also decides for the GPU.
    """
    if not (bf16_is_fast() if enabled is None else enabled):
        yield
        return
    switches: list[tuple[Any, str]] = [
        (torch.backends.mkldnn.matmul, "bf16"),  # type: ignore[attr-defined]
        (torch.backends.cuda.matmul, "tf32"),
    ]
    before = [backend.fp32_precision for backend, _ in switches]
    for backend, precision in switches:
        backend.fp32_precision = precision
    try:
        yield
    finally:
        for (backend, _), precision in zip(switches, before, strict=True):
            backend.fp32_precision = precision


@contextmanager
def recurrent_autocast(enabled: bool, device: torch.device) -> Iterator[None]:
    """Run recurrent layers on the CPU in bfloat16 where that is fast (2.3 times an LSTM step at 32 x 200 x 128).

    Args:
        enabled: False leaves the arithmetic alone.
        device: where the layer runs; anything but a CPU is left alone.
    """
    if torch.compiler.is_exporting():  # a region of its own in the program, for nothing
        yield
        return
    with torch.autocast("cpu", torch.bfloat16, enabled=enabled and device.type == "cpu" and bf16_is_fast()):
        yield
