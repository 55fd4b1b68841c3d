"""What every ranker promises: its outputs row by row, its losses, its weights and their gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..base.errors import ConfigError
from ..data.batch import Batch
from ..data.schema import TaskSpec
from ..ranking.balance import BalanceConfig, balance_kinds, build_balance
from ..ranking.layers import Experts
from ..ranking.losses import LossConfig
from ..ranking.ranker import Ranker, RankerConfig, ranker_class
from ..training.runtime import Runtime
from .contract import Contract
from .toy import Toy

LOSS = LossConfig()


def gradient(parameter: nn.Parameter) -> Tensor:
    """Dense gradient; zeros without one."""
    if parameter.grad is None:
        return torch.zeros_like(parameter)
    return parameter.grad.to_dense() if parameter.grad.is_sparse else parameter.grad


def total(ranker: Ranker, batch: Batch) -> Tensor:
    """Sum of all losses of a batch."""
    return torch.stack(list(ranker.losses(batch, LOSS).values())).sum()


def optimisers(ranker: Ranker, lr: float) -> list[torch.optim.Optimizer]:
    """Adam for the dense part, its row-sparse form for the tables."""
    tables = [table.weight for table in ranker.tables()]
    held = {id(weight) for weight in tables}
    dense = [parameter for parameter in ranker.parameters() if id(parameter) not in held]
    return [torch.optim.Adam(dense, lr=lr), torch.optim.SparseAdam(tables, lr=lr)]


def step(loss: Tensor, optimisers: list[torch.optim.Optimizer]) -> None:
    """One step down the gradient of a loss."""
    for optimiser in optimisers:
        optimiser.zero_grad()
    loss.backward()
    for optimiser in optimisers:
        optimiser.step()


def has_experts(kind: str) -> bool:
    """Whether a ranker's configuration sizes experts."""
    return "expert_hidden" in ranker_class(kind).Config.model_fields


class RankerContract(Contract):
    """Every ranker, each with several tables of keys of its `Config`.

    A ranker with experts has the key `expert_hidden`, holds them as `Experts` and tells its gates (`gate_weights`).
    """

    linear: ClassVar[frozenset[str]] = frozenset()
    """Rankers that are no more than a linear model, from which no bend and no tower is asked."""

    def groups(self) -> Mapping[str, Sequence[str]]:
        """Networks and those with experts besides."""
        networks = [kind for kind in self.cases if kind not in self.linear]
        return {**super().groups(), "network": networks}

    def test_a_ranker_explains_itself(self, kind: str) -> None:
        ranker = ranker_class(kind)
        assert ranker.summary
        assert ranker.paper
        assert ranker.Config.model_fields["kind"].default == kind
        undocumented = [name for name, field in ranker.Config.model_fields.items() if not field.description]
        assert not undocumented

    def test_one_finite_logit_per_row_and_task(self, toy: Toy, kind: str, keys: dict[str, Any]) -> None:
        out = toy.ranker(kind, **keys)(toy.batch(20))
        assert list(out) == [task.name for task in toy.tasks]
        for logit in out.values():
            assert logit.shape == (20,)
            assert torch.isfinite(logit).all()

    @pytest.mark.parametrize("training", [False, True])
    def test_a_row_alone_equals_the_row_in_a_batch(
        self, toy: Toy, kind: str, keys: dict[str, Any], training: bool
    ) -> None:
        ranker, batch = toy.ranker(kind, **keys).train(training), toy.batch(16)
        together = ranker(batch)
        for row in (0, 7, 15):
            for task, alone in ranker(batch.select(torch.tensor([row]))).items():
                torch.testing.assert_close(alone, together[task][row : row + 1], rtol=1e-5, atol=1e-5)

    def test_permuting_rows_permutes_logits(self, toy: Toy, kind: str, keys: dict[str, Any]) -> None:
        ranker, batch = toy.ranker(kind, **keys), toy.batch(24)
        order = torch.randperm(24)
        shuffled, plain = ranker(batch.select(order)), ranker(batch)
        for task in plain:
            torch.testing.assert_close(shuffled[task], plain[task][order], rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("queries", [1, 3])
    def test_the_user_side_once_equals_repeating_it(
        self, toy: Toy, kind: str, keys: dict[str, Any], queries: int
    ) -> None:
        ranker = toy.ranker(kind, **keys)
        batch = toy.requests(candidates=7, queries=queries, seed=3)
        once, repeated = ranker(batch), ranker(toy.spread(batch))
        for task in once:
            assert once[task].shape == (7 * queries,)
            torch.testing.assert_close(once[task], repeated[task], rtol=1e-5, atol=1e-5)

    def test_labels_outside_the_sample_space_never_matter(self, toy: Toy, kind: str, keys: dict[str, Any]) -> None:
        batch = toy.batch(24)
        assert torch.isnan(batch.labels[~batch.mask]).all()
        found = []
        for filler in (torch.nan, 0.0, 1.0):
            ranker = toy.ranker(kind, **keys)
            labels = torch.where(batch.mask, batch.labels, filler)
            loss = total(
                ranker,
                Batch(
                    query=batch.query, item=batch.item, owner=None, labels=labels, mask=batch.mask, weight=batch.weight
                ),
            )
            loss.backward()
            found.append(
                [loss.detach().reshape(1), *(gradient(parameter).flatten() for parameter in ranker.parameters())]
            )
        assert torch.isfinite(torch.cat(found[0])).all()
        for other in found[1:]:
            torch.testing.assert_close(torch.cat(found[0]), torch.cat(other))

    def test_a_task_without_rows_costs_nothing(self, toy: Toy, kind: str) -> None:
        ranker, batch = toy.ranker(kind), toy.batch(16)
        mask = batch.mask.clone()
        mask[:, 2] = False
        losses = ranker.losses(
            Batch(query=batch.query, item=batch.item, owner=None, labels=batch.labels, mask=mask, weight=batch.weight),
            LOSS,
        )
        assert float(losses["loss/watch"].detach()) == 0.0
        losses["loss/watch"].backward()
        for parameter in ranker.parameters():
            assert not gradient(parameter).any()

    def test_saved_and_loaded_weights_give_the_same_logits(
        self, toy: Toy, kind: str, keys: dict[str, Any], tmp_path: Path
    ) -> None:
        first, second = toy.ranker(kind, seed=0, **keys), toy.ranker(kind, seed=1, **keys)
        batch = toy.batch(16)
        assert any(not torch.equal(first(batch)[task], second(batch)[task]) for task in ("click", "watch"))
        save_file(first.state_dict(), tmp_path / "ranker.safetensors")
        second.load_state_dict(load_file(tmp_path / "ranker.safetensors"))
        for task, logit in first(batch).items():
            assert torch.equal(logit, second(batch)[task])

    def test_a_seed_fixes_the_weights_and_leaves_the_generator_alone(self, toy: Toy, kind: str) -> None:
        before = torch.random.get_rng_state()
        first, again, other = toy.ranker(kind, seed=5), toy.ranker(kind, seed=5), toy.ranker(kind, seed=6)
        assert torch.equal(torch.random.get_rng_state(), before)
        pairs = list(zip(first.parameters(), again.parameters(), strict=True))
        assert all(torch.equal(a, b) for a, b in pairs)
        assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))

    def test_it_can_learn_64_random_rows_by_heart(self, toy: Toy, kind: str) -> None:
        tasks = toy.tasks[:2]
        ranker, batch = toy.ranker(kind, tasks=tasks, seed=1), toy.batch(64)
        # rows that look alike cannot be told apart, so each gets a vector of its own
        batch = Batch(
            query=batch.query, item=batch.item, owner=None, labels=batch.labels[:, :2], mask=batch.mask[:, :2]
        )
        optimiser, last = optimisers(ranker, 0.02), float("inf")
        for _ in range(500):
            losses = ranker.losses(batch, LOSS)
            last = max(float(losses[f"loss/{task.name}"].detach()) for task in tasks)
            if last < 0.05:
                break
            step(torch.stack(list(losses.values())).sum(), optimiser)
        assert last < 0.05

    def test_the_first_loss_is_that_of_a_coin(self, toy: Toy, kind: str) -> None:
        """Logits near 0: a probability handed over as a logit would start at 0.97 or more for negatives."""
        ranker = toy.ranker(kind, input={"init_std": 0.01})
        batch = toy.batch(256)
        blank = Batch(
            query=batch.query.__class__(
                batch.query.categorical, batch.query.numeric * 0.1, (), batch.query.sequences, ()
            ),
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

    def test_it_is_no_affine_function(self, toy: Toy, network: str) -> None:
        ranker, batch = toy.ranker(network), toy.batch(32)

        def at(factor: float) -> Tensor:
            item = batch.item.__class__(
                batch.item.categorical, batch.item.numeric, batch.item.bags, (), (batch.item.vectors[0] * factor,)
            )
            out = ranker(Batch(query=batch.query, item=item))
            return torch.stack(list(out.values()))

        bend = (at(4.0) - at(0.0)) - 4 * (at(1.0) - at(0.0))
        assert bend.abs().amax(1).min() > 1e-3

    def test_the_scale_of_the_weights_and_a_batch_twice_leave_the_loss(self, toy: Toy, kind: str) -> None:
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
        for name, loss in plain.items():
            torch.testing.assert_close(heavy[name], loss, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(twice[name], loss, rtol=1e-5, atol=1e-6)

    def test_names_that_cannot_work_are_refused(self, toy: Toy, kind: str) -> None:
        with pytest.raises(ConfigError, match="towers names"):
            toy.ranker(kind, towers={"nobody": (3,)})
        tasks = [TaskSpec(name="click"), TaskSpec(name="conversion", where="click"), TaskSpec(name="keys")]
        with pytest.raises(ConfigError, match="keys"):
            toy.ranker(kind, tasks=tasks)

    def test_a_configuration_survives_a_round_trip(self, toy: Toy, kind: str) -> None:
        config: RankerConfig = toy.config(kind)
        assert type(config).model_validate(config.model_dump(mode="json")) == config

    def test_every_parameter_gets_a_gradient(self, toy: Toy, kind: str, keys: dict[str, Any]) -> None:
        ranker = toy.ranker(kind, **keys)
        reached: dict[str, bool] = {}
        for seed in range(6):
            ranker.zero_grad()
            total(ranker, toy.batch(64, seed)).backward()
            for name, parameter in ranker.named_parameters():
                reached[name] = reached.get(name, False) or bool(gradient(parameter).any())
        assert [name for name, found in reached.items() if not found] == []

    def test_it_has_experts_if_its_keys_size_them_and_each_gets_a_gradient(self, toy: Toy, kind: str) -> None:
        ranker = toy.ranker(kind)
        total(ranker, toy.batch(128)).backward()
        experts = {name: module for name, module in ranker.named_modules() if isinstance(module, Experts)}
        assert (sum(module.num_experts for module in experts.values()) > 1) == has_experts(kind)
        for name, module in experts.items():
            for weight in (module.weight, *module.deep_weight):
                assert gradient(weight).view(module.num_experts, -1).any(1).all(), name

    def test_bfloat16_arithmetic_is_close_and_its_gradients_are_float32(self, toy: Toy, kind: str) -> None:
        ranker, batch = toy.ranker(kind), toy.batch(64)
        exact = ranker.losses(batch, LOSS)
        with Runtime(1, "bf16").arithmetic():
            rounded = ranker.losses(batch, LOSS)
            torch.stack(list(rounded.values())).sum().backward()
        for name, value in rounded.items():
            assert value.dtype == torch.float32
            torch.testing.assert_close(value, exact[name], rtol=0.01, atol=0.01)
        assert any(not torch.equal(rounded[name], value) for name, value in exact.items())
        assert {gradient(parameter).dtype for parameter in ranker.parameters()} == {torch.float32}

    def test_no_parameter_is_used_under_two_names(self, toy: Toy, kind: str, keys: dict[str, Any]) -> None:
        ranker = toy.ranker(kind, **keys)
        places = [parameter.data_ptr() for _, parameter in ranker.named_parameters(remove_duplicate=False)]
        assert len(places) == len(set(places))

    def test_weights_differ_from_neuron_to_neuron(self, toy: Toy, kind: str, keys: dict[str, Any]) -> None:
        """Constant initialisation leaves a layer with one neuron's worth of width, for ever."""
        ranker = toy.ranker(kind, **keys)
        for _ in range(2):
            for name, parameter in ranker.named_parameters():
                if parameter.dim() < 2:
                    continue
                rows = parameter.detach().flatten(0, -2)
                if "table" not in name and parameter.shape[-1] > 1:
                    assert len(torch.unique(rows, dim=0)) == len(rows), name
            step(total(ranker, toy.batch(32)), optimisers(ranker, 0.01))

    def test_every_tensor_of_the_model_follows_a_move(self, toy: Toy, kind: str) -> None:
        """A tensor that is neither parameter nor buffer stays behind; on the meta device that is an error."""
        ranker = toy.ranker(kind).to("meta")
        out = ranker(toy.batch(8).to("meta"))
        assert all(logit.device.type == "meta" for logit in out.values())

    def test_base_rates_are_where_training_starts(self, toy: Toy, kind: str) -> None:
        ranker, batch = toy.ranker(kind, input={"init_std": 0.01}), toy.batch(64)
        before = ranker(batch)
        ranker.set_base_rates({"click": 0.01, "conversion": 0.9, "watch": 2.5})
        after = ranker(batch)
        for task, shift in (("click", torch.logit(torch.tensor(0.01))), ("conversion", torch.logit(torch.tensor(0.9)))):
            torch.testing.assert_close(after[task] - before[task], shift.expand(64), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(after["watch"] - before["watch"], torch.full((64,), 2.5), rtol=1e-4, atol=1e-4)
        ranker.set_base_rates({"click": 0.0, "conversion": float("nan")})  # unusable rates change nothing
        torch.testing.assert_close(ranker(batch)["click"], after["click"])

    @pytest.mark.parametrize("balance", list(balance_kinds()))
    def test_every_balance_moves_every_ranker(self, toy: Toy, kind: str, balance: str) -> None:
        ranker, batch = toy.ranker(kind), toy.batch(48)
        balancer = build_balance(BalanceConfig(kind=balance), toy.tasks)
        balancer.begin_epoch(0)
        value = balancer.backward(ranker.losses(batch, LOSS), ranker)
        assert torch.isfinite(value)
        assert not value.requires_grad
        silent = [name for name, parameter in ranker.named_parameters() if not gradient(parameter).any()]
        assert len(silent) < len(list(ranker.parameters())) / 4  # a dead neuron or two, not a layer of the model
        assert all(torch.isfinite(gradient(parameter)).all() for parameter in ranker.parameters())

    def test_gate_weights_are_a_distribution_in_every_row(self, toy: Toy, kind: str, keys: dict[str, Any]) -> None:
        gates = toy.ranker(kind, **keys).gate_weights(toy.batch(16))
        assert bool(gates) == has_experts(kind)
        for name, weights in gates.items():
            assert weights.shape[0] == 16, name
            assert weights.shape[1] > 1, name
            assert (weights >= 0).all(), name
            torch.testing.assert_close(weights.sum(1), torch.ones(16), rtol=0, atol=1e-6)

    def test_each_task_has_the_tower_widths_it_was_given(self, toy: Toy, network: str) -> None:
        def widths(**towers: tuple[int, ...]) -> list[int]:
            ranker = toy.ranker(network, towers=towers, tower_hidden=(13,))
            return [module.out_features for module in ranker.modules() if isinstance(module, nn.Linear)]

        everywhere, one_differs = widths(), widths(watch=(11, 13))
        assert 11 not in everywhere
        assert one_differs.count(11) == 1
        assert widths(click=(11, 13), watch=(11, 13)).count(11) == 2

    def test_padding_rows_get_no_gradient_that_moves_anything(self, toy: Toy, kind: str) -> None:
        """Row 0 of each vocabulary is zero before and after training on histories and bags that are not full."""
        ranker, batch = toy.ranker(kind), toy.batch(32)
        assert (batch.query.sequences[0] == 0).any()
        assert (batch.item.bags[0] == 0).any()
        tables = list(ranker.tables())
        before = [table.weight.detach().clone() for table in tables]
        optimiser = optimisers(ranker, 0.01)
        for _ in range(3):
            step(total(ranker, batch), optimiser)
        assert len(tables) > 0
        for table, weight in zip(tables, before, strict=True):
            assert len(table.pad_rows) == len(table.sizes)
            assert not table.weight[table.pad_rows].any()
            assert not torch.equal(table.weight, weight)
