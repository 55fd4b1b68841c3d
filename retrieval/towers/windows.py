"""Histories as training windows: batches of similar length, assembled by tensor gathers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ...base.arrays import I64
from ...base.errors import ConfigError, DataError
from ...data.batch import Block, SideLayout
from ...data.dataset import NOW, Dataset
from ...data.history import History
from ...data.loader import Loader
from ...data.sequence_columns import GAP_BUCKETS
from ...data.split import Part
from ...data.vocabulary import UNKNOWN
from ..seen import TAKEN, Seen, SeenConfig
from .exposures import Exposures
from .inputs import TowerLayout, Windows
from .item_neighbours import item_neighbours
from .two_tower import TwoTowerConfig


def choose(layout: SideLayout, block: Block, names: Sequence[str] | None) -> tuple[SideLayout, Block]:
    """The named columns of one side (all when None), scaled numbers left out: the towers read their buckets."""
    known = [*layout.categorical, *layout.bags, *(name for name, _ in layout.vectors)]
    wanted = known if names is None else list(names)
    strange = [name for name in wanted if name not in known]
    if strange:
        raise ConfigError(f'the towers cannot read "{strange[0]}"; there are: {", ".join(known) or "no such features"}')
    columns = [i for i, name in enumerate(layout.categorical) if name in wanted]
    bags = [i for i, name in enumerate(layout.bags) if name in wanted]
    vectors = [i for i, (name, _) in enumerate(layout.vectors) if name in wanted]
    return (
        SideLayout(
            tuple(layout.categorical[i] for i in columns),
            (),
            tuple(layout.bags[i] for i in bags),
            (),
            tuple(layout.vectors[i] for i in vectors),
        ),
        replace(
            block,
            categorical=block.categorical[:, columns].contiguous(),
            numeric=block.numeric[:, :0],
            bags=tuple(block.bags[i] for i in bags),
            vectors=tuple(block.vectors[i] for i in vectors),
        ),
    )


@dataclass(frozen=True, kw_only=True)
class TowerData:
    """What the towers see of a data set.

    Attributes:
        layout: chosen columns.
        items: chosen item columns, catalogue rows only.
        users: chosen user columns.
        history: positive events per user.
        properties: int64 [E, p] event features of every event of the history.
        max_length: most recent events a window holds.
        seen: what each user is not recommended again.
        near: int64 [N, n] item rows of each item's neighbours, -1 where there are no more; None where none are read.
    """

    layout: TowerLayout
    items: Block
    users: Block
    history: History
    properties: Tensor
    max_length: int
    seen: Seen
    near: Tensor | None = None

    @classmethod
    def of(
        cls,
        dataset: Dataset,
        config: TwoTowerConfig,
        positive: str,
        seen: SeenConfig = TAKEN,
        near: Tensor | None = None,
    ) -> TowerData:
        """Choose columns and positive events.

        Args:
            dataset: encoded data.
            config: which features the towers read.
            positive: binary task whose label 1 makes an event a positive; every event when empty.
            seen: what users are not recommended again.
            near: the neighbours that the towers were trained with; counted in the training part when None.

        Raises:
            ConfigError: a feature or task that does not exist.
            DataError: nobody has a positive event.
        """
        if positive and positive not in dataset.task_names:
            raise ConfigError(f'retrieval.positive = "{positive}" is no task; tasks: {", ".join(dataset.task_names)}')
        item_layout, items = choose(dataset.sides["item"], dataset.items.whole(), config.item_features)
        user_layout, users = choose(dataset.sides["user"], dataset.users.whole(), config.user_features)
        history = dataset.history(positive)
        if not len(history.items):
            raise DataError(f'no event has label 1 in "{positive}"; choose another retrieval.positive')
        events = [f"event.{name}" if name in GAPS else name for name in config.event_features]
        sizes = dataset.encoders.sizes() | {f"event.{name}": GAP_BUCKETS + UNKNOWN for name in GAPS}
        used = {*item_layout.categorical, *item_layout.bags, *user_layout.categorical, *user_layout.bags, *events}
        id_names = [s.name for s in dataset.config.features if s.side == "item" and s.source == dataset.config.item]
        sizes, shared = dataset.encoders.tables(used, sizes)
        layout = TowerLayout(
            item=item_layout,
            user=user_layout,
            events=tuple(events),
            sizes=sizes,
            item_id=next((name for name in id_names if name in item_layout.categorical), ""),
            shared=shared,
        )
        properties = _properties(dataset, history, config.event_features)
        catalogue = items.select(torch.arange(dataset.num_catalogue))
        if config.neighbours:
            near = (
                item_neighbours(history.before(Part.VALID), catalogue.rows, config.neighbours) if near is None else near
            )
            layout, catalogue = _with_neighbours(layout, catalogue, near)
        known = Seen.of(dataset, seen, history)
        return cls(
            layout=layout,
            items=catalogue,
            users=users,
            history=history,
            properties=properties,
            max_length=config.history.max_length,
            seen=known,
            near=near,
        )

    def of_others(self, people: Dataset, config: TwoTowerConfig, positive: str) -> TowerData:
        """The same catalogue before other users.

        Args:
            people: a data set with the columns of this one's, and users of its own.
            config: the one that this was made with.
            positive: likewise.
        """
        history = people.history(positive)
        users = choose(people.sides["user"], people.users.whole(), config.user_features)[1]
        properties = _properties(people, history, config.event_features)
        seen = self.seen.of_others(people, history)
        return replace(self, users=users, history=history, properties=properties, seen=seen)

    @property
    def num_items(self) -> int:
        """Items of the catalogue N."""
        return self.items.rows

    def ends(self, moment: int) -> I64:
        """Pointer of each user behind the events known at a moment (a `Part`'s start, or `NOW`): int64 [U]."""
        if moment not in self._ends:
            self._ends[moment] = self.history.ptr[1:] if moment == NOW else self.history.ends(Part(moment))
        return self._ends[moment]

    @cached_property
    def times(self) -> Tensor:
        """Seconds of every event of the history, float64 [E]; those of unknown time stand at the earliest known one."""
        times = torch.from_numpy(self.history.times)
        known = torch.isfinite(times)
        return torch.where(known, times, times[known].min() if known.any() else 0.0)

    @cached_property
    def to_learn(self) -> Tensor | None:
        """Which events a training learns to predict, bool [E]; None where it is every one.

        Events carried from an earlier run were learned there: they are history, and only the new ones are targets.
        """
        carried = (self.history.parts == Part.PRIOR) & (self.history.rows >= 0)
        return torch.from_numpy(self.history.parts >= Part.TRAIN) if carried.any() else None

    @cached_property
    def _ends(self) -> dict[int, I64]:
        return {}

    def windows(self, users: I64, ends: I64, length: int | None = None) -> Windows:
        """The last `length` events before each pointer (`max_length` when None), as tensors.

        The windows are as long as the longest needs, and no longer than `length`.
        """
        longest = int((ends - self.history.ptr[users]).max(initial=1))
        positions, present = self.history.window(users, ends, max(1, min(length or self.max_length, longest)))
        flat = positions.flatten()
        items = _at(torch.from_numpy(self.history.items), flat).long().view_as(positions)
        start = torch.from_numpy(self.history.ptr[users])
        return Windows(
            users=self.users.select(torch.from_numpy(users)),
            items=items * present,
            properties=(_at(self.properties, flat) * present.flatten().unsqueeze(1)).view(*positions.shape, -1),
            present=present,
            from_start=(positions[:, 0] == start) | ~present[:, 0],
            times=_at(self.times, flat).view_as(positions),
            to_learn=None if self.to_learn is None else _at(self.to_learn, flat).view_as(positions),
        )

    def window(self, user: int, end: int, step: int) -> Windows:
        """As `windows` for one user, to be read and not to be learned from: slices instead of gathers.

        Args:
            user: user row.
            end: pointer behind the last event.
            step: the window is padded to a multiple of so many events, or to `max_length`.
        """
        first = int(self.history.ptr[user])
        start = max(first, end - self.max_length)
        count = end - start
        length = min(self.max_length, -(-max(count, 1) // step) * step)
        properties = self.properties.numpy()
        items, known = np.zeros((1, length), np.int64), np.zeros((1, length, properties.shape[1]), np.int64)
        present, times = np.zeros((1, length), np.bool_), np.zeros((1, length))
        items[0, :count], present[0, :count] = self.history.items[start:end], True
        known[0, :count], times[0, :count] = properties[start:end], self.times.numpy()[start:end]
        return Windows(
            users=self.users.map(lambda column: column[user : user + 1]),
            items=torch.from_numpy(items),
            properties=torch.from_numpy(known),
            present=torch.from_numpy(present),
            from_start=torch.tensor([start == first]),
            times=torch.from_numpy(times),
        )

    def popularity(self, moment: int) -> Tensor:
        """Positive events of each catalogue item before a moment, float64 [N]."""
        counted = self.history.parts < moment
        return torch.from_numpy(np.bincount(self.history.items[counted], minlength=self.num_items).astype(np.float64))


def _at(column: Tensor, positions: Tensor) -> Tensor:
    """A column of events at some positions; 0, where the pads point to, is one even if nobody has an event."""
    there = column if column.shape[0] else column.new_zeros(1, *column.shape[1:])
    return there.index_select(0, positions)


def _with_neighbours(layout: TowerLayout, items: Block, near: Tensor) -> tuple[TowerLayout, Block]:
    """A further column: the ids of each item's neighbours, which have the rows of the item id."""
    if not layout.item_id:
        raise ConfigError("tower.neighbours needs the item id among the towers' item features; name it or set 0")
    codes = items.categorical[:, layout.item.categorical.index(layout.item_id)]
    bag = torch.where(near >= 0, codes[near.clamp(min=0)], 0)
    name = f"{layout.item_id}.neighbours"
    item = replace(layout.item, bags=(*layout.item.bags, name))
    shared = {**layout.shared, name: layout.shared.get(layout.item_id, layout.item_id)}
    sizes = {**layout.sizes, name: layout.sizes[layout.item_id]}
    return (
        replace(layout, item=item, shared=shared, sizes=sizes, neighbours=name),
        replace(items, bags=(*items.bags, bag)),
    )


def without_neighbours(layout: TowerLayout, items: Block) -> Block:
    """Items that nobody has met, in the towers' columns: their neighbours, where the towers read any, are none."""
    if not layout.neighbours:
        return items
    return replace(items, bags=(*items.bags, torch.zeros(items.rows, 1, dtype=torch.int64)))


GAPS = ("gap", "request_gap")
"""Event features made of times."""


def _properties(dataset: Dataset, history: History, names: Sequence[str]) -> Tensor:
    """Event features of every event of a history, int64 [E, p]; requests stand now."""
    columns = []
    for name in names:
        if name == "gap":
            columns.append(history.gap_buckets(GAP_BUCKETS) + UNKNOWN)
        elif name == "request_gap":
            asked = dataset.request_times(np.arange(dataset.num_users), NOW)
            columns.append(history.request_gap_buckets(GAP_BUCKETS, asked) + UNKNOWN)
        else:
            columns.append(_event_column(dataset, history, name))
    return torch.from_numpy(np.stack(columns, axis=1) if columns else np.empty((len(history.items), 0), dtype=np.int64))


def _event_column(dataset: Dataset, history: History, name: str) -> I64:
    """A context feature of every event of a history, int64 [E]; unknown for events from before the log."""
    context = dataset.sides["context"].categorical
    if name in dataset.event_codes:
        codes = dataset.event_codes[name]
    elif name in context:
        codes = dataset.row_query.codes(context.index(name))
    else:
        known = [*GAPS, *dataset.event_codes, *context]
        raise ConfigError(f'retrieval event feature "{name}" does not exist; there are: {", ".join(known)}')
    return np.where(history.rows >= 0, codes[np.maximum(history.rows, 0)], UNKNOWN)


@dataclass(frozen=True)
class WindowSource:
    """Training windows of the events known at a moment: `batch(user rows)`.

    A user with more events than fit gets, half of the time, a stretch drawn anywhere in the history instead of the
    last one. The draw depends on (seed, epoch, the batch's users) alone. With `exposures` the windows carry those whose
    history they hold.
    """

    data: TowerData
    moment: int
    seed: int
    epoch: int = 0
    exposures: Exposures | None = None

    def batch(self, rows: Tensor) -> Windows:
        """User rows int64 [B] -> windows."""
        users = rows.numpy()
        ends = self.data.ends(self.moment)[users]
        spare = ends - self.data.history.ptr[users] - self.data.max_length
        if self.data.to_learn is not None:  # the stretch ends with an event that is to be learned
            spare = np.minimum(spare, ends - self.data.ends(Part.TRAIN)[users] - 1)
        rng = np.random.default_rng([self.seed, self.epoch, int(users[0])])
        moved = np.where(rng.random(len(users)) < 0.5, rng.random(len(users)) * (np.maximum(spare, 0) + 1), 0.0)
        ends = ends - moved.astype(np.int64)
        windows = self.data.windows(users, ends)
        if self.exposures is None:
            return windows
        starts = ends - windows.lengths.numpy()
        return replace(windows, shown=self.exposures.within(users, starts, ends, windows.from_start.numpy()))


class WindowLoader(Loader[Windows]):
    """Batches of about `tokens` events, of users with similar history lengths, in a new order every epoch.

    With exposures a user's length is that of the history or the number of exposures, whichever is more.

    Args:
        data: what the towers see.
        moment: only events before this moment (usually `Part.VALID`: the training events).
        tokens: padded events per batch.
        seed: of the order.
        exposures: what is learned, if not the events themselves: an epoch then holds every user who was shown
            something, also those who did nothing.
    """

    def __init__(
        self, data: TowerData, moment: int, tokens: int, seed: int, exposures: Exposures | None = None
    ) -> None:
        lengths = np.minimum(data.ends(moment) - data.history.ptr[:-1], data.max_length)
        news = lengths if data.to_learn is None else data.ends(moment) - data.ends(Part.TRAIN)
        news = news if exposures is None else np.diff(exposures.ptr)
        users = np.flatnonzero(news > 0)
        super().__init__(WindowSource(data, moment, seed, 0, exposures), torch.from_numpy(users), tokens, seed)
        self.lengths = lengths[users]
        if exposures is not None:  # batches of about as many rows, so that every row weighs about the same
            self.lengths = np.maximum(self.lengths, exposures.expected(data.history.ptr, data.max_length)[users])
        self.bounds = _cuts(np.sort(self.lengths), tokens)
        self._sizes: list[int] = []

    def __len__(self) -> int:
        """Batches of an epoch."""
        return len(self.bounds) - 1

    @property
    def rows_in_batch(self) -> int:
        """Histories in the batch handed out last."""
        return self._sizes[self.position - 1]

    def batches(self, epoch: int) -> list[Tensor]:
        """User rows of each batch of an epoch, a function of (seed, epoch)."""
        rng = np.random.default_rng([self.seed, epoch])
        noisy = self.lengths * np.exp(rng.normal(0.0, 0.1, len(self.lengths)))
        order = self.rows[torch.from_numpy(np.argsort(noisy, kind="stable"))]
        pieces = [order[a:b] for a, b in zip(self.bounds[:-1], self.bounds[1:], strict=True)]
        return [pieces[i] for i in rng.permutation(len(pieces))]

    def __iter__(self) -> Iterator[Windows]:
        """The batches left of the current epoch."""
        pieces = self.batches(self.epoch)
        assert isinstance(self.source, WindowSource)
        source = replace(self.source, epoch=self.epoch)
        self._sizes = [len(piece) for piece in pieces]
        yield from self._ahead(lambda position: source.batch(pieces[position]))


def _cuts(lengths: I64, tokens: int) -> list[int]:
    """Where users, sorted by length, are cut into batches: before one with whom the padded size would pass `tokens`.

    A batch holds one user at least. The user at place p is the first of a batch that begins at s, where
    (p - s + 1) * length > tokens; p - tokens // length rises with p, so each cut is one search.
    """
    places = np.arange(len(lengths))
    fitting = np.where(lengths > 0, tokens // np.maximum(lengths, 1), len(lengths) + 1)
    bounds = [0]
    while (cut := max(int(np.searchsorted(places - fitting, bounds[-1])), bounds[-1] + 1)) < len(lengths):
        bounds.append(cut)
    return [*bounds, len(lengths)]
