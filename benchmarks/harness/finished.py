"""Predictions and metrics of finished seeds, kept so that no training is repeated."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recsys.base.arrays import AnyArray
from recsys.base.files import replacing
from recsys.benchmarks.harness.provenance import Json, provenance

Arrays = dict[str, AnyArray]


class Done:
    """Predictions and metrics of finished seeds, so that an interrupted run continues where it stopped.

    Args:
        folder: where they lie.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def seed(
        self,
        variant: str,
        seed: int,
        settings: Json,
        measure: Callable[[], tuple[Mapping[str, float], Arrays]],
        again: bool = False,
    ) -> tuple[Json, Arrays]:
        """A seed's metrics with their provenance, and its arrays: from an earlier run, or measured now.

        Args:
            variant: name of the row.
            seed: of its training.
            settings: everything that decides the outcome; others are another file.
            measure: gives metrics and arrays when no earlier run did.
            again: measure in any case.
        """
        mark = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:10]
        path = self.folder / f"{variant.replace(' ', '-')}-{seed}-{mark}.npz"
        if path.exists() and not again:
            with np.load(path, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            return json.loads(str(arrays.pop("about"))), arrays
        metrics, arrays = measure()
        about = {"metrics": dict(metrics), **provenance()}
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial, partial.open("wb") as handle:
            stored_arrays: dict[str, Any] = {"about": np.asarray(json.dumps(about)), **arrays}
            np.savez(handle, **stored_arrays)
        return about, arrays


def joined(abouts: Sequence[Json], key: str) -> str:
    """What the seeds say of themselves, each once: commits, days, machines."""
    return ", ".join(sorted({about[key] for about in abouts}))


def origin(abouts: Sequence[Json]) -> dict[str, Any]:
    """Where and when a `Record` was measured: commit, machine and date."""
    newest = max(about["date"] for about in abouts)
    return {"commit": joined(abouts, "commit"), "machine": joined(abouts, "machine"), "date": newest}


def of_seeds(found: Mapping[int, tuple[Json, Arrays]]) -> dict[str, Any]:
    """What a `Record` takes from its seeds: their origin, and every seed's metrics."""
    abouts = {str(seed): about for seed, (about, _) in found.items()}
    per_seed = {seed: about["metrics"] for seed, about in abouts.items()}
    return {**origin(list(abouts.values())), "per_seed": per_seed}
