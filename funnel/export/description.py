"""`io.json` of an export: what every number of every input is, and what becomes of the outputs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import numpy as np

from ...data.dataset import Dataset
from ...data.encoding.encoders import Encoders
from ...ranking.blend import BlendConfig
from ...ranking.requests import SELECT
from ..ranked import effective_blend
from ..run import TrainedRun
from .networks import Network

FORMAT = 1


def description(trained: TrainedRun, networks: Iterable[Network], suffix: str) -> dict[str, Any]:
    """Everything that `predict.py` reads, as JSON.

    Args:
        trained: the run.
        networks: what was exported.
        suffix: of their files.
    """
    found = list(networks)
    columns = sorted({column for network in found for one in network.inputs for column in one.columns})
    tasks = [name.partition(".")[2] for network in found if network.name == "ranker" for name in network.outputs]
    dataset = trained.dataset
    size = dataset.num_catalogue if dataset.logs_items else 0
    return {
        "format": FORMAT,
        "run": trained.config.name,
        "data": dataset.fingerprint,
        "networks": {
            one.name: {
                "file": f"{one.name}{suffix}",
                "inputs": [asdict(of) for of in one.inputs],
                "outputs": list(one.outputs),
            }
            for one in found
        },
        "columns": _columns(dataset, columns),
        "tasks": {name: _task(trained, name) for name in tasks},
        "blend": _blend(effective_blend(trained), tasks),
        "items": list(dataset.item_ids[:size]),
    }


def _columns(dataset: Dataset, columns: Iterable[str]) -> dict[str, dict[str, Any]]:
    """How a raw value becomes a number, for each column."""
    fills = {spec.name: spec.fill for spec in dataset.config.features if spec.fill is not None}
    separators = {spec.name: spec.separator for spec in dataset.config.features if spec.kind == "multi"}
    for table in dataset.counts_now:  # a key that was never seen has no rows and the overall rates
        fills |= dict(zip(table.names, table.lookup(np.array([-1]))[0].tolist(), strict=True))
    found = {}
    for name in columns:
        told = _column(dataset.encoders, name)
        told |= {"fill": fills[name]} if name in fills else {}
        found[name] = told | ({"separator": separators[name]} if name in separators else {})
    return found


def _column(encoders: Encoders, name: str) -> dict[str, Any]:
    if name in encoders.numerics:
        state = encoders.numerics[name].state()
        mode = encoders.numerics[name].mode
        return {"kind": "number", **state, "mode": None if math.isnan(mode) else mode}
    if name in encoders.hashed:
        return {"kind": "hashed", "buckets": encoders.hashed[name].buckets}
    if name in encoders.vocabularies:
        return {"kind": "values", "values": list(encoders.vocabularies[name].values)}
    return {"kind": "log1p" if name.endswith((".length", ".matches")) else "rows"}


def _task(trained: TrainedRun, name: str) -> dict[str, Any]:
    """From the logit to what is blended, see `ranking.probabilities`."""
    if name == SELECT:
        return {"kind": "share"}
    calibrator = trained.calibrators.get(name)
    [spec] = [task for task in trained.dataset.config.tasks if task.name == name]
    if calibrator is None and spec.kind == "regression":
        return {"kind": "value", "log1p": spec.log1p}
    if calibrator is None:
        return {"kind": "sigmoid", "slope": 1.0, "shift": 0.0}
    if calibrator.knots is not None:
        logits, probabilities = calibrator.knots
        return {"kind": "isotonic", "logits": logits.tolist(), "probabilities": probabilities.tolist()}
    return {"kind": "sigmoid", "slope": calibrator.slope, "shift": calibrator.shift}


def _blend(config: BlendConfig, tasks: list[str]) -> dict[str, Any]:
    """Weights of every task that counts; see `ranking.blend`."""
    if config.kind == "task":
        return {"kind": "task", "task": config.task or (tasks[0] if tasks else "")}
    weights = {name: config.weights.get(name, 0.0) if config.weights else 1.0 for name in tasks}
    return {"kind": config.kind, "weights": {name: weight for name, weight in weights.items() if weight}}
