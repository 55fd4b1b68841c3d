"""The base of every configuration class, frozen and closed to unknown keys, and sections of which there are kinds."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, PydanticKnownError, core_schema

from . import extensions
from .errors import ConfigError
from .tuned import Dimension

KIND = "kind"
"""Key that says which kind a section is of."""


class Settings(BaseModel):
    """A frozen section of the configuration; the docstring under a field is its documentation.

    A class that wants a section with other defaults makes a small subclass of it, `class TowerFit(FitOptions)`, so that
    a section given in part keeps the rest of them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    tuned: ClassVar[Mapping[str, Dimension]] = {}
    """Keys that a search looks at unless told otherwise, and their values."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Give a field that is declared again without a docstring the one of the class above."""
        above = [base.model_fields for base in cls.__mro__[1:] if issubclass(base, Settings)]
        for name, field in cls.model_fields.items():
            if field.description is None:
                field.description = next((fields[name].description for fields in above if name in fields), None)


@dataclass(frozen=True)
class OneOf:
    """Marks a section of several kinds: `model: Annotated[RankerConfig, OneOf(configs, default="mmoe")]`.

    Which kinds there are is asked whenever a section is validated, so that a kind that an extension registers later
    counts like the built-in ones.

    Attributes:
        classes: gives kind -> class of the section.
        default: kind of a section that names none.
    """

    classes: Callable[[], Mapping[str, type[Settings]]]
    default: str

    def kind_of(self, section: object) -> str:
        """Kind of a section, given as a table or as an object."""
        kind = section.get(KIND, self.default) if isinstance(section, Mapping) else getattr(section, KIND, self.default)
        return str(kind)

    def class_of(self, kind: str) -> type[Settings] | None:
        """Class of the sections of a kind, those of installed extensions among them; None where there is none."""
        found = self.classes().get(kind)
        if found is None:
            extensions.load_installed()
            found = self.classes().get(kind)
        return found

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """The class of the kind that a section names decides on it."""

        def validated(section: Any, strict: bool) -> Any:
            if isinstance(section, source):
                return section
            kind = self.kind_of(section)
            found = self.class_of(kind) if isinstance(section, Mapping) else source
            if found is None:
                tags = ", ".join(f"'{name}'" for name in self.classes())
                raise PydanticKnownError(
                    "union_tag_invalid", {"discriminator": f"'{KIND}'", "tag": kind, "expected_tags": tags}
                )
            if strict and isinstance(section, Mapping):  # a list stands for a tuple in JSON alone
                return found.model_validate_json(json.dumps(dict(section)), strict=True)
            return found.model_validate(section)

        from_json = core_schema.no_info_plain_validator_function(lambda section: validated(section, True))
        from_python = core_schema.no_info_plain_validator_function(lambda section: validated(section, False))
        return core_schema.json_or_python_schema(from_json, from_python)


def one_of(field: FieldInfo) -> OneOf | None:
    """The mark of a field that is a section of several kinds."""
    return next((mark for mark in field.metadata if isinstance(mark, OneOf)), None)


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """One table on top of another; tables within them too."""
    both = dict(under)
    for key, value in over.items():
        before = both.get(key)
        both[key] = merged(before, value) if isinstance(before, Mapping) and isinstance(value, Mapping) else value
    return both


def known_name(given: str, names: Iterable[str]) -> str:
    """A name that is among those there are; for validators.

    Raises:
        PydanticKnownError: it is not; worded as pydantic words a `Literal`.
    """
    names = list(names)
    if given in names:
        return given
    *others, last = [f"'{name}'" for name in names]
    raise PydanticKnownError("literal_error", {"expected": f"{', '.join(others)} or {last}" if others else last})


S = TypeVar("S", bound=Settings)


def checked_settings(kind: type[S], what: str, options: Mapping[str, Any]) -> S:
    """The settings of something that is named in a configuration, from the table of its options.

    Args:
        kind: its own class.
        what: names it in messages, such as "baseline ease".
        options: plain values.

    Raises:
        ConfigError: an option is unknown or out of range.
    """
    try:
        return kind(**options)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        known = ", ".join(kind.model_fields) or "none"
        raise ConfigError(f"{what}: {key}: {first['msg']}; its options are {known}") from error
