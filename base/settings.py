"""The base of every configuration class, frozen and closed to unknown keys, and how sections given in part are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A frozen section of the configuration; the docstring under a field is its documentation."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def with_defaults(model: type[Settings], given: Mapping[str, Any]) -> dict[str, Any]:
    """Sections given in part, completed by what the class above them declares for the rest.

    With `fit: FitOptions = FitOptions(metric="ndcg@10")`, `{"fit": {"epochs": 8}}` are eight epochs with that metric; a
    section validated alone would forget it. A section of which there are several kinds stays as it is: what one kind of
    model defaults to means nothing to another.

    Args:
        model: the class of the table.
        given: plain values; the defaults that are filled in are plain JSON values too.
    """
    completed = dict(given)
    for name, section in given.items():
        if name in model.model_fields:
            completed[name] = _completed(model, name, model.model_fields[name].default, section)
    return completed


def _completed(owner: type[Settings], name: str, default: object, section: object) -> object:
    """`section`, found under `name` of `owner`, on top of what `default` was given."""
    if not isinstance(default, Settings) or not isinstance(section, Mapping):
        return section
    if type(default) is not owner.model_fields[name].annotation:
        return section
    completed = default.model_dump(mode="json", exclude_unset=True)
    for key, value in section.items():
        completed[key] = _completed(type(default), key, getattr(default, key, None), value)
    return completed


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """One table on top of another; tables within them too."""
    both = dict(under)
    for key, value in over.items():
        before = both.get(key)
        both[key] = merged(before, value) if isinstance(before, Mapping) and isinstance(value, Mapping) else value
    return both
