"""`python docs/document_config.py` (`make docs`): writes docs/config.md from the configuration classes themselves."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from recsys.base.settings import one_of

TARGET = Path(__file__).resolve().parent / "config.md"

INTRO = """# Configuration

<!-- Written by `make docs`; edit the docstrings of the classes instead. -->

A run is described by one TOML file. Keys that are left out have the defaults below; unknown keys are refused, with the
nearest valid one named. Paths are relative to the file. Any key can be overridden on the command line, in order:

```
recsys train configs/movielens-1m.toml --set seed=2 --set ranking.model.kind=ple --set data.features.0.min_count=5
```

A value is read as TOML, a bare word as text. The resolved configuration, every key spelt out, is kept in the run as
`config.toml`, and can be trained from again.

A file that begins with `extends = "other.toml"` says only what it changes in the other one: tables are merged, anything
else is replaced. Several are extended by a list, later ones on top; `recipe:sasrec` is a published model's sections
(`recsys models sasrec`): `extends = ["shop.toml", "recipe:sasrec"]`. A section that becomes one of another kind there,
or by `--set ranking.model.kind=cgc`, keeps what both kinds know.
"""

BASIC = """
## The keys that people change

Most runs change these and no others. `[[data.features]]` and `[[data.tasks]]` describe the columns and are below.
"""

ADVANCED = """

## Every key

`basic` keys are those above. The defaults of `advanced` ones suit most runs.
"""

WORDS = {int: "whole number", float: "number", bool: "true or false", str: "text", Path: "path", Any: "anything"}
BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def document() -> str:
    """The whole of docs/config.md."""
    from recsys.configs.run import BASIC_KEYS, RunConfig

    basic = [(key, key_field(RunConfig, key)) for key in BASIC_KEYS]
    rows = [_row(f"`{key}`", _default(_value(field)), _first_sentence(field)) for key, field in basic]
    first = "\n".join([BASIC, "| key | default | meaning |", "|---|---|---|", *rows])
    return INTRO + first + ADVANCED + "".join(_section("", RunConfig.model_fields, BASIC_KEYS))


def key_field(model: type[BaseModel], dotted: str) -> FieldInfo:
    """The field of a dotted key; in a section of several kinds, of what all kinds share.

    Raises:
        KeyError: there is no such key.
    """
    name, _, rest = dotted.partition(".")
    field = model.model_fields[name]
    if not rest:
        return field
    section, _ = _table_class(field.annotation)
    if section is None:
        raise KeyError(dotted)
    mark = one_of(field)
    return key_field(section if mark is None else mark.classes()[mark.default], rest)


def _section(path: str, fields: Mapping[str, FieldInfo], basic: Sequence[str]) -> Iterator[str]:
    """A table of the plain keys among `fields`, then a section for each key that is a table itself.

    Args:
        path: dotted key of the table, empty for the file.
        fields: its keys.
        basic: dotted keys that are not advanced.
    """
    keys, tables = [], []
    for name, field in fields.items():
        dotted = f"{path}.{name}".lstrip(".")
        inner, many = _table_class(field.annotation)
        if inner is None:
            keys.append((name, field, dotted in basic))
        else:
            tables.append((dotted, inner, many, field))
    if keys:
        yield _table(keys)
    for dotted, inner, many, field in tables:
        heading = f"[[{dotted}]]" if many else f"[{dotted}]"
        yield f"\n{'#' * min(3 + dotted.count('.'), 5)} `{heading}`\n\n{_sentence(field)}\n"
        yield from _section(dotted, inner.model_fields, basic)
        mark = one_of(field)
        for kind, config in {} if mark is None else mark.classes().items():
            own = {name: field for name, field in config.model_fields.items() if name not in inner.model_fields}
            yield f'\n##### `[{dotted}]` with `kind = "{kind}"`\n'
            yield from _section(dotted, own, basic) if own else ["\nNo keys of its own.\n"]


def _table(rows: list[tuple[str, FieldInfo, bool]]) -> str:
    lines = ["", "| key | type | default | level | meaning |", "|---|---|---|---|---|"]
    for name, field, basic in rows:
        level = "basic" if basic else "advanced"
        lines.append(_row(f"`{name}`", _type(field), _default(_value(field)), level, _sentence(field)))
    return "\n".join(lines) + "\n"


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _value(field: FieldInfo) -> Any:
    return field.get_default(call_default_factory=True)


def _first_sentence(field: FieldInfo) -> str:
    return re.split(r"(?<=\.)\s", _sentence(field), maxsplit=1)[0]


def _sentence(field: FieldInfo) -> str:
    return " ".join((field.description or "").split())


def _type(field: FieldInfo) -> str:
    bounds = [
        f"{sign} {getattr(rule, name):g}"
        for rule in field.metadata
        for name, sign in BOUNDS.items()
        if hasattr(rule, name)
    ]
    return " ".join([_words(field.annotation), *bounds])


def _words(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in WORDS:
        return WORDS[annotation]
    if origin is typing.Annotated:
        return _words(arguments[0])
    if origin is typing.Literal:
        return " or ".join(f"`{choice}`" for choice in arguments)
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return f"list of {_plural(_words(arguments[0]))}"
        return f"list of {len(arguments)} {_plural(_words(arguments[0]))}"
    if origin is dict:
        return f"table of {_plural(_words(arguments[1]))}"
    if origin in (types.UnionType, typing.Union):
        given = [_words(argument) for argument in arguments if argument is not type(None)]
        return " or ".join(given) + (", or left out" if type(None) in arguments else "")
    raise TypeError(f"no words for the type {annotation}; add them to document_config")


def _plural(words: str) -> str:
    return (
        words + "s"
        if words.endswith("number")
        else f"lists of {_plural(words[8:])}"
        if words.startswith("list of ")
        else words
    )


def _default(value: Any) -> str:
    import json

    if value is PydanticUndefined:
        return "required"
    if value is None:
        return "none"
    plain = value.model_dump() if isinstance(value, BaseModel) else value
    return f"`{json.dumps(plain, ensure_ascii=False, default=str)}`"


def _table_class(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """The Settings class of a key that is a table, and whether it is a list of them."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    for argument in typing.get_args(annotation):
        inner, _ = _table_class(argument)
        if inner is not None:
            return inner, typing.get_origin(annotation) in (tuple, list)
    return None, False


if __name__ == "__main__":
    TARGET.write_text(document(), encoding="utf-8")
