"""Tables -> the configuration of a run: the inferred schema, and sizes that suit so many rows, users and items."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..base.errors import ConfigError
from ..base.settings import merged
from ..data.infer import InferredSchema, infer_schema
from ..data.notation import Notation
from ..data.reading.readers import Source
from ..data.schema import DataConfig
from .commented import Place
from .file import recipe as recipe_of

if TYPE_CHECKING:
    from .run import RunConfig

Table = dict[str, Any]

_TINY, _SMALL, _MANY, _LARGE = 2_000, 50_000, 150_000, 1_000_000
"""Rows of the log that part one choice of sizes from the next."""
_SHORT = 30
"""Events a user, on average, below which those that validate are too many to leave unlearned (docs/experiments.md)."""
_WHOLE = 30_000
"""Items above which `loss = "auto"` draws negatives anyway."""

_OURS = ("horizon", "linear", "logit_adjustment", "loss", "negatives", "optim")
"""Keys of `[retrieval]` that a published recipe takes the place of."""


@dataclass(frozen=True)
class InferredConfig:
    """A configuration, and how it came about.

    Attributes:
        table: the configuration as plain TOML values, with only the keys that are not left at their defaults.
        notes: one sentence a decision.
        reasons: place in the table -> why it is so.
        schema: the inferred schema.
    """

    table: Table
    notes: tuple[str, ...]
    reasons: Mapping[Place, str]
    schema: InferredSchema

    def config(self) -> RunConfig:
        """The validated configuration; imports the models."""
        from .run import RunConfig

        return RunConfig.model_validate_json(json.dumps(self.table), strict=True)


def infer_config(
    events: Source | Sequence[Source],
    items: Source | None = None,
    users: Source | None = None,
    tasks: Sequence[str] | None = None,
    *,
    user: str | None = None,
    item: str | None = None,
    time: str | None = None,
    header: Sequence[str] = (),
    encoding: str = "",
    notation: Notation | None = None,
    name: str = "inferred",
    recipe: str = "",
) -> InferredConfig:
    """A configuration for tables of any names and sizes; arguments and errors as of `data.infer.infer_schema`.

    Args:
        name: of the run.
        recipe: published model whose sections replace what is inferred of retrieval.

    Raises:
        ConfigError: also where there is no such recipe, or no retrieval.
    """
    published = recipe_of(recipe) if recipe else {}
    schema = infer_schema(
        events,
        items,
        users,
        tasks,
        user=user,
        item=item,
        time=time,
        header=header,
        encoding=encoding,
        notation=notation,
    )
    table: Table = {"name": name, "seed": 1, "data": data_table(schema.config)}
    reasons = {("data", *_place(kind, key)): why for (kind, key), why in schema.reasons.items()}
    if schema.config.user and schema.config.item:
        table["retrieval"] = _published(_retrieval(schema, reasons), published, recipe, reasons)
        if schema.num_items < 100:
            cuts = [k for k in (5, 10, 50) if k < schema.num_items] or [1]
            table["evaluation"] = {"ks": cuts, "list_k": min(10, cuts[-1])}
            reasons["evaluation", "ks"] = f"there are {schema.num_items:,} items"
    elif recipe:
        raise ConfigError(f"the recipe {recipe} is of retrieval, which needs a column of users and one of items")
    table["ranking"] = _ranking(schema, reasons)
    retrieves = bool(schema.config.user and schema.config.item)  # then `select` alone orders, in which no task speaks
    if retrieves and not recipe and schema.rows < _SHORT * schema.num_users:
        table["final"] = {"rows": "auto"}
        per_user = schema.rows / schema.num_users
        reasons["final", "rows"] = f"users have {per_user:.0f} events each: what validated is learned too, at the end"
    if schema.unwanted and len(schema.unwanted) < len(schema.config.tasks) and not retrieves:
        table["blend"] = {"weights": {t.name: float(t.name not in schema.unwanted) for t in schema.config.tasks}}
        reasons["blend",] = "tasks that speak against an item stay out of its score"
    return InferredConfig(table, schema.notes, reasons, schema)


def data_table(config: DataConfig) -> Table:
    """The `[data]` section with the keys that differ from their defaults, and those that name the key columns."""
    table = config.model_dump(mode="json", exclude_defaults=True)
    first = [
        key
        for key in ("events", "items", "users", "header", "delimiter", "encoding", "decimal", "missing")
        if key in table
    ]
    keys = {"user": config.user, "item": config.item, "time": config.time}
    rest = [key for key in table if key not in (*first, *keys)]
    return {**{key: table[key] for key in first}, **keys, **{key: table[key] for key in rest}}


def _place(kind: str, name: str) -> Place:
    return (kind,) if kind == "split" else (f"{kind}s", name)


def _retrieval(schema: InferredSchema, reasons: dict[Place, str]) -> Table:
    data = schema.config
    described = [
        spec.name
        for spec in data.features
        if spec.side == "user" and spec.kind != "sequence" and spec.source != data.user
    ]
    past = [spec.name for spec in data.features if spec.after_event]
    section: Table = {} if not schema.positive else {"positive": schema.positive}
    candidates = max(10, min(200, schema.num_items))
    if candidates != 200:
        section["num_candidates"] = candidates
        reasons["retrieval", "num_candidates"] = f"there are {schema.num_items:,} items"
    section["tower"] = {
        "dim": 16 if schema.rows < _TINY else 32 if schema.rows < _SMALL else 64 if schema.rows < _LARGE else 128,
        "user_features": described,
        "event_features": [*(["gap"] if schema.ordered else []), *past],
    }
    reasons["retrieval", "tower", "dim"] = f"{schema.rows:,} events"
    reasons["retrieval", "tower", "user_features"] = "the history stands for the user; an id would be learned by heart"
    if schema.rows >= _TINY:
        section["tower"]["neighbours"] = 10
        reasons["retrieval", "tower", "neighbours"] = "an item is placed by the company it keeps, too"
    section["fit"] = {"epochs": 20 if schema.rows < _TINY else 12 if schema.rows < _LARGE else 6}
    if schema.rows >= _TINY:
        section["linear"] = "auto"
        reasons["retrieval", "linear"] = "how much of a linear model is added to the towers' scores, by validation"
        section["logit_adjustment"] = "auto"
        reasons["retrieval", "logit_adjustment"] = "how much popularity is added to the towers' scores, by validation"
        if data.split.kind == "time":
            section["horizon"] = "auto"
            reasons["retrieval", "horizon"] = "all that users take later is asked for, and not what comes next"
    if drawn := _drawn(schema.rows, schema.num_items):
        negatives, rate = drawn
        section |= {"loss": "estimated", "negatives": negatives, "optim": {"table_lr": rate}}
        reasons["retrieval", "loss"] = f"the softmax over {schema.num_items:,} items in less time, and no worse"
    if schema.rows < _TINY:
        section["fit"]["metric"] = ""
        reasons["retrieval", "fit", "metric"] = "too few rows to choose an epoch by: the last one's weights stay"
    return section


def _drawn(rows: int, num_items: int) -> tuple[int, float] | None:
    """Negatives and the tables' rate of an estimated softmax; None where all items are compared, or `auto` draws.

    With few rows an item is met too seldom for a faster rate (docs/experiments.md).
    """
    negatives = 4_096 if num_items >= 8_192 else 2_048
    if rows < _MANY or not 1.5 * negatives <= num_items <= _WHOLE:
        return None
    if rows >= _LARGE:
        return negatives, 0.01
    return (negatives, 0.004) if num_items >= 8_192 else None


def _published(section: Table, published: Table, recipe: str, reasons: dict[Place, str]) -> Table:
    """`[retrieval]` as inferred, with a published model's keys on top."""
    if not recipe:
        return section
    given = published["retrieval"]
    section = {key: value for key, value in section.items() if key not in _OURS}
    section["tower"] = {key: value for key, value in section["tower"].items() if key != "neighbours"}
    if not section["fit"].get("metric", "auto"):  # nothing would end a training of hundreds of epochs
        given = merged(given, {"fit": {**section["fit"], "patience": 0}})
    for key in ("dim", "neighbours", "user_features", "event_features"):
        reasons.pop(("retrieval", "tower", key), None)
    for key in _OURS:
        reasons.pop(("retrieval", key), None)
    reasons["retrieval",] = f"{recipe} as published, with all item features: recsys models {recipe}"
    return merged(section, given)


def _ranking(schema: InferredSchema, reasons: dict[Place, str]) -> Table:
    tiny = schema.rows < _TINY
    section: Table = {
        "batch_size": 32 if schema.rows < 500 else 128 if tiny else 1024 if schema.rows < _LARGE else 4096,
    }
    if tiny:
        section["model"] = {"kind": "shared_bottom", "bottom_hidden": [32], "dropout": 0.1}
        reasons["ranking", "model"] = "few rows: one small network"
    else:
        section["model"] = {"kind": "mmoe", "num_experts": 4, "expert_hidden": [64], "dropout": 0.2}
    if schema.config.user and schema.config.item and schema.config.split.kind == "time" and not tiny:
        section["select"] = {"targets": "auto", "per_user": 10}
        reasons["ranking", "select", "targets"] = (
            "lists are judged user by user: all that one takes at once, or ten drawn ones"
        )
    section["fit"] = {"epochs": 5 if tiny else 3 if schema.rows < _SMALL else 2}
    if tiny:
        section["fit"]["metric"] = ""
        reasons["ranking", "fit", "metric"] = "too few rows to choose an epoch by: the last one's weights stay"
    return section
