"""What every baseline promises: scores of whole rows and of pairs, the same from a saved copy and a shuffled log."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from ..base.arrays import F64, I64
from ..base.ragged import Ragged
from ..retrieval.baselines import Baseline, Histories, baseline_from_state, build_baseline
from .contract import Contract

U, N = 40, 15


def log(seed: int = 0) -> tuple[I64, I64, F64]:
    """Shuffled interactions of 40 users with 15 items, with repeats; item 14 never occurs."""
    rng = np.random.default_rng(seed)
    items: I64 = np.minimum(rng.geometric(0.2, 500) - 1, N - 2).astype(np.int64)
    users: I64 = rng.integers(0, U, 500)
    times: F64 = rng.permutation(500).astype(np.float64) * 3600.0
    return users, items, times


def histories() -> Histories:
    """Six queries: one without a history, one with repeats, one with rows that are no items."""
    rows = [[3, 0, 7], [], [2], [5, 5, 1, 5], [4, 99, -1], list(range(14))]
    return Histories(Ragged.from_lists(rows))


class BaselineContract(Contract):
    """Every baseline, each with several tables of its settings."""

    def unfitted(self, kind: str, **keys: Any) -> Baseline:
        """A baseline before `fit`; a subclass tells it what it must know of the items."""
        return build_baseline(kind, **keys)

    def fitted(self, kind: str, **keys: Any) -> Baseline:
        """A baseline fitted on the log."""
        return self.unfitted(kind, **keys).fit(*log(), U, N)

    def test_it_explains_itself(self, kind: str) -> None:
        found = self.unfitted(kind)
        assert found.name == kind
        assert found.paper
        assert (type(found).__doc__ or "").strip()
        assert all(field.description for field in found.settings_class.model_fields.values())

    def test_scores_are_finite_and_tell_items_apart(self, kind: str, keys: Mapping[str, Any]) -> None:
        scores = self.fitted(kind, **keys).score(histories())
        assert scores.shape == (6, N)
        assert scores.dtype == np.float32
        assert np.isfinite(scores).all()
        assert (scores != scores[:, :1]).any()

    def test_pairs_blocks_and_a_saved_copy_agree_with_whole_rows(
        self, kind: str, keys: Mapping[str, Any], tmp_path: Path
    ) -> None:
        model, queries = self.fitted(kind, **keys), histories()
        scores = model.score(queries)
        candidates = np.random.default_rng(1).integers(0, N, (6, 4))
        expected = np.take_along_axis(scores, candidates, 1)
        np.testing.assert_allclose(model.score_pairs(queries, candidates), expected, rtol=1e-6, atol=1e-6)
        for row in range(6):
            np.testing.assert_allclose(model.score(queries.block(row, row + 1))[0], scores[row], rtol=1e-6)
        save_file(model.state(), tmp_path / "baseline.safetensors")
        again = baseline_from_state(load_file(tmp_path / "baseline.safetensors"))
        assert type(again) is type(model)
        np.testing.assert_array_equal(again.score(queries), scores)

    def test_the_order_of_the_log_does_not_matter(self, kind: str, keys: Mapping[str, Any]) -> None:
        users, items, times = log()
        order = np.random.default_rng(2).permutation(len(users))
        shuffled = self.unfitted(kind, **keys).fit(users[order], items[order], times[order], U, N)
        expected = self.fitted(kind, **keys).score(histories())
        np.testing.assert_allclose(shuffled.score(histories()), expected, rtol=1e-5, atol=1e-7)
