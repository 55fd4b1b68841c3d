"""Embeddings in fewer bytes, and the proof that the lists stay what they were."""

from __future__ import annotations

import copy
import logging
from dataclasses import replace
from typing import Any

import numpy as np

from ..base.arrays import I64
from ..base.errors import RunError
from ..configs.run import RunConfig
from ..data.split import Part
from ..evaluation.metrics.rows import auc
from ..funnel.at_rest import settle
from ..funnel.funnel import Funnel
from ..funnel.run import TrainedRun, assemble_retriever
from ..nn.at_rest import TableDtype
from ..ranking.scoring import score_rows

log = logging.getLogger(__name__)

LEAST: dict[TableDtype, float] = {"float32": 0.0, "float16": 0.99, "int8": 0.97}
"""Share of the best items that must be the same ones."""
USERS, DEPTH, ROWS = 1_000, 100, 20_000
"""Users and places of the lists that are compared, and rows where there are no lists."""


def as_trained(config: RunConfig) -> RunConfig:
    """The configuration without what decides nothing of a training: the type that tables are kept in."""
    return with_table_dtype(config, "float32")


def with_table_dtype(config: RunConfig, dtype: TableDtype) -> RunConfig:
    """The configuration with the tables of both stages kept in a type."""
    tower = config.retrieval.tower.model_copy(update={"table_dtype": dtype})
    model = config.ranking.model.model_copy(update={"table_dtype": dtype})
    changed = {
        "retrieval": config.retrieval.model_copy(update={"tower": tower}),
        "ranking": config.ranking.model_copy(update={"model": model}),
    }
    return config.model_copy(update=changed)


def lighter_copy(trained: TrainedRun, dtype: TableDtype) -> tuple[TrainedRun, dict[str, Any]]:
    """A copy of the run with the tables of both stages in a type, and what that costs; the run stays as it is.

    Returns:
        The copy, and `table_dtype`, `same_items` (share of the best items that are the same ones, see `settled_run`),
        and `validation_auc`: task -> AUC of the validation rows as trained and in that type.

    Raises:
        RunError: the lists change too much.
    """
    old = trained.retriever
    # One call: the ranker is a part of the model, in the copy too.
    towers, model, ranker = copy.deepcopy((None if old is None else old.model, trained.model, trained.ranker))
    config = with_table_dtype(trained.config, dtype)
    retriever = old
    if old is not None and towers is not None:
        retriever = assemble_retriever(config, towers, old.data, old.companions, vectors=old.item_vectors)
    fresh = replace(trained, config=config, retriever=retriever, model=model, ranker=ranker, index_report=None)
    settled, same = _settled(fresh)
    before, after = _validation_auc(trained), _validation_auc(settled)
    told = {name: {"as_trained": before[name], dtype: after[name]} for name in before}
    return settled, {"table_dtype": dtype, "same_items": same, "validation_auc": told}


def _validation_auc(trained: TrainedRun) -> dict[str, float]:
    """AUC of every binary task on up to 20,000 validation rows; without tasks that have one class alone."""
    if trained.ranker is None:
        return {}
    dataset = trained.dataset
    rows = dataset.rows(Part.VALID)[:ROWS]
    if not len(rows):
        return {}
    labels, mask = dataset.events.labels[rows.numpy()], dataset.events.mask[rows.numpy()]
    logits = score_rows(trained.ranker, dataset, rows)
    found = {}
    for column, task in enumerate(dataset.config.tasks):
        known = mask[:, column]
        value = auc(labels[known, column], logits[task.name][known]) if task.kind == "binary" else None
        if value is not None:
            found[task.name] = value
    return found


def settled_run(trained: TrainedRun) -> TrainedRun:
    """The run with its tables in the configured type, and item vectors made of them.

    The lists of up to 1,000 users are compared before and after: the best 100 items, or half of a small catalogue.
    Without a retriever it is the best tenth of the validation rows by the first task.

    Raises:
        RunError: less than 0.99 (float16) or 0.97 (int8) of them are the same.
    """
    return _settled(trained)[0]


def _settled(trained: TrainedRun) -> tuple[TrainedRun, float]:
    """See `settled_run`; and the share of the best items that are the same ones."""
    config = trained.config
    wanted = {config.retrieval.tower.table_dtype if trained.retriever else "float32"}
    wanted |= {config.ranking.model.table_dtype if trained.model else "float32"}
    if wanted == {"float32"}:
        return trained, 1.0
    before = _best(trained)
    retriever = trained.retriever
    fresh = retriever is not None and retriever.model.table.at_rest is None
    settle(config, None if retriever is None else retriever.model, trained.model)
    if retriever is not None and fresh and config.retrieval.tower.table_dtype != "float32":
        retriever = assemble_retriever(config, retriever.model, retriever.data, retriever.companions)
        trained = replace(trained, retriever=retriever, index_report=None)
    same = _overlap(before, _best(trained))
    least = min(LEAST[dtype] for dtype in wanted if dtype != "float32")
    kinds = " and ".join(sorted(wanted - {"float32"}))
    if same < least:
        raise RunError(
            f"with embeddings in {kinds} only {same:.3f} of the best items are the same as in float32, at least "
            f'{least:g} is asked for; set table_dtype = "float32" and resume (--resume), which trains nothing again'
        )
    log.info("embeddings in %s: %.4f of the best items are the same as in float32", kinds, same)
    return trained, same


def _best(trained: TrainedRun) -> list[I64]:
    """Of each list what it names, in any order."""
    dataset, seed = trained.dataset, trained.config.seed
    rng = np.random.default_rng(seed)
    if trained.retriever is None:
        assert trained.ranker is not None
        rows = dataset.rows(Part.VALID)[:ROWS]
        rows = rows if len(rows) else dataset.rows(Part.TRAIN)[:ROWS]
        logits = next(iter(score_rows(trained.ranker, dataset, rows).values()))
        return [np.argsort(-logits, kind="stable")[: max(len(rows) // 10, 1)]]
    users = np.sort(rng.choice(dataset.num_users, min(USERS, dataset.num_users), replace=False))
    depth = min(DEPTH, max(dataset.num_catalogue // 2, 1))
    answers = Funnel(trained).recommend([dataset.user_ids[user] for user in users], depth)
    return [rows[rows >= 0] for rows in answers.rows]


def _overlap(before: list[I64], after: list[I64]) -> float:
    """Mean share of each list that the other has too."""
    shares = [np.isin(one, other).mean() for one, other in zip(before, after, strict=True) if len(one)]
    return float(np.mean(shares)) if shares else 1.0
