"""The last stage of a configuration: what a list must, must not and should hold beside the best items.

The section `[rules]` of a run, or a file of its own (`--rules FILE`) with the same keys.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from ..base.errors import ConfigError
from ..base.settings import Settings
from ..retrieval.seen import SeenConfig
from .file import load_settings

VarietyKind = Literal["none", "mmr", "dpp", "calibrated"]

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class DatedRule(Settings):
    """A rule that holds for a time."""

    since: str = ""
    """ISO date or time (UTC) from which the rule holds; always when empty."""

    until: str = ""
    """ISO date or time (UTC) at which the rule ends; never when empty."""

    @field_validator("since", "until")
    @classmethod
    def _is_a_date(cls, value: str) -> str:
        if value:
            seconds_since_1970(value)
        return value


class BlockRule(DatedRule):
    """Items that are in no list."""

    where: str = ""
    """A condition on the items, such as `category = "recalled"`."""

    items: tuple[str, ...] = ()
    """Raw item ids."""

    file: str = ""
    """Text file of raw item ids, one a line, relative to the file that names it. It is read with the configuration: a
    run keeps the ids."""

    where_user_column: str = ""
    """Column of the items with raw user ids: nobody gets the items whose column names them, such as their own."""

    @model_validator(mode="after")
    def _of_something(self) -> BlockRule:
        given = [self.where, self.items, self.file, self.where_user_column]
        if sum(map(bool, given)) != 1:
            raise ValueError("a block names its items by where, items, file or where_user_column; give one of them")
        return self


class HideRule(Settings):
    """Items that a user does not get, by what the user has done."""

    task: str
    """A binary task, such as a dislike: events with label 1 hide."""

    scope: str = "item"
    """`item`: the item of the event. A column of the items: every item that shares a value with it."""

    days: Annotated[float | None, Field(gt=0.0)] = None
    """Only events of so many days before the request hide; all when absent."""


class BoostRule(DatedRule):
    """Items whose blended score is multiplied."""

    where: str
    """A condition on the items."""

    factor: Annotated[float, Field(gt=0.0)]
    """What their score is multiplied by: above 1 lifts, below 1 lowers."""


class PinRule(DatedRule):
    """An item with a place of its own; left out where the item is blocked or seen, or its filter excludes it."""

    item: str
    """Raw item id."""

    slot: Annotated[int, Field(ge=1)] = 1
    """Place in the list, from 1."""


class CapRule(Settings):
    """At most so many items of one value; an item of several values counts for each."""

    column: str
    """Column of the items."""

    most: Annotated[int, Field(ge=1)]
    """Most items of any one value."""

    within: Annotated[int, Field(ge=0)] = 0
    """In any so many places that follow one another; in the whole list when 0."""


class ShareRule(Settings):
    """At least a share of the list for some items."""

    where: str
    """A condition on the items."""

    least: Share
    """Share of the list, rounded down to whole items."""


class FreshnessRule(Settings):
    """Only items that came out lately."""

    column: str
    """Column of the items with the time each came out, in seconds since 1970."""

    days: Annotated[float, Field(gt=0.0)]
    """How long ago at most; items without a time stay."""


class DiversityConfig(Settings):
    """Variety of a list, bought with relevance."""

    kind: VarietyKind = "none"
    """`mmr` (Carbonell and Goldstein 1998), `dpp` (Chen, Zhang and Zhou 2018) or `calibrated` (Steck 2018)."""

    strength: Share = 0.2
    """0 is the order of the scores, 1 is variety alone."""

    column: str = ""
    """`calibrated`: column of the items whose shares in the list follow those of the user's history."""

    pool: Annotated[int, Field(ge=1, le=500)] = 200
    """Best items that variety chooses from; the rest follow by score."""

    @model_validator(mode="after")
    def _column_where_it_is_read(self) -> DiversityConfig:
        if (self.kind == "calibrated") != bool(self.column):
            raise ValueError('diversity.column is read by kind = "calibrated", and by no other; set both or neither')
        return self


class ExploreConfig(Settings):
    """Places whose item is drawn, with the probability of the draw in the answer."""

    slots: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(max_length=3)] = ()
    """Places, from 1, that are drawn; none by default."""

    epsilon: Share = 0.1
    """Share of the draws that are even over all items that may stand there; the others follow the scores."""

    temperature: Annotated[float, Field(gt=0.0)] = 1.0
    """Of the softmax over the logarithms of the scores: above 1 draws more evenly."""


class RulesConfig(Settings):
    """The last stage; does nothing by default."""

    seen: SeenConfig | None = None
    """Which items lists leave out as seen, in answers and in their evaluation; `retrieval.seen` when absent."""

    block: tuple[BlockRule, ...] = ()
    """Items that are in no list."""

    hide: tuple[HideRule, ...] = ()
    """Items that a user does not get, by what the user has done."""

    boost: tuple[BoostRule, ...] = ()
    """Items whose score is multiplied."""

    pin: tuple[PinRule, ...] = ()
    """Items with a place of their own."""

    cap: tuple[CapRule, ...] = ()
    """At most so many items of one value."""

    share: tuple[ShareRule, ...] = ()
    """At least a share of the list for some items."""

    freshness: FreshnessRule | None = None
    """Only items that came out lately."""

    diversity: DiversityConfig = DiversityConfig()
    """Variety, bought with relevance."""

    explore: ExploreConfig = ExploreConfig()
    """Places whose item is drawn."""

    @model_validator(mode="after")
    def _one_item_a_place(self) -> RulesConfig:
        drawn = set(self.explore.slots)
        if both := sorted(drawn & {pin.slot for pin in self.pin}):
            raise ValueError(f"slot {both[0]} is pinned and explored; give each another place")
        return self

    @property
    def idle(self) -> bool:
        """Whether the list is the ranker's order, as it is."""
        filled = (*self._filters.values(), self.boost, self.pin, self.cap, self.share, self.explore.slots)
        varied = self.diversity.kind != "none" and self.diversity.strength > 0
        return not varied and not any(filled)

    @property
    def _filters(self) -> dict[str, Any]:
        return {"seen": self.seen, "block": self.block, "hide": self.hide, "freshness": self.freshness}

    @property
    def filters(self) -> RulesConfig:
        """What keeps items out of lists, and nothing that orders them."""
        return RulesConfig(**self._filters)

    @property
    def unexplored(self) -> RulesConfig:
        """The same without drawn places."""
        return self.model_copy(update={"explore": ExploreConfig()})

    def with_files(self, base: Path) -> RulesConfig:
        """The same with the ids of files in the place of the files.

        Args:
            base: folder that the files are relative to.

        Raises:
            ConfigError: a file cannot be read, or names no item.
        """
        block = [
            rule.model_copy(update={"file": "", "items": _ids_in(base / rule.file)}) if rule.file else rule
            for rule in self.block
        ]
        return self.model_copy(update={"block": tuple(block)})


def load_rules(file: Path) -> RulesConfig:
    """The rules in a TOML file.

    Raises:
        ConfigError: one sentence for each mistake, one a line.
    """
    return load_settings(RulesConfig, file).with_files(file.parent)


def _ids_in(file: Path) -> tuple[str, ...]:
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"rules.block.file: {file} cannot be read ({error}); name a text file of item ids") from None
    ids = tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not ids:
        raise ConfigError(f"rules.block.file: {file} names no item; expected an id a line")
    return ids


def seconds_since_1970(text: str) -> float:
    """An ISO date or time, UTC where it names no zone.

    Raises:
        ValueError: it is none.
    """
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f'"{text}" is no date; expected ISO, such as 2026-12-24 or 2026-12-24T18:00+01:00') from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
