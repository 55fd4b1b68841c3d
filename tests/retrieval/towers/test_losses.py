"""The losses do what their formulas say, and the corrections have the right sign where the truth is known."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from recsys.retrieval.towers import full_softmax
from recsys.retrieval.towers.losses import (
    NegativeColumns,
    bce_loss,
    full_softmax_loss,
    in_batch_softmax_loss,
    mixed_negative_softmax_loss,
    sampled_softmax_loss,
)
from recsys.tests.support.formulas import grads, vectors
from recsys.tests.support.nonempty import nonempty

P, N, D = 23, 17, 5


@pytest.fixture(params=[4, 512], ids=["many blocks", "one block"])
def _blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(full_softmax, "BLOCK_ROWS", request.param)


# --- full softmax --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_blocks")
def test_full_softmax_equals_the_dense_formula_in_value_and_every_gradient() -> None:
    user, items, bias = vectors(P, D), vectors(N, D), vectors(N)
    scale = torch.tensor(1.7, dtype=torch.float64, requires_grad=True)
    targets, weight = torch.arange(P) % N, torch.rand(P).double()
    weight[3] = 0.0
    ours = full_softmax_loss(user, items, targets, bias, weight, scale=scale)
    dense = F.cross_entropy(scale * user @ items.T + bias, targets, reduction="none") @ weight / weight.sum()
    torch.testing.assert_close(ours, dense)
    for a, b in zip(grads(3 * ours, user, items, bias, scale), grads(3 * dense, user, items, bias, scale), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("kind", ["full", "in_batch", "sampled"])
def test_several_interests_are_one_softmax_over_their_smooth_best(kind: str) -> None:
    """Value and gradients against the dense formula: score = log sum over m of exp(product with interest m)."""
    generator = torch.Generator().manual_seed(4)
    user = torch.randn(7, 3, 5, generator=generator, dtype=torch.float64)
    items = torch.randn(11, 5, generator=generator, dtype=torch.float64)
    ids = torch.randint(0, 11, (7,), generator=generator)
    weight = torch.rand(7, generator=generator, dtype=torch.float64)
    bias = torch.randn(11, generator=generator, dtype=torch.float64)
    columns = {"full": torch.arange(11), "in_batch": ids, "sampled": torch.arange(6, 11)}[kind]

    def ours(user: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        if kind == "full":
            return full_softmax_loss(user, items, ids, bias, weight, scale=1.7)
        if kind == "in_batch":
            return in_batch_softmax_loss(user, items[ids], ids, -bias[ids], 1.7, weight)
        return sampled_softmax_loss(
            user, items[ids], items[6:], 1.7, positive_ids=ids, negative_ids=columns, weight=weight
        )

    def dense(user: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        scores = torch.logsumexp(1.7 * user @ items[columns].T, 1)  # [P, columns]
        own = torch.logsumexp(1.7 * (user * items[ids][:, None]).sum(2), 1)
        if kind != "sampled":
            scores, own = scores + bias[columns], own + bias[ids]
        others = scores.masked_fill(columns == ids[:, None], -math.inf)
        losses = torch.logsumexp(torch.cat([own[:, None], others], 1), 1) - own
        return losses @ (weight / weight.sum())

    found = []
    for loss in (ours, dense):
        leaves = user.clone().requires_grad_(), items.clone().requires_grad_()
        value = loss(*leaves)
        found.append([value, *torch.autograd.grad(value, leaves)])
    for mine, expected in nonempty(zip(*found, strict=True)):
        torch.testing.assert_close(mine, expected, rtol=1e-6, atol=1e-8)


# --- in-batch ------------------------------------------------------------------------------------------------------

IDS = torch.arange(P) % 19  # rows 19 to 22 repeat the items of rows 0 to 3


def in_batch(log_q: Tensor | None, **more: object) -> Tensor:
    return in_batch_softmax_loss(vectors(P, D), vectors(P, D, seed=1), IDS, log_q, 2.0, **more)


def by_hand(user: Tensor, item: Tensor, ids: Tensor, log_q: Tensor, scale: float) -> Tensor:
    losses = []
    for i in range(len(user)):
        columns = [j for j in range(len(item)) if j == i or ids[j] != ids[i]]
        scores = torch.stack([scale * user[i] @ item[j] - log_q[j] for j in columns])
        losses.append(torch.logsumexp(scores, 0) - scores[columns.index(i)])
    return torch.stack(losses).mean()


@pytest.mark.usefixtures("_blocks")
def test_in_batch_equals_a_loop_over_rows_and_columns() -> None:
    user, item, log_q = vectors(P, D), vectors(P, D, seed=1), vectors(P, seed=2).detach()
    ours, loop = in_batch_softmax_loss(user, item, IDS, log_q, 2.0), by_hand(user, item, IDS, log_q, 2.0)
    torch.testing.assert_close(ours, loop)
    for a, b in zip(grads(ours, user, item), grads(loop, user, item), strict=True):
        torch.testing.assert_close(a, b)


def test_uniform_q_and_constants_change_nothing() -> None:
    log_q = vectors(P, seed=2).detach()
    plain = in_batch(None)
    torch.testing.assert_close(in_batch(torch.full((P,), -3.0).double()), plain)
    torch.testing.assert_close(in_batch(log_q + 5.0), in_batch(log_q))
    assert abs((in_batch(log_q) - plain).item()) > 1e-3  # while another q does change it


@pytest.mark.parametrize("correct_positive", [True, False])
def test_a_single_row_has_no_loss(correct_positive: bool) -> None:
    user, item = vectors(1, D), vectors(1, D, seed=1)
    one = in_batch_softmax_loss(
        user, item, torch.tensor([3]), torch.tensor([-2.0]), 9.0, correct_positive=correct_positive
    )
    assert one.item() == 0.0
    assert grads(one, item)[0].abs().max() == 0.0


def test_the_whole_catalogue_as_a_batch_is_the_full_softmax() -> None:
    user, item, targets = vectors(N, D), vectors(N, D, seed=1), torch.arange(N)
    ours = in_batch_softmax_loss(user, item, targets, torch.full((N,), -math.log(N)), 1.5)
    full = F.cross_entropy(1.5 * user @ item.T, targets)
    torch.testing.assert_close(ours, full)
    for a, b in zip(grads(ours, user, item), grads(full, user, item), strict=True):
        torch.testing.assert_close(a, b)


def test_the_order_of_rows_does_not_matter() -> None:
    order, log_q = torch.randperm(P), vectors(P, seed=2).detach()
    user, item = vectors(P, D), vectors(P, D, seed=1)
    shuffled = in_batch_softmax_loss(user[order], item[order], IDS[order], log_q[order], 2.0)
    torch.testing.assert_close(shuffled, in_batch(log_q))


def test_a_repeated_positive_is_no_negative_of_itself() -> None:
    user, item = vectors(3, D), vectors(3, D, seed=1).detach()
    item[2] = item[0]
    ids = torch.tensor([4, 9, 4])
    rows = [in_batch_softmax_loss(user, item, ids, None, 1.0, weight=w) for w in torch.eye(3)]
    pair = F.cross_entropy((user @ item[:2].T)[:1], torch.tensor([0]))  # row 0 against item 9 alone
    torch.testing.assert_close(rows[0], pair)
    unmasked = in_batch_softmax_loss(user, item, torch.arange(3), None, 1.0, weight=torch.eye(3)[0])
    assert unmasked > rows[0] + 1e-3


def test_weights_pick_rows_and_their_size_does_not_matter() -> None:
    weight = torch.rand(P).double()
    rows = torch.stack([in_batch(None, weight=w) for w in torch.eye(P)]).double()
    torch.testing.assert_close(in_batch(None, weight=weight), rows @ weight / weight.sum())
    torch.testing.assert_close(in_batch(None, weight=weight * 10), in_batch(None, weight=weight))


def test_memory_columns_are_negatives_like_any_other() -> None:
    user, item, log_q = vectors(P, D), vectors(P, D, seed=1), vectors(P, seed=2).detach()
    extra = NegativeColumns(vectors(6, D).detach(), torch.tensor([1, 50, 51, 52, 53, 0]), vectors(6).detach())
    ours = in_batch_softmax_loss(user, item, IDS, log_q, 2.0, memory=extra)
    columns, ids = torch.cat([item, extra.vectors]), torch.cat([IDS, extra.ids])
    torch.testing.assert_close(ours, by_hand(user, columns, ids, torch.cat([log_q, extra.log_q]), 2.0))


# --- where the truth is known --------------------------------------------------------------------------------------


def planted() -> tuple[Tensor, Tensor]:
    """True probability of each of 12 items given one of 6 kinds of user, and the items' share of all events.

    Popularity falls from item to item, by 40 in all; tastes differ besides.
    """
    generator = torch.Generator().manual_seed(11)
    logits = torch.linspace(3.7, 0.0, 12) + torch.randn(6, 12, generator=generator)
    truth = logits.softmax(1)
    return truth, truth.mean(0)


def trained(loss: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor], steps: int = 600) -> Tensor:
    """Serving scores `[6, 12]` after training free vectors on batches drawn from the truth."""
    truth, _ = planted()
    generator = torch.Generator().manual_seed(5)
    user = torch.randn(6, 16, generator=generator).mul_(0.1).requires_grad_()
    item = torch.randn(12, 16, generator=generator).mul_(0.1).requires_grad_()
    optimiser = torch.optim.Adam([user, item], lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        rows = torch.randint(6, (256,), generator=generator)
        ids = torch.multinomial(truth[rows], 1, generator=generator)[:, 0]
        optimiser.zero_grad()
        loss(user[rows], item[ids], ids, item).backward()
        optimiser.step()
        schedule.step()
    return (user @ item.T).detach()


def rank_agreement(scores: Tensor, truth: Tensor) -> float:
    """Share of item pairs of one user, clearly different in truth, that the scores order rightly."""
    gap = truth.log()[:, :, None] - truth.log()[:, None, :]
    clear = gap > 0.3
    return ((scores[:, :, None] > scores[:, None, :]) & clear).sum().item() / clear.sum().item()


@pytest.mark.learns
def test_the_correction_lifts_popular_items_and_recovers_the_true_order() -> None:
    truth, share = planted()

    def corrected(user: Tensor, item: Tensor, ids: Tensor, _: Tensor) -> Tensor:
        return in_batch_softmax_loss(user, item, ids, share[ids].log(), 1.0, reduced=False)

    def uncorrected(user: Tensor, item: Tensor, ids: Tensor, _: Tensor) -> Tensor:
        return in_batch_softmax_loss(user, item, ids, None, 1.0, reduced=False)

    def unbiased(user: Tensor, item: Tensor, ids: Tensor, _: Tensor) -> Tensor:
        return in_batch_softmax_loss(user, item, ids, share[ids].log(), 1.0, correct_positive=False, reduced=False)

    with_q, without, given = trained(corrected), trained(uncorrected), trained(unbiased)
    head = share.argsort(descending=True)[:3]

    def lift(scores: Tensor) -> float:
        return (scores[:, head].mean() - scores.mean()).item()

    assert lift(with_q) > lift(without) + 1.0
    assert rank_agreement(with_q, truth) > 0.95
    assert rank_agreement(given, truth) > 0.95
    assert rank_agreement(without, truth) < 0.85
    # Not the order alone: up to a constant per user, the scores are the log-probabilities.
    error = given - given.mean(1, keepdim=True) - (truth.log() - truth.log().mean(1, keepdim=True))
    assert error.abs().mean() < 0.2


@pytest.mark.learns
def test_mixed_negatives_recover_the_true_order() -> None:
    truth, share = planted()
    generator = torch.Generator().manual_seed(9)

    def mixed(user: Tensor, item: Tensor, ids: Tensor, catalogue: Tensor) -> Tensor:
        drawn = torch.randint(12, (128,), generator=generator)
        return mixed_negative_softmax_loss(
            user, item, ids, catalogue[drawn], drawn, share[ids], share[drawn], 12, 1.0, reduced=False
        )

    assert rank_agreement(trained(mixed), truth) > 0.95


@pytest.mark.parametrize("drawn", [0, 24])
def test_given_positives_estimate_the_full_softmax_without_bias(drawn: int) -> None:
    """Averaged over samples, exp(loss + own score) is the sum over the catalogue of exp(score)."""
    share = planted()[1]
    generator = torch.Generator().manual_seed(3)
    item, user = torch.randn(12, 4, generator=generator), torch.randn(1, 4, generator=generator)
    exact, own, batch, total, rounds = (user @ item.T).exp().sum().item(), 5, 16, 0.0, 1500
    first = torch.zeros(batch)
    first[0] = 1.0
    for _ in range(rounds):
        ids = torch.cat([torch.tensor([own]), torch.multinomial(share, batch - 1, True, generator=generator)])
        negatives = torch.randint(12, (drawn,), generator=generator)
        loss = mixed_negative_softmax_loss(
            user.expand(batch, -1),
            item[ids],
            ids,
            item[negatives],
            negatives,
            share[ids],
            share[negatives],
            12,
            1.0,
            first,
            correct_positive=False,
            reduced=False,
        )
        total += math.exp(loss.item() + (user[0] @ item[own]).item())
    assert total / rounds == pytest.approx(exact, rel=0.03)


def test_mixture_correction_by_hand() -> None:
    user, item, negatives = vectors(2, D), vectors(2, D, seed=1), vectors(3, D)
    frequency, other = torch.tensor([0.5, 0.1]).double(), torch.tensor([0.0, 0.2, 0.3]).double()
    ours = mixed_negative_softmax_loss(
        user, item, torch.tensor([0, 1]), negatives, torch.tensor([2, 3, 0]), frequency, other, 10, 2.0
    )
    q = (2 * torch.cat([frequency, other]) + 3 / 10) / 5
    logits = 2.0 * user @ torch.cat([item, negatives]).T - q.log()
    first = torch.logsumexp(logits[0, :4], 0) - logits[0, 0]  # the last column is row 0's own item
    second = torch.logsumexp(logits[1], 0) - logits[1, 1]
    torch.testing.assert_close(ours, (first + second) / 2)


# --- the others ----------------------------------------------------------------------------------------------------


def test_sampled_softmax_with_shared_and_own_negatives_agree_with_cross_entropy() -> None:
    user, positive, shared = vectors(P, D), vectors(P, D, seed=1), vectors(4, D)
    scores = torch.cat([(user * positive).sum(1, keepdim=True), user @ shared.T], 1) * 3.0
    expected = F.cross_entropy(scores, torch.zeros(P, dtype=torch.int64))
    own = shared.expand(P, 4, D)
    for negatives in (shared, own):
        loss = sampled_softmax_loss(user, positive, negatives, 3.0)
        torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    q, log_q = vectors(P, seed=3).detach(), vectors(4, seed=3).detach()
    corrected = sampled_softmax_loss(user, positive, shared, 3.0, q, log_q)
    expected = F.cross_entropy(scores - torch.cat([q[:, None], log_q.expand(P, 4)], 1), torch.zeros(P).long())
    torch.testing.assert_close(corrected.double(), expected, rtol=1e-5, atol=1e-6)
    ids, hit = torch.arange(P), torch.tensor([0, 90, 91, 92])
    masked = sampled_softmax_loss(user[:1], positive[:1], shared, 0.3, positive_ids=ids[:1], negative_ids=hit)
    expected = F.cross_entropy(scores[:1, [0, 2, 3, 4]] / 10, torch.zeros(1).long())
    torch.testing.assert_close(masked.double(), expected, rtol=1e-5, atol=1e-6)


def test_bce_needs_its_scale_to_fit_unit_vectors() -> None:
    user = F.normalize(vectors(2, D), dim=1).detach()
    item, labels = torch.stack([user[0], -user[1]]), torch.tensor([1, 0])
    assert bce_loss(user, item, labels, 1.0).item() == pytest.approx(math.log1p(math.exp(-1)))
    assert bce_loss(user, item, labels, 20.0).item() < 1e-6
    loss = bce_loss(user, item, labels, 2.0, 0.5, torch.tensor([0.0, 1.0]))
    assert loss.item() == pytest.approx(math.log1p(math.exp(-2 + 0.5)))
