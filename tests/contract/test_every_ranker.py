"""What every ranker in the registry promises; a new file in ranking/models is tested here without being named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from recsys.base.errors import ConfigError
from recsys.data.batch import Batch
from recsys.data.schema import TaskSpec
from recsys.ranking.ranker import RankerConfig, ranker_class
from recsys.tests.support.nonempty import nonempty
from recsys.tests.support.rankers import (
    KINDS,
    LOSS,
    every_kind,
    every_network,
    every_variant,
    gradient,
    optimisers,
    step,
    total,
)
from recsys.tests.support.toy import Toy


def test_the_registry_finds_the_models_of_the_project() -> None:
    wanted = {
        "single_task",
        "shared_bottom",
        "esmm",
        "escm2",
        "moe",
        "mmoe",
        "cgc",
        "ple",
        "aitm",
        "stem",
        "home",
        "meituan",
        "dupn",
    }
    assert wanted <= set(KINDS)


@every_kind
def test_a_ranker_explains_itself(kind: str) -> None:
    ranker = ranker_class(kind)
    assert ranker.summary
    assert ranker.paper
    assert ranker.Config.model_fields["kind"].default == kind
    undocumented = [name for name, field in ranker.Config.model_fields.items() if not field.description]
    assert not undocumented


@every_variant
def test_one_finite_logit_per_row_and_task(toy: Toy, kind: str, keys: dict[str, Any]) -> None:
    out = toy.ranker(kind, **keys)(toy.batch(20))
    assert list(out) == [task.name for task in toy.tasks]
    for logit in out.values():
        assert logit.shape == (20,)
        assert torch.isfinite(logit).all()


@every_variant
@pytest.mark.parametrize("training", [False, True])
def test_a_row_alone_equals_the_row_in_a_batch(toy: Toy, kind: str, keys: dict[str, Any], training: bool) -> None:
    ranker, batch = toy.ranker(kind, **keys).train(training), toy.batch(16)
    together = ranker(batch)
    for row in (0, 7, 15):
        for task, alone in nonempty(ranker(batch.select(torch.tensor([row]))).items()):
            torch.testing.assert_close(alone, together[task][row : row + 1], rtol=1e-5, atol=1e-5)


@every_variant
def test_permuting_rows_permutes_logits(toy: Toy, kind: str, keys: dict[str, Any]) -> None:
    ranker, batch = toy.ranker(kind, **keys), toy.batch(24)
    order = torch.randperm(24)
    shuffled, plain = ranker(batch.select(order)), ranker(batch)
    for task in nonempty(plain):
        torch.testing.assert_close(shuffled[task], plain[task][order], rtol=1e-5, atol=1e-5)


@every_variant
@pytest.mark.parametrize("queries", [1, 3])
def test_the_user_side_once_equals_repeating_it(toy: Toy, kind: str, keys: dict[str, Any], queries: int) -> None:
    ranker = toy.ranker(kind, **keys)
    batch = toy.requests(candidates=7, queries=queries, seed=3)
    once, repeated = ranker(batch), ranker(toy.spread(batch))
    for task in nonempty(once):
        assert once[task].shape == (7 * queries,)
        torch.testing.assert_close(once[task], repeated[task], rtol=1e-5, atol=1e-5)


@every_variant
def test_labels_outside_the_sample_space_never_matter(toy: Toy, kind: str, keys: dict[str, Any]) -> None:
    batch = toy.batch(24)
    assert torch.isnan(batch.labels[~batch.mask]).all()
    found = []
    for filler in (torch.nan, 0.0, 1.0):
        ranker = toy.ranker(kind, **keys)
        labels = torch.where(batch.mask, batch.labels, filler)
        loss = total(
            ranker,
            Batch(query=batch.query, item=batch.item, owner=None, labels=labels, mask=batch.mask, weight=batch.weight),
        )
        loss.backward()
        found.append([loss.detach().reshape(1), *(gradient(parameter).flatten() for parameter in ranker.parameters())])
    assert torch.isfinite(torch.cat(found[0])).all()
    for other in found[1:]:
        torch.testing.assert_close(torch.cat(found[0]), torch.cat(other))


@every_kind
def test_a_task_without_rows_costs_nothing(toy: Toy, kind: str) -> None:
    ranker, batch = toy.ranker(kind), toy.batch(16)
    mask = batch.mask.clone()
    mask[:, 2] = False
    losses = ranker.losses(
        Batch(query=batch.query, item=batch.item, owner=None, labels=batch.labels, mask=mask, weight=batch.weight), LOSS
    )
    assert float(losses["loss/watch"].detach()) == 0.0
    losses["loss/watch"].backward()
    for parameter in ranker.parameters():
        assert not gradient(parameter).any()


@every_variant
def test_saved_and_loaded_weights_give_the_same_logits(
    toy: Toy, kind: str, keys: dict[str, Any], tmp_path: Path
) -> None:
    first, second = toy.ranker(kind, seed=0, **keys), toy.ranker(kind, seed=1, **keys)
    batch = toy.batch(16)
    assert any(not torch.equal(first(batch)[task], second(batch)[task]) for task in ("click", "watch"))
    save_file(first.state_dict(), tmp_path / "ranker.safetensors")
    second.load_state_dict(load_file(tmp_path / "ranker.safetensors"))
    for task, logit in first(batch).items():
        assert torch.equal(logit, second(batch)[task])


@every_kind
def test_a_seed_fixes_the_weights_and_leaves_the_generator_alone(toy: Toy, kind: str) -> None:
    before = torch.random.get_rng_state()
    first, again, other = toy.ranker(kind, seed=5), toy.ranker(kind, seed=5), toy.ranker(kind, seed=6)
    assert torch.equal(torch.random.get_rng_state(), before)
    pairs = list(zip(first.parameters(), again.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


@pytest.mark.learns
@every_kind
def test_it_can_learn_64_random_rows_by_heart(toy: Toy, kind: str) -> None:
    tasks = toy.tasks[:2]
    ranker, batch = toy.ranker(kind, tasks=tasks, seed=1), toy.batch(64)
    # rows that look alike cannot be told apart, so each gets a vector of its own
    batch = Batch(query=batch.query, item=batch.item, owner=None, labels=batch.labels[:, :2], mask=batch.mask[:, :2])
    optimiser, last = optimisers(ranker, 0.01), float("inf")
    for _ in range(500):
        losses = ranker.losses(batch, LOSS)
        last = max(float(losses[f"loss/{task.name}"].detach()) for task in tasks)
        if last < 0.05:
            break
        step(torch.stack(list(losses.values())).sum(), optimiser)
    assert last < 0.05


@every_kind
def test_the_first_loss_is_that_of_a_coin(toy: Toy, kind: str) -> None:
    """Logits near 0: a probability handed over as a logit would start at 0.97 or more for negatives."""
    ranker = toy.ranker(kind, input={"init_std": 0.01})
    batch = toy.batch(256)
    blank = Batch(
        query=batch.query.__class__(batch.query.categorical, batch.query.numeric * 0.1, (), batch.query.sequences, ()),
        item=batch.item.__class__(
            batch.item.categorical, batch.item.numeric * 0.1, batch.item.bags, (), (batch.item.vectors[0] * 0.1,)
        ),
    )
    out = ranker(blank)
    for task in ("click", "conversion"):
        labels = torch.arange(256) % 2
        loss = nn.functional.binary_cross_entropy_with_logits(out[task], labels.float())
        assert 0.6 < float(loss.detach()) < 0.8
        assert out[task].detach().min() < 0 < out[task].detach().max() or out[task].detach().abs().max() < 0.2


@every_network
def test_it_is_no_affine_function(toy: Toy, kind: str) -> None:
    ranker, batch = toy.ranker(kind), toy.batch(32)

    def at(factor: float) -> Tensor:
        item = batch.item.__class__(
            batch.item.categorical, batch.item.numeric, batch.item.bags, (), (batch.item.vectors[0] * factor,)
        )
        out = ranker(Batch(query=batch.query, item=item))
        return torch.stack(list(out.values()))

    bend = (at(4.0) - at(0.0)) - 4 * (at(1.0) - at(0.0))
    assert bend.abs().amax(1).min() > 1e-3


@every_kind
def test_the_scale_of_the_weights_and_a_batch_twice_leave_the_loss(toy: Toy, kind: str) -> None:
    ranker, batch = toy.ranker(kind), toy.batch(16)
    plain = ranker.losses(batch, LOSS)
    heavy = ranker.losses(
        Batch(
            query=batch.query,
            item=batch.item,
            owner=None,
            labels=batch.labels,
            mask=batch.mask,
            weight=batch.weight * 7,
        ),
        LOSS,
    )
    twice = ranker.losses(batch.select(torch.arange(16).repeat(2)), LOSS)
    for name, loss in nonempty(plain.items()):
        torch.testing.assert_close(heavy[name], loss, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(twice[name], loss, rtol=1e-5, atol=1e-6)


@every_kind
def test_names_that_cannot_work_are_refused(toy: Toy, kind: str) -> None:
    with pytest.raises(ConfigError, match="towers names"):
        toy.ranker(kind, towers={"nobody": (3,)})
    tasks = [TaskSpec(name="click"), TaskSpec(name="conversion", where="click"), TaskSpec(name="keys")]
    with pytest.raises(ConfigError, match="keys"):
        toy.ranker(kind, tasks=tasks)


def test_an_unknown_kind_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="mmoe, moe, ple"):
        ranker_class("mmoee")


@every_kind
def test_a_configuration_survives_a_round_trip(toy: Toy, kind: str) -> None:
    config: RankerConfig = toy.config(kind)
    assert type(config).model_validate(config.model_dump(mode="json")) == config
