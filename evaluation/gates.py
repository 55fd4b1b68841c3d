"""The gate report: how the gates of a mixture of experts spread their weight, and which experts do nothing.

A level has E experts and S streams, one per task (or group of tasks, or shared); a stream's gate weighs the experts it
may use. Per gate: the mean weight of every expert, how undecided the gate is in a row, and how evenly it uses the
experts over all rows. Per level: how often each expert is silent, and how alike the experts are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..base.arrays import F64, AnyArray, Floats
from ..base.finding import Finding

UNUSED = 0.01
"""An expert whose mean weight is below this is unused by the gate."""
DIGITS = 5
"""Digits kept: the report is written after every epoch."""

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class GateLevel:
    """One level of a mixture on R rows.

    Attributes:
        streams: name of each stream.
        experts: name of each expert.
        weights: float [R, S, E] gate weights, summing to 1 over the experts a stream may use.
        outputs: float [R, E, H] what the experts put out.
        visible: places of the experts each stream may use.
        direct: float [R, S, E] what experts give a stream past its gate, or None.
    """

    streams: tuple[str, ...]
    experts: tuple[str, ...]
    weights: Floats
    outputs: Floats
    visible: tuple[tuple[int, ...], ...]
    direct: Floats | None = None


def gate_report(levels: Sequence[GateLevel]) -> Json:
    """Everything there is to say of the gates.

    Args:
        levels: lowest first, all on the same rows.

    Returns:
        `rows`, and `levels`, each with

        - `level` (from 1) and `experts`, their names;
        - `gates`, stream -> `weights` (mean per expert, None where it may not use one), `direct` (the same past the
          gate, where there is such a way), `entropy` (mean over the rows of the entropy of a row's weights),
          `entropy_of_mean` (entropy of the mean weights), both as shares of that of even weights, None for a gate with
          one expert, and `unused`, the experts whose mean weight, `direct` included, is below 1 %;
        - `zeros`, share of each expert's outputs that are exactly 0;
        - `dead`, the experts that put out nothing but 0 or that no gate which may use them does;
        - `similarity`, the mean over all pairs of experts of the linear CKA of their outputs (Kornblith et al., ICML
          2019; 1 for outputs that are rotations of one another, 0 for unrelated ones, and about H / (H + R) by
          chance), None without two experts that vary; `most_alike`, the names and value of the closest pair.
    """
    rows = len(levels[0].weights) if levels else 0
    return {"rows": rows, "levels": [{"level": number, **_level(level)} for number, level in enumerate(levels, 1)]}


def _level(level: GateLevel) -> Json:
    gates = {name: _gate(level, place) for place, name in enumerate(level.streams)}
    zeros = (level.outputs == 0).mean(axis=(0, 2))
    users: dict[str, list[bool]] = {name: [] for name in level.experts}
    for name, places in zip(level.streams, level.visible, strict=True):
        for place in places:
            users[level.experts[place]].append(level.experts[place] not in gates[name]["unused"])
    return {
        "experts": list(level.experts),
        "gates": gates,
        "zeros": _rounded(zeros),
        "dead": [
            name for name, silent in zip(level.experts, zeros == 1, strict=True) if silent or not any(users[name])
        ],
        **_likeness(level),
    }


def _gate(level: GateLevel, stream: int) -> Json:
    """What one gate does; see `gate_report`."""
    places = list(level.visible[stream])
    weights = level.weights[:, stream, places].astype(np.float64)
    mean = weights.mean(0)
    total = mean if level.direct is None else mean + level.direct[:, stream, places].mean(0)
    even = math.log(len(places)) if len(places) > 1 else None
    means: Json = {"weights": _placed(mean, places, len(level.experts))}
    if level.direct is not None:
        means["direct"] = _placed(total - mean, places, len(level.experts))
    return {
        **means,
        "entropy": None if even is None else round(float(_entropy(weights).mean()) / even, DIGITS),
        "entropy_of_mean": None if even is None else round(float(_entropy(mean)) / even, DIGITS),
        "unused": [level.experts[place] for place, weight in zip(places, total, strict=True) if weight < UNUSED],
    }


def _entropy(weights: F64) -> F64:
    """Entropy in nats over the last axis; 0 log 0 is 0."""
    return np.asarray(-(weights * np.log(np.where(weights > 0, weights, 1.0))).sum(-1))


def _likeness(level: GateLevel) -> Json:
    """`similarity` and `most_alike`; see `gate_report`."""
    cka = linear_cka(level.outputs)
    first, second = np.triu_indices(len(level.experts), 1)
    pairs = cka[first, second]
    if not np.isfinite(pairs).any():
        return {"similarity": None, "most_alike": None}
    best = int(np.nanargmax(pairs))
    names = [level.experts[first[best]], level.experts[second[best]]]
    return {
        "similarity": round(float(np.nanmean(pairs)), DIGITS),
        "most_alike": [*names, round(float(pairs[best]), DIGITS)],
    }


def linear_cka(outputs: Floats) -> F64:
    """Linear centred kernel alignment of every pair of experts.

    Args:
        outputs: float [R, E, H].

    Returns:
        float64 [E, E]; NaN for an expert whose outputs do not vary.
    """
    rows, experts, width = outputs.shape
    centred = (outputs - outputs.mean(0)).astype(np.float32).reshape(rows, experts * width)
    products = np.square(centred.T @ centred, dtype=np.float64)
    shared = products.reshape(experts, width, experts, width).sum((1, 3))
    own = np.sqrt(np.diag(shared))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(np.outer(own, own) > 0, shared / np.outer(own, own), np.nan))


def unused_experts(report: Mapping[str, Any]) -> list[Finding]:
    """A warning for every gate that leaves experts unused, and for every level with silent ones.

    It names the task (or stream), the level, the experts and how much weight they get.

    Args:
        report: of `gate_report`.
    """
    findings = []
    for level in report.get("levels", []):
        for stream, gate in level["gates"].items():
            if not gate["unused"]:
                continue
            weights = dict(zip(level["experts"], gate["weights"], strict=True))
            past = dict(zip(level["experts"], gate.get("direct", gate["weights"]), strict=True))
            shares = [weights[name] + (past[name] if "direct" in gate else 0.0) for name in gate["unused"]]
            names = ", ".join(f"'{name}' ({share:.2%})" for name, share in zip(gate["unused"], shares, strict=True))
            findings.append(
                Finding(
                    "warning",
                    "unused_expert",
                    f"The gate of '{stream}' on level {level['level']} gives under {UNUSED:.0%} of its weight to "
                    f"{names}: such experts learn next to nothing from it; spread the gate (gate.temperature above 1, "
                    "gate.dropout), normalise the experts (expert_norm), or take fewer of them.",
                )
            )
        silent = [name for name, share in zip(level["experts"], level["zeros"], strict=True) if share == 1]
        if silent:
            findings.append(
                Finding(
                    "warning",
                    "silent_expert",
                    f"On level {level['level']} the experts {', '.join(silent)} put out nothing but zeros, so no "
                    "gradient reaches them: lower the learning rate, or normalise the experts (expert_norm).",
                )
            )
    return findings


def _placed(values: F64, places: Sequence[int], count: int) -> list[float | None]:
    """Values at their places among `count`, None elsewhere."""
    out: list[float | None] = [None] * count
    for place, value in zip(places, _rounded(values), strict=True):
        out[place] = value
    return out


def _rounded(values: AnyArray) -> list[float]:
    return [round(float(value), DIGITS) for value in values]
