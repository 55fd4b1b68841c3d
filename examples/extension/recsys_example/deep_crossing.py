"""Deep Crossing: residual units over the stacked embeddings, then a tower for each task (Shan et al. KDD 2016).

`h' = relu(h + W1 relu(W0 h + b0) + b1)`; the first dense layer reads user and item apart (`SplitInput`), so that the
user's part is computed once for all candidates of a request.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field
from torch import Tensor, nn

from recsys.data.batch import Layout
from recsys.data.schema import TaskSpec
from recsys.nn.mlp import MLP, init_linear
from recsys.nn.split import SplitInput
from recsys.ranking.ranker import Ranker, RankerConfig


class DeepCrossingConfig(RankerConfig):
    """Keys of `kind = "deep_crossing"`."""

    kind: str = "deep_crossing"
    """Which ranker."""
    width: int = Field(default=64, ge=1)
    """Of the layer that the residual units are on."""
    units: int = Field(default=2, ge=1)
    """Residual units."""


class Residual(nn.Module):
    """Two layers and a way around them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = init_linear(nn.Linear(width, width), relu=True)
        self.outer = init_linear(nn.Linear(width, width), relu=False)
        nn.init.normal_(self.outer.weight, std=0.01)  # a unit begins as the way around it

    def forward(self, h: Tensor) -> Tensor:
        """[R, width] -> [R, width]."""
        out: Tensor = (h + self.outer(self.inner(h).relu())).relu()
        return out


class DeepCrossing(Ranker, kind="deep_crossing"):
    """Residual units shared by all tasks."""

    paper = "Shan et al. KDD 2016"
    summary = "residual units over the embeddings of all features"
    Config = DeepCrossingConfig

    def __init__(self, config: DeepCrossingConfig, layout: Layout, tasks: Sequence[TaskSpec]) -> None:
        super().__init__(config, layout, tasks)
        self.first = MLP(self.width, (config.width,), dropout=config.dropout, hidden_gate=config.hidden_gate)
        self.units = nn.Sequential(*(Residual(config.width) for _ in range(config.units)))
        self.towers = nn.ModuleDict({task.name: self.tower(task.name, config.width) for task in tasks})

    def logits(self, x: SplitInput) -> dict[str, Tensor]:
        """See `Ranker.logits`."""
        h = self.units(self.first(x))
        return {task.name: self.towers[task.name](h) for task in self.tasks}

    def shared_layer(self) -> list[nn.Parameter]:
        """The last unit."""
        return list(self.units[-1].parameters())
