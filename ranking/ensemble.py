"""Several rankers that answer as one: a task's logit (or value) is the mean of the rankers' logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..data.batch import Batch, Layout
from ..data.schema import TaskSpec
from .config import RankingConfig
from .ranker import Ranker
from .requests import RequestBatch, RequestRanker
from .trees.mixed import build_whole


class RankerEnsemble(Ranker):
    """S trained rankers of one configuration; it answers rows, and is not trained as a whole.

    Args:
        members: the rankers.
    """

    def __init__(self, members: Sequence[Ranker]) -> None:
        nn.Module.__init__(self)
        first = members[0]
        self.config, self.layout, self.tasks = first.config, first.layout, first.tasks
        self.members = nn.ModuleList(members)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Batch of R rows -> task -> mean logit or value, float [R]."""
        return _means([member(batch) for member in self.members])


class RequestEnsemble(RequestRanker):
    """S rankers that answer requests, and the mean of what they say.

    Args:
        members: with their heads for `select`.
    """

    def __init__(self, members: Sequence[RequestRanker]) -> None:
        nn.Module.__init__(self)
        self.config, self.others = members[0].config, members[0].others
        self.members = nn.ModuleList(members)
        # By reference: the rankers are modules of the members.
        self.__dict__["ranker"] = RankerEnsemble([member.ranker for member in members])

    def train(self, mode: bool = True) -> RequestEnsemble:
        """See `nn.Module.train`; the rankers as rows see them go along."""
        self.__dict__["ranker"].train(mode)
        super().train(mode)
        return self

    def forward(self, requests: RequestBatch) -> dict[str, Tensor]:
        """Requests -> every task's mean logit and that of `select`, float [R]."""
        return _means([member(requests) for member in self.members])


def _means(outputs: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([output[name] for output in outputs]).mean(0) for name in outputs[0]}


def as_one(models: Sequence[nn.Module]) -> tuple[nn.Module, Ranker]:
    """Trained models as one model, and the ranker in it: a model as it is, several as an ensemble."""
    askable = [model for model in models if isinstance(model, RequestRanker)]
    plain = [model for model in models if isinstance(model, Ranker)]
    if len(models) == 1:
        return (askable[0], askable[0].ranker) if askable else (plain[0], plain[0])
    if askable:
        both = RequestEnsemble(askable)
        return both, both.ranker
    rows = RankerEnsemble(plain)
    return rows, rows


def build_members(
    config: RankingConfig, layout: Layout, tasks: tuple[TaskSpec, ...], num_features: int, seed: int, count: int
) -> tuple[nn.Module, Ranker]:
    """`count` models with the weights of `seed`, `seed + 1`, ..., as one; see `build_whole`."""
    members = [build_whole(config, layout, tasks, num_features, seed + member)[0] for member in range(count)]
    return as_one(members)
