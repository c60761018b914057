"""What to write instead: the end of a message about a value of the wrong form."""

import re
from collections.abc import Collection, Sequence

from distrain.config.reading.suggest import glued_key, unknown_key
from distrain.config.reading.yaml_source import Tree
from distrain.config.section import parse_count

SWITCHES = {
    "optimizer.max_grad_norm": "null switches it off",
}
"""Setting that others switch off by 0 -> how to have the same here."""

WORDS = {
    "training.gradient_checkpointing": {True: "full", False: "none"},
    "data.packing": {True: "best_fit", False: "none"},
}
"""Setting that others switch by true and false -> the words here."""
SHORT_FORMS = {
    "model": "{{from_pretrained: {}}}",
    "data.source": "{{kind: files, paths: [{}]}}",
    "data.validation": "{{kind: files, paths: [{}]}}",
}
"""Section for which others write a name or a path -> the mapping that says the same here."""


def value_hint(tree: Tree, name: str, kinds: Collection[str], *, is_optional: bool) -> str:
    """Return the end of a message about one value; empty where nothing more can be said.

    Args:
        tree: The value.
        name: Dotted path of its setting within the stage.
        kinds: pydantic's types of the errors.
        is_optional: Whether the setting may be null.
    """
    value = tree.value
    elsewhere = _meant_elsewhere(value, name)
    if elsewhere is not None:
        return f"; write {elsewhere}"
    if {"model_type", "model_attributes_type"} & set(kinds):
        return section_hint(tree, is_optional=is_optional)
    if isinstance(value, str):
        return _text_hint(value, kinds)
    if "string_type" in kinds and isinstance(value, bool | int | float):
        return f'; write it in quotes: "{tree.raw}"'
    if name in SWITCHES and value == 0:
        return f"; {SWITCHES[name]}"
    return ""


def _meant_elsewhere(value: object, name: str) -> str | None:
    """Return what a value would mean in the recipes of others, in the words here."""
    if isinstance(value, bool):
        return WORDS.get(name, {}).get(value)
    is_text = isinstance(value, str) and not glued_key(value)
    return SHORT_FORMS[name].format(value) if is_text and name in SHORT_FORMS else None


def section_hint(tree: Tree, *, is_optional: bool = False) -> str:
    """Say what to write where a mapping is expected and something else was found."""
    value = tree.value
    if isinstance(value, str):
        return _space_is_missing(value)
    if value is True:
        return "; write {} for its defaults"
    if value is False and is_optional:
        return "; write null to leave it out"
    if isinstance(value, list) or (value is None and not tree.raw):
        return "; indent its keys below it, or remove it"
    if value in (False, None):
        return "; it cannot be switched off, remove this for its defaults"
    return ""


def unknown_key_in(
    mapping: Tree, key: str, where: str, allowed: Collection[str], elsewhere: Sequence[str]
) -> str:
    """Return the message for a key that a mapping does not have.

    Args:
        mapping: What holds it.
        key: What was written; YAML may have taken a value for it.
        where: What the mapping is called, such as ``lr_scheduler``.
        allowed: The keys that it may have.
        elsewhere: Dotted settings of other sections that end in ``key``.
    """
    item = mapping.mapping[key]
    is_bare = item.value is None and not item.raw
    split = _split_number(mapping, key) if is_bare else None
    if split is not None:
        return f"unknown key '{key}' in {where}; a comma separates entries: write {split}"
    if is_bare and glued_key(key):
        return f"unknown key '{key}' in {where}{_space_is_missing(key)}"
    return unknown_key(key, where, allowed, elsewhere)


def _space_is_missing(text: str) -> str:
    written = glued_key(text)
    return f"; a space is missing after the colon: write {written}" if written else ""


def _split_number(mapping: Tree, key: str) -> str | None:
    """Return what was meant by ``{rate: 2,5e-4}``, which YAML reads as two keys."""
    names = list(mapping.mapping)
    before = names[max(0, names.index(key) - 1)]
    raw = mapping.mapping[before].raw
    if not re.fullmatch(r"[+-]?\d+", raw) or not re.fullmatch(r"\d+([eE][+-]?\d+)?", key):
        return None
    return f"{before}: {raw}.{key}"


def _text_hint(value: str, kinds: Collection[str]) -> str:
    if "bool_type" in kinds:
        meant = {"yes": "true", "on": "true", "no": "false", "off": "false"}.get(value.lower())
        return f"; write {meant}" if meant else ""
    if "tuple_type" in kinds:
        return f"; write [{value}]"
    if {"int_type", "float_type"} & set(kinds):
        return _number_hint(value)
    return ""


def _number_hint(value: str) -> str:
    if re.fullmatch(r"[+-]?\d+,\d+([eE][+-]?\d+)?", value):
        return f"; write {value.replace(',', '.')}"
    try:
        float(value)
    except ValueError:
        try:
            return f"; write {parse_count(value)}"
        except ValueError:
            return ""
    return "; remove the quotes"
