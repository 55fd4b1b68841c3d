"""The embedded world: a seeded shop whose true click and conversion probabilities are known.

Users with tastes that drift meet items with words, prices and ages. An imperfect logging policy fills slates of
ten, users look at a slate from the top down and less and less, click what they like, and buy what they also can
afford. The policy's propensity of every exposure is logged, and beside the log stands the truth: the probability of
a click and of a conversion for every user and item at the moment the log ends. So a model can be judged against what
is the case and not only against another sample, and an off-policy estimator against the value it estimates.

How it is made:
    p_click(u, i, t) = sigmoid(taste_u(t) . item_i + appeal_i + mood_u + freshness(i, t) + bias), seen with the
    position's examination probability; taste_u(t) turns from a first to a second vector while the log runs.
    p_conversion(u, i) given a click = sigmoid(want_u . item_i - thrift_u * price_i + ease_u + bias); `want` is
    correlated with the final taste, and not equal to it.
    Slot k of a slate is drawn without replacement from a mixture of popularity, noisy taste and uniform choice; its
    propensity is the probability of that item in that slot, given the items above it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
from pydantic import Field, model_validator

from ...base.arrays import F32, F64, I64, Bool, Floats
from ...base.errors import DataError
from ...base.files import write_whole
from ...base.memory import available_memory
from ...base.settings import Settings
from .latents import DAY, START, Crowd, Shelf, f32, make_items, make_users

FORMAT = 1
BLOCK = 4_000_000
"""Pairs of a user and an item that are worked on at once."""
_HOUR = 3_600


class SimulateConfig(Settings):
    """Size and temper of the embedded world."""

    users: int = Field(default=2_000, ge=10)
    """Number of users."""
    items: int = Field(default=1_000, ge=50)
    """Number of items."""
    sessions: int = Field(default=12_000, ge=10)
    """Number of slates shown; each makes `slate` exposures."""
    slate: int = Field(default=10, ge=1, le=50)
    """Items in one slate."""
    days: int = Field(default=30, ge=2)
    """Length of the log."""
    drift: float = Field(default=0.5, ge=0, le=1)
    """How far tastes turn while the log runs: 0 not at all, 1 to a taste of their own."""
    explore: float = Field(default=0.15, gt=0, le=1)
    """Share of uniform choice in the logging policy; every item has a propensity above 0."""
    popular: float = Field(default=0.45, ge=0, le=1)
    """Share of popularity in what the logging policy does not leave to chance; the rest follows a noisy taste."""
    position_bias: float = Field(default=0.35, ge=0)
    """Examination of slot k (from 1) is k ** -position_bias."""
    click_rate: float = Field(default=0.2, gt=0, lt=0.5)
    """Clicks per exposure."""
    conversion_rate: float = Field(default=0.15, gt=0, lt=0.9)
    """Conversions per click, about."""
    missing: float = Field(default=0.08, ge=0, lt=1)
    """Share of users whose age is not known."""
    seed: int = 0
    """Everything follows from it."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.slate * 4 > self.items:
            raise ValueError(f"slate={self.slate} needs at least {self.slate * 4} items, found items={self.items}")
        if self.sessions < self.users:
            raise ValueError(f"sessions={self.sessions} is below users={self.users}; give each user one session")
        if self.sessions > self.users * self.days * 4:
            most = self.users * self.days * 4
            raise ValueError(f"sessions={self.sessions} exceeds {most}, four a day for each user; raise days or users")
        return self


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What is the case: rows of the matrices follow `user_ids`, columns `item_ids`."""

    user_ids: I64
    """`[U]`"""
    item_ids: I64
    """`[N]`"""
    p_click: F32
    """`[U, N]` click probability of an item that is looked at, when the log ends."""
    p_conversion: F32
    """`[U, N]` conversion probability given a click."""
    examination: F32
    """`[slate]` probability that a position (from 1) is looked at."""
    event_p_click: F32
    """`[E]` click probability of each logged exposure at its own time and position."""
    event_p_conversion: F32
    """`[E]` conversion probability of each logged exposure given a click."""


@dataclass(frozen=True)
class World:
    """The log, its users and items, and the truth."""

    config: SimulateConfig
    events: pa.Table
    users: pa.Table
    items: pa.Table
    truth: Truth


@dataclass(frozen=True)
class _Slates:
    user: I64  # [S] user row of each session
    start: I64  # [S] epoch seconds
    items: I64  # [S, slate] item rows, from the top down
    propensity: F64  # [S, slate]


def build_world(config: SimulateConfig) -> World:
    """Make the world in memory; the same config gives the same world.

    Raises:
        DataError: the truth, two matrices of a number for every user and item, does not fit into memory.
    """
    need, free = 8 * config.users * config.items, available_memory()
    if need > free:
        raise DataError(
            f"the truth of {config.users:,} users and {config.items:,} items takes {need / 1e9:.1f} GB of memory, and "
            f"{free / 1e9:.1f} GB are free; give fewer users or items"
        )
    rng = np.random.default_rng(config.seed)
    items = make_items(rng, config.items, config.days)
    users = make_users(rng, config.users, config.drift, config.missing)
    user, start = _make_sessions(config, users.activity, rng)
    slates = _fill_slates(config, users, items, user, start, rng)
    return _observe(config, users, items, slates, rng)


def simulate(config: SimulateConfig, out: Path) -> World:
    """Make the world and write it to the folder `out`: events.csv, users.csv, items.csv, truth/*.npy, world.json.

    An earlier world there is replaced, other files are left alone; `world.json` is complete only when all else is.

    Raises:
        DataError: `out` exists and holds something else than an embedded world.
    """
    world = build_world(config)
    if out.exists() and not (out / "world.json").is_file() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} exists and is no embedded world; name an empty or a new folder")
    (out / "truth").mkdir(parents=True, exist_ok=True)
    about = out / "world.json"
    about.write_text("{}\n", encoding="utf-8")  # until the last file stands, this is no world; the user's files stay
    for name in ("events", "users", "items"):
        pacsv.write_csv(getattr(world, name), out / f"{name}.csv")
    for name, array in vars(world.truth).items():
        np.save(out / "truth" / f"{name}.npy", array, allow_pickle=False)
    write_whole(about, json.dumps({"format": FORMAT, "config": config.model_dump()}, indent=2) + "\n")
    return world


def is_world(folder: Path, config: SimulateConfig) -> bool:
    """True when `folder` already holds the world of just this config, so that making it again would change nothing."""
    try:
        about = json.loads((folder / "world.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(about == {"format": FORMAT, "config": config.model_dump()})


def load_truth(folder: Path) -> Truth:
    """Read the truth beside a simulated log (`folder` as given to `simulate`)."""
    try:
        about = json.loads((folder / "world.json").read_text(encoding="utf-8"))
        arrays = {name: np.load(folder / "truth" / f"{name}.npy", allow_pickle=False) for name in Truth.__annotations__}
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{folder} holds no complete embedded world ({error}); simulate it again") from None
    if about.get("format") != FORMAT:
        raise DataError(
            f"{folder}/world.json: found format {about.get('format')}, expected {FORMAT}; simulate it again"
        )
    return Truth(**arrays)


def _make_sessions(config: SimulateConfig, activity: F32, rng: np.random.Generator) -> tuple[I64, I64]:
    """User and start second of each session, in time order; a user has at most one session an hour."""
    hours = config.days * 24
    share = activity.astype(np.float64) / activity.sum()
    per_user = 1 + rng.multinomial(config.sessions - config.users, share)
    most = hours // 2
    while (over := np.maximum(per_user - most, 0)).any():
        per_user = np.minimum(per_user, most)
        room = (per_user < most).astype(np.float64)
        per_user += rng.multinomial(int(over.sum()), room / room.sum())
    of_day = np.arange(hours) % 24
    weight = 0.15 + np.exp(-0.5 * ((of_day - 20) / 3.0) ** 2) + 0.5 * np.exp(-0.5 * ((of_day - 12) / 2.5) ** 2)
    # Distinct hours by weight: the largest of log-weight plus Gumbel noise (Efraimidis and Spirakis 2006).
    keys = np.log(weight) + rng.gumbel(size=(config.users, hours))
    order = np.argsort(-keys, axis=1)
    chosen = np.arange(hours) < per_user[:, None]
    user = np.repeat(np.arange(config.users), per_user)
    start = START + order[chosen] * _HOUR + rng.integers(0, 2_400, size=len(user))
    by_time = np.lexsort((user, start))
    return user[by_time].astype(np.int64), start[by_time].astype(np.int64)


def _fill_slates(
    config: SimulateConfig, users: Crowd, items: Shelf, user: I64, start: I64, rng: np.random.Generator
) -> _Slates:
    """What the logging policy shows, and with which probability."""
    # The policy is a recommender like any other: it knows popularity and taste, both of them not quite.
    popularity = 1.2 * items.appeal + rng.normal(0, 0.5, config.items)
    guess_items = items.vectors + rng.normal(0, 0.4, items.vectors.shape)
    blur = rng.normal(0, 0.6, users.first.shape)
    shown = np.empty((len(user), config.slate), dtype=np.int64)
    propensity = np.empty((len(user), config.slate))
    block = max(1, BLOCK // config.items)
    for low in range(0, len(user), block):
        rows = slice(low, low + block)
        there = items.published <= start[rows, None]
        taste = (_taste(config, users, user[rows], start[rows]) + blur[user[rows]]) @ guess_items.T
        chance = there / there.sum(axis=1, keepdims=True)
        choice = config.popular * _softmax(popularity[None, :], there) + (1 - config.popular) * _softmax(taste, there)
        policy = config.explore * chance + (1 - config.explore) * choice
        with np.errstate(divide="ignore"):
            keys = np.log(policy) + rng.gumbel(size=policy.shape)
        # The largest keys in order are a draw without replacement, slot by slot (Gumbel top-k).
        top = np.argpartition(-keys, config.slate - 1, axis=1)[:, : config.slate]
        top = np.take_along_axis(top, np.argsort(-np.take_along_axis(keys, top, 1), axis=1), 1)
        picked = np.take_along_axis(policy, top, 1)
        above = np.cumsum(picked, axis=1) - picked
        shown[rows], propensity[rows] = top, picked / (1 - above)
    return _Slates(user, start, shown, propensity)


def _observe(config: SimulateConfig, users: Crowd, items: Shelf, slates: _Slates, rng: np.random.Generator) -> World:
    """What users do with the slates, as a log, and the truth behind it."""
    item = slates.items.ravel()
    user = np.repeat(slates.user, config.slate)
    when = np.repeat(slates.start, config.slate)
    slot = np.tile(np.arange(config.slate), len(slates.user))
    examination = f32(np.arange(1, config.slate + 1) ** -config.position_bias)
    taste = _taste(config, users, user, when)
    liking = _liking(users, items, np.einsum("ew,ew->e", taste, items.vectors[item]), user, item, when)
    wanting = _wanting(users, items, np.einsum("ew,ew->e", users.want[user], items.vectors[item]), user, item)
    click_bias = _bias(liking, examination[slot], config.click_rate)
    p_click = _sigmoid(liking + click_bias) * examination[slot]
    conversion_bias = _bias(wanting, p_click / p_click.mean(), config.conversion_rate)
    p_conversion = _sigmoid(wanting + conversion_bias)
    click = rng.random(len(item)) < p_click
    conversion = click & (rng.random(len(item)) < p_conversion)
    # A clicked item is looked at the longer the better it fits; a slate is read from the top down, two seconds a slot.
    dwell = np.exp(2.2 + 0.25 * liking + rng.normal(0, 0.6, len(item)))
    dwell = np.where(click, np.clip(np.round(dwell), 1, 100), 0).astype(np.int64)
    spent = (dwell + 2).reshape(-1, config.slate)
    time = when + (np.cumsum(spent, axis=1) - spent).ravel()
    order = np.lexsort((slot, user, time))
    columns = {
        "session_id": np.repeat(np.arange(1, len(slates.user) + 1), config.slate),
        "user_id": user + 1,
        "item_id": item + 1,
        "timestamp": time,
        "position": slot + 1,
        "propensity": slates.propensity.ravel(),
        "click": click.astype(np.int8),
        "conversion": conversion.astype(np.int8),
        "dwell_seconds": dwell,
    }
    events = pa.table({name: values[order] for name, values in columns.items()})
    p_click_at_end, p_conversion_at_end = _at_the_end(config, users, items, click_bias, conversion_bias)
    truth = Truth(
        user_ids=np.arange(1, config.users + 1),
        item_ids=np.arange(1, config.items + 1),
        p_click=p_click_at_end,
        p_conversion=p_conversion_at_end,
        examination=examination,
        event_p_click=f32(p_click[order]),
        event_p_conversion=f32(p_conversion[order]),
    )
    return World(config, events, users.table, items.table, truth)


def _at_the_end(
    config: SimulateConfig, users: Crowd, items: Shelf, click_bias: float, conversion_bias: float
) -> tuple[F32, F32]:
    """`[U, N]` probability of a click, and of a conversion given a click, when the log ends."""
    p_click, p_conversion = (np.empty((config.users, config.items), dtype=np.float32) for _ in range(2))
    end, everything = np.full((1, 1), START + config.days * DAY), np.arange(config.items)[None, :]
    block = max(1, BLOCK // config.items)
    for low in range(0, config.users, block):
        some = np.arange(low, min(low + block, config.users))
        liking = _liking(users, items, users.last[some] @ items.vectors.T, some[:, None], everything, end)
        wanting = _wanting(users, items, users.want[some] @ items.vectors.T, some[:, None], everything)
        p_click[some] = _sigmoid(liking + click_bias)
        p_conversion[some] = _sigmoid(wanting + conversion_bias)
    return p_click, p_conversion


def _taste(config: SimulateConfig, users: Crowd, user: I64, when: I64) -> F32:
    """`[n, WIDTH]` taste of users at moments of the log."""
    gone = ((when - START) / (config.days * DAY)).astype(np.float32)[:, None]
    return users.first[user] + gone * (users.last[user] - users.first[user])


def _liking(users: Crowd, items: Shelf, match: F32, user: I64, item: I64, when: I64) -> F32:
    """Click logit but for the bias; `match` is taste . item, of any shape that user, item and when broadcast to."""
    age = np.maximum(when - items.published[item], 0) / DAY
    return f32(0.6 * match + 0.9 * items.appeal[item] + users.mood[user] + 0.5 * np.exp(-age / 7))


def _wanting(users: Crowd, items: Shelf, match: F32, user: I64, item: I64) -> F32:
    """Conversion logit but for the bias; `match` is want . item."""
    return f32(0.45 * match - 0.8 * users.thrift[user] * items.log_price[item] + users.ease[user])


def _bias(logit: F32, weight: F32, rate: float) -> float:
    """The constant that makes the mean of weight * sigmoid(logit + constant) the wished rate, by bisection."""
    low, high = -20.0, 20.0
    for _ in range(50):
        middle = (low + high) / 2
        if float(np.mean(weight * _sigmoid(logit + middle), dtype=np.float64)) < rate:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _softmax(logit: Floats, there: Bool) -> F64:
    """Softmax over the last axis among what is there."""
    masked = np.where(there, logit, -np.inf)
    raised = np.exp(masked - masked.max(axis=1, keepdims=True))
    shares: F64 = raised / raised.sum(axis=1, keepdims=True)
    return shares


def _sigmoid(logit: F32) -> F32:
    return f32(1 / (1 + np.exp(-logit)))
