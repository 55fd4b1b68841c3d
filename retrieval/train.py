"""Training the towers: the loss of one batch of windows, and the retriever's validation metric."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from ..data.dataset import Dataset
from ..data.split import Part
from ..errors import DataError
from ..evaluation.metrics import rank_metrics
from ..evaluation.ragged import Ragged
from ..evaluation.topk import exact_ranks
from ..settings import Settings
from ..training.checkpoint import Checkpointer
from ..training.history import History as TrainingHistory
from ..training.loop import FitOptions, evaluation_mode, fit
from ..training.optim import OptimConfig, Optimizer
from ..training.runtime import Runtime, seed_everything
from .full_softmax import full_softmax_loss
from .losses import bce_loss, in_batch_softmax_loss, mixed_negative_softmax_loss, sampled_softmax_loss
from .two_tower import TwoTower, TwoTowerConfig, Windows
from .windows import TowerData, WindowLoader

BLOCK = 256
"""Users embedded at once outside training."""
SMALLEST_BATCH = 256
"""Fewest padded events per batch, however small the data."""


class RetrievalConfig(Settings):
    """The first stage: towers, their loss, how long to train them, and how many candidates they hand on."""

    positive: str = ""
    """Binary task whose label 1 makes an event a positive of retrieval; empty: every event is one."""
    tower: TwoTowerConfig = TwoTowerConfig()
    """What the towers are made of."""
    loss: Literal["auto", "in_batch", "full_softmax", "mixed", "sampled", "bce"] = "auto"
    """`in_batch`: softmax over the batch with log-q correction; `full_softmax`: over the whole catalogue; `mixed`:
    in-batch plus `negatives` drawn evenly; `sampled`: only those; `bce`: each pair by itself. `auto`: `full_softmax`
    up to `full_softmax_items` items, `mixed` above."""
    full_softmax_items: int = Field(default=30_000, ge=1)
    """Largest catalogue for which `auto` takes the softmax over all items."""
    negatives: int = Field(default=1024, ge=1)
    """Items drawn evenly from the catalogue per batch, for `mixed`, `sampled` and `bce`."""
    tokens: int = Field(default=3200, ge=1)
    """Padded history events per batch; fewer for small data, so that an epoch has about a hundred steps."""
    optim: OptimConfig = OptimConfig(
        lr=2e-3,
        betas=(0.9, 0.98),
        weight_decay=0.01,
        clip_norm=1.0,
        warmup_steps=200,
        schedule="cosine",
        final_fraction=0.02,
    )
    """How weights move."""
    fit: FitOptions = FitOptions(epochs=12, metric="ndcg@10", patience=0)
    """How long to train; metrics are `recall@K`, `ndcg@K` for K = 10 and 100, on the validation part."""
    num_candidates: int = Field(default=200, ge=1)
    """Candidates handed to the ranker per request."""
    proposers: tuple[str, ...] = ("two_tower",)
    """Who names candidates: `two_tower` and any of the baselines; several lists are merged by reciprocal rank."""
    scorers: tuple[str, ...] = ("ease", "ease_recent", "item_knn", "transition", "recent_popularity")
    """Baselines whose score and rank of every candidate become features of the ranker."""
    baselines: tuple[str, ...] = ("popularity", "recent_popularity", "item_knn", "ease")
    """Baselines fitted beside the towers and set beside them in every table."""
    baseline_options: dict[str, dict[str, float | int | str | None]] = {"ease_recent": {"model": "ease", "decay": 0.9}}
    """Settings of a baseline by name; `model` names the baseline behind a name of your own."""
    baseline_items: int = Field(default=12_000, ge=1)
    """EASE is left out above this many items: it inverts an items x items matrix."""


class RetrievalStep:
    """One batch of windows -> the loss. Holds what every step needs: item columns and sampling probabilities."""

    def __init__(self, model: TwoTower, data: TowerData, config: RetrievalConfig, seed: int, reduced: bool) -> None:
        self.model = model
        self.data = data
        self.config = config
        self.reduced = reduced
        self.generator = torch.Generator().manual_seed(seed)
        counts = data.popularity(Part.VALID)
        self.frequency = (counts / counts.sum()).float()  # [N] share of the positives
        self.kind = config.loss
        if self.kind == "auto":
            self.kind = "full_softmax" if data.num_items <= config.full_softmax_items else "mixed"

    def __call__(self, windows: Windows) -> dict[str, Tensor]:
        """Windows -> {"loss": mean loss of the positions that predict an event}."""
        model, data = self.model, self.data
        target = windows.present.clone()
        target[:, 0] &= windows.from_start  # the past of a stretch cut out of a history is not empty but unknown
        targets = windows.items[target]  # [P]
        if self.kind == "full_softmax":
            content = model.embed_content(data.items)  # [N, D]
            vectors = model.item_vectors(data.items, content)
            users = model.states_before(windows, content[windows.items])[target]
            loss = full_softmax_loss(users, vectors, targets, scale=model.scale, reduced=self.reduced)
            return {"loss": loss}
        drawn = torch.empty(0, dtype=torch.int64)
        if self.kind != "in_batch":
            drawn = torch.randint(data.num_items, (self.config.negatives,), generator=self.generator)
        # Only the items of this batch are embedded: a step costs the same however large the catalogue is.
        rows, inverse = torch.cat([windows.items.flatten(), drawn]).unique(return_inverse=True)
        items = data.items.select(rows)
        content = model.embed_content(items)
        vectors = model.item_vectors(items, content)
        events = inverse[: windows.items.numel()].view_as(windows.items)
        users = model.states_before(windows, content[events])[target]
        positives = vectors[events[target]]  # [P, width]
        negatives = vectors[inverse[windows.items.numel() :]]  # [B', width]
        return {"loss": self._sampled_loss(users, positives, targets, negatives, drawn)}

    def _sampled_loss(
        self, users: Tensor, positives: Tensor, targets: Tensor, negatives: Tensor, drawn: Tensor
    ) -> Tensor:
        scale, frequency = self.model.scale, self.frequency
        if self.kind == "in_batch":
            log_q = frequency[targets].log()
            return in_batch_softmax_loss(users, positives, targets, log_q, scale, reduced=self.reduced)
        if self.kind == "mixed":
            return mixed_negative_softmax_loss(
                users,
                positives,
                targets,
                negatives,
                drawn,
                frequency[targets],
                frequency[drawn],
                self.data.num_items,
                scale,
                reduced=self.reduced,
            )
        if self.kind == "sampled":
            return sampled_softmax_loss(users, positives, negatives, scale, positive_ids=targets, negative_ids=drawn)
        paired = negatives[torch.randint(len(negatives), (len(users),), generator=self.generator)]
        labels = torch.cat([torch.ones(len(users)), torch.zeros(len(users))])
        return bce_loss(users.repeat(2, 1), torch.cat([positives, paired]), labels, scale)


def item_vectors(model: TwoTower, data: TowerData) -> NDArray[np.float32]:
    """Vectors of the whole catalogue, float32 [N, width]."""
    with evaluation_mode(model):
        return model.item_vectors(data.items, model.embed_content(data.items)).numpy()


def query_vectors(
    model: TwoTower, data: TowerData, users: NDArray[np.int64], ends: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Vectors of users as they are before each pointer, float32 [B, width]; embedded in blocks of similar length.

    Args:
        model: the towers.
        data: histories and user columns.
        users: int64 [B] user rows.
        ends: int64 [B] pointers into `data.history`.
    """
    out = np.empty((len(users), model.width), dtype=np.float32)
    by_length = np.argsort(ends - data.history.ptr[users], kind="stable")
    with evaluation_mode(model):
        content = model.embed_content(data.items)
        for start in range(0, len(users), BLOCK):
            chosen = by_length[start : start + BLOCK]
            windows = data.windows(users[chosen], ends[chosen])
            out[chosen] = model.user_vectors(windows, content[windows.items]).numpy()
    return out


def requests(data: TowerData, part: Part) -> tuple[NDArray[np.int64], Ragged, Ragged]:
    """Users with something to predict in a part, what they had before it, and what they did in it.

    Items a user had before are removed from the truth: filtered from the answers, they could never be found.

    Returns:
        users: int64 [B] user rows.
        seen: item rows before the part, per request.
        truth: new item rows of the part, per request; never empty.
    """
    history = data.history
    starts, stops = history.ends(part), history.ends(Part(part + 1)) if part < Part.TEST else history.ptr[1:]
    users = np.flatnonzero(stops > starts)
    if not len(users):
        raise DataError(f"no user has a positive event in the {part.name.lower()} part; change [data.split]")
    seen = Ragged(*history.csr(users, starts[users]))
    counts = (stops - starts)[users]
    flat = np.repeat(starts[users], counts) + np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    owner, items = np.repeat(np.arange(len(users)), counts), history.items[flat].astype(np.int64)
    width = data.num_items
    pairs = np.unique(owner * width + items)
    known = np.repeat(np.arange(len(users)), seen.lengths) * width + seen.items
    pairs = pairs[~np.isin(pairs, known)]
    owner, items = pairs // width, pairs % width
    kept = np.unique(owner)
    renumbered = np.searchsorted(kept, owner)
    chosen_seen = Ragged(*history.csr(users[kept], starts[users[kept]]))
    return users[kept], chosen_seen, Ragged.from_pairs(renumbered, items, len(kept))


def validation_metrics(model: TwoTower, data: TowerData, part: Part = Part.VALID) -> dict[str, float]:
    """Full-ranking `recall@K` and `ndcg@K`, K = 10 and 100, of a part; seen items removed."""
    users, seen, truth = requests(data, part)
    vectors = query_vectors(model, data, users, data.ends(part)[users])
    ranks = exact_ranks(vectors, item_vectors(model, data), truth, seen)
    means = rank_metrics(ranks, truth.lengths, [10, 100], ("recall", "ndcg")).means()
    return {name: float(value or 0.0) for name, value in means.items()}


def build_two_tower(data: TowerData, config: TwoTowerConfig, seed: int) -> TwoTower:
    """Towers with weights drawn from `seed`; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TwoTower(config, data.layout)


def train_two_tower(
    dataset: Dataset,
    config: RetrievalConfig,
    runtime: Runtime,
    seed: int,
    checkpointer: Checkpointer | None = None,
    prepare: Callable[[TwoTower], object] | None = None,
) -> tuple[TwoTower, TowerData, TrainingHistory]:
    """Train the towers on the training part; the best epoch by `config.fit.metric` on validation is kept.

    Args:
        dataset: encoded data.
        config: the `[retrieval]` section.
        runtime: arithmetic.
        seed: of weights, order and draws.
        checkpointer: where to keep checkpoints, and whether to resume from one.
        prepare: called with the fresh towers before training, to warm-start them.
    """
    data = TowerData.of(dataset, config.tower, config.positive)
    model = build_two_tower(data, config.tower, seed)
    seed_everything(seed)  # dropout draws from the global generator
    if prepare is not None:
        prepare(model)
    events = int((data.ends(Part.VALID) - data.history.ptr[:-1]).sum())
    tokens = min(config.tokens, max(SMALLEST_BATCH, events // 100))
    loader = WindowLoader(data, Part.VALID, tokens, seed)
    optimizer = Optimizer(model, config.optim, config.fit.epochs * len(loader))
    step = RetrievalStep(model, data, config, seed, runtime.bf16)
    history = fit(
        step,
        loader,
        optimizer,
        config.fit,
        evaluate=lambda: validation_metrics(model, data),
        checkpointer=checkpointer,
        runtime=runtime,
        generators={"negatives": step.generator},
        description="training the retriever",
    )
    return model, data, history
