"""What a training has been through: one record per epoch, and the running means of the loss terms within one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..base.errors import RecsysError

Record = dict[str, float]


@dataclass(kw_only=True)
class TrainingLog:
    """The epochs of one training and which of them is the best.

    Attributes:
        records: one per epoch: `epoch` (1-based), `steps` so far, mean of every loss term, `seconds`,
            `rows_per_second`, the `lr` the next step would take, and the metrics.
        best_epoch: epoch whose metric is the best; 0 before there is one, or when no metric decides.
        best: its metric; NaN before there is one.
        epochs_since_best: epochs in a row without a better metric.
        stopped_early: whether that were too many.
        details: one per epoch where something describes the model in more than numbers: JSON values by name.
    """

    records: list[Record] = field(default_factory=list)
    best_epoch: int = 0
    best: float = math.nan
    epochs_since_best: int = 0
    stopped_early: bool = False
    details: list[dict[str, Any]] = field(default_factory=list)

    def judge(self, value: float, *, greater_is_better: bool, patience: int) -> bool:
        """Compare the last epoch's metric with the best so far; NaN is never better.

        Args:
            value: the metric.
            greater_is_better: its direction.
            patience: epochs in a row without a better one before training stops; 0 for never.

        Returns:
            Whether the epoch is the best one so far.
        """
        gain = value - self.best if greater_is_better else self.best - value
        better = gain > 0 or (self.best_epoch == 0 and not math.isnan(value))
        if better:
            self.best, self.best_epoch, self.epochs_since_best = value, len(self.records), 0
        else:
            self.epochs_since_best += 1
        self.stopped_early = 0 < patience <= self.epochs_since_best
        return better

    @property
    def chosen(self) -> int:
        """Epochs after which the weights were kept: the best one's number, or all where no metric decided."""
        return self.best_epoch or len(self.records)

    def epochs(self) -> list[dict[str, Any]]:
        """One JSON object per epoch, its record and its details; numbers that are not finite are None."""
        details: list[dict[str, Any]] = [{}] * (len(self.records) - len(self.details)) + self.details
        return [
            {name: value if math.isfinite(value) else None for name, value in record.items()} | detail
            for record, detail in zip(self.records, details, strict=True)
        ]


class Totals:
    """Sums of the loss terms over the rows of an epoch, in float64; watches that they stay finite."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.sums = torch.empty(0)
        self.rows = 0
        self.seconds = 0.0

    def add(self, terms: Mapping[str, Tensor], rows: int) -> None:
        """Add one step's terms (scalars, means over `rows` rows)."""
        values = torch.stack([term.detach() for term in terms.values()]).double() * rows
        if not self.names:
            self.names, self.sums = list(terms), torch.zeros_like(values)
        elif self.names != list(terms):
            raise ValueError(f"a step returned the loss terms {list(terms)}, those before it {self.names}")
        self.sums += values
        self.rows += rows

    def means(self) -> Record:
        """Mean of every term over the rows so far."""
        return {name: total / self.rows for name, total in zip(self.names, self.sums.tolist(), strict=True)}

    def check(self, epoch: int, step: int) -> None:
        """Stop when a term has become NaN or infinite (either stays in the sum, so that looking late is enough).

        Raises:
            RecsysError: one has.
        """
        totals = self.sums.tolist()
        if all(map(math.isfinite, totals)):
            return
        wrong = [
            f"{name} is {total}" for name, total in zip(self.names, totals, strict=True) if not math.isfinite(total)
        ]
        raise RecsysError(
            f"training stopped at step {step} (epoch {epoch}): {', '.join(wrong)}; lower lr, set clip_norm, "
            "or look for extreme values among labels and numeric features"
        )

    def state(self) -> dict[str, object]:
        """For a checkpoint; JSON keeps a float64 to the last bit."""
        return {"names": self.names, "sums": self.sums.tolist(), "rows": self.rows, "seconds": self.seconds}

    def restore(self, names: list[str], sums: list[float], rows: int, seconds: float, device: torch.device) -> None:
        """Take up what `state` gave."""
        self.names, self.rows, self.seconds = names, rows, seconds
        self.sums = torch.tensor(sums, dtype=torch.float64, device=device)
