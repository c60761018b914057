"""pydantic's findings in plain words, each at the place where the value was written."""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from distrain.config.forms import form_of, named_form
from distrain.config.reading.hints import unknown_key_in, value_hint
from distrain.config.reading.problems import Place, ProblemList, printable
from distrain.config.reading.sections import (
    SECTIONS,
    STAGE_KINDS,
    Path,
    choices_at,
    is_section,
    places_of,
    sections_of,
    types_at,
)
from distrain.config.reading.suggest import unknown_key, unknown_word
from distrain.config.reading.yaml_source import Tree, find, plain
from distrain.config.recipe import PATTERNS
from distrain.config.section import Section, format_limit

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "greater_than": "a number greater than {gt}",
    "greater_than_equal": "a number of at least {ge}",
    "less_than": "a number less than {lt}",
    "less_than_equal": "a number of at most {le}",
    "too_short": "at least {min_length} entries",
    "too_long": "at most {max_length} entries",
    "string_pattern_mismatch": "text of the form {pattern}",
}
"""pydantic's error types -> what was expected, in the words of its context."""


def validate(
    model: type[Section],
    tree: Tree,
    prefix: str,
    problems: ProblemList,
    *,
    partial: bool = False,
    whole: str = "this stage",
) -> tuple[Section | None, set[str]]:
    """Check a mapping against its model.

    Args:
        model: The schema of the mapping.
        tree: The mapping.
        prefix: Dotted path of the mapping within its stage; empty for a stage itself.
        problems: Where mistakes go.
        partial: The mapping is only one layer: what is missing may be in another one.
        whole: What the mapping is called where ``prefix`` is empty.

    Returns:
        The section, ``None`` if it has a mistake; the keys at or under which mistakes lie.
    """
    try:
        # Strict, as YAML has types: a number in quotes is a mistake, and not one to be guessed
        # away.
        return model.model_validate(plain(tree), strict=True), set()
    except ValidationError as error:
        broken = set()
        for path, errors in _by_path(tree, error).items():
            # What another layer brings, and rules over several keys, are judged after merging.
            if not (partial and all(_needs_all_layers(tree, path, item) for item in errors)):
                _report(_Finding(model, tree, path, (prefix, whole), errors), problems)
            # Also if it is not reported here: callers leave what is broken out of what they build.
            broken.add(str(path[0]) if path else "")
        return None, broken


class _Finding:
    """All errors of pydantic about one value: a union gives one for each of its members."""

    def __init__(
        self,
        model: type[Section],
        tree: Tree,
        path: Path,
        names: tuple[str, str],
        errors: list["ErrorDetails"],
    ) -> None:
        self.model = model
        self.tree = tree
        self.path = path
        self.prefix, self.whole = names
        self.errors = errors
        self.at, self.depth = find(tree, path)

    @property
    def error(self) -> "ErrorDetails":
        return self.errors[0]

    @property
    def name(self) -> str:
        """Dotted path within the stage."""
        return dotted((*self.prefix.split("."), *self.path) if self.prefix else self.path)

    @property
    def parent(self) -> str:
        """Dotted path of the mapping around the value."""
        return self.name.rpartition(".")[0] or self.whole


def dotted(path: Iterable[str | int]) -> str:
    """Write a path as overrides spell it."""
    return ".".join(str(step) for step in path)


def _by_path(tree: Tree, error: ValidationError) -> dict[Path, list["ErrorDetails"]]:
    grouped: dict[Path, list[ErrorDetails]] = {}
    for item in error.errors(include_url=False):
        grouped.setdefault(_written_path(tree, item), []).append(item)
    return _of_given_shape(tree, grouped)


def _of_given_shape(
    tree: Tree, grouped: dict[Path, list["ErrorDetails"]]
) -> dict[Path, list["ErrorDetails"]]:
    """Leave out the errors of union members that are of another shape than the value.

    Where one of them takes a mapping, and finds a mistake in it, it helps nobody that another one
    would take a list.
    """
    kept: dict[Path, list[ErrorDetails]] = {}
    for path, errors in grouped.items():
        # ``..._type`` says that the shape is wrong; any other error, that the shape was right.
        fitting = [error for error in errors if not error["type"].endswith("_type")]
        inside = any(len(other) > len(path) and other[: len(path)] == path for other in grouped)
        # A list of which no entry is right is too short for pydantic, too.
        if inside and all(error["type"] == "too_short" for error in fitting):
            continue
        is_shape = isinstance(find(tree, path)[0].value, dict | list)
        kept[path] = fitting if fitting and is_shape else errors
    return kept


def _written_path(tree: Tree, error: "ErrorDetails") -> Path:
    """Return pydantic's path without the names of union members that it puts in between."""
    path: list[str | int] = []
    missing = error["type"] in ("missing", "union_tag_not_found")
    for number, step in enumerate(error["loc"]):
        last = number == len(error["loc"]) - 1
        # What was written can be walked to; names of union members cannot.
        walked = find(tree, (*path, step))[1] == len(path) + 1
        if walked or (missing and last and error["type"] == "missing"):
            path.append(step)
    return tuple(path)


def _needs_all_layers(tree: Tree, path: Path, error: "ErrorDetails") -> bool:
    if error["type"] in ("missing", "union_tag_not_found"):
        return True
    return error["type"] == "value_error" and isinstance(find(tree, path)[0].value, dict)


def _report(finding: _Finding, problems: ProblemList) -> None:
    kind = finding.error["type"]
    if finding.error["loc"][-1:] == ("[key]",):
        name, words = str(finding.path[-1]), _words(finding.errors)
        expected = " or ".join(_expectations(finding.errors))
        message = (
            unknown_key(name, str(finding.parent), words)
            if words
            else f"{finding.parent}: found the name '{name}'; expected {expected}"
        )
        problems.add(finding.at.key, message)
    elif kind == "missing":
        _report_missing(finding, problems)
    elif kind == "extra_forbidden":
        _report_unknown_key(finding, problems)
    elif kind == "union_tag_not_found":
        choices = ", ".join(choices_at(finding.model, (*finding.path, "kind")))
        message = f"missing key 'kind' in {finding.name}; add one of: {choices}"
        problems.add(finding.at.key, message)
    elif kind == "union_tag_invalid":
        tag = finding.at.mapping["kind"]
        choices_ = choices_at(finding.model, (*finding.path, "kind"))
        problems.add(tag.place, unknown_word(str(tag.value), f"{finding.name}.kind", choices_))
    # A rule of ours over several keys: its own words are the message.
    elif kind == "value_error":
        place = _place_of_rule(finding.at)
        reason = finding.error["msg"].removeprefix("Value error, ")
        problems.add(place, f"{finding.name}: {reason}" if finding.name else reason)
    else:
        _report_value(finding, problems)


def _place_of_rule(tree: Tree) -> Place:
    """Return where to show that a value breaks a rule: what was typed last, else the mapping."""
    typed = [item.place for item in tree.mapping.values() if item.place.is_override]
    if typed:
        return typed[0]
    return tree.key if tree.mapping else tree.place


def _report_missing(finding: _Finding, problems: ProblemList) -> None:
    # A missing entry of a tuple has a number, a missing key a name.
    last = finding.path[-1]
    if isinstance(last, int):
        count = len(finding.at.value) if isinstance(finding.at.value, list) else 0
        message = f"{finding.parent}: found a list of {count}; expected {_entries(finding)} entries"
        problems.add(finding.at.place, message)
        return
    what = "section" if any(map(is_section, types_at(finding.model, finding.path))) else "key"
    hint = "add it here or under defaults" if not finding.prefix and what == "section" else "add it"
    message = f"missing {what} '{last}' in {finding.parent}; {hint}"
    problems.add(finding.at.key, message, beside_others=True)


def _entries(finding: _Finding) -> int:
    """Return the number of entries of the tuple around a missing one."""
    number = int(finding.path[-1])
    while types_at(finding.model, (*finding.path[:-1], number)):
        number += 1
    return number


def _report_unknown_key(finding: _Finding, problems: ProblemList) -> None:
    key = str(finding.path[-1])
    if finding.name in SECTIONS:
        kinds = [kind for kind, model in STAGE_KINDS.items() if key in sections_of(model)]
        message = f"this stage has no section '{key}'; it is of {' and '.join(kinds)} stages"
        problems.add(finding.at.key, message)
        return
    around = [member for member in types_at(finding.model, finding.path[:-1]) if is_section(member)]
    mapping = find(finding.tree, finding.path[:-1])[0]
    values = {name: item.value for name, item in mapping.mapping.items()}
    forms = [form_of(member, named_form(member, values)) for member in around]
    allowed = list(dict.fromkeys(name for form in forms for name in form.model_fields))
    # ``kind`` is a key of many mappings, and what it says here fits none of the others.
    elsewhere = [name for name in places_of(key) if name != finding.name and key != "kind"]
    message = unknown_key_in(mapping, key, finding.parent, allowed, elsewhere)
    problems.add(finding.at.key, message)


def _report_value(finding: _Finding, problems: ProblemList) -> None:
    value = finding.at.value
    words = _words(finding.errors)
    if isinstance(value, str) and words and not _takes_text(finding):
        other = [text for text in _expectations(finding.errors) if text]
        problems.add(finding.at.place, unknown_word(value, finding.name, (*words, *other)))
        return
    expected = " or ".join(dict.fromkeys([*_expectations(finding.errors), *words]))
    message = f"{finding.name or finding.whole}: found {describe(finding.at)}; expected {expected}"
    kinds = {error["type"] for error in finding.errors}
    is_optional = type(None) in types_at(finding.model, finding.path)
    hint = value_hint(finding.at, finding.name, kinds, is_optional=is_optional)
    problems.add(finding.at.place, message + hint)


def _takes_text(finding: _Finding) -> bool:
    return any(error["type"].startswith("string") for error in finding.errors)


def _words(errors: list["ErrorDetails"]) -> tuple[str, ...]:
    """Return the words that may stand there; of a source, those of its own kind."""
    return tuple(
        word
        for error in errors
        if error["type"] == "literal_error"
        for word in re.findall(r"'([^']*)'", str(error.get("ctx", {}).get("expected", "")))
    )


def _expectations(errors: list["ErrorDetails"]) -> list[str]:
    texts = []
    for error in errors:
        if error["type"] == "literal_error":
            # Words are listed by the caller; what is left are numbers such as 1, 2, 3.
            expected = str(error.get("ctx", {}).get("expected", ""))
            texts += [] if "'" in expected else [expected]
        else:
            form = EXPECTED.get(error["type"])
            context = error.get("ctx", {})
            pattern = context.get("pattern")
            if pattern in PATTERNS:
                texts.append(PATTERNS[pattern])
            else:
                limits = {
                    name: format_limit(value) if isinstance(value, int | float) else value
                    for name, value in context.items()
                }
                texts.append(error["msg"] if form is None else form.format(**limits))
    return texts


def describe(tree: Tree) -> str:
    """Describe what was written, in plain words."""
    value: Any = tree.value
    if value is None:
        return "nothing" if not tree.raw else "null"
    if isinstance(value, dict):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, list):
        return f"a list of {len(value)}" if value else "an empty list"
    return f"the text '{value}'" if isinstance(value, str) else tree.raw or str(value)


def override_place(text: str) -> Place:
    """Return the place of something typed on the command line."""
    return Place(f"override '{printable(text)}'")
