"""What a loss of the towers is: which items it compares with, and the loss of a step. Losses stand in `objectives`.

Subclassing `TowerLoss` with `kind="name"` registers one, here and in an extension alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from ...base.device import CPU
from ...base.registry import Registry
from ...base.settings import Settings, checked_settings, known_name
from ...training.loop import Stateful
from .batch import TowerBatch

LOSSES: Registry[type[TowerLoss]] = Registry(
    "loss of the towers",
    {
        "in_batch": "objectives:InBatch",
        "full_softmax": "objectives:FullSoftmax",
        "estimated": "objectives:Estimated",
        "mixed": "objectives:Mixed",
        "sampled": "objectives:Sampled",
        "bce": "objectives:PairwiseEntropy",
        "gbce": "objectives:CalibratedEntropy",
        "bpr_max": "objectives:BPRMax",
        "top1_max": "objectives:TOP1Max",
        "exposures": "objectives:ExposureEntropy",
    },
    __package__,
)
AUTO = "auto"
"""The name that chooses by the size of the catalogue."""

POPULAR_LOSSES = ("sampled", "bpr_max", "top1_max")
"""Losses whose negatives may be drawn by a power of popularity."""


class TowerLossConfig(Settings):
    """What the towers learn to predict, and what the loss compares it with."""

    horizon: Annotated[int, Field(ge=1)] | Literal["auto"] = 1
    """How far ahead a state looks: it learns one of its next `horizon` events, drawn anew each time. 1, the next event,
    is right where the next event is asked for; where all of a later period is, as after a global time split, what
    comes next within a session says little. `auto`: as many as a user with a history takes on average in the validation
    part, rounded down and 200 at most, which is 1 where each user's last event is left out."""

    logit_adjustment: float | Literal["auto"] = 0.0
    """Added to an item's score when training is over: so many times the logarithm of its share of the training events.
    `auto`: from 0 to 5 by `fit.metric` on the validation part, chosen by users with a history; for the others the item
    bias is multiplied by up to 10. Where a whole later period is asked for, towers say too little of what is
    popular. A training that goes on from a run begins with what was added there."""

    new_item_bias: float | None = None
    """Item bias of items without a training event, which share the unknown id, set when training is over; absent: what
    training made of it, about 0. More of it and new items come before known ones sooner, in the candidates of the
    towers; beside it `tower.id_dropout = 0.1` teaches what content says of them."""

    linear: float | Literal["auto"] = 0.0
    """Weight of a linear model of histories as sets (PureSVD, fitted when training is over), which is added to a user's
    scores and makes vectors longer by `linear_rank`. `auto`: from 0 to 32 by `fit.metric` on the validation part, as
    `logit_adjustment` and before it. It says what goes together where the network says what comes next, of as many
    events as `tower.history.max_length`; `dot` only."""
    linear_rank: int = Field(default=64, ge=1)
    """Rank of the linear model; less where users, items or what they have in common are fewer. Its numbers are kept as
    float32 whatever `tower.table_dtype` says."""

    loss: str = AUTO
    """`in_batch`: softmax over the batch with log-q correction; `full_softmax`: over the whole catalogue; `estimated`:
    the same, its denominator estimated from `negatives` items, popular ones surely among them; `mixed`:
    in-batch plus `negatives` drawn evenly; `sampled`: only those; `bce`: each next event and one drawn item, each pair
    by itself; `gbce`: each next event and all `negatives`, each pair by itself, calibrated (gSASRec); `bpr_max` and
    `top1_max`: each next event against all `negatives` by GRU4Rec's ranking losses; `exposures`: the logged 0/1 labels
    of the task `retrieval.positive`, each row by itself. `auto`: `full_softmax` up to `full_softmax_items` items,
    `mixed` above. Extensions add others."""
    loss_options: dict[str, Any] = {}
    """Keys of a loss that an extension adds, see its page in `recsys models`; the built-in ones have none."""
    full_softmax_items: int = Field(default=30_000, ge=1)
    """Largest catalogue for which `auto` takes the softmax over all items."""
    negatives: int = Field(default=1024, ge=1)
    """Items drawn from the catalogue per batch: by popularity for `estimated`, evenly for all other losses that draw
    them."""
    popularity: float = Field(default=0.0, ge=0, le=1)
    """`sampled`, `bpr_max` and `top1_max`: items are drawn by this power of their share of the positives (0.75 in
    word2vec; 0 evenly); `sampled` corrects their scores by how often they are drawn."""
    calibration: float = Field(default=0.75, ge=0, le=1)
    """`gbce`: t of gSASRec. 0 leaves probabilities as overconfident as few negatives make them, 1 calibrates them."""
    score_penalty: float = Field(default=1.0, ge=0)
    """`bpr_max`: weight of the squared scores of negatives."""
    hidden_share: float = Field(default=0.2, gt=0, lt=1)
    """Of encoders that learn by filling in (bert4rec): share of a window's events that are hidden. They are compared
    with other items by any loss but `exposures`."""
    memory: int = Field(default=0, ge=0)
    """Item vectors of earlier batches kept as further negatives (cross-batch memory); for `in_batch` only."""
    memory_after: int = Field(default=200, ge=0)
    """Steps before the memory is used: early in training cached vectors are stale."""
    hard_negatives: int = Field(default=0, ge=0)
    """Items per position that the model itself ranks highest, found by searching its own item vectors: a second
    softmax of the positive among them is added to any loss."""
    hard_weight: float = Field(default=0.2, ge=0)
    """Weight of that second softmax."""
    hard_skip: int = Field(default=0, ge=0)
    """Best-ranked items passed over: the very best may be positives nobody has seen yet."""
    hard_refresh: int = Field(default=200, ge=1)
    """Steps between two refreshes of the searched item vectors."""

    @field_validator("loss")
    @classmethod
    def _there_is(cls, loss: str) -> str:
        return loss if loss == AUTO or LOSSES.find(loss) else known_name(loss, [AUTO, *LOSSES])

    @model_validator(mode="after")
    def _options_of_the_loss(self) -> Self:
        kind = LOSSES["full_softmax" if self.loss == AUTO else self.loss]
        checked_settings(kind.Options, f"loss {self.loss}", self.loss_options)
        return self

    @model_validator(mode="after")
    def _popularity_of_losses_that_draw_by_it(self) -> Self:
        if self.popularity > 0 and self.loss not in POPULAR_LOSSES:
            names = ", ".join(f'"{name}"' for name in POPULAR_LOSSES)
            raise ValueError(f'popularity is of loss = {names}, and loss is "{self.loss}"; set popularity to 0')
        return self

    @model_validator(mode="after")
    def _exposures_stand_alone(self) -> Self:
        if self.learns_exposures and (self.horizon != 1 or self.hard_negatives):
            given = "horizon" if self.horizon != 1 else "hard_negatives"
            raise ValueError(
                f'loss = "{self.loss}" learns the labels of shown items and no next events; leave {given} at its '
                "default"
            )
        return self

    @property
    def learns_exposures(self) -> bool:
        """Whether the rows that are learned are logged exposures and not next events."""
        return self.loss != AUTO and LOSSES[self.loss].exposures

    def kind_for(self, num_items: int) -> str:
        """Name of the loss at a catalogue of N items."""
        if self.loss != AUTO:
            return self.loss
        return "full_softmax" if num_items <= self.full_softmax_items else "mixed"


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A step's positions, or exposures, and the items that they are compared with, on the step's device.

    Processes that train together share the positions of a step; the items are whole in each (`batch`).

    Attributes:
        users: [P', width], or [P', M, width] of M > 1 interests: states of the positions held here.
        vectors: [R, width] of the items that the step embeds: of `batch.rows`, or of all items met.
        batch: which of them is which.
        scale: 1 / temperature, for the scores `scale <user, item>`.
        bias: of the score of a pair, where a loss asks for one (`TowerLoss.pairs`).
        steps: done before and with this one.
        reduced: whether products may be rounded.
    """

    users: Tensor
    vectors: Tensor
    batch: TowerBatch
    scale: Tensor | float
    bias: Tensor | float
    steps: int
    reduced: bool

    @property
    def positives(self) -> Tensor:
        """[P, width] vector of the item that each position of the step learns."""
        return self.vectors[self.batch.positives]

    @property
    def own_positives(self) -> Tensor:
        """[P', width] the same of the positions held here, beside `users`."""
        return self.batch.own(self.positives)

    @property
    def negatives(self) -> Tensor:
        """[B', width] vectors of the items drawn."""
        return self.vectors[self.batch.negatives]


class TowerLoss:
    """Base of all losses. A subclass defines `__call__`, and `draw` where it compares with items beside the batch.

    Args:
        config: the section; keys of an extension's own are in `options`.
        frequency: float64 [n], on the CPU: share of the positives of each item met.
        width: of the vectors.
        device: where the steps are computed.
    """

    kind: ClassVar[str] = ""
    paper: ClassVar[str] = "baseline"
    summary: ClassVar[str] = ""
    formula: ClassVar[Callable[..., Any] | type | None] = None
    """What computes it, for `recsys models`, where that is not the class itself."""
    Options: ClassVar[type[Settings]] = Settings
    """Class of `retrieval.loss_options`."""
    whole: ClassVar[bool] = False
    """Whether every step embeds all items met."""
    pairs: ClassVar[bool] = False
    """Whether each pair is judged by itself, so that a score needs a bias: a softmax would cancel it."""
    exposures: ClassVar[bool] = False
    """Whether the labels of logged exposures are learned, and not next events."""

    def __init_subclass__(cls, kind: str = "", **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if kind:
            cls.kind = kind
            LOSSES.register(kind, cls)

    def __init__(self, config: TowerLossConfig, frequency: Tensor, width: int, device: torch.device = CPU) -> None:
        self.config = config
        self.options: Any = checked_settings(self.Options, f"loss {self.kind}", config.loss_options)
        self.num_items = len(frequency)
        self.frequency = frequency.float().to(device)

    @property
    def memories(self) -> Mapping[str, Stateful]:
        """What outlives a step: part of a checkpoint."""
        return {}

    def draw(self, generator: torch.Generator) -> Tensor:
        """int64 [B'] items that a step is compared with beside its own, as places among those met; on the CPU."""
        return torch.empty(0, dtype=torch.int64)

    def pair_up(self, positions: int, drawn: int, generator: torch.Generator) -> Tensor:
        """int64 [P]: which of the items drawn is beside each position; empty where none is."""
        return torch.empty(0, dtype=torch.int64)

    def __call__(self, compared: Compared) -> Tensor:
        """Mean loss of the positions held here, a scalar; of exposures the mean by their weights."""
        raise NotImplementedError(f"{type(self).__name__} must define __call__")


def even_draw(count: int, num_items: int, generator: torch.Generator) -> Tensor:
    """int64 [count] items drawn evenly, with replacement."""
    return torch.randint(num_items, (count,), generator=generator)
