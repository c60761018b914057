"""Sections that come in several forms, such as ``model``: the form is chosen by ``name``."""

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, Self

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from distrain.config.section import Section


def has_forms(section: type[Section]) -> bool:
    """Return whether a section is what several forms have in common: whether it lists them."""
    return "forms" in vars(section)


class NamedSection(Section):
    """The base of a section that comes in several forms: its ``name`` says which one.

    A direct subclass holds what the forms have in common, and lists them; each of them is a
    subclass of that one whose ``name`` has one word for its type. A recipe's section is typed by
    the common class, and read as the form that it names: a form that is added to the list at any
    time is known to the schema.
    """

    name: str
    IMPLIED: ClassVar[Mapping[str, str]] = {}
    """Key that only one form has -> its name, which may then be left out."""

    @classmethod
    def forms(cls) -> Mapping[str, type[Self]]:
        """Return the forms by name; the first is that of a section without a name."""
        raise NotImplementedError

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:  # noqa: ANN401
        if not has_forms(cls):
            return handler(source)
        lax, strict = (
            core_schema.no_info_plain_validator_function(partial(cls._read, strict=strict))
            for strict in (False, True)
        )
        return core_schema.lax_or_strict_schema(lax, strict)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        if not has_forms(cls):
            return handler(schema)
        return {"type": "object"}  # ``distrain.config.reading.json_schema`` lists the forms

    @classmethod
    def _read(cls, value: Any, *, strict: bool) -> Self:  # noqa: ANN401
        forms = cls.forms()
        default = next(iter(forms))
        if isinstance(value, cls):
            return value
        named = named_form(cls, value) if isinstance(value, Mapping) else None
        name = default if named is None else named
        if not isinstance(name, str):
            return forms[default].model_validate(value, strict=strict)
        if name not in forms:
            words = " or ".join(map(repr, forms))
            raise ValidationError.from_exception_data(
                cls.__name__,
                [
                    {
                        "type": "literal_error",
                        "loc": ("name",),
                        "input": name,
                        "ctx": {"expected": words},
                    }
                ],
            )
        return forms[name].model_validate(value, strict=strict)


def named_form(section: type[Section], values: Mapping[str, object]) -> object:
    """Return the name of the form that a mapping is of; ``None`` where nothing says it."""
    if "name" in values or not issubclass(section, NamedSection):
        return values.get("name")
    return next((name for key, name in section.IMPLIED.items() if key in values), None)


def forms_of(section: type[Section]) -> tuple[type[Section], ...]:
    """Return the forms of a section; itself where it has only one."""
    if issubclass(section, NamedSection) and has_forms(section):
        return tuple(section.forms().values())
    return (section,)


def form_of(section: type[Section], name: object) -> type[Section]:
    """Return the form of that name; the first one where there is none, or no such name."""
    if issubclass(section, NamedSection) and has_forms(section):
        forms = section.forms()
        default = next(iter(forms))
        return forms.get(name, forms[default]) if isinstance(name, str) else forms[default]
    return section
