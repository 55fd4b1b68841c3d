"""The softmax over many columns in blocks: exact where it claims to be, rounded where asked, small in memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from recsys.retrieval.towers import full_softmax
from recsys.retrieval.towers.full_softmax import estimated_softmax_loss, full_softmax_loss
from recsys.retrieval.towers.negatives import InclusionSample
from recsys.tests.support.formulas import grads, vectors

P, N, D = 23, 17, 5


def test_full_softmax_passes_a_numerical_gradient_check() -> None:
    targets, ids = torch.tensor([1, 0, 4, 4, 2, 3]), torch.tensor([7, 8, 9, 7, 5])
    shift = vectors(6, seed=1).detach()

    def loss(user: Tensor, items: Tensor, bias: Tensor) -> Tensor:
        return full_softmax_loss(user, items, targets, bias, target_shift=shift, column_ids=ids)

    assert torch.autograd.gradcheck(loss, (vectors(6, 3), vectors(5, 3), vectors(5)))


def test_exact_float32_and_reduced_products_are_as_close_as_they_claim() -> None:
    user, items = vectors(700, 32).float(), vectors(300, 32, seed=1).float()
    targets = torch.arange(700) % 300
    value = F.cross_entropy(user @ items.T, targets)
    dense = grads(value, user, items)
    for reduced, least, most in ((False, 0.0, 1e-5), (True, 1e-4, 1e-2), (None, 0.0, 1e-2)):
        ours = full_softmax_loss(user, items, targets, reduced=reduced)
        assert abs((ours - value).item()) < most
        for a, b in zip(grads(ours, user, items), dense, strict=True):
            # no rounding where one is asked for would be float32 under another name
            assert least * b.norm() < (a - b).norm() < most * b.norm()


@pytest.mark.parametrize("options", [{}, {"bias": True}, {"column_ids": True}, {"target_shift": True}])
def test_rounded_products_serve_every_form_of_the_loss(options: dict[str, bool]) -> None:
    user, items = vectors(60, 8).float(), vectors(40, 8, seed=1).float()
    given = {
        "bias": vectors(40).float(),
        "column_ids": torch.arange(40) % 37,
        "target_shift": vectors(60, seed=2).float().detach(),
    }
    chosen = {name: given[name] for name in options}
    wanted = [user, items, *([chosen["bias"]] if "bias" in chosen else [])]
    losses = [
        full_softmax_loss(user, items, torch.arange(60) % 37, reduced=reduced, **chosen) for reduced in (False, True)
    ]
    assert abs((losses[0] - losses[1]).item()) < 1e-2
    for exact, rounded in zip(grads(losses[0], *wanted), grads(losses[1], *wanted), strict=True):
        assert rounded.dtype == torch.float32
        assert (rounded - exact).norm() < 1e-2 * exact.norm()


def test_a_learned_part_alone_can_want_gradients() -> None:
    user, items, bias, targets = vectors(P, D), vectors(N, D), vectors(N), torch.arange(P) % N
    dense = grads(F.cross_entropy(user @ items.T + bias, targets), user, items, bias)
    for wanted, expected in zip((user, items, bias), dense, strict=True):
        parts = [part if part is wanted else part.detach() for part in (user, items, bias)]
        (ours,) = grads(full_softmax_loss(parts[0], parts[1], targets, parts[2]), wanted)
        torch.testing.assert_close(ours, expected)


def test_what_stands_between_rows_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """AMX reads one bfloat16 behind an odd last column and multiplies it by 0: what nobody wrote may be NaN."""
    fresh = Tensor.new_empty

    def spoilt(self: Tensor, *shape: int) -> Tensor:
        return fresh(self, *shape).fill_(float("nan"))

    monkeypatch.setattr(Tensor, "new_empty", spoilt)
    user, items = vectors(600, 65).float(), vectors(1_003, 65, seed=1).float()
    for reduced in (True, False):
        loss = full_softmax_loss(user, items, torch.arange(600), reduced=reduced)
        assert torch.isfinite(loss)
        assert all(torch.isfinite(grad).all() for grad in grads(loss, user, items))
    padded = full_softmax._padded(user, 3, 65)
    between = padded.as_strided((3, padded.stride(0) - 65), (padded.stride(0), 1), 65)
    assert between.shape[1] > 0
    assert (between == 0).all()


def test_huge_logits_and_empty_batches_stay_finite() -> None:
    user, items = (vectors(P, D) * 1e4), vectors(N, D)
    loss = full_softmax_loss(user, items, torch.arange(P) % N)
    assert loss.isfinite()
    assert all(g.isfinite().all() for g in grads(loss, items))
    empty = full_softmax_loss(user[:0], items, torch.zeros(0, dtype=torch.int64))
    assert empty.item() == 0.0
    assert grads(empty, items)[0].abs().max() == 0.0
    nothing = full_softmax_loss(user, items, torch.arange(P) % N, weight=torch.zeros(P))
    assert nothing.item() == 0.0


def test_no_matrix_of_all_scores_is_ever_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(full_softmax, "BLOCK_ENTRIES", 3 * N)
    sizes: list[int] = []
    mm = torch.mm

    def recording(a: Tensor, b: Tensor, **more: Tensor) -> Tensor:
        result = mm(a, b, **more)
        sizes.append(result.numel())
        return result

    monkeypatch.setattr(torch, "mm", recording)
    full_softmax_loss(vectors(P, D), vectors(N, D), torch.arange(P) % N)
    assert max(sizes) == 3 * N


@pytest.mark.parametrize("rows", [4, 512])
def test_the_estimated_softmax_is_its_formula_in_value_and_every_gradient(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(full_softmax, "BLOCK_ROWS", rows)
    user, positive, negatives = vectors(P, D), vectors(P, D, seed=1), vectors(N, D, seed=2)
    log_q, weight = vectors(N, seed=3).detach(), torch.rand(P).double()
    ids, drawn = torch.arange(P) % 11, torch.arange(N) + 5
    scale = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    ours = estimated_softmax_loss(user, positive, negatives, log_q, ids, drawn, weight, scale=scale)
    own = scale * (user * positive).sum(1, keepdim=True)
    others = (scale * user @ negatives.T - log_q).masked_fill(ids[:, None] == drawn, -torch.inf)
    dense = (torch.logsumexp(torch.cat([own, others], 1), 1) - own[:, 0]) @ weight / weight.sum()
    torch.testing.assert_close(ours, dense)
    wanted = user, positive, negatives, scale
    for a, b in zip(grads(ours, *wanted), grads(dense, *wanted), strict=True):
        torch.testing.assert_close(a, b)


def test_the_estimate_from_all_items_is_the_full_softmax() -> None:
    user, items, targets = vectors(P, D), vectors(N, D, seed=1), torch.arange(P) % N
    every = torch.arange(N)
    ours = estimated_softmax_loss(user, items[targets], items, torch.zeros(N).double(), targets, every)
    full = full_softmax_loss(user, items, targets)
    torch.testing.assert_close(ours, full)
    for a, b in zip(grads(ours, user, items), grads(full, user, items), strict=True):
        torch.testing.assert_close(a, b)


def test_a_sample_whose_every_item_is_the_rows_own_leaves_no_loss() -> None:
    user, positive = vectors(3, D), vectors(3, D, seed=1)
    same = torch.full((3,), 4)
    loss = estimated_softmax_loss(user, positive, positive.detach(), torch.zeros(3).double(), same, same)
    assert loss.item() == 0.0
    assert not grads(loss, user)[0].any()


def test_an_estimate_from_a_part_of_the_catalogue_has_the_right_denominator_on_average() -> None:
    user, items, target = vectors(1, D), vectors(N, D, seed=1), torch.tensor([3])
    full = full_softmax_loss(user, items, target).exp().item()  # the denominator, in units of the target's own part
    frequency = torch.rand(N, generator=torch.Generator().manual_seed(5)) ** 3
    sample, generator = InclusionSample(frequency / frequency.sum(), 6), torch.Generator().manual_seed(6)
    found = []
    for _ in range(1000):
        drawn = sample.draw(generator)
        log_q = sample.probability[drawn].log()
        found.append(estimated_softmax_loss(user, items[target], items[drawn], log_q, target, drawn).exp().item())
    spread = torch.tensor(found).std().item()
    assert spread > 0
    assert sum(found) / 1000 == pytest.approx(full, abs=3 * spread / 1000**0.5)
