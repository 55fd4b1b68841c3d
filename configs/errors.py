"""Mistakes in a configuration as sentences: file, line, key, what was found, what was expected, nearest valid key."""

from __future__ import annotations

import difflib
import json
import re
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from ..base.settings import KIND, Settings, one_of
from .retired import RETIRED

Keys = tuple[str | int, ...]

EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text in quotes",
    "tuple": "a list in [ ]",
    "list": "a list in [ ]",
    "dict": "a table",
    "model": "a table",
    "dataclass": "a table",
    "finite": "a finite number",
}


@dataclass(frozen=True)
class Source:
    """Where a table came from.

    Attributes:
        file: name of the TOML file.
        text: its content.
        overrides: (dotted key, what was typed) of each `--set`.
    """

    file: str
    text: str
    overrides: tuple[tuple[tuple[str, ...], str], ...] = ()

    def place(self, keys: Keys) -> str:
        """`file, line 12` of a key, or the `--set` that gave it."""
        names = tuple(str(key) for key in keys)
        for given, typed in reversed(self.overrides):
            shared = min(len(given), len(names))
            if given[:shared] == names[:shared]:
                return f"--set {typed}"
        line = _line(self.text, names)
        return f"{self.file}, line {line}" if line else self.file


def explain(error: ValidationError, model: type[BaseModel], table: dict[str, Any], source: Source) -> list[str]:
    """One sentence for each mistake that pydantic found.

    Args:
        error: what pydantic says.
        model: class of the whole file.
        table: what was validated.
        source: where it came from.
    """
    expected: dict[Keys, list[str]] = {}
    found: dict[Keys, str] = {}
    for detail in error.errors(include_url=False):
        kind = detail["type"]
        keys = present(detail["loc"], table, kind)
        value = detail["input"]
        if kind == "union_tag_invalid":
            keys, value = (*keys, KIND), detail["ctx"]["tag"]
        if kind == "extra_forbidden":
            message = _suggestion(keys, model, table)
        else:
            message = expectation(kind, detail.get("ctx", {}), detail["msg"])
        if keys not in found:
            found[keys] = f"{source.place(keys)}: " + _finding(keys, kind, value)
        if message not in expected.setdefault(keys, []):
            expected[keys].append(message)
    return [found[keys] + " or ".join(expected[keys]) for keys in found]


def _finding(keys: Keys, kind: str, value: Any) -> str:
    name = ".".join(str(key) for key in keys)
    if kind == "extra_forbidden" and name in RETIRED:
        return f'"{name}" '
    if kind == "extra_forbidden":
        section = ".".join(str(key) for key in keys[:-1])
        return f'"{name}" is no key of ' + (f"[{section}]; " if section else "the configuration; ")
    if kind == "missing":
        return f'"{name}" is missing; '
    if kind in ("value_error", "assertion_error"):
        return f"{name}: " if name else ""
    return f"{name} = {_shown(value)}; expected "


def expectation(kind: str, context: dict[str, Any], message: str) -> str:
    """What was expected, in words: the rest of a sentence that ends with it.

    Args:
        kind: pydantic's name of the mistake.
        context: what pydantic says beside it.
        message: pydantic's own words.
    """
    bounds = {"gt": "more than {}", "ge": "at least {}", "lt": "less than {}", "le": "at most {}"}
    for bound, words in bounds.items():
        if bound in context:
            return words.format(context[bound])
    if kind == "union_tag_invalid":
        names = re.findall(r"'(.*?)'", context["expected_tags"])
        close = difflib.get_close_matches(str(context["tag"]), names, n=1)
        return f"one of {', '.join(names)}" + (f'; did you mean "{close[0]}"?' if close else "")
    if kind == "literal_error":
        return str(context["expected"]).replace("'", '"')
    if kind in ("too_short", "too_long"):
        limit = f"at least {context['min_length']}" if kind == "too_short" else f"at most {context['max_length']}"
        return f"{limit} elements, found {context['actual_length']}"
    if kind == "missing":
        return "add it"
    if kind in ("value_error", "assertion_error"):
        return str(context["error"])
    return EXPECTED.get(kind.partition("_")[0]) or message[:1].lower() + message[1:]


def _suggestion(keys: Keys, model: type[BaseModel], table: dict[str, Any]) -> str:
    """Why a retired key is gone; else the valid key nearest to an unknown one, of the same section or of any."""
    retired = RETIRED.get(".".join(str(key) for key in keys))
    if retired is not None:
        return retired
    unknown = str(keys[-1])
    names = [name for section in _classes(keys[:-1], model, table) for name in section.model_fields]
    close = difflib.get_close_matches(unknown, names, n=1)
    if close:
        return f'did you mean "{".".join(str(key) for key in (*keys[:-1], close[0]))}"?'
    everywhere = {dotted.rpartition(".")[2]: dotted for dotted in reversed(list(_dotted(model, table)))}
    close = difflib.get_close_matches(unknown, list(everywhere), n=1, cutoff=0.8)
    if close:
        return f'did you mean "{everywhere[close[0]]}"?'
    return f"its keys are {', '.join(dict.fromkeys(names))}"


def _dotted(model: type[BaseModel], table: Any, prefix: str = "") -> Iterator[str]:
    """Dotted name of every key of `model`, those of the kinds of sub-table it may have included."""
    for name, field in model.model_fields.items():
        yield prefix + name
        inside = table.get(name) if isinstance(table, dict) else None
        for section in _sections(field, inside):
            yield from _dotted(section, inside, f"{prefix}{name}.")


def section_class(field: FieldInfo) -> type[Settings] | None:
    """Class of the table, or of each table of the list, that a key is; None where it is a plain value."""
    return next(iter(_models(field.annotation)), None)


def _sections(field: FieldInfo, table: Any) -> list[type[Settings]]:
    """Classes that the table under `field` may be of: its kind's, or any kind's where it names none that exists."""
    mark, section = one_of(field), section_class(field)
    if mark is not None:
        classes = mark.classes()
        named = mark.class_of(str(table[KIND])) if isinstance(table, dict) and KIND in table else None
        return list(classes.values()) if named is None else [named]
    return [] if section is None else [section]


def _classes(keys: Keys, model: type[BaseModel], table: Any) -> list[type[BaseModel]]:
    """Classes that the table at `keys` may be of."""
    classes: list[type[BaseModel]] = [model]
    for key in keys:
        table = table[key]
        if isinstance(key, str):
            fields = [kind.model_fields[key] for kind in classes if key in kind.model_fields]
            classes = list(dict.fromkeys(section for field in fields for section in _sections(field, table)))
    return classes


def _models(annotation: Any) -> list[type[Settings]]:
    """Settings classes inside an annotation such as `tuple[FeatureSpec, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return [annotation]
    return [model for part in typing.get_args(annotation) for model in _models(part)]


def present(location: Keys, table: Any, kind: str) -> Keys:
    """The location without the names of types that pydantic adds for unions: only keys that the table has."""
    keys: list[str | int] = []
    node = table
    for part in location:
        inside = part in node if isinstance(node, dict) else isinstance(node, list | tuple) and isinstance(part, int)
        if inside:
            node = node[part]
            keys.append(part)
        elif kind == "missing" and part == location[-1]:
            keys.append(part)
    return tuple(keys)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "{ ... }" if value else "{}"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _line(text: str, keys: tuple[str, ...]) -> int | None:
    """Line of the TOML text where `keys`, or else the nearest table above them, is written."""
    best, best_line = 0, None
    prefix: tuple[str, ...] = ()
    counts: dict[tuple[str, ...], int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        header = re.match(r"\s*(\[\[?)\s*([^\[\]]+?)\s*\]", line)
        assigned = re.match(r"\s*([\w\-.\"' ]+?)\s*=", line)
        if header:
            prefix = _unquoted(header[2])
            if header[1] == "[[":
                counts[prefix] = counts.get(prefix, -1) + 1
                prefix = (*prefix, str(counts[prefix]))
            path = prefix
        elif assigned:
            path = prefix + _unquoted(assigned[1])
        else:
            continue
        if len(path) > best and keys[: len(path)] == path:
            best, best_line = len(path), number
    return best_line


def _unquoted(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in dotted.split("."))
