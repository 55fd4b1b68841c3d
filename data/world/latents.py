"""What moves the embedded world, hidden from its log: item vectors and appeal, user tastes, moods and thrift."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ...base.arrays import F32, I64, Floats
from .words import BRANDS, CATALOGUE, DEVICES, GENDERS, REGIONS

START = 1_704_067_200
"""The log begins on 2024-01-01 00:00 UTC."""
DAY = 86_400
WIDTH = 12
"""Width of the latent taste space: one direction a category, blurred by subcategory and brand."""


@dataclass(frozen=True)
class Shelf:
    """The items: what drives them, and the table the log shows of them."""

    vectors: F32  # [N, WIDTH]
    appeal: F32  # [N]
    log_price: F32  # [N] standardised
    published: I64  # [N] epoch seconds
    table: pa.Table


@dataclass(frozen=True, kw_only=True)
class Crowd:
    """The users: what drives them, and the table the log shows of them."""

    first: F32  # [U, WIDTH] taste when the log begins
    last: F32  # [U, WIDTH] taste when it ends
    want: F32  # [U, WIDTH] what is bought
    mood: F32  # [U] readiness to click
    thrift: F32  # [U] price sensitivity
    ease: F32  # [U] how easily the user's device lets them buy
    activity: F32  # [U] share of sessions
    table: pa.Table


def make_items(rng: np.random.Generator, count: int, days: int) -> Shelf:
    """Items of a shop that keeps getting new ones: two thirds were there before the log of `days` days began."""
    names = list(CATALOGUE)
    category = rng.integers(len(names), size=count)
    kind = rng.integers(3, size=count)
    adjective = rng.integers(5, size=count)
    brand = rng.integers(len(BRANDS), size=count)
    centre = np.eye(WIDTH)[:, : len(names)].T * 1.6
    by_kind = rng.normal(0, 0.45, (len(names), 3, WIDTH))
    by_adjective = rng.normal(0, 0.3, (len(names), 5, WIDTH))
    by_brand = rng.normal(0, 0.3, (len(BRANDS), WIDTH))
    own = rng.normal(0, 0.35, (count, WIDTH))
    vectors = centre[category] + by_kind[category, kind] + by_adjective[category, adjective] + by_brand[brand] + own
    appeal = rng.normal(0, 0.55, count) + rng.normal(0, 0.25, len(BRANDS))[brand]
    log_price = rng.normal(0, 0.7, len(names))[category] + rng.normal(0, 0.5, len(BRANDS))[brand]
    log_price = log_price + rng.normal(0, 0.6, count)
    log_price = (log_price - log_price.mean()) / log_price.std()
    old = rng.random(count) < 2 / 3
    age = np.where(old, -rng.exponential(120, count), rng.random(count) * days * 0.95)
    published = START + (age * DAY).astype(np.int64)
    words = [
        f"{BRANDS[b]} {CATALOGUE[names[c]][1][a]} {CATALOGUE[names[c]][0][k]}"
        for b, c, a, k in zip(brand, category, adjective, kind, strict=True)
    ]
    table = pa.table(
        {
            "item_id": np.arange(1, count + 1),
            "title": _numbered(words),
            "category": [names[c] for c in category],
            "subcategory": [CATALOGUE[names[c]][0][k] for c, k in zip(category, kind, strict=True)],
            "brand": [BRANDS[b] for b in brand],
            "price": np.round(np.exp(3.4 + 0.8 * log_price), 2),
            "published": published,
        }
    )
    return Shelf(f32(vectors), f32(appeal), f32(log_price), published, table)


def _numbered(titles: list[str]) -> list[str]:
    """Titles made unique: the second "Lumo Trail Tent" becomes "Lumo Trail Tent 2"."""
    seen: dict[str, int] = {}
    unique = []
    for title in titles:
        seen[title] = seen.get(title, 0) + 1
        unique.append(title if seen[title] == 1 else f"{title} {seen[title]}")
    return unique


def make_users(rng: np.random.Generator, count: int, drift: float, missing: float) -> Crowd:
    """Users whose tastes turn by `drift`; a share `missing` of them does not tell their age."""
    age = np.clip(np.round(rng.gamma(6.0, 6.5, count)), 16, 90).astype(np.int64)
    band = np.digitize(age, (25, 35, 45, 60))
    gender = rng.choice(len(GENDERS), size=count, p=(0.49, 0.48, 0.03))
    region = rng.integers(len(REGIONS), size=count)
    # What a profile tells: enough that a new user is no blank page, too little to do without the history.
    told = (
        rng.normal(0, 0.40, (5, WIDTH))[band]
        + rng.normal(0, 0.30, (len(GENDERS), WIDTH))[gender]
        + rng.normal(0, 0.20, (len(REGIONS), WIDTH))[region]
    )
    # Tastes mix a few archetypes, which is why what one user did tells something about another.
    archetypes = rng.normal(0, 1.9, (8, WIDTH))
    archetypes -= archetypes.mean(axis=0)  # what everybody likes is the items' appeal, not a taste
    mix, later = rng.dirichlet(np.full(8, 0.3), size=(2, count))
    own = rng.normal(0, 0.25, (count, WIDTH))
    first = told + own + mix @ archetypes
    last = told + own + ((1 - drift) * mix + drift * later) @ archetypes
    want = 0.7 * last + np.sqrt(1 - 0.7**2) * rng.normal(0, 0.85, (count, WIDTH))
    mood = rng.normal(0, 0.35, count)
    thrift = np.exp(rng.normal(-0.2, 0.5, count))
    activity = rng.gamma(2.0, 1.0, count)
    device = rng.choice(len(DEVICES), size=count, p=(0.65, 0.1, 0.25))
    ease = np.array((-0.15, 0.0, 0.35))[device]
    ages = pa.array(age, mask=rng.random(count) < missing)
    table = pa.table(
        {
            "user_id": np.arange(1, count + 1),
            "age": ages,
            "gender": [GENDERS[g] for g in gender],
            "region": [REGIONS[r] for r in region],
            "device": [DEVICES[d] for d in device],
        }
    )
    return Crowd(
        first=f32(first),
        last=f32(last),
        want=f32(want),
        mood=f32(mood),
        thrift=f32(thrift),
        ease=f32(ease),
        activity=f32(activity),
        table=table,
    )


def f32(values: Floats) -> F32:
    """The values as float32."""
    return values.astype(np.float32)
