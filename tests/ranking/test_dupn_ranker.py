"""DUPN as a ranker: one user vector per request, the candidate nowhere in it, all tasks training it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from recsys.errors import ConfigError
from recsys.ranking.losses import LossConfig

LOSS = LossConfig()


def test_the_user_vector_knows_nothing_of_the_items(toy: Any) -> None:
    ranker = toy.ranker("dupn", profile_hidden=(7,))
    batch = toy.requests(candidates=5, queries=2)
    users = ranker.user_vectors(batch)
    assert users.shape == (2, 8 + 7)
    assert torch.equal(ranker.user_vectors(replace(batch, item=toy.items(10, seed=77))), users)


def test_the_two_halves_compose_to_the_whole(toy: Any) -> None:
    ranker, batch = toy.ranker("dupn"), toy.requests(candidates=5, queries=2)
    x = ranker.embed(batch)
    users = ranker.user_vector(x)
    for task, logit in ranker(batch).items():
        rows = torch.cat([users[batch.owner], x.item], dim=1)
        torch.testing.assert_close(ranker.towers[task](rows), logit, rtol=1e-5, atol=1e-5)


def test_every_task_trains_the_encoder(toy: Any) -> None:
    for task in ("click", "conversion", "watch"):
        ranker = toy.ranker("dupn")
        ranker.losses(toy.batch(48), LOSS)[f"loss/{task}"].backward()
        encoder = ranker.inputs.encoder.query.encoders["history"]
        assert all(p.grad is not None for name, p in encoder.named_parameters() if "no_history" not in name)


def test_frozen_transfer_leaves_the_user_part_untouched(toy: Any) -> None:
    ranker = toy.ranker("dupn", frozen=True)
    torch.stack(list(ranker.losses(toy.batch(48), LOSS).values())).sum().backward()
    moved = {name.split(".")[0] for name, p in ranker.named_parameters() if p.grad is not None}
    assert moved == {"towers"}


def test_history_order_and_properties_matter(toy: Any) -> None:
    ranker, batch = toy.ranker("dupn"), toy.batch(5)
    full = batch.select(torch.tensor([4]))  # a history of four events
    before = ranker.user_vectors(full)
    for changed in (full.query.sequences[0].flip(1), full.query.sequences[0].clone()):
        if torch.equal(changed, full.query.sequences[0]):
            changed[:, :, 2] = changed[:, :, 2] % 5 + 1
        assert not torch.allclose(
            ranker.user_vectors(replace(full, query=replace(full.query, sequences=(changed,)))), before
        )


@pytest.mark.parametrize(
    ("keys", "words"),
    [({"input": {"history": {"encoder": "mean"}}}, "encoder"), ({"input": {"cross_layers": 1}}, "user and item apart")],
)
def test_what_would_mix_user_and_item_is_refused(toy: Any, keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        toy.ranker("dupn", **keys)
