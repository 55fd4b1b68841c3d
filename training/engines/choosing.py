"""Whether the large tables of a training lie in pieces: by what is configured, and by how many processes run."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from ...base import ranks
from .pieces import Pieces

if TYPE_CHECKING:
    from ..optim import Optimizer
    from ..runtime import Runtime


def spreads(runtime: Runtime | None) -> bool:
    """Whether a training's large tables lie in pieces."""
    return runtime is not None and runtime.engine == "torchrec" and ranks.world() > 1


def pieces_of(optimizer: Optimizer, runtime: Runtime | None) -> AbstractContextManager[Pieces]:
    """Inside, the large tables of a model lie in pieces, where the runtime's engine does that."""
    if runtime is None or not spreads(runtime):
        return nullcontext(Pieces())
    from .spread import spread_tables

    return spread_tables(optimizer, runtime.shard, runtime.shard_from)
