"""Meituan's multi-task ranker (company article, 2018): all layers shared, tasks part at the last fully connected one.

`h = f(x)`, one linear head per task. With `kl_bound` naming the click, the conversion given click, and the order, a
term `kl_weight * mean[KL(p||q) + KL(q||p)]`, p = p(click) p(conversion), q = p(order), pulls the two ways of saying
'order' together; in closed form `(p - q)(logit p - logit q)`. It acts in training only. Numbers that are missing take
a value learned per feature (`nn.numeric`), and the score is a linear blend of the outputs (`blend`).

Shapes: x [R, D] -> h [R, H] -> one logit [R] per task. Siblings: the shared bottom has towers; ESMM has no order
head, its product is the order.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field
from torch import Tensor, nn

from ...data.batch import Batch, Layout
from ...data.schema import TaskSpec
from ...errors import ConfigError
from ...nn.mlp import MLP
from ...nn.split import SplitInput
from ..losses import LossConfig, masked_mean, multi_task_loss, product_logit, sample_spaces, symmetric_kl
from ..ranker import Ranker, RankerConfig


class MeituanConfig(RankerConfig):
    """Keys of `kind = "meituan"`."""

    kind: str = "meituan"
    """Which ranker."""
    hidden: tuple[int, ...] = Field(default=(128, 64, 32), min_length=1)
    """Widths of the shared layers."""
    tower_hidden: tuple[int, ...] = ()
    """Widths between the split and a head; none: the tasks part at the last layer."""
    kl_bound: tuple[str, str, str] | None = None
    """Tasks (click, conversion given click, order) for which p(click) p(conversion) should equal p(order)."""
    kl_weight: float = Field(default=0.1, ge=0)
    """Weight of that term; not published."""


class Meituan(Ranker, kind="meituan"):
    """Shared layers, linear heads, KL bound."""

    paper = "Meituan technology blog 2018"
    summary = "tasks part at the last layer; KL bound between p(click) p(conversion) and p(order)"
    Config = MeituanConfig

    def __init__(self, config: MeituanConfig, layout: Layout, tasks: Sequence[TaskSpec]) -> None:
        super().__init__(config, layout, tasks)
        self.kl_bound, self.kl_weight = config.kl_bound, config.kl_weight
        binary = [task.name for task in tasks if task.kind == "binary"]
        if self.kl_bound and (missing := [name for name in self.kl_bound if name not in binary]):
            raise ConfigError(f"kl_bound names {missing}, which are no binary tasks; binary tasks: {binary}")
        self.shared = MLP(self.width, config.hidden, config.dropout, config.hidden_gate)
        self.towers = nn.ModuleDict({task.name: self.tower(task.name, self.shared.width) for task in tasks})

    def logits(self, x: SplitInput) -> dict[str, Tensor]:
        """Model input of R rows -> task -> float [R]."""
        h = self.shared(x)
        return {name: head(h) for name, head in self.towers.items()}

    def losses(self, batch: Batch, config: LossConfig) -> dict[str, Tensor]:
        """The tasks' losses and, with `kl_bound`, `aux/kl`."""
        logits = self(batch)
        losses = multi_task_loss(logits, batch, self.tasks, config)
        if self.kl_bound and self.kl_weight > 0:
            click, conversion, order = self.kl_bound
            _, masks, weight = sample_spaces(batch)
            names = [task.name for task in self.tasks]
            everywhere = masks[:, names.index(click)] & masks[:, names.index(order)]
            apart = symmetric_kl(product_logit(logits[click], logits[conversion]), logits[order])
            losses["aux/kl"] = self.kl_weight * masked_mean(apart, everywhere, weight, config.reduction)
        return losses

    def shared_layer(self) -> list[nn.Parameter]:
        """Weight of the last shared linear layer."""
        return [self.shared.last_weight]
