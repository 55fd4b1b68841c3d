"""Any `Settings` class from a TOML file with `--set` overrides, and back to TOML.

Validation is strict: a number in quotes is no number. What is wrong is said in one sentence per mistake, with the
file, the line, the key, what was found and what was expected (`settings_errors`).
"""

from __future__ import annotations

import copy
import datetime
import difflib
import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from ..base.errors import ConfigError
from ..base.extensions import load_named
from ..base.settings import KIND, Settings, merged, one_of
from .errors import Source, explain, section_class

S = TypeVar("S", bound=Settings)
Table = dict[str, Any]
EXTENDS = "extends"
"""Top-level key of a file that changes others."""
RECIPES = Path(__file__).resolve().parent / "recipes"
"""Sections of published models, a file each."""
RECIPE = "recipe:"
"""What stands before the name of one of them in `extends`."""


@dataclass(frozen=True)
class Override:
    """One `--set KEY=VALUE`.

    Attributes:
        keys: dotted key, split; a whole number picks an element of a list.
        value: parsed as TOML, a bare word as a string.
        text: as it was typed.
    """

    keys: tuple[str, ...]
    value: Any
    text: str


def parse_override(text: str) -> Override:
    """`a.b.c=VALUE` as an override.

    Raises:
        ConfigError: it has no `=` or no key.
    """
    key, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not all(key.split(".")):
        raise ConfigError(f'--set {text}: expected KEY=VALUE with a dotted key, e.g. --set "retrieval.epochs=3"')
    try:
        parsed = tomllib.loads(f"value = {value}")
    except tomllib.TOMLDecodeError:
        parsed = {"value": value}
    return Override(tuple(key.split(".")), parsed["value"] if len(parsed) == 1 else value, text)


def shared_keys(model: type[Settings], under: Table, over: Table) -> Table:
    """`under` without the keys that mean nothing to the kind that `over` makes a section of.

    Who replaces an MMoE by a shared bottom keeps the inputs and the dropout and not the number of experts, which could
    not be taken back otherwise.

    Args:
        model: class of both tables.
        under: table that is changed.
        over: what changes it.
    """
    shared = dict(under)
    for name, field in model.model_fields.items():
        below, above, mark = under.get(name), over.get(name), one_of(field)
        if not isinstance(below, dict) or not isinstance(above, dict):
            continue
        if mark is None:
            inner = section_class(field)
            shared[name] = below if inner is None else shared_keys(inner, below, above)
        elif KIND in above and mark.kind_of(above) != mark.kind_of(below):
            kind = mark.class_of(mark.kind_of(above))  # None: validation names the kinds there are
            shared[name] = below if kind is None else {key: below[key] for key in below if key in kind.model_fields}
    return shared


def apply_override(table: Table, override: Override) -> None:
    """Set the override's key in `table`, making the tables on the way.

    Raises:
        ConfigError: the key leads through something that is no table, or past the end of a list.
    """
    node: Any = table
    for depth, key in enumerate(override.keys):
        last = depth == len(override.keys) - 1
        if isinstance(node, list) and key.isdigit() and int(key) < len(node):
            position: Any = int(key)
        elif isinstance(node, dict):
            position = key
        else:
            above = ".".join(override.keys[:depth])
            found = f"a list of {len(node)}; use a position from 0" if isinstance(node, list) else "no table"
            raise ConfigError(f'--set {override.text}: there is no "{key}" in {above}, which is {found}')
        if last:
            node[position] = override.value
        else:
            node = node.setdefault(position, {}) if isinstance(node, dict) else node[position]


def read_toml(file: Path) -> tuple[Table, str]:
    """The table in a TOML file, and its text.

    Raises:
        ConfigError: there is no such file, or it is not TOML.
    """
    try:
        text = file.read_bytes().decode("utf-8")
        return tomllib.loads(text), text
    except FileNotFoundError as error:
        raise ConfigError(f"there is no configuration file {file}{_similar(file)}") from error
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}; name a TOML file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not valid TOML: {error}; mend that line") from error


def read_extended(file: Path, model: type[Settings], above: tuple[Path, ...] = ()) -> tuple[Table, str]:
    """The table in a TOML file on top of the files that its key `extends` names, and its own text.

    `extends` is a path, a published model's `recipe:NAME`, or a list of these, of which a later one goes on top of
    those before. Tables are merged key by key; anything else, lists too, is replaced; of a section that becomes one of
    another kind, `shared_keys` are left. Paths in a file that is extended count from the folder of the file that
    extends it.

    Args:
        file: TOML.
        model: class of the whole file.
        above: files that led here.

    Raises:
        ConfigError: a file is missing or no TOML, or the files extend one another in a circle.
    """
    table, text = read_toml(file)
    load_named(table)  # which keys a section has is known when its kind is
    given = table.pop(EXTENDS, [])
    bases = [given] if isinstance(given, str) else given
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ConfigError(f'{file}: {EXTENDS} is {given!r}, expected the path of a file, e.g. {EXTENDS} = "base.toml"')
    chain = (*above, file.resolve())
    found: Table = {}
    for base in bases:
        under = recipe_file(base.removeprefix(RECIPE)) if base.startswith(RECIPE) else file.parent / base
        if under.resolve() in chain:
            raise ConfigError(f"{file} extends {base}, which extends it in turn; take one of the two lines out")
        found = _on_top(model, found, read_extended(under, model, chain)[0])
    return _on_top(model, found, table), text


def _on_top(model: type[Settings], under: Table, over: Table) -> Table:
    return merged(shared_keys(model, under, over), over)


def recipe_names() -> list[str]:
    """Published models that have a recipe, sorted."""
    return sorted(file.stem for file in RECIPES.glob("*.toml"))


def recipe(name: str) -> Table:
    """Sections of a published model, as it was published, to go on top of a configuration.

    Raises:
        ConfigError: there is none of that name.
    """
    return read_extended(recipe_file(name), Settings)[0]


def recipe_file(name: str) -> Path:
    """Where the recipe of a published model stands.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in recipe_names():
        raise ConfigError(f'there is no recipe "{name}"; there are: {", ".join(recipe_names())}')
    return RECIPES / f"{name}.toml"


def load_settings(
    model: type[S],
    file: Path,
    overrides: Sequence[str] = (),
    defaults: Table | None = None,
    prepare: Callable[[Table], Table] | None = None,
) -> S:
    """Read, override and validate.

    Args:
        model: the class of the whole file.
        file: TOML.
        overrides: `a.b.c=VALUE` each, applied in order.
        defaults: top-level values for keys the file leaves out.
        prepare: table of the file -> the table to validate, overrides not applied yet.

    Raises:
        ConfigError: one sentence for each mistake, one a line.
    """
    table, text = read_extended(file, model)
    table = table if prepare is None else prepare(table)
    return overridden(model, {**(defaults or {}), **table}, overrides, str(file), text)


def overridden(model: type[S], table: Table, overrides: Sequence[str], name: str, text: str = "") -> S:
    """A table with overrides, validated.

    Args:
        model: the class of the whole table.
        table: plain TOML values; left as it was.
        overrides: `a.b.c=VALUE` each, applied in order.
        name: what the table is called in messages.
        text: where messages look lines up.

    Raises:
        ConfigError: one sentence for each mistake, one a line.
    """
    parsed = [parse_override(override) for override in overrides]
    overriding: Table = {}
    for override in parsed:
        if not any(key.isdigit() for key in override.keys):  # a position means nothing where there is no list yet
            apply_override(overriding, override)
    load_named(table)
    load_named(overriding)
    table = copy.deepcopy(shared_keys(model, table, overriding))
    for override in parsed:
        apply_override(table, override)
    source = Source(name, text, tuple((override.keys, override.text) for override in parsed))
    try:
        return model.model_validate_json(json.dumps(table, default=_date), strict=True)
    except ValidationError as error:
        raise ConfigError("\n".join(explain(error, model, table, source))) from error
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error


def dump_table(settings: Settings) -> Table:
    """Every key of `settings`, defaults included, as plain TOML values; unset (None) keys are left out."""
    plain = _plain(settings.model_dump(serialize_as_any=True))
    assert isinstance(plain, dict)
    return plain


def flat(table: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Tables in tables as one, by dotted key."""
    found: dict[str, Any] = {}
    for name, value in table.items():
        found |= flat(value, f"{above}{name}.") if isinstance(value, Mapping) else {f"{above}{name}": value}
    return found


def flat_until(table: Mapping[str, Any], ends: Callable[[Mapping[str, Any]], bool], above: str = "") -> dict[str, Any]:
    """As `flat`, with the tables that `ends` says yes to as values."""
    found: dict[str, Any] = {}
    for name, value in table.items():
        inner = isinstance(value, Mapping) and not ends(value)
        found |= flat_until(value, ends, f"{above}{name}.") if inner else {f"{above}{name}": value}
    return found


def dump_toml(settings: Settings) -> str:
    """Every key of `settings`, defaults included, as TOML text."""
    import tomli_w

    return tomli_w.dumps(dump_table(settings))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _date(value: object) -> str:
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} is no TOML value")


def _similar(file: Path) -> str:
    there = [path.name for path in file.parent.glob("*.toml")] if file.parent.is_dir() else []
    close = difflib.get_close_matches(file.name, there, n=1)
    if close:
        return f"; did you mean {file.parent / close[0]}?"
    return f"; there {'is' if len(there) == 1 else 'are'} {', '.join(sorted(there))}" if there else ""
