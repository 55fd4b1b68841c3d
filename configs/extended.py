"""What a configuration names among the things that extensions can add."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from ..base.registry import Registry
from ..data.reading.sources import FILES, SOURCES
from ..data.schema import DataConfig
from ..nn.sequence import ENCODERS
from ..ranking.balance import BALANCES
from ..ranking.config import RankingConfig
from ..ranking.ranker import RANKERS
from ..retrieval.baselines import BASELINES
from ..retrieval.retriever import TOWER
from ..retrieval.towers.objective import AUTO, LOSSES
from ..retrieval.towers.train import RetrievalConfig


class Sections(Protocol):
    """The sections of a configuration that name things."""

    @property
    def data(self) -> DataConfig:
        """Where a source is named."""

    @property
    def retrieval(self) -> RetrievalConfig:
        """Where a loss, an encoder and baselines are."""

    @property
    def ranking(self) -> RankingConfig:
        """Where a ranker, an encoder and a balance are."""


def used_entries(config: Sections) -> Iterator[object]:
    """Classes and functions that a configuration names; names that nothing has are passed over."""
    for registry, name in _named(config.data, config.retrieval, config.ranking):
        if name in registry or (registry is BASELINES and registry.find(name)):
            yield registry[name]


def _named(data: DataConfig, retrieval: RetrievalConfig, ranking: RankingConfig) -> Iterator[tuple[Registry[Any], str]]:
    if data.source != FILES:
        yield SOURCES, data.source
    if retrieval.loss != AUTO:
        yield LOSSES, retrieval.loss
    yield ENCODERS, retrieval.tower.history.encoder
    for name in dict.fromkeys((*retrieval.proposers, *retrieval.scorers, *retrieval.baselines)):
        if name != TOWER:
            yield BASELINES, str(retrieval.baseline_options.get(name, {}).get("model", name))
    yield RANKERS, ranking.model.kind
    yield ENCODERS, ranking.model.input.history.encoder
    yield BALANCES, ranking.balance.kind
