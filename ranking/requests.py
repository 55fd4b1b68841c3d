"""The ranker's second kind of rows: whole requests, a list of retrieved candidates of which the user took some.

Logged rows teach what happens to items that were shown. Requests teach which of the retriever's own candidates, most of
them never shown, the user goes on to take. `select` is that task: its logit is the retriever's log-probability, plus a
tower of the ranker, plus a small network over the retrievers' opinions; its loss is a softmax over the request.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from ..base.arrays import F32, I64, Bool
from ..base.device import to_device
from ..base.settings import Settings
from ..base.tuned import Range
from ..data.batch import Batch
from ..data.dataset import Dataset
from ..nn.mlp import MLP
from .losses import listwise_loss
from .ranker import Ranker

SELECT = "select"
PADDED = -1e9
"""Logit of a candidate that is none."""


class SelectConfig(Settings):
    """The listwise task over the retriever's candidates."""

    tuned = {"weight": Range(0.02, 0.5, log=True)}

    enabled: bool = True
    """Train on requests; needs users, items and a validation part. Their users are split, see `holdout`."""
    tower: bool = True
    """Give the task a tower of the ranker; otherwise only the small network over the retrievers' opinions learns."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the network over the retrievers' opinions and the other tasks' logits."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout in that network."""
    weight: float = Field(default=0.1, ge=0)
    """Weight of the task's loss, which is some ten times a click's: a softmax over hundreds. At 1 it pulls the shared
    layers away from the other tasks (docs/experiments.md)."""
    requests_per_step: int = Field(default=16, ge=1)
    """Requests beside each batch of logged rows."""
    targets: Literal["each", "all", "auto"] = "each"
    """What a request asks for. `each`: one of the items its user took, and the others are no candidates; a user makes
    as many requests. `all`: everything its user took, so that users weigh alike whatever they take, as in the figures
    of lists. `auto`: `all` where users take more than ten items on average, which is what splits in time ask for;
    `recsys init` writes it for them."""
    per_user: int = Field(default=0, ge=0)
    """Of `each`, and of `auto` where it means that: requests drawn at most of one user, so that those who take hundreds
    of items do not decide what all get; 0: one of every item taken."""
    max_requests: int = Field(default=50_000, ge=1)
    """Requests drawn at most from the validation part."""
    holdout: float = Field(default=0.15, gt=0, lt=1)
    """Share of users whose validation rows are never trained on and choose the best epoch."""

    @model_validator(mode="after")
    def _nothing_drawn_of_all(self) -> Self:
        if self.targets == "all" and self.per_user:
            raise ValueError(
                'targets = "all" is one request a user, of which per_user draws none; leave one of them out'
            )
        return self


@dataclass(frozen=True)
class RequestBatch:
    """Q requests of C candidates as R = Q * C rows.

    Attributes:
        batch: the candidates, without labels.
        features: float [R, F] opinions of the retrievers.
        prior: float [R] the retriever's log-probability, `PADDED` at pads.
        taken: bool [R] candidates that the request asks for; none where the retriever missed them.
    """

    batch: Batch
    features: Tensor
    prior: Tensor
    taken: Tensor

    def to(self, device: torch.device | str) -> RequestBatch:
        """These requests on `device`: themselves where they are there."""
        if self.prior.device == torch.device(device):
            return self
        moved = (to_device(part, device) for part in (self.features, self.prior, self.taken))
        return RequestBatch(self.batch.to(device), *moved)


@dataclass(frozen=True, kw_only=True)
class RequestSet:
    """Requests whose answer is known.

    Attributes:
        dataset: makes the batches.
        moment: part at whose start the requests stand.
        users: int64 [Q] user rows.
        rows: int64 [Q, C] candidate item rows, -1 pads.
        features: float32 [Q, C, F].
        prior: float32 [Q, C].
        taken: bool [Q, C] candidates that the request asks for.
        wanted: int64 [Q] items that it asks for, those that the retriever missed included.
    """

    dataset: Dataset
    moment: int
    users: I64
    rows: I64
    features: F32
    prior: F32
    taken: Bool
    wanted: I64

    def __len__(self) -> int:
        return len(self.users)

    @property
    def answered(self) -> Bool:
        """Requests of which a candidate was taken, [Q]."""
        return np.asarray(self.taken.any(axis=1))

    def take(self, chosen: I64) -> RequestSet:
        """Some of the requests."""
        return RequestSet(
            dataset=self.dataset,
            moment=self.moment,
            users=self.users[chosen],
            rows=self.rows[chosen],
            features=self.features[chosen],
            prior=self.prior[chosen],
            taken=self.taken[chosen],
            wanted=self.wanted[chosen],
        )

    def batch(self, requests: Tensor) -> RequestBatch:
        """Requests int64 [Q'] -> their candidates."""
        chosen = requests.numpy()
        return request_batch(
            self.dataset,
            self.moment,
            self.users[chosen],
            self.rows[chosen],
            self.features[chosen],
            self.prior[chosen],
            self.taken[chosen],
        )


def request_batch(
    dataset: Dataset,
    moment: int,
    users: I64,
    rows: I64,
    features: F32,
    prior: F32,
    taken: Bool | None = None,
) -> RequestBatch:
    """Candidates [Q, C] of requests as one batch; pads become item 0 with an impossible prior."""
    batch = dataset.candidates(users, np.maximum(rows, 0), moment)
    flat_prior = np.where(rows >= 0, prior, PADDED).astype(np.float32)
    return RequestBatch(
        batch,
        torch.from_numpy(np.ascontiguousarray(features.reshape(-1, features.shape[2]))),
        torch.from_numpy(flat_prior.reshape(-1)),
        torch.from_numpy((np.zeros(rows.shape, dtype=bool) if taken is None else taken).reshape(-1)),
    )


class RequestRanker(nn.Module):
    """A ranker that also answers `select` on requests.

    Args:
        ranker: with a tower for `select` when `config.tower`.
        num_features: opinions F per candidate.
        config: see `SelectConfig`.
    """

    opinion_mean: Tensor
    opinion_scale: Tensor

    def __init__(self, ranker: Ranker, num_features: int, config: SelectConfig) -> None:
        super().__init__()
        self.ranker = ranker
        self.config = config
        self.others = [task.name for task in ranker.tasks if task.name != SELECT]
        self.register_buffer("opinion_mean", torch.zeros(num_features))
        self.register_buffer("opinion_scale", torch.ones(num_features))
        self.hidden = MLP(num_features + len(self.others), config.hidden, config.dropout)
        self.output = nn.Linear(self.hidden.width, 1)
        # At first the head says nothing, so that without a tower the order begins as the retriever's.
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def fit_scale(self, requests: RequestSet) -> None:
        """Learn where each opinion lies and how far it spreads: raw scores of different retrievers share no unit.

        Args:
            requests: those the task is trained on.
        """
        values = torch.from_numpy(requests.features[requests.rows >= 0])
        if len(values):
            self.opinion_mean.copy_(values.mean(0))
            self.opinion_scale.copy_(values.std(0, correction=0).clamp(min=1e-6))

    def forward(self, requests: RequestBatch) -> dict[str, Tensor]:
        """Requests -> every task's logit and `select`, float [R]."""
        speaks = self.others or self.config.tower
        logits = dict(self.ranker(requests.batch)) if speaks else {}
        scaled = (requests.features - self.opinion_mean) / self.opinion_scale
        opinions = [scaled, *(logits[name].detach().unsqueeze(1) for name in self.others)]
        select = requests.prior + self.output(self.hidden(torch.cat(opinions, dim=1))).squeeze(1)
        if self.config.tower:
            select = select + logits[SELECT]
        return {**logits, SELECT: select}

    def loss(self, requests: RequestBatch) -> Tensor:
        """Mean cross-entropy of what was taken among what was not; requests of which nothing was taken are left out."""
        owner = requests.batch.owner
        assert owner is not None
        return listwise_loss(self(requests)[SELECT], owner, requests.taken, requests.batch.query.rows)
