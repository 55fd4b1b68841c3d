"""The base of every configuration class, frozen and closed to unknown keys, and sections of which there are kinds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

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

    pydantic validates it as a union discriminated by `kind`.

    Attributes:
        classes: gives kind -> class of the section; called when the class that holds the section is defined.
        default: kind of a section that names none.
    """

    classes: Callable[[], Mapping[str, type[Settings]]]
    default: str

    def kind_of(self, section: object) -> str:
        """Kind of a section, given as a table or as an object."""
        kind = section.get(KIND, self.default) if isinstance(section, Mapping) else getattr(section, KIND, self.default)
        return str(kind)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """The union of all kinds."""
        choices = {kind: handler.generate_schema(section) for kind, section in self.classes().items()}
        return core_schema.tagged_union_schema(choices, discriminator=self.kind_of)


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
