"""Two regression tasks whose relatedness is set: the generator of the MMoE paper (Ma et al., KDD 2018, section 3.2).

Two weight vectors of a chosen cosine, `w1 = c u1` and `w2 = c (p u1 + sqrt(1 - p^2) u2)` with u1, u2 orthonormal;
inputs x ~ N(0, I); labels `y_k = w_k x + sum_i sin(alpha_i w_k x + beta_i) + noise`. Both tasks share alpha and beta,
so p alone decides how alike they are: at p = 1 they are one task up to noise. The label correlation is below p,
because the sinusoids bend it. Sizes and `alpha, beta ~ N(0, 1)` follow the PLE paper where the MMoE paper is silent.

Shapes: x [R, d], y [R, 2]. Sibling: `simulate`, a world of clicks with a known truth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydantic import Field

from recsys.base.arrays import F32, F64
from recsys.base.settings import Settings


class SyntheticConfig(Settings):
    """A pair of tasks."""

    width: int = Field(default=100, ge=2)
    """Width d of the input."""
    correlation: float = Field(default=0.5, ge=-1, le=1)
    """Cosine p of the tasks' weights."""
    scale: float = Field(default=1.0, gt=0)
    """Length c of the weights."""
    sinusoids: int = Field(default=10, ge=0)
    """Number m of sinusoids; none leaves two linear tasks."""
    noise_sd: float = Field(default=0.1, ge=0)
    """Standard deviation of the noise on each label; the paper's variance is 0.01."""
    seed: int = 0
    """Of weights and sinusoids; rows are drawn with a seed of their own."""


@dataclass(frozen=True)
class SyntheticTasks:
    """The two tasks.

    Attributes:
        weights: [2, d].
        alpha: [m] frequencies.
        beta: [m] phases.
        noise_sd: of the labels.
    """

    weights: F64
    alpha: F64
    beta: F64
    noise_sd: float

    @classmethod
    def build(cls, config: SyntheticConfig) -> SyntheticTasks:
        """Draw the tasks of a configuration."""
        rng = np.random.default_rng([config.seed, 0])
        basis, _ = np.linalg.qr(rng.normal(size=(config.width, 2)))
        first, second = basis.T
        p = config.correlation
        turned = p * first + np.sqrt(max(0.0, 1.0 - p * p)) * second
        alpha, beta = rng.normal(size=(2, config.sinusoids))
        return cls(config.scale * np.stack([first, turned]), alpha, beta, config.noise_sd)

    def signal(self, x: F64) -> F64:
        """Labels without noise: [R, d] -> [R, 2]."""
        linear = x @ self.weights.T
        waves = np.sin(linear[:, :, None] * self.alpha + self.beta)
        return np.asarray(linear + waves.sum(2))

    def draw(self, rows: int, rng: np.random.Generator) -> tuple[F32, F32]:
        """Fresh inputs and noisy labels.

        Args:
            rows: R.
            rng: moves on, so that the next call draws other rows.

        Returns:
            x float32 [R, d], y float32 [R, 2].
        """
        x = rng.normal(size=(rows, self.weights.shape[1]))
        y = self.signal(x) + rng.normal(scale=self.noise_sd, size=(rows, 2))
        return x.astype(np.float32), y.astype(np.float32)
