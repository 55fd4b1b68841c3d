"""`recsys export`: the networks of a run for other runtimes, whole or absent, and checked before anybody sees them."""

from __future__ import annotations

import json
import logging
import shutil
import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from ...base.errors import ConfigError, RunError
from ...base.files import replacing_folder, write_synced
from ...base.package import install_hint
from ..run import TrainedRun
from .description import description
from .networks import Network
from .parts import Parts
from .text import write_program

log = logging.getLogger(__name__)

Format = Literal["onnx", "torch"]
SUFFIX: dict[str, str] = {"onnx": ".onnx", "torch": ".py"}
EXAMPLES = 20
"""Requests beside the networks, with the run's answers."""


def write_networks(
    trained: TrainedRun, folder: Path, kind: Format, examples: int = EXAMPLES, about: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Write user tower, item tower and ranker as `kind`, what their inputs mean, and examples that prove them.

    `onnx`: `user_tower.onnx`, `item_tower.onnx`, `ranker.onnx`, `io.json`, arrays of the catalogue, `examples.npz`, and
    `predict.py`, which answers with numpy and onnxruntime alone. `torch`: each network as a Python file of torch
    operations, written by the exporter, and its weights in safetensors; `io.json` and `examples.npz` likewise. Every
    answer to the examples is compared with the run's before the folder appears.

    Args:
        trained: the run in memory.
        folder: new, empty, or an earlier export, which is replaced.
        kind: see above.
        examples: requests of random users with random candidates.
        about: added to `io.json`.

    Returns:
        `folder`, `format`, `networks`, and of the comparison `requests` and `largest_difference`.

    Raises:
        ConfigError: the folder holds something else, or a package is missing.
        RunError: a network does not answer as the run does.
    """
    if kind == "onnx":
        _check_packages()
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "io.json").is_file():
        raise ConfigError(f"{folder} holds other files; name a new folder with --out, or an earlier export")
    parts = Parts(trained)
    with replacing_folder(folder) as staging:
        for network in parts.networks:
            write_onnx(network, staging / f"{network.name}.onnx") if kind == "onnx" else write_program(network, staging)
        if kind == "onnx":
            parts.write_catalogue(staging)
            shutil.copyfile(Path(__file__).with_name("predict.py"), staging / "predict.py")
        stored = [example.arrays() for example in parts.examples(examples)]
        named = {f"{number}/{name}": values for number, one in enumerate(stored) for name, values in one.items()}
        np.savez(staging / "examples.npz", allow_pickle=False, requests=np.array(len(stored)), **named)
        told = description(trained, parts.networks, SUFFIX[kind]) | {"pairs": parts.pair_columns} | (about or {})
        write_synced(staging / "io.json", json.dumps(told, indent=1, ensure_ascii=False, allow_nan=False))
        compared = _compared(kind, staging)
    return {"folder": str(folder), "format": kind, "networks": [one.name for one in parts.networks], **compared}


def write_onnx(network: Network, file: Path) -> None:
    """One network as ONNX; its weights lie beside it where they are more than 2 GB."""
    noisy = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in noisy]
    try:
        for logger in noisy:
            logger.setLevel(logging.ERROR)  # of packages that are not there, and of foldings that were not worth it
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            names = [one.name for one in network.inputs]
            written = torch.onnx.export(
                network.exported(), input_names=names, output_names=list(network.outputs), verbose=False
            )
    finally:
        for logger, level in zip(noisy, levels, strict=True):
            logger.setLevel(level)
    assert written is not None
    written.save(str(file))


def _check_packages() -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            __import__(name)
        except ImportError as error:
            raise ConfigError(
                f"--format onnx needs the package {name}, which cannot be imported ({error}); run "
                f"{install_hint('onnx')}"
            ) from error


def _compared(kind: Format, folder: Path) -> dict[str, Any]:
    """Answers to the examples beside those of the run."""
    try:
        if kind == "onnx":
            from . import predict

            return predict.check(folder)
        from .text import check

        return check(folder)
    except ValueError as error:
        raise RunError(f"the exported networks do not answer as the run does: {error}") from error
