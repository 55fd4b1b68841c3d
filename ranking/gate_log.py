"""Reading a ranker's gates: its mixtures on some logged rows as arrays, for the gate report and its warnings."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..base.device import device_of, to_host
from ..data.dataset import Dataset
from ..evaluation.gates import GateLevel, gate_report, unused_experts
from ..training.loop import evaluation_mode
from .mixture import Mixture, MixtureRanker
from .ranker import Ranker

log = logging.getLogger(__name__)

ROWS = 1024
"""Rows a report is made of, evenly spaced among those offered, so that every epoch looks at the same ones."""


def read_gates(ranker: Ranker, dataset: Dataset, rows: Tensor) -> dict[str, Any]:
    """The gate report of a ranker; empty for a ranker without experts, or without rows.

    Args:
        ranker: any.
        dataset: makes the batch.
        rows: int64 [n] event rows, of which at most `ROWS` are read.

    Returns:
        See `evaluation.gates.gate_report`.
    """
    if not isinstance(ranker, MixtureRanker) or not len(rows):
        return {}
    places = np.unique(np.linspace(0, len(rows) - 1, min(ROWS, len(rows))).astype(np.int64))
    with evaluation_mode(ranker):
        batch = dataset.batch(rows[torch.from_numpy(places)]).to(device_of(ranker))
        return mixture_report(ranker.batch_mixtures(batch))


def mixture_report(mixtures: Sequence[Mixture]) -> dict[str, Any]:
    """The gate report of a ranker's levels, lowest first; see `evaluation.gates.gate_report`."""
    return gate_report([_as_arrays(mixture) for mixture in mixtures])


def warn_of_unused(report: Mapping[str, Any]) -> None:
    """Log a warning for every gate that gives an expert next to nothing."""
    for finding in unused_experts(report):
        log.warning("%s", finding.sentence)


def _as_arrays(mixture: Mixture) -> GateLevel:
    return GateLevel(
        streams=mixture.streams,
        experts=mixture.names,
        weights=to_host(mixture.weights),
        outputs=to_host(mixture.experts),
        visible=mixture.visible,
        direct=None if mixture.direct is None else to_host(mixture.direct),
    )
