"""Calibrators: from a task's logits to probabilities that mean what they say, fitted on held-out rows.

All are monotone, so no ranking changes (isotonic may tie scores). Platt 1999, temperature scaling (arXiv 1706.04599),
isotonic regression (Zadrozny & Elkan 2002), and the two closed forms for training on re-weighted or thinned rows:
up-weighting positives by w multiplies the odds by w, keeping a share r of the negatives divides them by r; both are
undone by a shift of the logit, `p = p' / (p' + w (1 - p'))`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import numpy as np
from pydantic import Field

from ..base.arrays import Floats
from ..base.errors import ConfigError
from ..base.settings import Settings

CalibrationKind = Literal["none", "platt", "temperature", "isotonic", "downsampling", "reweighting"]
SMALLEST_SLOPE = 1e-3  # held-out labels that run against the logits flatten them, and never turn a ranking round

FITTED = ("platt", "temperature", "isotonic")
"""Kinds that are fitted on the validation rows; the others are closed forms."""


class CalibrationConfig(Settings):
    """How a task's logits become probabilities."""

    kind: CalibrationKind = "none"
    """`none`: the sigmoid; `platt`, `temperature`, `isotonic`: fitted; `downsampling`: closed form of `keep`;
    `reweighting`: closed form of the weights that positives and negatives had in training, refused where these differ
    within a class."""
    keep: float = Field(default=1.0, gt=0, le=1)
    """`downsampling`: share of the negatives that was kept for training."""


class Calibrator:
    """A monotone map from logits to probabilities.

    Linear maps are `sigmoid(slope * logit + shift)`; isotonic ones interpolate between knots.

    Args:
        slope: of the logit.
        shift: added to the logit.
        knots: logits, ascending [n], and probabilities, ascending [n]; None for a linear map.
    """

    def __init__(self, slope: float = 1.0, shift: float = 0.0, knots: tuple[Floats, Floats] | None = None) -> None:
        self.slope, self.shift, self.knots = slope, shift, knots

    def __call__(self, logits: Floats) -> Floats:
        """Logits [...] -> probabilities [...], same float type."""
        if self.knots is not None:
            return np.interp(logits, *self.knots).astype(logits.dtype)
        z = self.slope * np.asarray(logits, dtype=np.float64) + self.shift
        return sigmoid(z).astype(logits.dtype)

    def to_arrays(self) -> dict[str, Floats]:
        """State as named float64 arrays; `from_arrays` takes it back."""
        state: dict[str, Floats] = {"linear": np.array([self.slope, self.shift])}
        if self.knots is not None:
            state |= {"knot_logits": self.knots[0], "knot_probabilities": self.knots[1]}
        return state

    @staticmethod
    def from_arrays(state: Mapping[str, Floats]) -> Calibrator:
        """The calibrator whose `to_arrays` gave `state`."""
        knots = (state["knot_logits"], state["knot_probabilities"]) if "knot_logits" in state else None
        return Calibrator(float(state["linear"][0]), float(state["linear"][1]), knots)


def fit_calibrator(
    config: CalibrationConfig, logits: Floats, labels: Floats, weights: Floats | None = None, ratio: float = 1.0
) -> Calibrator:
    """Fit on held-out rows of the task's sample space.

    Args:
        config: see `CalibrationConfig`.
        logits: [n] finite.
        labels: [n] 0 or 1.
        weights: [n] row weights, 0 or more, or None.
        ratio: `reweighting`: weight of the positives in training over that of the negatives, see `weight_ratio`.

    Returns:
        The calibrator; the plain sigmoid where a fitted kind finds no positive or no negative.

    Raises:
        ConfigError: the arrays do not match.
    """
    if config.kind == "downsampling":
        return Calibrator(shift=math.log(config.keep))
    if config.kind == "reweighting":
        return Calibrator(shift=-math.log(ratio))
    z, y = np.asarray(logits, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    w = np.ones_like(z) if weights is None else np.asarray(weights, dtype=np.float64)
    if not z.shape == y.shape == w.shape or z.ndim != 1:
        raise ConfigError(
            f"calibration needs equally many logits, labels and weights; found {z.shape}, {y.shape}, {w.shape}"
        )
    positives, negatives = float((w * y).sum()), float((w * (1 - y)).sum())
    if config.kind == "none" or positives <= 0 or negatives <= 0:
        return Calibrator()
    if config.kind == "isotonic":
        return Calibrator(knots=_isotonic(z, y, w))
    if config.kind == "temperature":
        slope, _ = _newton(z, y, w, shift=False)
        return Calibrator(slope=slope)
    # Platt's targets, one virtual row of each class away from 0 and 1, keep separable rows from an infinite slope
    targets = np.where(y > 0.5, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    slope, shift = _newton(z, targets, w, shift=True)
    return Calibrator(slope, shift)


def weight_ratio(task: str, labels: Floats, weights: Floats, positive: float = 1.0) -> float:
    """Weight of a task's positive training rows over that of its negative ones.

    Args:
        task: name, for the message.
        labels: [n] 0 or 1, of the training rows in the task's sample space.
        weights: [n] row weights; rows of weight 0 trained nothing and are left out.
        positive: further weight of the positives.

    Returns:
        The ratio; 1 where a class is empty.

    Raises:
        ConfigError: the weights differ within a class, so that no shift of the logit takes them out.
    """
    means = {1.0: 1.0, 0.0: 1.0}
    for label, name in ((1.0, "positive"), (0.0, "negative")):
        of_class = weights[((labels > 0.5) == (label > 0.5)) & (weights > 0)]
        if not len(of_class):
            return 1.0
        low, high = float(of_class.min()), float(of_class.max())
        if high - low > 1e-6 * high:
            raise ConfigError(
                f'task "{task}": the training weights of its {name} rows run from {low:g} to {high:g}, which no closed '
                'form takes out of a probability; set ranking.calibration.kind = "platt" or "isotonic", which are '
                "fitted on unweighted rows, or weigh whole classes by ranking.loss.positive_weight"
            )
        means[label] = high
    return positive * means[1.0] / means[0.0]


def sigmoid(z: Floats) -> Floats:
    """`1 / (1 + e^-z)` without overflow, for float64 arrays."""
    small = np.exp(-np.abs(z))
    return np.where(z >= 0, 1.0, small) / (1.0 + small)


def _newton(z: Floats, y: Floats, w: Floats, *, shift: bool) -> tuple[float, float]:
    """Slope, at least `SMALLEST_SLOPE`, and shift of the best `sigmoid(slope z + shift)` by log loss."""
    from scipy.optimize import minimize

    total = w.sum()

    def objective(parameters: Floats) -> tuple[float, Floats]:
        a, b = float(parameters[0]), float(parameters[1]) if shift else 0.0
        margin = a * z + b
        loss = float((w * (np.logaddexp(0.0, margin) - y * margin)).sum() / total)
        residual = w * (sigmoid(margin) - y) / total
        gradient = np.array([float((residual * z).sum()), float(residual.sum())])
        return loss, gradient if shift else gradient[:1]

    start = np.array([1.0, 0.0]) if shift else np.array([1.0])
    bounds = [(SMALLEST_SLOPE, 1e3), (None, None)][: len(start)]
    found = minimize(
        objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-14, "gtol": 1e-10}
    )
    return float(found.x[0]), float(found.x[1]) if shift else 0.0


def _isotonic(z: Floats, y: Floats, w: Floats) -> tuple[Floats, Floats]:
    """Knots of the isotonic fit: two per block (its first and its last logit), kept off 0 and 1 by half a row."""
    from scipy.optimize import isotonic_regression

    used = w > 0
    order = np.argsort(z[used], kind="stable")
    z, y, w = z[used][order], y[used][order], w[used][order]
    # rows of one logit are one point, or the fit would depend on their order
    distinct, start = np.unique(z, return_index=True)
    mass = np.add.reduceat(w, start)
    fitted = isotonic_regression(np.add.reduceat(w * y, start) / mass, weights=mass).x
    new_block = np.flatnonzero(np.diff(fitted)) + 1
    ends = np.union1d(np.r_[0, new_block], np.r_[new_block - 1, len(fitted) - 1])
    margin = 0.5 / (w.sum() / w.max() + 1.0)
    return distinct[ends], np.clip(fitted[ends], margin, 1.0 - margin)
