"""Exact ranking of a whole catalogue for many users: blocked matrix product and top-k, in bounded memory.

Every other search is judged against this one, so it is exact: scores are fp32 products (never bf16 or TF32), the
k best are the k best, and equal scores are ordered by the lower item row. `exact_ranks` gives the rank of chosen
items instead of the first k.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor

from .arrays import F32, I64, Floats
from .errors import ConfigError, DataError
from .ragged import Ragged
from .reservoir import Reservoir, clear_best

ScoreBlock = Callable[[slice], "Tensor | Floats"]
"""Scores float [b, N] of every item for the users of a slice."""

_ROW_BYTES = 1 << 25  # scores held at once by a thread when whole rows are needed


def exact_topk(
    queries: Tensor | Floats,
    items: Tensor | Floats,
    k: int,
    exclude: Ragged | None = None,
    *,
    rows: I64 | None = None,
    bias: Tensor | Floats | None = None,
    device: str | torch.device = "cpu",
    block: tuple[int, int] | None = None,
    finite: bool = False,
) -> tuple[I64, F32]:
    """The k items of highest inner product for each query.

    Args:
        queries: float [U, D]; or [U, M, D], where an item's score is its highest with any of the M vectors.
        items: float [N, D].
        k: length of the lists.
        exclude: item rows that must not be recommended to each user, such as items already seen.
        rows: int64 [N], rising: the item rows of `items`, when they are a part of a catalogue; 0 to N - 1 when None.
            Exclusions and answers name these rows, and an exclusion of another row changes nothing.
        bias: float [N], added to the scores of each item.
        device: where to compute; the results come back as numpy arrays.
        block: users and items scored at once; memory is a few times their product.
        finite: the caller has checked that all vectors are finite; the check reads every vector once more.

    Returns:
        Item rows int64 [U, k], best first, ties by the lower row, -1 where a user has fewer than k items left;
        and their scores float32 [U, k], -inf at the pads.

    Raises:
        DataError: vectors of different widths, or vectors that are not finite.
    """
    device = torch.device(device)
    query, item, shift = _vectors(queries, items, bias, device, finite=finite, empty=rows is not None)
    num_users, num_items = len(query), len(item)
    user_block, item_block = block or _block_size(num_users, device)
    _check_k(k, user_block, item_block)
    if rows is not None:
        if len(rows) != num_items:
            raise DataError(f"{len(rows)} item rows for {num_items} item vectors; pass one row per vector")
        exclude = None if exclude is None else _positions(exclude, rows)
    _check_lists(exclude, num_users, num_items, "exclude")

    def blocks(users: slice) -> Iterator[tuple[int, Tensor]]:
        part = query[users]
        buffer = torch.empty(part.numel() // part.shape[-1] * min(item_block, num_items), device=device)
        for first in range(0, num_items, item_block):
            columns = slice(first, first + item_block)
            yield first, _products(part, item[columns], None if shift is None else shift[columns], buffer)

    with _full_precision():
        best, scores = _select(blocks, num_users, num_items, k, exclude, user_block=user_block, device=device)
    if rows is not None and num_items:
        best = np.where(best >= 0, rows[best], -1)
    return best, scores


def topk_of_scores(
    score_block: ScoreBlock,
    num_users: int,
    num_items: int,
    k: int,
    exclude: Ragged | None = None,
    *,
    device: str | torch.device = "cpu",
    user_block: int | None = None,
) -> tuple[I64, F32]:
    """The k best items for each user of any scorer that gives whole rows, such as EASE or popularity.

    Args:
        score_block: called with a slice of users, one call at a time, returns their scores float [b, N]; they are not
            written to.
        num_users: U.
        num_items: N.
        k: length of the lists.
        exclude: item rows that must not be recommended to each user.
        device: where to select.
        user_block: users scored at once; by default as many as 32 MiB of scores hold.

    Returns:
        As `exact_topk`.
    """
    user_block = user_block or _rows_at_once(num_items)
    device, turn = torch.device(device), threading.Lock()
    _check_k(k, user_block, 1)
    _check_lists(exclude, num_users, num_items, "exclude")

    def blocks(users: slice) -> Iterator[tuple[int, Tensor]]:
        with turn:
            scores = _score_rows(score_block, users, num_items, device, copy=exclude is not None)
        yield 0, scores

    return _select(blocks, num_users, num_items, k, exclude, user_block=user_block, device=device)


def exact_ranks(
    queries: Tensor | Floats,
    items: Tensor | Floats,
    truth: Ragged,
    exclude: Ragged | None = None,
    *,
    bias: Tensor | Floats | None = None,
    device: str | torch.device = "cpu",
) -> Ragged:
    """The rank of chosen items among the whole catalogue: 1 is the best, ties by the lower row, 0 an excluded item.

    Args:
        queries: float [U, D] or [U, M, D], as in `exact_topk`.
        items: float [N, D].
        truth: the items whose rank is wanted, per user.
        exclude: item rows left out of the ranking of each user.
        bias: float [N], added to the scores of each item.
        device: where to compute.

    Returns:
        Ranks in the layout of `truth`, ready for `metrics.rank_metrics`.
    """
    device = torch.device(device)
    query, item, shift = _vectors(queries, items, bias, device)

    def score(users: slice) -> Tensor:
        return _products(query[users], item, shift)

    with _full_precision():
        return _ranks(score, len(item), truth, exclude, device=device, turn=contextlib.nullcontext())


def ranks_of_scores(
    score_block: ScoreBlock,
    num_items: int,
    truth: Ragged,
    exclude: Ragged | None = None,
    device: str | torch.device = "cpu",
) -> Ragged:
    """`exact_ranks` for any scorer that gives whole rows; see `topk_of_scores`."""
    return _ranks(score_block, num_items, truth, exclude, device=torch.device(device), turn=threading.Lock())


def _ranks(
    score_block: ScoreBlock,
    num_items: int,
    truth: Ragged,
    exclude: Ragged | None,
    *,
    device: torch.device,
    turn: AbstractContextManager[object],
) -> Ragged:
    _check_lists(truth, len(truth), num_items, "truth")
    ranks = np.zeros(len(truth.items), dtype=np.int64)
    columns = torch.arange(num_items, device=device)
    _check_lists(exclude, len(truth), num_items, "exclude")

    def rank(users: slice) -> None:
        with turn:
            scores = _score_rows(score_block, users, num_items, device, copy=exclude is not None)
        if exclude is not None:
            row, item = _entries(exclude, users, device)
            scores[row, item] = -torch.inf
        ptr = truth.ptr[users.start : users.stop + 1]
        for nth in range(int(np.diff(ptr).max(initial=0))):
            rows = np.flatnonzero(np.diff(ptr) > nth)
            at = ptr[rows] + nth
            part = scores if len(rows) == len(scores) else scores[torch.from_numpy(rows).to(device)]
            target = torch.from_numpy(truth.items[at].astype(np.int64)).to(device)
            value = part.gather(1, target[:, None])
            place = 1 + _count(part > value)
            tied = torch.nonzero(_count(part >= value) - place > 0)[:, 0]
            if len(tied):
                place[tied] += _count((part[tied] == value[tied]) & (columns < target[tied, None]))
            ranks[at] = torch.where(value[:, 0] == -torch.inf, 0, place).cpu().numpy()

    _for_each_block(rank, len(truth), _rows_at_once(num_items), device)
    return Ragged(ranks, truth.ptr)


def _select(
    blocks: Callable[[slice], Iterator[tuple[int, Tensor]]],
    num_users: int,
    num_items: int,
    k: int,
    exclude: Ragged | None,
    *,
    user_block: int,
    device: torch.device,
) -> tuple[I64, F32]:
    rows = np.empty((num_users, k), dtype=np.int64)
    scores = np.empty((num_users, k), dtype=np.float32)

    def allowed(users: slice) -> Iterator[tuple[int, Tensor]]:
        """The blocks, -inf where an item is excluded."""
        if exclude is None:
            yield from blocks(users)
            return
        owner, item = _entries(exclude, users, device)
        for nth, (first, part) in enumerate(blocks(users)):
            if part.shape[1] == num_items:
                part[owner, item] = -torch.inf
            else:
                if nth == 0:
                    item, order = torch.sort(item)
                    owner = owner[order]
                edges = torch.tensor([first, first + part.shape[1]], device=device)
                low, high = torch.searchsorted(item, edges).tolist()
                part[owner[low:high], item[low:high] - first] = -torch.inf
            yield first, part

    def select(users: slice) -> None:
        reservoir = Reservoir(users.stop - users.start, k, device)
        for first, part in allowed(users):
            if part.shape[1] == num_items and (clear := clear_best(part, k)) is not None:
                scores[users], rows[users] = (answer.cpu().numpy() for answer in clear)
                return
            reservoir.add(part, first)
        best, row = reservoir.result()
        rows[users], scores[users] = row.cpu().numpy(), best.cpu().numpy()

    _for_each_block(select, num_users, user_block, device)
    return rows, scores


def _for_each_block(work: Callable[[slice], None], num_users: int, user_block: int, device: torch.device) -> None:
    """Do the blocks of users, on a CPU one thread each.

    Threads that share every small operation wait for each other some thirty times a block, which on a busy machine
    costs more than the work; threads that take whole blocks never wait.
    """
    slices = [slice(start, min(start + user_block, num_users)) for start in range(0, num_users, user_block)]
    threads = min(torch.get_num_threads(), len(slices)) if device.type == "cpu" else 1

    def alone(users: slice) -> None:
        with torch.no_grad():  # gradient mode belongs to a thread
            work(users)

    if threads < 2:
        for users in slices:
            alone(users)
        return
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for _ in pool.map(alone, slices):
                pass
    finally:
        torch.set_num_threads(before)


def _block_size(num_users: int, device: torch.device) -> tuple[int, int]:
    """Users and items scored at once: 8 MiB of scores on a CPU, 1 GiB on a GPU; few users take more items each."""
    users, scores = (256, 1 << 21) if device.type == "cpu" else (4096, 1 << 28)
    return users, scores // max(1, min(users, num_users))


def _positions(lists: Ragged, rows: I64) -> Ragged:
    """Lists of item rows as positions among `rows`, rising; what is not among them is left out."""
    position = np.searchsorted(rows, lists.items)
    known = position < len(rows)
    known[known] = rows[position[known]] == lists.items[known]
    return Ragged(position, lists.ptr).select(known)


def _rows_at_once(num_items: int) -> int:
    return max(1, _ROW_BYTES // (4 * max(num_items, 1)))


def _vectors(
    queries: Tensor | Floats,
    items: Tensor | Floats,
    bias: Tensor | Floats | None,
    device: torch.device,
    *,
    finite: bool = False,
    empty: bool = False,
) -> tuple[Tensor, Tensor, Tensor | None]:
    query, item = (torch.as_tensor(x).detach().to(device, torch.float32) for x in (queries, items))
    misfit = query.ndim not in (2, 3) or item.ndim != 2 or query.shape[-1] != item.shape[1]
    if misfit or not (len(item) or empty):
        raise DataError(
            f"queries of shape {list(query.shape)} and items of shape {list(item.shape)} have no inner product; "
            "pass [U, D] and [N, D] from the same model"
        )
    shift = None if bias is None else torch.as_tensor(bias).detach().to(device, torch.float32)
    if shift is not None and shift.shape != (len(item),):
        raise DataError(f"bias of shape {list(shift.shape)} for {len(item)} items; pass one number per item")
    for name, vectors in () if finite else (("query vectors", query), ("item vectors", item), ("item bias", shift)):
        if vectors is not None and not bool(torch.isfinite(vectors).all()):
            raise DataError(f"{name} hold NaN or infinite numbers; the model diverged: lower its learning rate")
    return query, item, shift


def _products(part: Tensor, items: Tensor, shift: Tensor | None, buffer: Tensor | None = None) -> Tensor:
    """Scores [b, n] of items [n, D] for queries [b, D] or [b, M, D]."""
    flat = part.flatten(0, -2)
    out = None if buffer is None else buffer[: len(flat) * len(items)].view(len(flat), len(items))
    scores = torch.mm(flat, items.T, out=out) if shift is None else torch.addmm(shift, flat, items.T, out=out)
    return scores if part.ndim == 2 else scores.view(*part.shape[:-1], len(items)).amax(1)


def _score_rows(score_block: ScoreBlock, users: slice, num_items: int, device: torch.device, copy: bool) -> Tensor:
    scores = torch.as_tensor(score_block(users)).detach().to(device, torch.float32, copy=copy)
    if scores.shape != (users.stop - users.start, num_items):
        raise DataError(
            f"scores of shape {list(scores.shape)} for {users.stop - users.start} users and {num_items} items; "
            "return one row per user, one column per item"
        )
    return scores


def _entries(lists: Ragged, users: slice, device: torch.device) -> tuple[Tensor, Tensor]:
    """Row within the slice and item of each entry of these users' lists."""
    ptr = lists.ptr[users.start : users.stop + 1]
    owner = np.repeat(np.arange(len(ptr) - 1), np.diff(ptr))
    item = lists.items[ptr[0] : ptr[-1]].astype(np.int64)
    return torch.from_numpy(owner).to(device), torch.from_numpy(item).to(device)


def _count(mask: Tensor) -> Tensor:
    """Number of true entries of each row of bool [b, n], int64 [b]."""
    if mask.device.type != "cpu":
        return mask.sum(1)
    # numpy counts the bytes of a row with vector instructions; a torch sum first widens each to 64 bits.
    return torch.tensor([np.count_nonzero(row) for row in mask.numpy()], dtype=torch.int64)


def _check_k(k: int, user_block: int, item_block: int) -> None:
    if min(k, user_block, item_block) < 1:
        raise ConfigError(f"k={k} with blocks of {user_block} users and {item_block} items; each must be 1 or more")


def _check_lists(lists: Ragged | None, num_users: int, num_items: int, name: str) -> None:
    if lists is None:
        return
    if len(lists) != num_users:
        raise DataError(f"{name} has lists for {len(lists)} users, the queries are {num_users}; pass one list per user")
    if len(lists.items) and (lists.items.min() < 0 or lists.items.max() >= num_items):
        raise DataError(
            f"{name} holds item rows from {lists.items.min()} to {lists.items.max()}; pass rows in [0, {num_items})"
        )


@contextlib.contextmanager
def _full_precision() -> Iterator[None]:
    """Scores in true fp32, whatever the process asked for: no TF32 on a GPU, no bf16 on a CPU."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
