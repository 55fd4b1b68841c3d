"""One step of the ranker: a batch of logged rows, a batch of requests, and the balance of their losses."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from ..base import ranks
from ..data.batch import Batch
from ..data.dataset import Dataset
from ..training.optim import Optimizer
from .balance import Balance
from .balance.base import sum_of
from .losses import LossConfig
from .ranker import Ranker
from .requests import SELECT, RequestBatch, RequestRanker, RequestSet, SelectConfig


@dataclass(frozen=True)
class StepBatch:
    """What one step learns from.

    Attributes:
        logged: labelled rows; None where requests are all there is.
        asked: requests; None where `select` is not learned.
    """

    logged: Batch | None
    asked: RequestBatch | None

    def to(self, device: torch.device | str) -> StepBatch:
        """A copy on `device`."""
        logged = None if self.logged is None else self.logged.to(device)
        return StepBatch(logged, None if self.asked is None else self.asked.to(device))


@dataclass(frozen=True)
class LoggedRows:
    """Source of logged batches with a masked column of labels for `select`, which logged rows do not have."""

    dataset: Dataset
    with_select: bool

    def batch(self, rows: Tensor) -> Batch:
        """Event rows of a step -> labelled batch of this process's share; of a row that counts for nothing, where a
        step has fewer rows than there are processes.
        """
        own = ranks.share(rows)
        batch = self.dataset.batch(own if len(own) else rows[:1])
        if not len(own):
            batch = replace(batch, mask=torch.zeros_like(batch.labels, dtype=torch.bool))
        if not self.with_select:
            return batch
        column = torch.zeros(batch.labels.shape[0], 1)
        labels = torch.cat([batch.labels, column], dim=1)
        weight = batch.weight if batch.weight.dim() == 1 else torch.cat([batch.weight, column + 1], dim=1)
        return replace(batch, labels=labels, mask=torch.cat([batch.mask, column > 0], dim=1), weight=weight)


@dataclass(frozen=True)
class AskedRequests:
    """Source of the requests of a step, of which each process takes its share."""

    requests: RequestSet

    def batch(self, chosen: Tensor) -> RequestBatch:
        """Requests of a step int64 [Q] -> those of this process; one without an answer where there are too few."""
        own = ranks.share(chosen)
        if len(own):
            return self.requests.batch(own)
        batch = self.requests.batch(chosen[:1])
        return replace(batch, taken=torch.zeros_like(batch.taken))


class RankingStep:
    """One batch of logged rows, and with it one batch of requests -> loss terms and gradients."""

    def __init__(
        self,
        model: nn.Module,
        ranker: Ranker,
        balance: Balance | None,
        loss: LossConfig,
        select: SelectConfig,
        requests: RequestSet | None,
        optimizer: Optimizer,
        seed: int,
    ) -> None:
        self.model, self.ranker, self.balance = model, ranker, balance
        self.loss, self.select = loss, select
        self.requests, self.optimizer, self.seed = requests, optimizer, seed

    def prepare(self, batch: Batch | RequestBatch) -> StepBatch:
        """The loader's batch, and with logged rows the requests of this step, drawn on the CPU."""
        if isinstance(batch, RequestBatch):
            return StepBatch(None, batch)
        if self.requests is None:
            return StepBatch(batch, None)
        # The draw depends on the step's number alone, so a resumed training draws the same requests.
        rng = np.random.default_rng([self.seed, self.optimizer.steps])
        chosen = rng.integers(len(self.requests), size=min(self.select.requests_per_step, len(self.requests)))
        return StepBatch(batch, AskedRequests(self.requests).batch(torch.from_numpy(np.sort(chosen))))

    def __call__(self, batch: StepBatch) -> dict[str, Tensor]:
        """What `prepare` made -> loss terms by name; the total is filled in by `backward`."""
        ranks.own_draws()
        terms: dict[str, Tensor] = {}
        if batch.logged is not None:
            losses = self.ranker.losses(batch.logged, self.loss)
            terms = {name: loss for name, loss in losses.items() if name != f"loss/{SELECT}"}
        if batch.asked is not None:
            terms[f"aux/{SELECT}"] = self._select_loss(batch.asked)
        with torch.no_grad():
            total = sum_of(list(terms.values())) if self.balance is None else self.balance.total(terms)
        return {**terms, "loss": total.detach()}

    def _select_loss(self, asked: RequestBatch) -> Tensor:
        assert isinstance(self.model, RequestRanker)
        return self.select.weight * self.model.loss(asked)

    def backward(self, terms: dict[str, Tensor]) -> None:
        """Leave gradients on the parameters, by the configured balance."""
        losses = {name: loss for name, loss in terms.items() if name != "loss"}
        if self.balance is None:
            torch.autograd.backward(list(losses.values()))
        else:
            self.balance.backward(losses, self.ranker)
