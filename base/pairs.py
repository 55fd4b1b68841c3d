"""Packages that fit only in certain versions together: TorchRec, and FBGEMM, which is built for one minor of torch."""

from __future__ import annotations

import importlib.metadata

from .finding import Finding

TORCHREC = {"2.13": ("1.8.0", "1.8.0")}
"""Minor version of torch -> the versions of fbgemm-gpu-cpu and torchrec that were tried with it."""
BESIDE = ("tensordict", "pyvers", "torchmetrics", "lightning-utilities", "pyre-extensions", "typing-inspect", "tqdm")
"""What TorchRec imports."""
MEND = "run `make torchrec`, which makes an environment where they fit"


def installed(name: str) -> str | None:
    """Version of an installed package; None without it."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def torchrec_finding() -> Finding:
    """Whether torch, FBGEMM and TorchRec are there in versions that fit; nothing is imported."""
    torch, fbgemm, torchrec = (installed(name) for name in ("torch", "fbgemm-gpu-cpu", "torchrec"))
    fbgemm = fbgemm or installed("fbgemm-gpu")
    there = f"torch {torch}, FBGEMM {fbgemm or 'absent'}, TorchRec {torchrec or 'absent'}"
    if not fbgemm and not torchrec:
        return Finding("note", "torchrec", f'{there}; needed only for runtime.engine = "torchrec": {MEND}')
    absent = [name for name in BESIDE if installed(name) is None]
    if fbgemm and torchrec and absent:
        return Finding("warning", "torchrec", f"{there}, without {', '.join(absent)}: {MEND}")
    minor = ".".join((torch or "").split(".")[:2])
    if TORCHREC.get(minor) == ((fbgemm or "").split("+")[0], (torchrec or "").split("+")[0]):
        return Finding("ok", "torchrec", f"{there} fit together")
    known = "; ".join(f"torch {t} with FBGEMM {f} and TorchRec {r}" for t, (f, r) in TORCHREC.items())
    return Finding("warning", "torchrec", f"{there} were not tried together; {known} is: {MEND}")
