"""What a service is asked and told, as frozen dataclasses; plain dictionaries become them by `parsed`.

The classes are validated when they are made, and their JSON schema is the one that the HTTP document shows.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, cast

import numpy as np
from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, WithJsonSchema, model_validator
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

from ..configs.errors import expectation, present
from ..data.ids import id_text
from ..data.subject import HistoryMode, Subject
from ..retrieval.seen import SeenConfig
from .errors import Flaw, RequestError

_SCALARS = (str, int, float, bool, np.generic, type(None))
_NAMES = {
    "NoneType": "null",
    "bool": "true or false",
    "int": "a number",
    "float": "a number",
    "str": "text",
    "list": "a list",
    "tuple": "a list",
    "dict": "an object",
}


def type_name(value: object) -> str:
    """What a value is in the words of JSON; messages say this instead of the value, which may be personal."""
    return _NAMES.get(type(value).__name__, f"a {type(value).__name__}")


def _refuse(sentence: str, *, at: str = "") -> PydanticCustomError:
    """A mistake inside a value: `at` is the rest of its JSON pointer."""
    return PydanticCustomError("house", "{sentence}", {"sentence": sentence, "at": at})


def _id(value: Any, at: str = "") -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float | np.integer | np.floating):
        raise _refuse(f"found {type_name(value)}, expected an id: text or a number", at=at)
    text = id_text(value)
    if not text or text == "nan":
        raise _refuse("found an id without a character, expected text or a number", at=at)
    return text


def _value(value: Any, at: str = "") -> Any:
    entries = value if isinstance(value, list | tuple) else [value]
    if getattr(value, "ndim", 0) != 1 and not all(isinstance(entry, _SCALARS) for entry in entries):
        odd = next(entry for entry in entries if not isinstance(entry, _SCALARS))
        raise _refuse(f"found {type_name(odd)}, expected text, a number, true, false, null or a list of such", at=at)
    return value


def _history_event(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return _id(value)
    event = {str(name): one for name, one in value.items()}
    labels = event.get("labels")
    if labels is not None and not isinstance(labels, Mapping):
        raise _refuse(f'found {type_name(labels)}, expected an object such as {{"click": 1}}', at="/labels")
    for name, label in (labels or {}).items():
        if not isinstance(label, _SCALARS):
            raise _refuse(f"found {type_name(label)}, expected a number", at=f"/labels/{_escaped(str(name))}")
    if "item" in event:
        event["item"] = _id(event["item"], "/item")
    for name, one in event.items():
        if name != "labels":
            _value(one, f"/{_escaped(name)}")
    return event


def _number_or_text(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _refuse(f"found {type_name(value)}, expected seconds since 1970 or an ISO date")
    return value


_ID_SCHEMA = {"type": ["string", "integer", "number"], "description": "Text, or a number by its decimal text."}
_VALUE_SCHEMA = {
    "anyOf": [
        {"type": ["string", "number", "boolean", "null"]},
        {"type": "array", "items": {"type": ["string", "number", "boolean", "null"]}},
    ]
}
_EVENT_SCHEMA = {
    "anyOf": [
        {"type": ["string", "integer", "number"]},
        {
            "type": "object",
            "required": ["item"],
            "properties": {
                "item": {"type": ["string", "integer", "number"]},
                "time": {"type": ["string", "number", "null"]},
                "labels": {"type": "object", "additionalProperties": {"type": ["number", "boolean", "null"]}},
            },
            "additionalProperties": _VALUE_SCHEMA,
        },
    ]
}

RawId = Annotated[str, BeforeValidator(_id), WithJsonSchema(_ID_SCHEMA)]
Value = Annotated[Any, BeforeValidator(_value), WithJsonSchema(_VALUE_SCHEMA)]
_SEEN_SCHEMA = {
    "anyOf": [
        {"enum": ["taken", "shown", "none", None]},
        {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "policy": {"enum": ["taken", "shown", "none"]},
                "window_days": {"type": ["number", "null"], "exclusiveMinimum": 0},
                "tasks": {"type": "array", "items": {"type": "string"}},
            },
        },
    ]
}
SeenPolicy = Annotated[SeenConfig | None, WithJsonSchema(_SEEN_SCHEMA)]
HistoryEvent = Annotated[Any, BeforeValidator(_history_event), WithJsonSchema(_EVENT_SCHEMA)]
Moment = Annotated[float | str, BeforeValidator(_number_or_text)]
Text = Annotated[str, Field(strict=True)]
Flag = Annotated[bool, Field(strict=True)]
Count = Annotated[int, Field(strict=True, ge=1)]

CONFIG = ConfigDict(extra="forbid", use_attribute_docstrings=True)


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Asked:
    """What every request may say."""

    request_id: Text | None = None
    """Any text; the answer repeats it. One is made when it is absent."""

    run: Text | None = None
    """Which of the named runs answers; when absent, the main one, or the one that the split gives this user."""

    timeout_ms: Count | None = None
    """Milliseconds after which nobody waits for the answer any more."""


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class AskedOf(Asked):
    """A request about somebody, and what it knows of them; see `recsys.Subject`."""

    user: RawId | None = None
    """Raw id; absent for somebody anonymous. An id that the run does not know is no error."""

    history: tuple[HistoryEvent, ...] = ()
    """Events that are not stored, oldest first: item ids, or objects with `item` and, where known, `time`, `labels`
    and context columns. Without labels each counts as one of `retrieval.positive`."""

    history_mode: HistoryMode = "append"
    """`append` to what is stored of the user, or `replace` it."""

    features: dict[str, Value] = dataclasses.field(default_factory=dict)
    """Columns of the users table; they override what is stored."""

    context: dict[str, Value] = dataclasses.field(default_factory=dict)
    """Context columns of the events table as they are now; they override the latest ones."""

    @property
    def subject(self) -> Subject:
        """Whom the answer is for."""
        return Subject(
            user=self.user,
            history=self.history,
            history_mode=self.history_mode,
            features=self.features,
            context=self.context,
        )


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Request(AskedOf):
    """Recommend items to somebody."""

    k: Count = 10
    """How many items."""

    where: Text = ""
    """Only items whose attributes satisfy this, such as `genres = "Comedy" and year < 1995`."""

    allow: tuple[RawId, ...] | None = None
    """Only these items."""

    exclude: tuple[RawId, ...] = ()
    """Never these items."""

    rules: Literal["run", "none"] = "run"
    """`none` switches pins, boosts, caps, shares, variety and draws off; blocks, hides and freshness stay."""

    seen: SeenPolicy = None
    """What is not recommended again, instead of what the rules say: `taken` (positive events), `shown` (any event),
    `none`, or an object with `policy`, `window_days` and `tasks` (`rules.seen` of a configuration)."""

    explore: Flag = True
    """Whether places may be drawn where the rules explore."""

    explain: Flag = False
    """Say of each item why it is there."""

    cursor: Text | None = None
    """Of the answer before: the next items, none of those that were given."""

    record: Literal["shown"] | None = None
    """`shown`: write the items down as shown to `user` before they are given, for clients that bring no token back;
    needs a state. Binary labels are 0 until an event tells more."""


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class ItemRequest(Asked):
    """What is known of an item."""

    item: RawId
    """Raw id."""


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class SimilarRequest(Asked):
    """Items like other items."""

    items: Annotated[tuple[RawId, ...], Field(min_length=1)]
    """Items of the catalogue; each gets a list of its own."""

    k: Count = 10
    """How many similar items each gets."""

    by: Literal["mixed", "vector", "together", "attributes"] = "mixed"
    """Tower vectors, taken by the same users, values in common; `mixed`: the first two lists merged."""

    where: Text = ""
    """Only items whose attributes satisfy this."""

    exclude: tuple[RawId, ...] = ()
    """Never these items."""

    user: RawId | None = None
    """Leave out what this user is not recommended again."""


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class ScoreRequest(AskedOf):
    """Scores of given items for somebody; they are relative to one another, as candidates of one request."""

    items: Annotated[tuple[RawId, ...], Field(min_length=1)]
    """Items to score, answered in this order; those that the run does not know come back without a score."""


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Event:
    """Something that happened: a row of the events table, by its columns. Other keys than these are its columns."""

    user: RawId
    """Raw id."""

    item: RawId
    """Raw id."""

    time: Moment | None = None
    """Seconds since 1970 or an ISO date; now when absent."""

    labels: dict[str, Value] = dataclasses.field(default_factory=dict)
    """Label column or task -> value."""

    id: RawId | None = None
    """Of the event: a repeated one is a duplicate and changes nothing. Made of the content when absent."""

    token: Text | None = None
    """Of the recommended item, as the answer gave it: joins a label to the item that was shown."""

    weight: Annotated[float, Field(ge=0.0)] | None = None
    """What the row counts in training."""

    propensity: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """Probability with which the item was shown, where it was drawn; a token says it by itself."""

    columns: dict[str, Value] = dataclasses.field(default_factory=dict)
    """Other columns of the events table, such as context."""

    @model_validator(mode="before")
    @classmethod
    def _other_keys_are_columns(cls, given: Any) -> Any:
        values = given if isinstance(given, dict) else getattr(given, "kwargs", None)
        if not isinstance(values, dict):
            return given
        own = {field.name for field in dataclasses.fields(cls)}
        columns = {name: value for name, value in values.items() if name not in own}
        return {**{n: v for n, v in values.items() if n in own}, "columns": {**values.get("columns", {}), **columns}}


@dataclasses.dataclass(frozen=True)
class Receipt:
    """What became of events.

    Attributes:
        accepted: how many are kept.
        duplicates: how many were known already and changed nothing.
        position: of the last of them in the log; every later answer knows it.
        refused: place among those handed in, from 0, and what is wrong, of those that were left out.
    """

    accepted: int
    duplicates: int
    position: int
    refused: tuple[tuple[int, str], ...] = ()


T = TypeVar("T")


@cache
def adapter(kind: Any) -> TypeAdapter[Any]:
    """Validates one of these classes, and knows its JSON schema."""
    return TypeAdapter(kind)


def parsed(kind: type[T], given: T | Mapping[str, Any]) -> T:
    """A request of a class, or the dictionary it is made of.

    Raises:
        RequestError: every key that is wrong, with its place; no message quotes a value.
    """
    if isinstance(given, kind):
        return given
    if not isinstance(given, Mapping):
        raise RequestError([Flaw("", f"found {type_name(given)}, expected an object with the keys of {kind.__name__}")])
    try:
        validated: T = adapter(cast(Any, kind)).validate_python(dict(given))
        return validated
    except ValidationError as error:
        raise RequestError(flaws_of(error, kind, given)) from None


def flaws_of(error: ValidationError, kind: type[Any], given: Any) -> list[Flaw]:
    """One mistake for each place that pydantic names.

    Args:
        error: what pydantic says.
        kind: class that was validated.
        given: the dictionary.
    """
    found: dict[str, list[str]] = {}
    for detail in error.errors(include_url=False):
        shape, context = detail["type"], detail.get("ctx", {})
        pointer = "".join(f"/{_escaped(str(key))}" for key in present(detail["loc"], given, shape))
        if shape == "house":
            pointer, sentence = pointer + context["at"], context["sentence"]
        elif shape in ("extra_forbidden", "unexpected_keyword_argument"):
            inside = detail["loc"][:-1] == ("seen",)
            names = [*SeenConfig.model_fields] if inside else [field.name for field in dataclasses.fields(kind)]
            close = difflib.get_close_matches(str(detail["loc"][-1]), names, n=1)
            sentence = "there is no such key; " + (
                f'did you mean "{close[0]}"?' if close else f"there are: {', '.join(names)}"
            )
        elif shape in ("missing", "missing_keyword_only_argument"):
            pointer, sentence = f"/{detail['loc'][-1]}", "the key is missing; add it"
        else:
            expected = expectation(shape, context, detail["msg"])
            sentence = f"found {type_name(detail['input'])}, expected {_in_json(expected)}"
        if sentence not in found.setdefault(pointer, []):
            found[pointer].append(sentence)
    return [Flaw(pointer, " or ".join(sentences)) for pointer, sentences in found.items()]


def _in_json(expected: str) -> str:
    """An expectation in the words of JSON where that of TOML differs."""
    return {"a list in [ ]": "a list", "a table": "an object", "text in quotes": "text"}.get(expected, expected)


def _escaped(key: str) -> str:
    """A key as a part of a JSON pointer (RFC 6901)."""
    return key.replace("~", "~0").replace("/", "~1")
