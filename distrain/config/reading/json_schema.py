"""The JSON Schema of a recipe as written, for editors: with ``extends``, ``defaults``, units."""

import ast
import inspect
from typing import Any

from pydantic.json_schema import models_json_schema

from distrain.config.forms import forms_of, has_forms
from distrain.config.reading.sections import (
    SECTIONS,
    STAGE_KINDS,
    all_forms,
    is_section,
    members,
)
from distrain.config.recipe import RecipeHead
from distrain.config.section import Section

_REFERENCE = "#/$defs/{model}"
JsonObject = dict[str, Any]


def json_schema() -> JsonObject:
    """Return the schema (draft 2020-12) that recipe files are written against.

    Layers are merged later, so a section in ``defaults`` or in a stage may be incomplete:
    only what no other layer could bring is required.
    """
    # The forms of a section are named here: pydantic sees only what they have in common.
    models: list[type[Section]] = [RecipeHead, *STAGE_KINDS.values(), *_below_stages()]
    _, document = models_json_schema(
        [(model, "validation") for model in models], ref_template=_REFERENCE
    )
    definitions: JsonObject = document["$defs"]
    # Its keys are those of the file itself, so it is no definition that others refer to.
    head = definitions.pop("RecipeHead")
    _describe(RecipeHead, head)
    for model in every_section():
        _describe(model, definitions[model.__name__])
        _refer_to_forms(model, definitions[model.__name__])
    for model in _below_stages():
        # Another layer may bring what is missing here, which an editor cannot see.
        definitions[model.__name__].pop("required", None)
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
        "properties": _sections(definitions),
        "additionalProperties": False,
    }
    properties["stages"] = {
        "description": "Named stages, each with a kind.",
        "type": "object",
        "additionalProperties": _stage(definitions),
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


def every_section() -> list[type[Section]]:
    """Return every mapping of the schema."""
    return _reachable([RecipeHead, *STAGE_KINDS.values()])[1:]


def _below_stages() -> list[type[Section]]:
    """Return the mappings whose required keys may stand in another layer."""
    return _reachable([model for name in SECTIONS for model in all_forms(name)])


def _reachable(start: list[type[Section]]) -> list[type[Section]]:
    found: list[type[Section]] = []
    waiting = list(start)
    while waiting:
        model = waiting.pop(0)
        if model not in found:
            found.append(model)
            waiting += [
                form
                for field in model.model_fields.values()
                for member in members(field.annotation)
                if is_section(member)
                for form in forms_of(member)
            ]
    return found


def _describe(model: type[Section], definition: JsonObject) -> None:
    for name, words in field_docs(model).items():
        definition["properties"][name]["description"] = words


def _refer_to_forms(model: type[Section], definition: JsonObject) -> None:
    """Let each key whose section has several forms refer to all of them."""
    for name, field in model.model_fields.items():
        for member in members(field.annotation):
            if is_section(member) and has_forms(member):
                forms = [_REFERENCE.format(model=form.__name__) for form in forms_of(member)]
                place = definition["properties"][name]
                place.pop("type")
                place["anyOf"] = [{"$ref": form} for form in forms]


def field_docs(model: type[Section]) -> dict[str, str]:
    """Return the docstrings below the fields; reading source text takes its time."""
    found = {}
    # Parents first: the words of the class itself replace theirs.
    for origin in reversed(model.__mro__[: model.__mro__.index(Section)]):
        body = ast.parse(inspect.getsource(origin)).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, text in zip(body.body, body.body[1:], strict=False):
            match field, text:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(words))),
                ) if name in model.model_fields:
                    found[name] = inspect.cleandoc(words)
    # What is said of a class variable is no field's.
    return {name: words for name, words in found.items() if name in model.model_fields}


def _sections(definitions: JsonObject) -> JsonObject:
    return {name: _any_form(all_forms(name), definitions) for name in SECTIONS}


def _any_form(models: tuple[type[Section], ...], definitions: JsonObject) -> JsonObject:
    if len(models) == 1:
        return {"$ref": _REFERENCE.format(model=models[0].__name__)}
    # Keys of every form may stand here; the stages pick theirs.
    found: dict[str, list[JsonObject]] = {}
    for model in models:
        for key, rule in definitions[model.__name__]["properties"].items():
            if rule not in found.setdefault(key, []):
                found[key].append(rule)
    merged = {key: _either(rules) for key, rules in found.items()}
    return {"type": "object", "properties": merged, "additionalProperties": False}


def _either(rules: list[JsonObject]) -> JsonObject:
    if len(rules) == 1:
        return rules[0]
    described = next((rule for rule in rules if "description" in rule), {})
    return {"anyOf": rules} | {"description": described.get("description", "")}


def _stage(definitions: JsonObject) -> JsonObject:
    """One rule a kind; a stage that leaves its kind to a parent recipe has the keys of any."""
    of_any_kind: JsonObject = {}
    for model in STAGE_KINDS.values():
        of_any_kind |= definitions[model.__name__]["properties"]
    of_any_kind |= _sections(definitions)
    of_any_kind["kind"] = {"enum": list(STAGE_KINDS)}
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
        "if": {"not": {"required": ["kind"]}},
        "then": {"properties": of_any_kind, "additionalProperties": False},
    }
