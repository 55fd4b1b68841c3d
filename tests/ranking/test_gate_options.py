"""Against expert collapse: temperature, expert dropout and normalised experts do what they say in every mixture."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from recsys.ranking.mixture import Mixture, MixtureRanker
from recsys.ranking.ranker import ranker_kinds
from recsys.testing.toy import Toy
from recsys.tests.support.nonempty import nonempty

MIXTURES = [kind for kind, ranker in ranker_kinds().items() if issubclass(ranker, MixtureRanker)]
every_mixture = pytest.mark.parametrize("kind", MIXTURES)


def levels(toy: Toy, kind: str, *, training: bool = False, **keys: Any) -> list[Mixture]:
    found: list[Mixture] = toy.ranker(kind, **keys).train(training).batch_mixtures(toy.batch(64))
    return found


def spread(mixture: Mixture) -> float:
    """Entropy within a row, mean over rows and streams."""
    terms = mixture.weights * mixture.weights.clamp(min=1e-30).log()
    return -float(terms.sum(2).mean().detach())


def test_there_are_mixtures() -> None:
    assert {"moe", "mmoe", "cgc", "ple", "stem", "home"} <= set(MIXTURES)


@every_mixture
def test_a_temperature_above_one_spreads_the_lowest_gates(toy: Toy, kind: str) -> None:
    entropies = [spread(levels(toy, kind, gate={"temperature": t})[0]) for t in (0.25, 1.0, 4.0)]
    assert entropies == sorted(entropies)
    assert entropies[0] < 0.9 * entropies[2]


@every_mixture
def test_expert_dropout_drops_in_training_only_and_renormalises(toy: Toy, kind: str) -> None:
    for mixture in levels(toy, kind, training=True, gate={"dropout": 0.4}):
        for stream in range(len(mixture.streams)):
            seen = mixture.seen(stream)
            assert (seen == 0).any()
            torch.testing.assert_close(seen.sum(1), torch.ones(64))
    for mixture in nonempty(levels(toy, kind, gate={"dropout": 0.4})):
        assert all((mixture.seen(stream) > 0).all() for stream in range(len(mixture.streams)))


@every_mixture
def test_normalised_experts_are_equally_loud_and_never_silent(toy: Toy, kind: str) -> None:
    for mixture in levels(toy, kind, expert_norm=True, expert_hidden=(16,)):
        loudness = mixture.experts.norm(dim=2).mean(0)
        assert float((loudness.max() / loudness.min()).detach()) < 1.5
        assert not (mixture.experts == 0).any()
    plain = levels(toy, kind, expert_norm=False, expert_hidden=(16,))
    assert all((mixture.experts == 0).any() for mixture in plain)
