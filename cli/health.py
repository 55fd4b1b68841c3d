"""What `recsys doctor` looks at: the environment, and one run."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..artifacts.names import CONFIG, EVALUATION
from ..base.errors import ConfigError, RunError
from ..base.finding import Finding, Level
from ..base.package import DISTRIBUTION, PYTHONS, install_hint, package_version
from ..base.pairs import installed as installed_version
from ..base.pairs import torchrec_finding

OPTIONAL = {
    "implicit": f"the als and bpr baselines ({install_hint('bench')})",
    "lightgbm": f"the LightGBM benchmark ({install_hint('bench')})",
}
FAISS_PACKAGES = ("faiss-cpu", "faiss-gpu")
LEAKING = 0.99
"""An AUC above this is more often a label among the features than a good model."""


def environment(folder: Path) -> Iterator[Finding]:
    """Python, packages, threads, devices and room on the disk that holds `folder`."""
    version = platform.python_version()
    if f"{sys.version_info.major}.{sys.version_info.minor}" in PYTHONS:
        yield Finding("ok", "python", version)
    else:
        yield Finding(
            "warning", "python", f"{version} is not among the tested versions; use Python {' or '.join(PYTHONS)}"
        )
    if not installed_version(DISTRIBUTION):
        sentence = "runs from a folder and is not installed, so what it requires is unknown; run `pip install .` there"
        yield Finding("warning", DISTRIBUTION, sentence)
    for requirement in _requirements():
        name = requirement.partition(";")[0].split(">")[0].split("=")[0].split("<")[0].strip()
        installed = installed_version(name)
        if installed:
            yield Finding("ok", name, installed)
        else:
            yield Finding(
                "problem", name, f"is not installed, expected {requirement}; run `pip install '{requirement}'`"
            )
    for name, purpose in OPTIONAL.items():
        yield Finding("note", name, installed_version(name) or f"not installed; needed only for {purpose}")
    yield from _faiss()
    yield torchrec_finding()
    yield from _machine()
    free = shutil.disk_usage(next(path for path in (folder, *folder.resolve().parents) if path.exists())).free / 2**30
    level: Level = "ok" if free >= 2 else "warning"
    yield Finding(level, "disk", f"{free:.1f} GiB free" + ("" if free >= 2 else "; a run may not fit, make room"))


def run_health(folder: Path) -> Iterator[Finding]:
    """Whether a run is whole, its numbers finite, its vectors apart, and its quality above popularity's."""
    from ..artifacts.folder import open_run

    try:
        run = open_run(folder)
    except RunError as error:
        yield Finding("problem", "files", str(error))
        return
    manifest = run.manifest
    yield Finding("ok", "files", f"{len(manifest.files)} files, all present and unchanged since {manifest.created}")
    if manifest.package_version != package_version():
        yield Finding("note", "version", f"written by recsys {manifest.package_version}, this is {package_version()}")
    for name in manifest.files:
        if name.endswith(".safetensors") and name.startswith(("retrieval/", "ranking/")):
            yield from _weights(name, run.file(name))
        elif name.endswith("vectors.npy"):
            yield from _vectors(name, run.file(name), run.file(CONFIG))
    if EVALUATION not in run:
        yield Finding("note", "quality", f"not evaluated yet; run `recsys evaluate --run {folder}`")
        return
    yield from _quality(run.read_json(EVALUATION))


def _requirements() -> list[str]:
    """What an installation without extras needs, as its metadata say it."""
    try:
        requirements = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    return [requirement for requirement in requirements if "extra ==" not in requirement]


def _faiss() -> Iterator[Finding]:
    """FAISS comes in two packages with one module between them, and the library works without it."""
    versions = {name: version for name in FAISS_PACKAGES if (version := installed_version(name))}
    installed = " and ".join(f"{name} {version}" for name, version in versions.items())
    if len(versions) > 1:
        uninstall = f"`pip uninstall {' '.join(versions)}`"
        sentence = f"{installed} overwrite each other's files; run {uninstall}, then {install_hint('cpu')}"
        yield Finding("problem", "faiss", sentence)
        return
    try:
        import faiss
    except ImportError as error:
        if versions:
            sentence = (
                f"{installed} cannot be imported ({error}); run `pip install --force-reinstall {next(iter(versions))}`"
            )
            yield Finding("problem", "faiss", sentence)
        else:
            yield Finding(
                "note",
                "faiss",
                f"not installed, so every search is exact; {install_hint('cpu')} for large catalogues",
            )
    else:
        instructions = faiss.get_compile_options().strip() or "no special"
        yield Finding("ok", "faiss", f"{installed or faiss.__version__}, works with {instructions} instructions")


def _machine() -> Iterator[Finding]:
    import torch

    cores, threads = os.cpu_count() or 1, torch.get_num_threads()
    if threads > cores:
        yield Finding(
            "warning", "threads", f"torch uses {threads} threads on {cores} cores; set OMP_NUM_THREADS={cores}"
        )
    else:
        yield Finding("ok", "threads", f"torch uses {threads} of {cores} cores")
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name(0)
        yield Finding("note", "device", f'{name} is there; runs use the CPU unless runtime.device = "cuda" or "auto"')
    else:
        yield Finding("ok", "device", "PyTorch sees no GPU; runs use the CPU")


def _weights(name: str, file: Path) -> Iterator[Finding]:
    from safetensors.torch import load_file

    bad = [key for key, tensor in load_file(file).items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if bad:
        yield Finding(
            "problem", name, f"NaN or infinity in {', '.join(bad[:3])}; train again with a lower learning rate"
        )
    else:
        yield Finding("ok", name, "all weights are finite")


def _vectors(name: str, file: Path, config: Path) -> Iterator[Finding]:
    import numpy as np

    from ..configs.run import load_kept_config
    from ..evaluation.guards import embeddings_collapsed

    vectors = np.load(file, allow_pickle=False)
    if not np.isfinite(vectors).all():
        yield Finding("problem", name, "NaN or infinity among the vectors; train again with a lower learning rate")
        return
    try:
        kept = load_kept_config(config)
    except ConfigError as error:
        yield Finding("problem", "configuration", str(error))
        return
    parts = np.split(vectors, kept.ensemble.seeds, axis=1)  # a bias stands behind each member's, and makes none alike
    collapsed = [fault for part in parts for fault in embeddings_collapsed(part[:, : kept.retrieval.tower.dim])]
    for fault in collapsed:
        yield replace(fault, about=name)
    if not collapsed:
        yield Finding("ok", name, f"{len(vectors):,} vectors, and they differ")


def _quality(metrics: Mapping[str, Any]) -> Iterator[Finding]:
    from ..evaluation.guards import summarised

    for fault in summarised(metrics.get("findings", [])):
        yield replace(fault, about=fault.about.replace("_", " "))
    retrieval, index = metrics.get("retrieval", {}), metrics.get("index", {})
    yield from _against("retriever", "popularity", retrieval.get("two_tower"), retrieval.get("popularity"))
    yield from _against("funnel", "the retriever alone", metrics.get("funnel"), retrieval.get("two_tower"))
    for name, value in index.items():
        if name.startswith("ann_recall@") and isinstance(value, float):
            target = index.get("target_recall", 0.95)
            if value < target:
                sentence = f"{name} {value:.4f} is below the target {target}; rebuild it with `recsys build-index`"
                yield Finding("warning", "index", sentence)
            else:
                yield Finding("ok", "index", f"{name} {value:.4f} of the exact result")
    for task, values in metrics.get("ranking", {}).items():
        auc = values.get("auc")
        if auc is not None and auc > LEAKING:
            sentence = f"auc {auc:.4f}: label leakage suspected; look at its features with `recsys data check`"
            yield Finding("warning", f"task {task}", sentence)
        elif auc is not None and auc <= 0.5:
            yield Finding(
                "warning", f"task {task}", f"auc {auc:.4f}, no better than chance; train longer or check the label"
            )


def _against(
    subject: str, rival: str, ours: Mapping[str, Any] | None, theirs: Mapping[str, Any] | None
) -> Iterator[Finding]:
    """NDCG@10 of one system against another that it should beat."""
    found, least = (values.get("ndcg@10") if values else None for values in (ours, theirs))
    if found is None or least is None:
        return
    sentence = f"ndcg@10 {found:.4f} against {least:.4f} of {rival}"
    if found > least:
        yield Finding("ok", subject, sentence)
    else:
        yield Finding("warning", subject, f"{sentence}: it makes lists worse; train longer, or check its data and loss")
