"""Matrix factorisation baselines, by the `implicit` package: ALS (Hu et al., ICDM 2008), BPR (Rendle et al., UAI 2009).

The package learns the item factors; a user's factors are computed here from the history at query time, as ALS would
compute them for a new user: ridge regression on the items of the history with more confidence in those than in the
rest. For BPR, whose own training has no such step, this is a fold-in and not the model's own user vector.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from ...base.arrays import F32, F64, I64, AnyArray
from ...base.settings import Settings
from .base import Baseline, Histories
from .cooccurrence import interaction_matrix


class FactorSettings(Settings):
    """Options of ALS and BPR."""

    factors: int = Field(default=64, ge=1)
    """Width of the factors."""
    iterations: int = Field(default=20, ge=1)
    """Passes over the data."""
    regularisation: float = Field(default=0.05, gt=0)
    """L2 penalty on the factors."""
    alpha: float = Field(default=5.0, gt=0)
    """Confidence in an item of the history; 1 for all others."""
    learning_rate: float = Field(default=0.05, gt=0)
    """Step size (BPR)."""
    seed: int = 0
    """Seed of the initial factors."""


class _Factors(Baseline):
    settings_class: ClassVar[type[Settings]] = FactorSettings
    fitted_by = "implicit"
    settings: FactorSettings
    factors: F32

    def _model(self) -> Any:
        raise NotImplementedError

    def _fit(self, users: I64, items: I64, times: F64 | None, num_users: int) -> None:
        from scipy.sparse import csr_matrix

        model = self._model()
        interactions = csr_matrix(interaction_matrix(users, items, num_users, self.num_items))
        model.fit(interactions, show_progress=False)
        factors = model.item_factors
        self.factors = np.array(factors if isinstance(factors, np.ndarray) else factors.to_numpy(), dtype=np.float32)

    def score(self, histories: Histories) -> F32:
        """See `Baseline.score`."""
        return self._fold_in(histories) @ self.factors.T

    def score_pairs(self, histories: Histories, items: AnyArray) -> F32:
        """See `Baseline.score_pairs`; only the candidates are multiplied."""
        vectors = self._fold_in(histories)
        return np.asarray(np.einsum("bd,bcd->bc", vectors, self.factors[items]), dtype=np.float32)

    def _fold_in(self, histories: Histories) -> F32:
        """User factors `[B, D]`: `(Y'Y + (alpha - 1) Y_h' Y_h + reg I)^-1 alpha Y_h' 1`."""
        weighted, alpha = histories.weights(self.num_items), self.settings.alpha
        ptr, vectors = weighted.ptr, np.zeros((len(histories), self.factors.shape[1]))
        for row in range(len(histories)):
            own = self.factors[weighted.rows[ptr[row] : ptr[row + 1]]].astype(np.float64)
            vectors[row] = np.linalg.solve(self._common + (alpha - 1) * own.T @ own, alpha * own.sum(axis=0))
        return vectors.astype(np.float32)

    @cached_property
    def _common(self) -> F64:
        """`Y'Y + reg I`, float64 [D, D]: what every history's regression shares."""
        factors = self.factors.astype(np.float64)
        return np.asarray(factors.T @ factors + self.settings.regularisation * np.eye(factors.shape[1]))

    def _arrays(self) -> dict[str, AnyArray]:
        return {"factors": self.factors}

    def _restore(self, arrays: dict[str, AnyArray]) -> None:
        self.factors = arrays["factors"]


class ALS(_Factors):
    """Alternating least squares for implicit feedback.

    `min sum_ui c_ui (p_ui - <x_u, y_i>)^2 + lambda (|x_u|^2 + |y_i|^2)`, p = 1 where u met i and 0 elsewhere,
    met pairs with the higher confidence c.
    """

    paper = "Hu et al. ICDM 2008"
    name = "als"

    def _model(self) -> Any:
        chosen = self.settings
        from implicit.als import AlternatingLeastSquares

        return AlternatingLeastSquares(
            factors=chosen.factors,
            regularization=chosen.regularisation,
            alpha=chosen.alpha,
            iterations=chosen.iterations,
            random_state=chosen.seed,
            use_gpu=False,
        )


class BPR(_Factors):
    """Bayesian personalised ranking; the item bias is a factor beside a constant one.

    `L = -sum log sigmoid(<x_u, y_i> - <x_u, y_j>)` over items i that u met and items j drawn at random.
    """

    paper = "Rendle et al. UAI 2009"
    name = "bpr"

    def _model(self) -> Any:
        chosen = self.settings
        from implicit.bpr import BayesianPersonalizedRanking

        return BayesianPersonalizedRanking(
            factors=chosen.factors,
            learning_rate=chosen.learning_rate,
            regularization=chosen.regularisation,
            iterations=chosen.iterations,
            random_state=chosen.seed,
            use_gpu=False,
        )
