"""DUPN as a ranker: one user vector per request, the candidate nowhere in it, all tasks training it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from recsys.base.errors import ConfigError
from recsys.data.batch import Block
from recsys.nn.sequence import recurrent
from recsys.ranking.balance import BalanceConfig, build_balance
from recsys.ranking.losses import LossConfig
from recsys.testing.toy import Toy
from recsys.tests.support.nonempty import nonempty
from recsys.training.optim import OptimConfig, Optimizer

LOSS = LossConfig()


def test_the_user_vector_knows_nothing_of_the_items(toy: Toy) -> None:
    ranker = toy.ranker("dupn", profile_hidden=(7,))
    batch = toy.requests(candidates=5, queries=2)
    users = ranker.user_vectors(batch)
    assert users.shape == (2, 8 + 7)
    assert torch.equal(ranker.user_vectors(replace(batch, item=toy.items(10, seed=77))), users)


def test_the_two_halves_compose_to_the_whole(toy: Toy) -> None:
    ranker, batch = toy.ranker("dupn"), toy.requests(candidates=5, queries=2)
    x = ranker.embed(batch)
    users = ranker.user_vector(x)
    for task, logit in nonempty(ranker(batch).items()):
        rows = torch.cat([users[batch.owner], x.item], dim=1)
        torch.testing.assert_close(ranker.towers[task](rows), logit, rtol=1e-5, atol=1e-5)


def test_every_task_trains_the_encoder(toy: Toy) -> None:
    for task in ("click", "conversion", "watch"):
        ranker = toy.ranker("dupn")
        ranker.losses(toy.batch(48), LOSS)[f"loss/{task}"].backward()
        encoder = ranker.inputs.encoder.query.encoders["history"]
        assert all(p.grad is not None for name, p in encoder.named_parameters() if "no_history" not in name)


def test_frozen_transfer_leaves_the_user_part_untouched(toy: Toy) -> None:
    ranker = toy.ranker("dupn", frozen=True)
    torch.stack(list(ranker.losses(toy.batch(48), LOSS).values())).sum().backward()
    moved = {name.split(".")[0] for name, p in ranker.named_parameters() if p.grad is not None}
    assert moved == {"towers"}


def test_a_frozen_user_vector_is_the_same_in_training(toy: Toy) -> None:
    history = {"history": {"dropout": 0.5, "fast": True}}
    frozen, free = (toy.ranker("dupn", frozen=held, dropout=0.5, input=history) for held in (True, False))
    batch = toy.batch(24)
    reference = free.eval().user_vectors(batch)
    assert torch.equal(frozen.train().user_vectors(batch), reference)
    assert not torch.allclose(free.train().user_vectors(batch), reference)
    assert frozen.towers.training  # dropout goes on where something learns


def test_no_step_moves_what_is_frozen(toy: Toy) -> None:
    """Weight decay and moments included: whatever the optimiser does, it does to the towers."""
    ranker = toy.ranker("dupn", frozen=True)
    before = {name: tensor.clone() for name, tensor in ranker.state_dict().items()}
    optimizer = Optimizer(ranker, OptimConfig(lr=0.1, weight_decay=0.1, table_weight_decay=0.1, clip_norm=1.0), 3)
    for seed in range(3):
        optimizer.zero_grad()
        torch.stack(list(ranker.losses(toy.batch(48, seed), LOSS).values())).sum().backward()
        optimizer.step()
    moved = {name for name, tensor in ranker.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {name.split(".")[0] for name in moved} == {"towers"}
    assert all(f"towers.{task.name}.output.weight" in moved for task in toy.tasks)
    assert not optimizer.tables


@pytest.mark.parametrize("balance", ["gradnorm", "pcgrad", "uncertainty"])
def test_balances_manage_without_a_shared_layer(toy: Toy, balance: str) -> None:
    ranker = toy.ranker("dupn", frozen=True)
    balancer = build_balance(BalanceConfig(kind=balance), toy.tasks)
    balancer.backward(ranker.losses(toy.batch(48), LOSS), ranker)
    assert all(p.grad is None for name, p in ranker.named_parameters() if not name.startswith("towers"))
    assert any(p.grad is not None for name, p in ranker.named_parameters() if name.startswith("towers"))


def test_history_order_and_properties_matter(toy: Toy) -> None:
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
def test_what_would_mix_user_and_item_is_refused(toy: Toy, keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        toy.ranker("dupn", **keys)


def attention(ranker: Any, block: Block) -> Tensor:
    """Weights of the events in the user vectors of some requests, [Q, L], caught on the way."""
    encoder = ranker.inputs.encoder.query.encoders["history"]
    caught: list[Tensor] = []
    softmax = recurrent.masked_softmax

    def catching(scores: Tensor, lengths: Tensor) -> Tensor:
        caught.append(softmax(scores, lengths))
        return caught[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recurrent, "masked_softmax", catching)
        ranker.inputs.encoder.query(block)
    assert len(caught) == 1, encoder
    return caught[0]


def described_otherwise(block: Block) -> dict[str, Block]:
    """The block with one column changed: what stands beside the history."""
    changed = {}
    for column, name in enumerate(Toy.layout.query.categorical):
        rows = block.categorical.clone()
        rows[:, column] = rows[:, column] % (Toy.layout.sizes[name] - 1) + 1
        changed[name] = replace(block, categorical=rows)
    for column, name in enumerate(Toy.layout.query.numeric):
        numbers = block.numeric.clone()
        numbers[:, column] = torch.nan_to_num(numbers[:, column]) + 1.0
        changed[name] = replace(block, numeric=numbers)
    return changed


def test_every_feature_of_user_and_moment_moves_the_attention(toy: Toy) -> None:
    block = toy.query(5).select(torch.tensor([4]))  # a history of four events
    ranker = toy.ranker("dupn").eval()
    for parameter in ranker.inputs.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    before = attention(ranker, block)
    assert before.sum().item() == pytest.approx(1.0)
    changed = described_otherwise(block)
    assert set(changed) == {"user", "tab", "age", "activity"}
    for name, other in changed.items():
        assert (attention(ranker, other) - before).abs().max() > 1e-4, name


def test_told_to_the_attention_sees_the_history_alone(toy: Toy) -> None:
    block = toy.query(5)
    ranker = toy.ranker("dupn", input={"history": {"user_in_attention": False}}).eval()
    before = attention(ranker, block)
    for other in described_otherwise(block).values():
        assert torch.equal(attention(ranker, other), before)


def test_a_request_has_one_user_vector_for_all_candidates_and_tasks(toy: Toy) -> None:
    """The encoder meets each request once, however many candidates and tasks it has."""
    ranker = toy.ranker("dupn").eval()
    batch = toy.requests(candidates=7, queries=2)
    met: list[int] = []
    layer = ranker.inputs.encoder.query.encoders["history"].layers[0]
    layer.register_forward_hook(lambda module, given, out: met.append(len(given[0])))
    logits = ranker(batch)
    assert set(logits) == {task.name for task in toy.tasks}
    assert met == [2]
