"""What the schema knows, looked up by the names that a recipe uses."""

import types
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from distrain.config.data import SOURCE_KEYS
from distrain.config.forms import forms_of
from distrain.config.recipe import RESERVED_STAGE_NAMES, RecipeHead, Stage
from distrain.config.schedules import WARMUPS
from distrain.config.section import NameIn, Section
from distrain.config.training import RUN_LENGTHS

Path = tuple[str | int, ...]

ALTERNATIVES: tuple[frozenset[str], ...] = tuple(
    map(frozenset, (RUN_LENGTHS, SOURCE_KEYS, WARMUPS))
)
"""Keys of one mapping that exclude each other: a later layer's choice replaces an earlier one's."""


def members(annotation: Any) -> Iterator[Any]:  # noqa: ANN401  (a type of any form)
    """Yield the plain types of a union, without ``Annotated``."""
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        for member in get_args(annotation):
            yield from members(member)
    elif hasattr(annotation, "__metadata__"):
        yield from members(get_args(annotation)[0])
    else:
        yield annotation


def is_section(annotation: Any) -> bool:  # noqa: ANN401
    """Whether a type is a mapping of the schema."""
    return isinstance(annotation, type) and issubclass(annotation, Section)


def sections_of(model: type[Section]) -> dict[str, type[Section]]:
    """Return the sections of a stage kind by name; of one with forms, what they share."""
    return {
        name: member
        for name, field in model.model_fields.items()
        for member in members(field.annotation)
        if is_section(member)
    }


STAGE_KINDS: dict[str, type[Section]] = {
    get_args(model.model_fields["kind"].annotation)[0]: model for model in members(Stage)
}

SECTIONS: dict[str, tuple[type[Section], ...]] = {}
"""Section name -> its forms: ``data`` is another thing to ``prepare`` than to ``sft``."""
for _model in STAGE_KINDS.values():
    for _name, _section in sections_of(_model).items():
        if _section not in SECTIONS.get(_name, ()):
            SECTIONS[_name] = (*SECTIONS.get(_name, ()), _section)

TOP_LEVEL: tuple[str, ...] = (*RecipeHead.model_fields, "extends", "defaults", "stages")
RESERVED: frozenset[str] = RESERVED_STAGE_NAMES | SECTIONS.keys() | set(TOP_LEVEL)
"""Names that no stage may have: an override could not tell them apart."""


def keys_of(section: str) -> tuple[str, ...]:
    """Return every key that some form of the section has."""
    return tuple(dict.fromkeys(key for model in all_forms(section) for key in model.model_fields))


def all_forms(section: str) -> tuple[type[Section], ...]:
    """Return every form of a section: of each kind of stage, and of each name that it may have."""
    return tuple(form for model in SECTIONS[section] for form in forms_of(model))


def places_of(key: str) -> list[str]:
    """Return the dotted settings that end in ``key``, over all sections and ``launch``."""
    named = {name: all_forms(name) for name in SECTIONS}
    named["launch"] = tuple(sections_of(RecipeHead).values())
    return [
        f"{name}.{key}"
        for name, models in named.items()
        if any(key in model.model_fields for model in models)
    ]


def types_at(model: type[Section], path: Path) -> list[Any]:
    """Return the types that the schema allows at a path below a section."""
    found: list[Any] = [model]
    for step in path:
        found = types_below(found, step)
    return found


def types_below(allowed: list[Any], step: str | int) -> list[Any]:
    """Return the types that one key, or one entry, of a value of these types may have."""
    return [inner for outer in allowed for inner in _below(outer, step)]


def type_of(field: FieldInfo) -> Any:  # noqa: ANN401
    """Return the type of a field, with the names spelled out that it may have."""
    names = next((item for item in field.metadata if isinstance(item, NameIn)), None)
    return field.annotation if names is None else names.literal


def _below(outer: Any, step: str | int) -> list[Any]:  # noqa: ANN401
    if is_section(outer):
        forms = (form.model_fields.get(str(step)) for form in forms_of(outer))
        types = [member for field in forms if field for member in members(type_of(field))]
        # By equality: what annotates a type, such as a JSON schema, may have no hash.
        return [each for number, each in enumerate(types) if each not in types[:number]]
    arguments = get_args(outer)
    if get_origin(outer) is dict:
        return list(members(arguments[1]))
    if get_origin(outer) is tuple and isinstance(step, int):
        if arguments[-1] is Ellipsis:
            return list(members(arguments[0]))
        return list(members(arguments[step])) if 0 <= step < len(arguments) else []
    return []


def default_at(model: type[Section], path: Path) -> Any:  # noqa: ANN401
    """Return the schema's default at a path below a section; ``None`` where there is none."""
    for step in path[:-1]:
        inner = [member for member in types_at(model, (step,)) if is_section(member)]
        if len(inner) != 1:
            return None
        model = inner[0]
    forms = (form.model_fields.get(str(path[-1])) for form in forms_of(model))
    field = next((field for field in forms if field is not None), None)
    if field is None:
        return None
    default = field.get_default(call_default_factory=True)
    return None if default is PydanticUndefined else default


def choices_at(model: type[Section], path: Path) -> tuple[str, ...]:
    """Return the words that the schema allows at a path below a section."""
    return tuple(
        word
        for allowed in types_at(model, path)
        if get_origin(allowed) is Literal
        for word in get_args(allowed)
        if isinstance(word, str)
    )
