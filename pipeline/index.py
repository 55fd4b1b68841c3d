"""The index of a trained run: built on its item vectors, tuned and checked with its users' queries."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..artifacts.folder import open_run
from ..artifacts.names import INDEX, INDEX_REPORT
from ..base.device import pick_device
from ..base.errors import RunError
from ..data.dataset import NOW
from ..funnel.folder import load_run
from ..funnel.run import TrainedRun
from ..retrieval.index import BuiltIndex, index_device
from ..retrieval.index.base import IndexReport
from ..retrieval.index.tuning import build_index as build_checked_index
from ..retrieval.towers.train import query_vectors


def build_index(
    trained: TrainedRun,
    factory: str = "",
    target_recall: float = 0.0,
    device: str | None = None,
    shards: int = 0,
    store: str = "",
) -> tuple[BuiltIndex, IndexReport]:
    """Build and check an index of a run's item vectors.

    Args:
        trained: the run.
        factory: overrides the configured one when not empty.
        target_recall: overrides the configured one when above 0.
        device: overrides the configured one when given.
        shards: overrides the configured number when above 0.
        store: address of a vector database, overrides the configured one when not empty.

    Raises:
        ConfigError: `device` is not there.
        RunError: the run has no retriever, or the index does not agree with exact search.
    """
    if trained.retriever is None:
        raise RunError("this run has no retriever, so there is nothing to index; train it with --stage all")
    retriever, config = trained.retriever, trained.config
    history = retriever.data.history
    askers = np.flatnonzero(np.diff(history.ptr) > 0)
    rng = np.random.default_rng(config.seed)
    sample = np.sort(rng.permutation(askers)[: 2 * config.index.check_queries])
    queries = query_vectors(retriever.model, retriever.data, sample, retriever.data.ends(NOW)[sample])
    queries = queries.reshape(-1, queries.shape[-1])  # every interest of a user is a query of its own
    return build_checked_index(
        retriever.item_vectors,
        queries,
        factory or config.index.factory,
        target_recall or config.index.target_recall,
        k=min(max(100, config.retrieval.num_candidates), retriever.data.num_items),
        check_queries=config.index.check_queries,
        seed=config.seed,
        device=index_device(config.index.device, retriever.data.num_items) if device is None else pick_device(device),
        shards=shards or config.index.shards,
        store=store or config.index.store,
    )


def indexed(
    trained: TrainedRun, factory: str = "", target_recall: float = 0.0, shards: int = 0, store: str = ""
) -> TrainedRun:
    """The same run, searching through a new index; see `build_index`."""
    index, report = build_index(trained, factory, target_recall, shards=shards, store=store)
    assert trained.retriever is not None
    return replace(trained, retriever=trained.retriever.searching(index), index_report=report.to_json())


def build_run_index(
    folder: Path,
    factory: str = "",
    target_recall: float = 0.0,
    device: str | None = None,
    shards: int = 0,
    store: str = "",
) -> IndexReport:
    """Build and check the index of a run folder, and publish it into the run; see `build_index`."""
    run = open_run(folder)
    try:
        index, report = build_index(
            load_run(run, with_index=False, device=device), factory, target_recall, device, shards, store
        )
    except RunError as error:
        raise RunError(f"{folder}: {error}") from None
    with run.add_files() as staging:
        (staging / INDEX).parent.mkdir(parents=True, exist_ok=True)
        index.save(staging / INDEX)
        (staging / INDEX_REPORT).write_text(json.dumps(report.to_json(), indent=1), encoding="utf-8")
    return report
