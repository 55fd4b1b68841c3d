"""Meituan's multi-task ranker (company article, 2018): all layers shared, tasks part at the last fully connected one.

`h = f(x)`, one linear head per task. Its loss may bind the heads together: with `ranking.loss.kl_bound` naming the
click, the conversion given click, and the order, a term `kl_weight * mean[KL(p||q) + KL(q||p)]`, p = p(click)
p(conversion), q = p(order), pulls the two ways of saying 'order' together; in closed form `(p - q)(logit p - logit q)`.
It acts in training only, and works beside any other ranker too. Numbers that are missing take a value learned per
feature (`nn.numeric`), and the score is a linear blend of the outputs (`blend`).

Shapes: x [R, D] -> h [R, H] -> one logit [R] per task. Siblings: the shared bottom has towers; ESMM has no order
head, its product is the order.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field
from torch import Tensor, nn

from ...data.batch import Layout
from ...data.schema import TaskSpec
from ...nn.mlp import MLP
from ...nn.split import SplitInput
from ..ranker import Ranker, RankerConfig


class MeituanConfig(RankerConfig):
    """Keys of `kind = "meituan"`."""

    kind: str = "meituan"
    """Which ranker."""
    hidden: tuple[int, ...] = Field(default=(128, 64, 32), min_length=1)
    """Widths of the shared layers."""
    tower_hidden: tuple[int, ...] = ()
    """Widths between the split and a head; none: the tasks part at the last layer."""


class Meituan(Ranker, kind="meituan"):
    """Shared layers and linear heads."""

    paper = "Meituan technology blog 2018"
    summary = "tasks part at the last layer, each a linear head"
    Config = MeituanConfig

    def __init__(self, config: MeituanConfig, layout: Layout, tasks: Sequence[TaskSpec]) -> None:
        super().__init__(config, layout, tasks)
        self.shared = MLP(self.width, config.hidden, config.dropout, config.hidden_gate)
        self.towers = nn.ModuleDict({task.name: self.tower(task.name, self.shared.width) for task in tasks})

    def logits(self, x: SplitInput) -> dict[str, Tensor]:
        """Model input of R rows -> task -> float [R]."""
        h = self.shared(x)
        return {name: head(h) for name, head in self.towers.items()}

    def shared_layer(self) -> list[nn.Parameter]:
        """Weight of the last shared linear layer."""
        return [self.shared.last_weight]
