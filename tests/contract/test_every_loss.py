"""What every loss of the towers promises; those that are registered are tested here without being named."""

from __future__ import annotations

from recsys.retrieval.towers.objective import LOSSES
from recsys.testing import LossContract


class TestEveryLoss(LossContract):
    cases = {
        **{name: {"plain": {}} for name in LOSSES},
        "in_batch": {"plain": {}, "memory": {"memory": 20, "memory_after": 1}},
        **{name: {"plain": {}, "popularity": {"popularity": 0.75}} for name in ("sampled", "bpr_max", "top1_max")},
    }
