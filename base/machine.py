"""What a measured number depends on: the processor, its vector instructions, the cores this process may use."""

from __future__ import annotations

import os
import platform
from pathlib import Path

FAST_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


def cpu_flags() -> set[str]:
    """Instruction sets of the CPU; empty where the system does not list them."""
    return set(_cpuinfo("flags").split())


def machine_class() -> str:
    """What a measured number depends on, without naming the machine: CPU model and flags, cores, torch version."""
    import torch

    model = _cpuinfo("model name") or platform.processor() or platform.machine()
    flags = [flag for flag in FAST_FLAGS if flag in cpu_flags()]
    parts = [model, f"family {_cpuinfo('cpu family') or '?'} model {_cpuinfo('model') or '?'}", f"{cpu_count()} cores"]
    parts += [" ".join(flags) or "no vector flags listed", f"torch {torch.__version__}"]
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name(0))
    return ", ".join(parts)


def cpu_count() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpuinfo(field: str) -> str:
    """First value of a field of /proc/cpuinfo; empty where there is no such file or field."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return ""
    for line in path.read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == field:
            return value.strip()
    return ""
