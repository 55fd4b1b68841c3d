"""The embedded world, very small, and a run trained on it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from recsys.configs.run import RunConfig, load_config

TINY = (
    "runtime.threads=1",
    "retrieval.fit.epochs=3",
    "retrieval.tower.dim=8",
    "retrieval.num_candidates=20",
    "ranking.fit.epochs=2",
    "ranking.batch_size=512",
    "ranking.model.num_experts=2",
    "ranking.model.expert_hidden=[16]",
    "ranking.model.dropout=0.2",  # one rate everywhere: each costs a mask
    "ranking.select.dropout=0.2",
    "evaluation.ks=[5, 20]",
    "evaluation.list_k=5",
    "evaluation.draws=40",
)
"""`--set` options that make a training of the tiny world take a second."""


@dataclass(frozen=True)
class TinyRun:
    """A trained run of the tiny world, with its index. Copy the folder before changing it."""

    world: Path
    config_file: Path
    folder: Path

    def config(self, *overrides: str) -> RunConfig:
        """Its configuration, changed."""
        return load_config(self.config_file, [*TINY, *overrides])
