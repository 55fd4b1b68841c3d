"""Embeddings in fewer bytes, and the proof that the lists stay what they were."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np

from ..base.arrays import I64
from ..base.errors import RunError
from ..configs.run import RunConfig
from ..data.split import Part
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
    tower = config.retrieval.tower.model_copy(update={"table_dtype": "float32"})
    model = config.ranking.model.model_copy(update={"table_dtype": "float32"})
    changed = {
        "retrieval": config.retrieval.model_copy(update={"tower": tower}),
        "ranking": config.ranking.model_copy(update={"model": model}),
    }
    return config.model_copy(update=changed)


def settled_run(trained: TrainedRun) -> TrainedRun:
    """The run with its tables in the configured type, and item vectors made of them.

    The lists of up to 1,000 users are compared before and after: the best 100 items, or half of a small catalogue.
    Without a retriever it is the best tenth of the validation rows by the first task.

    Raises:
        RunError: less than 0.99 (float16) or 0.97 (int8) of them are the same.
    """
    config = trained.config
    wanted = {config.retrieval.tower.table_dtype if trained.retriever else "float32"}
    wanted |= {config.ranking.model.table_dtype if trained.model else "float32"}
    if wanted == {"float32"}:
        return trained
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
    return trained


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
