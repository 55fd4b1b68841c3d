"""The gate report: entropies, unused and silent experts, and likeness, on mixtures whose answer is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from recsys.evaluation.gates import GateLevel, gate_report, linear_cka, unused_experts
from recsys.report.page import evaluation_page

ROWS, WIDTH = 600, 4


def level(
    weights: Any, *, outputs: Any = None, visible: Any = None, direct: Any = None, names: tuple[str, ...] | None = None
) -> GateLevel:
    """A level whose weights [R or 1, S, E] are broadcast over the rows."""
    given = np.asarray(weights, dtype=np.float32)
    streams, experts = given.shape[1], given.shape[2]
    put_out = np.random.default_rng(0).normal(size=(ROWS, experts, WIDTH)) if outputs is None else outputs
    past = None if direct is None else np.broadcast_to(np.asarray(direct, dtype=np.float32), (ROWS, streams, experts))
    return GateLevel(
        streams=("click", "like", "(shared)")[:streams],
        experts=names or tuple(f"expert {i}" for i in range(experts)),
        weights=np.broadcast_to(given, (ROWS, streams, experts)),
        outputs=put_out,
        visible=visible or (tuple(range(experts)),) * streams,
        direct=past,
    )


def only(report: dict[str, Any], stream: str = "click", number: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = report["levels"][number]["gates"][stream]
    return found


def test_a_gate_that_is_sure_in_every_row_and_one_that_never_is() -> None:
    """Both use all experts alike on the whole: only the entropy within a row tells them apart."""
    sure = only(gate_report([level(np.eye(4)[np.arange(ROWS) % 4][:, None, :])]))
    even = only(gate_report([level(np.full((1, 1, 4), 0.25))]))
    assert sure["weights"] == even["weights"] == [0.25] * 4
    assert (sure["entropy"], sure["entropy_of_mean"]) == (0.0, 1.0)
    assert (even["entropy"], even["entropy_of_mean"]) == (1.0, 1.0)
    stuck = only(gate_report([level([[[1.0, 0.0, 0.0, 0.0]]])]))
    assert (stuck["entropy"], stuck["entropy_of_mean"]) == (0.0, 0.0)
    half = only(gate_report([level([[[0.5, 0.5, 0.0, 0.0]]])]))
    assert half["entropy_of_mean"] == pytest.approx(0.5)


def test_experts_a_gate_may_not_use_are_neither_counted_nor_missed() -> None:
    names = ("click 0", "like 0", "shared 0")
    weights = [[[0.4, 0.0, 0.6], [0.0, 0.004, 0.996]]]
    report = gate_report([level(weights, visible=((0, 2), (1, 2)), names=names)])
    assert only(report)["weights"] == [pytest.approx(0.4), None, pytest.approx(0.6)]
    assert only(report)["entropy_of_mean"] == pytest.approx(
        -(0.4 * np.log(0.4) + 0.6 * np.log(0.6)) / np.log(2), abs=1e-4
    )
    assert only(report)["unused"] == []
    assert only(report, "like")["unused"] == ["like 0"]
    assert report["levels"][0]["dead"] == ["like 0"]  # nobody else may use it
    one = only(gate_report([level([[[1.0, 0.0]]], visible=((0,),))]))
    assert one["entropy"] is None
    assert one["unused"] == []


def test_an_expert_is_dead_when_all_who_may_use_it_do_not() -> None:
    report = gate_report([level([[[0.995, 0.005, 0.0], [0.5, 0.495, 0.005]]])])
    assert only(report)["unused"] == ["expert 1", "expert 2"]
    assert only(report, "like")["unused"] == ["expert 2"]
    assert report["levels"][0]["dead"] == ["expert 2"]


def test_what_reaches_a_stream_past_its_gate_counts_as_use() -> None:
    weights, past = [[[0.0, 1.0]]], [[[0.3, 0.0]]]
    without, given = gate_report([level(weights)]), gate_report([level(weights, direct=past)])
    assert only(without)["unused"] == ["expert 0"]
    assert only(given)["unused"] == []
    assert only(given)["direct"] == [pytest.approx(0.3), 0.0]
    assert unused_experts(given) == []


def test_the_warning_names_task_level_expert_and_weight() -> None:
    fine, bad = level(np.full((1, 2, 3), 1 / 3)), level([[[0.5, 0.496, 0.004], [0.4, 0.3, 0.3]]])
    (finding,) = unused_experts(gate_report([fine, bad]))
    assert finding.level == "warning"
    for word in ("'click'", "level 2", "'expert 2'", "0.40%"):
        assert word in finding.sentence
    assert "like" not in finding.sentence
    assert unused_experts(gate_report([fine])) == []
    assert unused_experts({}) == []


def test_the_threshold_is_one_percent() -> None:
    assert only(gate_report([level([[[0.9902, 0.0098]]])]))["unused"] == ["expert 1"]
    assert only(gate_report([level([[[0.9898, 0.0102]]])]))["unused"] == []


def test_a_silent_expert_is_dead_whatever_its_gate_says() -> None:
    outputs = np.maximum(np.random.default_rng(1).normal(size=(ROWS, 3, WIDTH)), 0)
    outputs[:, 1] = 0
    report = gate_report([level(np.full((1, 1, 3), 1 / 3), outputs=outputs)])
    found = report["levels"][0]
    assert found["dead"] == ["expert 1"]
    assert found["zeros"][1] == 1.0
    assert 0.4 < found["zeros"][0] < 0.6
    assert found["most_alike"][:2] == ["expert 0", "expert 2"]
    (finding,) = unused_experts(report)
    assert finding.about == "silent_expert"
    assert "expert 1" in finding.sentence


def test_cka_sees_through_rotation_and_scale_and_not_through_noise() -> None:
    rng = np.random.default_rng(0)
    first = rng.normal(size=(2000, WIDTH))
    turned = 7.0 * first @ np.linalg.qr(rng.normal(size=(WIDTH, WIDTH)))[0] + 3.0
    cka = linear_cka(np.stack([first, turned, rng.normal(size=(2000, WIDTH)), np.ones((2000, WIDTH))], axis=1))
    np.testing.assert_allclose(cka[:3, :3], cka[:3, :3].T, atol=1e-9)
    assert cka[0, 1] == pytest.approx(1.0, abs=1e-5)
    assert cka[0, 2] < 0.02
    assert np.isnan(cka[0, 3])  # an expert that says the same of every row is like nobody
    cross, own = first.T @ turned, (first.T @ first, turned.T @ turned)
    cross -= 2000 * np.outer(first.mean(0), turned.mean(0))
    own = tuple(o - 2000 * np.outer(x.mean(0), x.mean(0)) for o, x in zip(own, (first, turned), strict=True))
    by_hand = (cross**2).sum() / np.sqrt((own[0] ** 2).sum() * (own[1] ** 2).sum())
    assert cka[0, 1] == pytest.approx(by_hand, abs=1e-5)


def test_likeness_is_of_pairs_and_needs_two() -> None:
    rng = np.random.default_rng(0)
    one = rng.normal(size=(ROWS, 1, WIDTH))
    outputs = np.concatenate([one, 2 * one, rng.normal(size=(ROWS, 1, WIDTH))], axis=1)
    found = gate_report([level(np.full((1, 1, 3), 1 / 3), outputs=outputs)])["levels"][0]
    assert found["most_alike"] == ["expert 0", "expert 1", pytest.approx(1.0)]
    assert found["similarity"] == pytest.approx(1 / 3, abs=0.03)
    alone = gate_report([level([[[1.0]]], outputs=one)])["levels"][0]
    assert (alone["similarity"], alone["most_alike"]) == (None, None)


def test_the_section_draws_every_level_gate_and_epoch() -> None:
    report = gate_report([level(np.full((1, 2, 3), 1 / 3)), level([[[0.5, 0.496, 0.004], [0.4, 0.3, 0.3]]])])
    drawn = evaluation_page({"gates": {**report, "epochs": [{"epoch": 1, **report}, {"epoch": 2, **report}]}})
    assert drawn.count("mean gate weights of level") == 2
    assert drawn.count('class="alarm"') == 1
    assert drawn.count('class="cell"') == 12
    assert drawn.count("<polyline") == 6
    assert "polyline" not in evaluation_page({"gates": report})
    single = gate_report([level([[[1.0]]])])
    assert "svg" in evaluation_page({"gates": {**single, "epochs": [{"epoch": 1, **single}]}})
