"""What every balance of task losses shares: the sum of weighted losses, and where its gradients go.

A balance gets the losses of a batch (`loss/<task>` to weigh, `aux/<name>` to add as they are) and leaves gradients on
the ranker's parameters, and on its own if it has any. Every ranker works with every balance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from ...base.errors import ConfigError
from ...base.registry import Registry
from ...base.settings import Settings, checked_settings
from ...data.schema import TaskSpec

if TYPE_CHECKING:
    from ..ranker import Ranker

BALANCES: Registry[type[Balance]] = Registry("balance")


class BalanceConfig(Settings):
    """Which balance, and its dials."""

    kind: str = "static"
    """`static`, `schedule`, `uncertainty`, `gradnorm`, `pcgrad`, `cagrad` or `metabalance`; extensions add others."""
    options: dict[str, Any] = {}
    """Keys of a balance that an extension adds, see its page in `recsys models`; the built-in ones have none."""
    weights: dict[str, float] = {}
    """Weight of each task; the task's own `weight` where absent. GradNorm starts there."""
    gamma: dict[str, float] = {}
    """`schedule`: factor on a task's weight after every epoch; 1 where absent."""
    alpha: float = Field(default=1.0, ge=0)
    """`gradnorm`: how strongly slow tasks are pulled along; 0 makes the gradient norms equal."""
    lr: float = Field(default=0.025, gt=0)
    """`gradnorm`: step of its weights."""
    conflict: float = Field(default=0.5, ge=0, lt=1)
    """`cagrad`: how far the step may be from the mean gradient, as a share of its length; 0 is the plain sum."""
    target: str = ""
    """`metabalance`: the task whose gradient the others are brought to; the first when empty."""
    relax: float = Field(default=0.7, ge=0, le=1)
    """`metabalance`: how far they are brought there; 0 leaves them as they are."""
    beta: float = Field(default=0.9, ge=0, lt=1)
    """`metabalance`: share of the past in the averages of the gradients' lengths."""
    strategy: Literal["both", "reduce", "raise"] = "both"
    """`metabalance`: bring only the larger gradients down, only the smaller ones up, or both."""

    @model_validator(mode="after")
    def _options_of_the_balance(self) -> Self:
        if BALANCES.find(self.kind):
            checked_settings(BALANCES[self.kind].Options, f"balance {self.kind}", self.options)
        return self


class Balance(nn.Module):
    """Fixed weights: the sum of `w_k L_k`. Base of all balances.

    Its parameters (if any) are optimised with the ranker's, its buffers are part of its state for exact resuming.

    Args:
        config: see `BalanceConfig`.
        tasks: objectives.

    Raises:
        ConfigError: a name is no task, or a weight is negative.
    """

    kind: ClassVar[str] = ""
    paper: ClassVar[str] = "baseline"
    summary: ClassVar[str] = ""
    Options: ClassVar[type[Settings]] = Settings
    """Class of the `options` of the configuration."""

    def __init_subclass__(cls, kind: str = "", **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if kind:
            cls.kind = kind
            BALANCES.register(kind, cls)

    def __init__(self, config: BalanceConfig, tasks: Sequence[TaskSpec]) -> None:
        super().__init__()
        self.config = config
        self.options: Any = checked_settings(self.Options, f"balance {self.kind}", config.options)
        self.names = [task.name for task in tasks]
        self.regression = [task.name for task in tasks if task.kind == "regression"]
        unknown = sorted((set(config.weights) | set(config.gamma)) - set(self.names))
        if unknown:
            raise ConfigError(f"balance names {unknown}, which are no tasks; tasks: {self.names}")
        self.initial = {task.name: config.weights.get(task.name, task.weight) for task in tasks}
        if min([*self.initial.values(), *config.gamma.values()], default=0.0) < 0:
            raise ConfigError(f"balance has weights {self.initial} and gamma {config.gamma}; none may be negative")

    def meet(self, ranker: nn.Module) -> None:
        """Called once, before the first step, with the ranker that is trained."""

    def begin_epoch(self, epoch: int) -> None:
        """Called before each epoch, counted from 0."""

    def weights(self) -> dict[str, float]:
        """The factor on each task's loss at the moment, for logs."""
        return dict(self.initial)

    def backward(self, losses: Mapping[str, Tensor], ranker: Ranker) -> Tensor:
        """Put the gradients of one step on the parameters.

        Args:
            losses: `loss/<task>` and `aux/<name>` scalars of one batch; a task may be absent.
            ranker: where the losses come from.

        Returns:
            The total that was minimised, detached.
        """
        total = self.total(losses)
        torch.autograd.backward(total)
        return total.detach()

    def total(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Weighted sum of the tasks' losses and the auxiliary ones."""
        weights = self.weights()
        return sum_of([weights[name] * loss for name, loss in self.by_task(losses).items()] + auxiliary(losses))

    def by_task(self, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Task -> loss, in the order of the tasks."""
        return {name: losses[f"loss/{name}"] for name in self.names if f"loss/{name}" in losses}


def auxiliary(losses: Mapping[str, Tensor]) -> list[Tensor]:
    """The losses that no balance weighs."""
    return [loss for name, loss in losses.items() if name.startswith("aux/")]


def sum_of(terms: Sequence[Tensor]) -> Tensor:
    """Sum of scalars."""
    return torch.stack(list(terms)).sum()


def gradients_of(loss: Tensor, parameters: Sequence[Tensor]) -> list[Tensor | None]:
    """Gradient of the loss at every parameter, None where it does not reach; the graph is kept."""
    if not loss.requires_grad:
        return [None] * len(parameters)
    return list(torch.autograd.grad(loss, list(parameters), retain_graph=True, allow_unused=True))
