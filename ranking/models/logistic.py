"""A logistic regression for every task: one weight per value and number, and nothing that pairs them.

`logit_k = b_k + sum over fields of w_k[value] + v_k . numbers`: the floor that every table of rankers stands on, and
what many systems still serve (McMahan et al., KDD 2013). It is `single_task` without hidden layers: a value's weight is
the product of its embedding, of width 1 unless told otherwise, and a factor of its field. Numbers that have buckets
have a weight for each.

Shapes: fields [R, F, K] and dense [R, n] -> T logits [R]. Sibling: `single_task` with hidden layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from ...base.errors import ConfigError
from ...data.batch import Layout
from ...data.schema import TaskSpec
from ...nn.inputs import InputConfig
from ..ranker import RankerConfig
from .single_task import SingleTask, SingleTaskConfig


class LogisticInput(InputConfig):
    """One weight per value."""

    embedding_dim: int = Field(default=1, ge=1)
    """Width K of every embedding; a wider one is the same model with more numbers."""
    init_std: float = Field(default=0.01, gt=0)
    """Standard deviation of the weights before training."""


class LogisticConfig(SingleTaskConfig):
    """Keys of `kind = "logistic"`."""

    tuned = {}

    kind: str = "logistic"
    """Which ranker."""
    input: LogisticInput = LogisticInput()
    """Weights of the features; gates, cross layers and interactions are none of a linear model."""
    hidden: tuple[int, ...] = Field(default=(), max_length=0)
    """No hidden layer."""
    tower_hidden: tuple[int, ...] = Field(default=(), max_length=0)
    """No hidden layer."""


class Logistic(SingleTask, kind="logistic"):
    """A linear model for every task."""

    paper = "McMahan et al. KDD 2013 (as served)"
    summary = "a linear model for every task: the floor of every table"
    Config: ClassVar[type[RankerConfig]] = LogisticConfig

    def __init__(self, config: LogisticConfig, layout: Layout, tasks: Sequence[TaskSpec]) -> None:
        super().__init__(config, layout, tasks)
        inputs = config.input
        mixes = inputs.cross_layers or inputs.joint_gate.enabled or inputs.field_gate.kind != "none"
        if mixes or inputs.interaction.kind != "none" or inputs.target.unit != "none" or config.towers:
            raise ConfigError("logistic is linear: switch gates, cross layers, interactions, target and towers off")
