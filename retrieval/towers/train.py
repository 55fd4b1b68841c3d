"""Training the towers from a data set, and the retriever's validation metric."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import torch
from pydantic import Field, ValidationInfo, field_validator, model_validator
from torch import Tensor

from ...base.arrays import F32, I64
from ...base.device import device_of, to_device, to_host
from ...base.errors import DataError
from ...base.ragged import Ragged, pair_keys
from ...base.topk import exact_ranks
from ...base.tuned import Range
from ...data.dataset import Dataset
from ...data.pretrained import TableStart
from ...data.split import Part
from ...evaluation.metrics.lists import rank_metrics
from ...nn.pretrained import frozen_starts, start_tables
from ...nn.sequence import ENCODERS
from ...training.checkpoint import Checkpointer
from ...training.log import TrainingLog
from ...training.loop import FitOptions, evaluation_mode, fit
from ...training.optim import OptimConfig, Optimizer
from ...training.runtime import Runtime, seed_everything
from ..merge import check_proposers
from ..seen import TAKEN, SeenConfig
from .answering import STEP, UserPasses
from .exposures import Exposures
from .objective import AUTO, LOSSES, TowerLossConfig
from .step import RetrievalStep
from .two_tower import TwoTower, TwoTowerConfig
from .windows import TowerData, WindowLoader

BLOCK = 256
"""Users embedded at once outside training."""
ITEM_BLOCK = 1 << 16
"""Items embedded at once outside training."""
SMALLEST_BATCH = 256
"""Fewest padded events per batch, however small the data."""


BaselineOptions = dict[str, float | int | str | tuple[str, ...] | None]
OPINIONS: dict[str, BaselineOptions] = {
    "ease_recent": {"model": "ease", "decay": 0.9},
    "item_knn_long": {"model": "item_knn", "last": 500, "decay": 1.0},
    "transition_last": {"model": "transition", "orders": 1, "last": 1},
    "trending_month": {"model": "trending", "window_days": 30},
    "trending_season": {"model": "trending", "window_days": 180},
}
"""Baselines under further names and settings, known to every configuration: what they say together beats each alone."""


class TowerOptim(OptimConfig):
    """How the towers' weights move."""

    tuned = {"lr": Range(5e-4, 8e-3, log=True), "weight_decay": Range(1e-3, 0.1, log=True)}

    lr: float = Field(default=2e-3, gt=0)
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = Field(default=0.01, ge=0)
    clip_norm: float = Field(default=1.0, ge=0)
    warmup_steps: int = Field(default=200, ge=0)
    schedule: Literal["constant", "cosine"] = "cosine"
    final_fraction: float = Field(default=0.02, ge=0, le=1)


class TowerFit(FitOptions):
    """How long the towers train."""

    epochs: int = Field(default=12, ge=1)
    metric: str = "ndcg@10"
    """`recall@K` or `ndcg@K` for K = 10 and 100, on the validation part: picks the best epoch, whose weights are kept.
    Empty: the last epoch's are."""
    patience: int = Field(default=0, ge=0)


class RetrievalConfig(TowerLossConfig):
    """The first stage: towers, their loss, how long to train them, and how many candidates they hand on."""

    positive: str = ""
    """Binary task whose label 1 makes an event a positive of retrieval; empty: every event is one."""
    seen: SeenConfig = TAKEN
    """What users are not recommended again: in the candidates that the ranker learns from, in every evaluation and in
    answers. `seen = "shown"` is short for `seen = { policy = "shown" }`."""
    tower: TwoTowerConfig = Field(default=TwoTowerConfig(), validate_default=True)
    """What the towers are made of."""
    tokens: int = Field(default=3200, ge=1)
    """Padded history events per batch; fewer for small data, so that an epoch has about a hundred steps."""
    optim: TowerOptim = TowerOptim()
    """How weights move."""
    fit: TowerFit = TowerFit()
    """How long to train."""
    num_candidates: int = Field(default=200, ge=1)
    """Candidates handed to the ranker per request."""
    proposers: tuple[str, ...] = ("two_tower",)
    """Who names candidates: `two_tower` and any of the baselines."""
    merge: Literal["reciprocal_rank", "quota"] = "reciprocal_rank"
    """How several lists become one. `reciprocal_rank`: an item counts the sum of 1 / (60 + rank) over the lists that
    name it; `quota`: every proposer has its own places, see `quotas`."""
    quotas: dict[str, int] = {}
    """For `quota`: places of each proposer among the candidates, at most `num_candidates` together. What overlaps leave
    free is filled in the same proportions."""
    scorers: tuple[str, ...] = (
        "ease",
        "ease_recent",
        "item_knn",
        "item_knn_long",
        "transition",
        "transition_last",
        "popularity",
        "recent_popularity",
        "trending_month",
        "trending_season",
    )
    """Baselines whose score and rank of every candidate become features of the ranker."""
    baselines: tuple[str, ...] = ("popularity", "recent_popularity", "item_knn", "ease", "transition")
    """Baselines fitted beside the towers and set beside them in every table."""
    baseline_options: dict[str, BaselineOptions] = Field(default={}, validate_default=True)
    """Settings of a baseline by name; `model` names the baseline behind a name of your own. Known beforehand:
    `ease_recent`, `item_knn_long`, `transition_last`, `trending_month`, `trending_season`."""
    segments: tuple[str, ...] | None = None
    """User features (categories, or numbers by bucket) that `segment_popularity` groups users by, for those without a
    history; all categorical ones but the id when absent, none when empty."""
    baseline_items: int = Field(default=12_000, ge=1)
    """EASE is left out above this many items: it inverts an items x items matrix."""

    @field_validator("tower")
    @classmethod
    def _with_a_bias_for_pairs(cls, tower: TwoTowerConfig, info: ValidationInfo) -> TwoTowerConfig:
        loss = info.data.get("loss", AUTO)
        pairs = loss != AUTO and LOSSES[loss].pairs
        return tower.model_copy(update={"pair_bias": True}) if pairs and not tower.pair_bias else tower

    @field_validator("baseline_options")
    @classmethod
    def _with_the_usual_ones(cls, given: dict[str, BaselineOptions]) -> dict[str, BaselineOptions]:
        return {**OPINIONS, **given}

    @model_validator(mode="after")
    def _places_for_every_proposer(self) -> Self:
        check_proposers(self.proposers, self.places, self.num_candidates)
        return self

    @model_validator(mode="after")
    def _nothing_hidden_of_exposures(self) -> Self:
        name = self.tower.history.encoder
        if name in ENCODERS and ENCODERS[name].fills and (self.horizon != 1 or self.learns_exposures):
            given = "horizon" if self.horizon != 1 else f'loss = "{self.loss}"'
            raise ValueError(
                f"the {name} encoder learns to fill in hidden events and has no use for {given}; leave it out"
            )
        return self

    @property
    def places(self) -> dict[str, int] | None:
        """The quotas where lists are merged by them, None where by reciprocal rank."""
        return self.quotas if self.merge == "quota" else None


def item_vectors(model: TwoTower, data: TowerData) -> F32:
    """Vectors of the whole catalogue, float32 [N, width], made once for an index; a block of items at a time."""
    out = np.empty((data.num_items, model.width), dtype=np.float32)
    device = device_of(model)
    with evaluation_mode(model):
        for rows in torch.arange(data.num_items).split(ITEM_BLOCK):
            items = data.items.select(rows).to(device)
            out[rows.numpy()] = to_host(model.item_vectors(items, model.embed_content(items)))
    return out


def item_contents(model: TwoTower, data: TowerData, vectors: F32) -> Tensor:
    """Content of the whole catalogue, see `TwoTower.embed_content`, on the CPU: a part of the item vectors, where these
    are the content.

    Args:
        model: the towers.
        data: the catalogue.
        vectors: float32 [N, width] of all items.
    """
    if model.vectors_hold_content:
        return torch.from_numpy(vectors)[:, : model.config.dim]
    with evaluation_mode(model):
        blocks, device = torch.arange(data.num_items).split(ITEM_BLOCK), device_of(model)
        return torch.cat([model.embed_content(data.items.select(rows).to(device)).cpu() for rows in blocks])


def query_vectors(
    model: TwoTower,
    data: TowerData,
    users: I64,
    ends: I64,
    content: Tensor | None = None,
    passes: UserPasses | None = None,
) -> F32:
    """Vectors of users as they are before each pointer, float32 [B, width], or [B, M, width] of M > 1 interests;
    embedded in blocks of similar length.

    Args:
        model: the towers.
        data: histories and user columns.
        users: int64 [B] user rows.
        ends: int64 [B] pointers into `data.history`.
        content: see `item_contents`; that of the items of the histories is computed when None.
        passes: of the model on the CPU, recorded, for a user who asks alone; the model's own when None.
    """
    if passes is not None and content is not None and len(users) == 1:
        with evaluation_mode(model):
            return to_host(passes.vector(data.window(int(users[0]), int(ends[0]), STEP), content))
    several = model.config.interests
    out = np.empty((len(users), *((several,) if several > 1 else ()), model.width), dtype=np.float32)
    by_length, device = np.argsort(ends - data.history.ptr[users], kind="stable"), device_of(model)
    with evaluation_mode(model):
        for start in range(0, len(users), BLOCK):
            chosen = by_length[start : start + BLOCK]
            windows = data.windows(users[chosen], ends[chosen])
            if content is None:  # of these histories alone: one user costs the same however large the catalogue is
                rows, place = windows.items.unique(return_inverse=True)
                history = model.embed_content(data.items.select(rows).to(device))[to_device(place, device)]
            else:
                history = to_device(content[windows.items], device)
            with torch.inference_mode():
                vectors = model.user_vectors(windows.to(device), history)
            out[chosen] = to_host(vectors)
    return out


def requests(data: TowerData, part: Part) -> tuple[I64, Ragged, Ragged]:
    """Users with something to predict in a part, what they had before it, and what they did in it.

    Items a user has seen (`data.seen`) are removed from the truth: left out of the answers, they could never be found.

    Returns:
        users: int64 [B] user rows.
        seen: item rows that are not recommended, per request.
        truth: new item rows of the part, per request; never empty.

    Raises:
        DataError: no user has any.
    """
    history = data.history
    starts, stops = history.ends(part), history.ends(Part(part + 1)) if part < Part.TEST else history.ptr[1:]
    users = np.flatnonzero(stops > starts)
    seen, later = data.seen.before(users, int(part)), history.between(starts[users], stops[users])
    width = data.num_items
    pairs = np.unique(pair_keys(later.users, later.items, width))
    known = pair_keys(seen.users, seen.items, width)
    pairs = pairs[~np.isin(pairs, known)]
    if not len(pairs):
        what = (
            f"every positive event of the {part.name.lower()} part is of an item that its user had before, and such "
            'repeats are left out of the answers; set retrieval.seen = "none" to let them return'
            if len(users)
            else f"no user has a positive event in the {part.name.lower()} part"
        )
        raise DataError(f"{what}; change [data.split], or train and evaluate the ranker alone (--stage ranking)")
    owner, items = pairs // width, pairs % width
    kept = np.unique(owner)
    renumbered = np.searchsorted(kept, owner)
    return users[kept], seen.take(kept), Ragged.from_pairs(renumbered, items, len(kept))


def asks(data: TowerData, part: Part) -> bool:
    """Whether any user has something to predict in a part; see `requests`."""
    try:
        requests(data, part)
    except DataError:
        return False
    return True


def validation_metrics(model: TwoTower, data: TowerData, part: Part = Part.VALID) -> dict[str, float]:
    """Full-ranking `recall@K` and `ndcg@K`, K = 10 and 100, of a part; seen items removed."""
    users, seen, truth = requests(data, part)
    vectors = query_vectors(model, data, users, data.ends(part)[users])
    ranks = exact_ranks(vectors, item_vectors(model, data), truth, seen, device=device_of(model))
    means = rank_metrics(ranks, truth.lengths, [10, 100], ("recall", "ndcg")).means()
    return {name: float(value or 0.0) for name, value in means.items()}


def build_two_tower(data: TowerData, config: TwoTowerConfig, seed: int) -> TwoTower:
    """Towers with weights drawn from `seed`; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TwoTower(config, data.layout)


@dataclass(frozen=True, kw_only=True)
class TowerTraining:
    """Towers that are built and not yet trained, and what their training consists of.

    Attributes:
        model: the towers; a start from earlier weights is applied to them before `fit_towers`.
        data: histories and columns.
        loader: batches of training windows.
        optimizer: of the towers.
        frozen: rows of the tables that start from given vectors and stay there.
        exposures: logged rows to learn from, for `loss = "exposures"`.
    """

    model: TwoTower
    data: TowerData
    loader: WindowLoader
    optimizer: Optimizer
    frozen: Mapping[str, TableStart]
    exposures: Exposures | None = None

    def restore_frozen(self) -> None:
        """Put frozen rows back where they start, after something else wrote to the tables."""
        start_tables([self.model.table], self.frozen)


def build_towers(dataset: Dataset, config: RetrievalConfig, seed: int) -> TowerTraining:
    """Towers with fresh weights, their loader and their optimiser.

    Args:
        dataset: encoded data.
        config: the `[retrieval]` section.
        seed: of weights, order and draws; also seeds the global generator, from which dropout draws.
    """
    data = TowerData.of(dataset, config.tower, config.positive, config.seen)
    model = build_two_tower(data, config.tower, seed)
    seed_everything(seed)
    start_tables([model.table], dataset.table_starts)
    exposures = None
    if config.learns_exposures:
        exposures = Exposures.of(dataset, data.history, config.positive)
        model.start_at(exposures.rate)
    events = int((data.ends(Part.VALID) - data.history.ptr[:-1]).sum()) if exposures is None else len(exposures.items)
    tokens = min(config.tokens, max(SMALLEST_BATCH, events // 100))
    loader = WindowLoader(data, Part.VALID, tokens, seed, exposures)
    optimizer = Optimizer(model, config.optim, config.fit.epochs * len(loader))
    return TowerTraining(
        model=model,
        data=data,
        loader=loader,
        optimizer=optimizer,
        frozen=frozen_starts(dataset.table_starts),
        exposures=exposures,
    )


def fit_towers(
    training: TowerTraining,
    config: RetrievalConfig,
    runtime: Runtime,
    seed: int,
    checkpointer: Checkpointer | None = None,
) -> TrainingLog:
    """Train towers in place on the training part; the best epoch by `config.fit.metric` on validation is kept.

    Args:
        training: what `build_towers` made, started from earlier weights or not.
        config: the `[retrieval]` section.
        runtime: device and arithmetic; the towers stay on the device.
        seed: of the negatives.
        checkpointer: where to keep checkpoints, and whether to resume from one.
    """
    model, data = training.model, training.data
    training.optimizer.to(runtime.device)
    step = RetrievalStep(model, data, config, seed, runtime.reduced, training.exposures, runtime.device)
    return fit(
        step,
        training.loader,
        training.optimizer,
        config.fit,
        prepare=step.prepare,
        evaluate=(lambda: validation_metrics(model, data)) if config.fit.metric or asks(data, Part.VALID) else None,
        checkpointer=checkpointer,
        runtime=runtime,
        generators={"negatives": step.generator},
        memories=step.memories,
        description="training the retriever",
        stage="retrieval",
    )


def train_two_tower(
    dataset: Dataset,
    config: RetrievalConfig,
    runtime: Runtime,
    seed: int,
    checkpointer: Checkpointer | None = None,
) -> tuple[TwoTower, TowerData, TrainingLog]:
    """Towers trained from fresh weights: `build_towers`, then `fit_towers`."""
    training = build_towers(dataset, config, seed)
    history = fit_towers(training, config, runtime, seed, checkpointer)
    return training.model, training.data, history
