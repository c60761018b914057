"""The JSON Schema of a recipe as written, for editors: with ``extends``, ``defaults``, units."""

from typing import Any

from pydantic.json_schema import models_json_schema

from distrain.config.recipe import RecipeHead
from distrain.config.section import Section
from distrain.config.sections import SECTIONS, STAGE_KINDS, members, sections_of

_REFERENCE = "#/$defs/{model}"
JsonObject = dict[str, Any]


def json_schema() -> JsonObject:
    """Return the schema (draft 2020-12) that recipe files are written against.

    Layers are merged later, so a section in ``defaults`` or in a stage may be incomplete:
    only what no other layer could bring is required.
    """
    models: list[type[Section]] = [RecipeHead, *STAGE_KINDS.values()]
    _, document = models_json_schema(
        [(model, "validation") for model in models], ref_template=_REFERENCE
    )
    definitions: JsonObject = document["$defs"]
    head = definitions.pop("RecipeHead")
    for name in _layered_names():
        definitions[name].pop("required", None)
    for model in STAGE_KINDS.values():
        definitions[model.__name__]["required"] = ["kind"]
    properties: JsonObject = head["properties"]
    properties["extends"] = {
        "description": "A recipe, or a list of them, under this one; paths relative to this file.",
        "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
    }
    properties["defaults"] = {
        "description": "Sections that every stage starts from.",
        "type": "object",
        "properties": {name: _any_form(models) for name, models in SECTIONS.items()},
        "additionalProperties": False,
    }
    properties["stages"] = {
        "description": "Named stages, each with a kind.",
        "type": "object",
        "additionalProperties": _stage(),
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "distrain recipe",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "anyOf": [{"required": ["extends"]}, {"required": ["name", "stages"]}],
        "$defs": definitions,
    }


def _layered_names() -> set[str]:
    """Return the names of all models whose required keys may stand in another layer."""
    names: set[str] = set()
    waiting: list[type[Section]] = [model for models in SECTIONS.values() for model in models]
    while waiting:
        model = waiting.pop()
        if model.__name__ not in names:
            names.add(model.__name__)
            waiting += sections_of(model).values()
            waiting += [
                member
                for field in model.model_fields.values()
                for member in members(field.annotation)
                if isinstance(member, type) and issubclass(member, Section)
            ]
    return names


def _any_form(models: tuple[type[Section], ...]) -> JsonObject:
    if len(models) == 1:
        return {"$ref": _REFERENCE.format(model=models[0].__name__)}
    # Keys of every form may stand here; the stages pick theirs.
    merged: JsonObject = {}
    for model in models:
        merged |= model.model_json_schema(ref_template=_REFERENCE)["properties"]
    return {"type": "object", "properties": merged, "additionalProperties": False}


def _stage() -> JsonObject:
    """One rule a kind; a stage of an extended recipe may leave its kind to the parent."""
    return {
        "type": "object",
        "properties": {"kind": {"enum": list(STAGE_KINDS)}},
        "allOf": [
            {
                "if": {"properties": {"kind": {"const": kind}}, "required": ["kind"]},
                "then": {"$ref": _REFERENCE.format(model=model.__name__)},
            }
            for kind, model in STAGE_KINDS.items()
        ],
    }
