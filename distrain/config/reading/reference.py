"""Every key of a recipe in Markdown, from the schema: the page ``docs/recipe.md``."""

import json
import re
from collections.abc import Iterator, Sequence
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pydantic import BeforeValidator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from distrain.config.data import SOURCE_KEYS
from distrain.config.forms import forms_of
from distrain.config.launch import SiteConfig
from distrain.config.reading.json_schema import field_docs
from distrain.config.reading.sections import (
    SECTIONS,
    STAGE_KINDS,
    is_section,
    members,
    sections_of,
    type_of,
)
from distrain.config.recipe import PATTERNS, RecipeHead
from distrain.config.section import (
    Section,
    format_duration,
    format_limit,
    parse_bytes,
    parse_count,
    parse_duration,
)

COMMAND = "distrain schema --markdown"
HEAD = f"""\
# Every key of a recipe

Written by `{COMMAND} > docs/recipe.md` from the schema; a test compares the two.

A recipe has the keys of its top level, `defaults` (sections for every stage that has them), and
`stages`: names, each with a `kind`. A section of a stage is written as `section: {{key: value}}`,
here as `section.key`. A **count** is a whole number, with a unit if wanted (`512k`, `10M`, `2.5B`,
`1T`); a **duration** has its unit (`90s`, `10m`, `24h`, `1d12h`), a **size** is in bytes or has one
(`512MiB`, `20GB`). What a key says only together with others is in the pages of its area.
"""
UNITS = {
    "steps": "steps",
    "tokens": "tokens",
    "bytes": "bytes",
    "characters": "characters",
    "words": "words",
    "epochs": "epochs",
    "samples": "samples",
    "blocks": "blocks",
    "documents": "documents",
    "batch_size": "sequences",
    "sequence_length": "tokens",
    "batches": "global batches",
    "threads": "threads",
    "tflops": "TFLOP/s",
    "fraction": "share",
    "delay_s": "seconds",
}
"""Last words of a key -> the unit of its number."""
WORDS = {bool: "true or false", str: "text", int: "whole number", float: "number", Any: "any value"}
PARSED = {parse_count: "count", parse_bytes: "size", parse_duration: "duration"}


def recipe_reference() -> str:
    """Return the page: one table a section, one line a key."""
    parts = [HEAD, _kinds(), *_tables("Top level", "", RecipeHead)]
    for name, models in SECTIONS.items():
        for model in models:
            kinds = [
                kind for kind, stage in STAGE_KINDS.items() if sections_of(stage).get(name) is model
            ]
            title, forms = f"`{name}` of {' and '.join(kinds)} stages", forms_of(model)
            for form in forms:
                word = "" if len(forms) == 1 else f", `name: {_word(form)}`"
                parts += _tables(title + word, f"{name}.", form)
    parts += _tables("The site file", "", SiteConfig)
    return "\n".join(parts)


def _kinds() -> str:
    lines = [
        "## Kinds of stages",
        "",
        "| kind | sections and keys | what it does |",
        "|---|---|---|",
    ]
    for kind, model in STAGE_KINDS.items():
        names = [name for name in model.model_fields if name != "kind"]
        lines.append(
            f"| `{kind}` | {', '.join(f'`{name}`' for name in names)} | {_summary(model)} |"
        )
    for kind, model in STAGE_KINDS.items():
        own = model.model_fields.keys() - {"kind", "needs"} - sections_of(model).keys()
        rows = [
            _row(key, field, field_docs(model)[key])
            for key, field in model.model_fields.items()
            if key in own
        ]
        if rows:
            lines += ["", f"Of `{kind}` stages:", "", *_HEADER, *rows]
    return "\n".join([*lines, ""])


_HEADER = ("| key | value | default | what it says |", "|---|---|---|---|")


def _tables(title: str, prefix: str, model: type[Section]) -> list[str]:
    """Return the table of a section, then those of what has a ``kind`` in it."""
    rows, kinds = [], list[tuple[str, type[Section]]]()
    for key, row, variants in _rows(prefix, model, is_variant="with `kind: " in title):
        rows.append(row)
        kinds += [(key, variant) for variant in variants]
    parts = ["\n".join([f"## {title}", "", _summary(model), "", *_HEADER, *rows, ""])]
    for key, variant in kinds:
        kind = _word(variant, "kind")
        parts += _tables(f"`{key}` with `kind: {kind}`", f"{key}.", variant)
    return parts


def _word(form: type[Section], key: str = "name") -> str:
    """Return the one word that chooses a form."""
    return str(get_args(form.model_fields[key].annotation)[0])


def _rows(
    prefix: str, model: type[Section], *, is_variant: bool = False
) -> Iterator[tuple[str, str, Sequence[type[Section]]]]:
    """Yield key, line, and the forms of a key that come in several kinds.

    A variant's own kind is in the title of its table.
    """
    docs = field_docs(model)
    for name, field in model.model_fields.items():
        key = prefix + name
        inner = [member for member in members(field.annotation) if is_section(member)]
        if name == "kind" and is_variant:
            continue
        if len(inner) > 1:
            text = docs.get(name, "")
            yield key, _line(key, "mapping with a `kind`, see below", _default(field), text), inner
        elif inner and prefix.endswith(f"{SOURCE_KEYS[0]}.") and name == "curation":
            text = "As `data.curation`. " + docs.get(name, "")
            yield key, _line(key, "mapping", _default(field), text), ()
        elif inner:
            if NoneType in members(field.annotation):
                text = f"{_summary(inner[0])} {docs.get(name, '')}"
                yield key, _line(key, "mapping (`{}`: its defaults)", "`null`", text), ()
            yield from _rows(f"{key}.", inner[0])
        else:
            yield key, _row(key, field, docs.get(name, "")), ()


def _row(key: str, field: FieldInfo, words: str) -> str:
    form = _form(type_of(field), field.metadata)
    unit = next((unit for end, unit in UNITS.items() if key.endswith(end)), None)
    if unit is not None and re.match("count|whole number|number", form):
        form = f"{form}, {unit}"
    return _line(key, form, _default(field), words)


def _line(key: str, form: str, default: str, words: str) -> str:
    text = " ".join(words.split()).replace("``", "`").replace("|", "\\|").strip()
    return f"| `{key}` | {form} | {default} | {text} |"


def _default(field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True)
    if default is PydanticUndefined:
        return "required"
    if isinstance(default, int) and _parser(field.metadata) is parse_duration:
        return f"`{format_duration(default)}`"
    return f"`{json.dumps(default)}`"


def _form(annotation: Any, metadata: Sequence[Any]) -> str:  # noqa: ANN401  (a type of any form)
    """Say in words which values a type takes."""
    if hasattr(annotation, "__metadata__"):
        inner, *more = get_args(annotation)
        return _form(inner, [*more, *metadata])
    parser = _parser(metadata)
    if parser is not None:
        return PARSED[parser] + _range(metadata)
    if is_section(annotation):
        return "{" + ", ".join(f"`{name}`" for name in annotation.model_fields) + "}"
    if get_args(annotation):
        return _composed(annotation, metadata)
    return WORDS[annotation] + _range(metadata)


def _composed(annotation: Any, metadata: Sequence[Any]) -> str:  # noqa: ANN401
    """As ``_form``, of a type that is made of others."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{word}`" for word in arguments)
    if origin is tuple:
        entries = [item for item in arguments if item is not Ellipsis]
        count = f"{len(entries)}: " if len(entries) == len(arguments) else ""
        return f"list of {count}{' and '.join(dict.fromkeys(_form(item, ()) for item in entries))}"
    if origin is dict:
        return f"mapping of names to {_form(arguments[1], ())}"
    if all(is_section(member) for member in members(annotation)):
        return "mappings with a `kind`"
    forms = [_form(item, metadata) for item in arguments if item is not NoneType]
    return " or ".join(dict.fromkeys([*forms, *(["null"] if NoneType in arguments else [])]))


def _parser(metadata: Sequence[Any]) -> Any:  # noqa: ANN401  (one of two functions, or None)
    found = [item.func for item in metadata if isinstance(item, BeforeValidator)]
    return next((function for function in found if function in PARSED), None)


def _range(metadata: Sequence[Any]) -> str:
    """Write the limits of a number, or what a text has to be like."""
    limits = {
        name: getattr(item, name)
        for item in _flat(metadata)
        for name in ("ge", "gt", "le", "lt")
        if getattr(item, name, None) is not None
    }
    low = limits.get("ge", limits.get("gt"))
    high = limits.get("le", limits.get("lt"))
    if low is not None and high is not None:
        left, right = "[" if "ge" in limits else "(", "]" if "le" in limits else ")"
        return f" in {left}{format_limit(low)}, {format_limit(high)}{right}"
    if low is not None:
        return f" {'≥' if 'ge' in limits else '>'} {format_limit(low)}"
    pattern = next(
        (item.pattern for item in _flat(metadata) if getattr(item, "pattern", None)), None
    )
    return f" ({PATTERNS[pattern]})" if pattern in PATTERNS else ""


def _flat(metadata: Sequence[Any]) -> Iterator[Any]:
    """Yield limits also from a ``Field`` that is still whole, as it is within a union."""
    for item in metadata:
        yield from item.metadata if isinstance(item, FieldInfo) else (item,)


def _summary(model: type[Section]) -> str:
    """Return the first sentence of what is said about a section."""
    text = " ".join((model.__doc__ or "").split("\n\n")[0].split())
    return text.replace("``", "`").replace("|", "\\|")
