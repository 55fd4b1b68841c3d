"""How much memory this process may still take, of the machine and of its container; and giving back what it took."""

from __future__ import annotations

import ctypes
import gc
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

GROUP = Path("/sys/fs/cgroup")
MEMINFO = Path("/proc/meminfo")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


def free_memory() -> int | None:
    """Bytes that can be taken without swapping; pages of files that the system would drop count as free. None where the
    system does not say.
    """
    found = [amount for amount in (_meminfo(), _left_to_the_group()) if amount is not None]
    return min(found, default=None)


def available_memory() -> int:
    """Free memory; where the system tells only what the machine has, a half of that."""
    free = free_memory()
    if free is not None:
        return free
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return 4 << 30


def keep_memory(most: int = 1 << 30) -> None:
    """Ask the C library to keep freed blocks of megabytes instead of returning each to the system at once.

    This is a setting of the whole process, so only programs that own theirs make it (the command line, workers of a
    service, benchmarks).

    A training step, and a block of requests, free and take the same large buffers again and again; given back, every
    one of them is zeroed page by page by the kernel before it can be used again (a tenth of a retriever's step and of a
    block of 16 requests, measured). Does nothing where the library has no such knob. Compiled kernels, on the other
    hand, are kept for the last 64 shapes only.

    Args:
        most: bytes that are kept at the end of the heap, and above which a block is taken from the system.
    """
    with suppress(OSError, AttributeError, TypeError):  # Windows has no C library to name by None, macOS no mallopt
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_THRESHOLD, most)
        library.mallopt(M_TRIM_THRESHOLD, most)
    # Batches of histories have ever new shapes, and the CPU library keeps a compiled kernel of megabytes for each.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")


def give_back() -> None:
    """Hand freed memory to the system, for a process that has made ready what it keeps; glibc would hold on to it."""
    with suppress(OSError, AttributeError, TypeError):  # as above: other systems have no such call
        ctypes.CDLL(None).malloc_trim(0)


def bytes_of(size: str) -> int:
    """Bytes of a size such as `3GB`, `500 MB` or `1.5GiB`.

    Raises:
        ValueError: it is none.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kKMGT])(i?)B\s*", size)
    if found is None:
        raise ValueError(f'"{size}" is no size; expected a number and a unit, such as 3GB or 500MB')
    base = 1024 if found[3] else 1000
    return int(float(found[1]) * base ** ("KMGT".index(found[2].upper()) + 1))


def _meminfo() -> int | None:
    try:
        lines = MEMINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _left_to_the_group() -> int | None:
    """What the limit of a control group leaves; None without a limit."""
    limit, used = _number(GROUP / "memory.max"), _number(GROUP / "memory.current")
    if limit is None or used is None:
        return None
    return max(limit - used + _statistic(GROUP / "memory.stat", "inactive_file"), 0)


def _number(file: Path) -> int | None:
    """The number in a file; None where there is no file or no limit."""
    try:
        return int(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _statistic(file: Path, name: str) -> int:
    try:
        rows = (line.split() for line in file.read_text(encoding="utf-8").splitlines())
        return next((int(row[1]) for row in rows if row[0] == name), 0)
    except OSError:
        return 0


@contextmanager
def uncollected() -> Iterator[None]:
    """Make many small objects that stay, without the collector walking over them again and again: reading a log takes
    half the time. What is garbage meanwhile is collected afterwards; a collector that was off stays off.
    """
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()
