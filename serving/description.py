"""What `/v1/info` says of the runs that are served."""

from __future__ import annotations

import asyncio
from typing import Any

from ..base.package import package_version
from ..live.answering import Answering
from ..live.catalogue import LiveCatalogue
from ..live.log import LogUnavailableError, StateLog
from .service import Service


async def describe(service: Service) -> dict[str, Any]:
    """Runs, tasks, features, columns of conditions, limits, and the state, as plain values."""
    runs, teller = service.runs, service.teller
    state = None if teller is None else await asyncio.to_thread(_state, teller.log)
    return {
        "package": package_version(),
        "runs": {name: _run(answering) for name, answering in runs.by_name.items()},
        "split": runs.split,
        "limits": service.config.limits.model_dump(),
        "state": state,
        "ready": all((await service.checks()).values()),
    }


def _state(kept: StateLog) -> dict[str, Any]:
    try:
        return {"log": kept.log_id, "position": kept.last, "durability": kept.durability}
    except LogUnavailableError:
        return {"log": kept.log_id, "position": None, "durability": None}


def _live_items(items: LiveCatalogue) -> dict[str, Any]:
    due = "publish a new run: many items changed since this one was trained" if items.crowded else None
    return {**items.counts, "due": due}


def _run(answering: Answering) -> dict[str, Any]:
    funnel = answering.funnel
    data, config = funnel.dataset, funnel.dataset.config
    return {
        "version": answering.run["version"],
        "config": funnel.trained.config.name,
        "rules": answering.rules,
        "users": data.num_users,
        "items": data.known_items,
        "live_items": None if answering.overlay is None else _live_items(answering.overlay.items),
        "events": len(data.events),
        "tasks": [{"name": task.name, "kind": task.kind} for task in config.tasks],
        "scores": list(funnel.task_names),
        "positive": funnel.trained.config.retrieval.positive,
        "features": [
            {"name": spec.name, "column": spec.source, "side": spec.side, "kind": spec.kind} for spec in config.features
        ],
        "where": sorted(data.item_columns),
        "sources": list(funnel.sources),
    }
