"""The page of one row of `recsys models`: its source, what it computes, how to have it, its keys, where the code is.

The text is the docstring of the code, the keys are those of the configuration classes, and the configuration is written
from what the row says: nothing is said a second time.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from ..base.settings import Settings
from .models_list import Model

SECTIONS = re.compile(r"^(Args|Attributes|Returns|Raises|Yields):", re.MULTILINE)
ROOT = Path(__file__).resolve().parents[1]
WIDTH = 100


def page(model: Model) -> str:
    """The page as plain text."""
    source = f"{model.paper}; " if model.paper else ""
    keys = [f"  {key} = {default}\n{_wrapped(meaning, 6)}" for key, default, meaning in keys_of(model)]
    parts = [f"{model.name} ({model.kind}): {model.summary}", f"Source: {source}code: {where(model)}", computes(model)]
    parts.append(
        f'A configuration that has it, on top of one of yours (extends = "shop.toml"):\n\n{indented(snippet(model))}'
    )
    return "\n\n".join([*parts, *(["Keys and their defaults:\n\n" + "\n".join(keys)] if keys else [])])


def as_json(model: Model) -> dict[str, Any]:
    """The page as one JSON object."""
    keys = [{"key": key, "default": default, "meaning": meaning} for key, default, meaning in keys_of(model)]
    made = {"computes": computes(model), "configuration": snippet(model), "keys": keys, "code": where(model)}
    return {**model.entry, **made}


def computes(model: Model) -> str:
    """What the code computes, in its own words: the docstring of a class or function, of a ranker that of its file."""
    module = sys.modules[model.code.__module__]
    texts = [module.__doc__] if model.kind == "ranker" else [model.code.__doc__]
    if model.kind in ("history encoder", "target attention"):
        texts.insert(0, module.__doc__)
    return "\n\n".join(SECTIONS.split(inspect.cleandoc(text or ""))[0].strip() for text in texts)


def snippet(model: Model) -> str:
    """TOML that switches it on in a configuration that is complete otherwise."""
    return tomli_w.dumps(dict(model.settings)).strip()


def where(model: Model) -> str:
    """File, class or function."""
    if model.origin:
        return f"{model.origin}, {model.code.__qualname__}"
    file = Path(inspect.getfile(model.code)).resolve().relative_to(ROOT)
    return f"{file.as_posix()}, {model.code.__qualname__}"


def keys_of(model: Model) -> Iterator[tuple[str, str, str]]:
    """(dotted key, default as JSON, meaning) of each key that matters; sections within are left out."""
    for section, (settings, names) in model.keys.items():
        yield from _keys(section, settings, names)


def _keys(section: str, settings: type[Settings], names: tuple[str, ...]) -> Iterator[tuple[str, str, str]]:
    for name in names or tuple(settings.model_fields):
        field = settings.model_fields[name]
        value = field.get_default(call_default_factory=True)
        if isinstance(value, BaseModel):
            continue
        default = "required" if value is PydanticUndefined else json.dumps(value, default=_plain)
        yield f"{section}.{name}", default, " ".join((field.description or "").split())


def _plain(value: Any) -> Any:
    return value.model_dump() if isinstance(value, BaseModel) else str(value)


def _wrapped(text: str, indent: int) -> str:
    return textwrap.fill(text, WIDTH, initial_indent=" " * indent, subsequent_indent=" " * indent)


def indented(text: str) -> str:
    """Four spaces before each line."""
    return textwrap.indent(text, "    ")
