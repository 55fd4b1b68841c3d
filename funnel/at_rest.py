"""Embedding tables of a run as its configuration keeps them: float32, or fewer bytes for the folder and for answers."""

from __future__ import annotations

from torch import nn

from ..configs.run import RunConfig
from ..nn.at_rest import TableDtype
from ..nn.embedding import EmbeddingTable


def settle(config: RunConfig, towers: nn.Module | None, ranker: nn.Module | None) -> None:
    """Hold the tables of both stages in the configured type; those that are already stay as they are."""
    settle_tables(towers, config.retrieval.tower.table_dtype)
    settle_tables(ranker, config.ranking.model.table_dtype)


def settle_tables(model: nn.Module | None, dtype: TableDtype) -> None:
    """Hold a model's tables in a type; columns of single numbers, such as the items' bias, stay in float32."""
    for table in _tables(model):
        if table.dim > 1:
            table.settle(dtype)


def wake_tables(model: nn.Module | None) -> None:
    """Hold a model's tables in float32 again, so that a training can go on."""
    for table in _tables(model):
        table.wake()


def _tables(model: nn.Module | None) -> list[EmbeddingTable]:
    return [] if model is None else [module for module in model.modules() if isinstance(module, EmbeddingTable)]
