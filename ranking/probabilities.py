"""From logits to what a blend adds up: calibrated probabilities, values in their own unit, shares of a request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..base.arrays import Floats
from ..data.schema import TaskSpec
from .calibrate import Calibrator, sigmoid
from .requests import SELECT


def task_probabilities(
    logits: Mapping[str, Floats], tasks: Sequence[TaskSpec], calibrators: Mapping[str, Calibrator]
) -> dict[str, Floats]:
    """Every task's verdict in its own unit.

    Args:
        logits: task -> float [Q, C] of requests, or [R] of rows; `select` with requests only.
        tasks: objectives on logged rows.
        calibrators: per binary task; the plain sigmoid where there is none.

    Returns:
        Task -> the same shape: probability, value of a regression task in the label's unit, or for `select` the share
        of the request (a softmax over its candidates).
    """
    specs = {task.name: task for task in tasks}
    found: dict[str, Floats] = {}
    for name, values in logits.items():
        if name == SELECT:
            shifted = np.exp(values - np.max(values, axis=1, keepdims=True, initial=-1e30))
            found[name] = (shifted / np.maximum(shifted.sum(1, keepdims=True), 1e-30)).astype(np.float32)
        elif name in calibrators:
            found[name] = calibrators[name](values).astype(np.float32)
        elif specs[name].kind == "regression":
            found[name] = np.expm1(values) if specs[name].log1p else values
        else:
            found[name] = sigmoid(values).astype(np.float32)
    return found
