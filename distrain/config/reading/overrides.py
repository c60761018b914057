"""``key=value`` on the command line: find the stages it reaches, and set the value there.

optimizer.learning_rate=3e-4        every stage that has the setting
sft.optimizer.learning_rate=1e-4    one stage; wins over the line above
launch.nodes=4   name=x   seed=7    the recipe as a whole
stages.sft=skip                     leave a stage out
"""

import re
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path as FilePath
from typing import Any

from distrain.config.forms import form_of, forms_of, named_form
from distrain.config.reading.extends import read_named
from distrain.config.reading.foreign_names import EXPLANATIONS, FOREIGN_NAMES
from distrain.config.reading.merge import without_alternatives
from distrain.config.reading.messages import override_place
from distrain.config.reading.problems import Place, ProblemList
from distrain.config.reading.sections import (
    SECTIONS,
    STAGE_KINDS,
    Path,
    default_at,
    keys_of,
    places_of,
    sections_of,
    types_at,
    types_below,
)
from distrain.config.reading.suggest import nearest, unknown_key
from distrain.config.reading.yaml_source import Tree, find, parse_value
from distrain.config.recipe import RecipeHead
from distrain.config.section import Section

SKIP = "skip"


@dataclass(frozen=True, slots=True)
class Override:
    """One ``key=value``.

    Args:
        text: As typed.
        path: The key, cut at the dots; entries of lists are numbers.
        value: Parsed as YAML; the schema gives it its type when it is set.
    """

    text: str
    path: Path
    value: Tree

    @property
    def place(self) -> Place:
        """The place that messages point to."""
        return override_place(self.text)


def parse_override(text: str, problems: ProblemList) -> Override | None:
    """Cut an override at ``=`` and read its value; ``None`` after a mistake."""
    place = override_place(text)
    key, equals, value_text = text.partition("=")
    steps = key.strip().split(".")
    # A list or a mapping may be typed over several lines.
    one_line = key if value_text.lstrip().startswith(("{", "[")) else text
    control = re.search(r"[\x00-\x1f\x7f]", one_line)
    if control is not None:
        message = f"character {control.start() + 1} is {control[0]!r}; remove it"
        problems.add(place, message)
        return None
    if not equals or not all(steps):
        problems.add(place, "expected key=value, such as optimizer.learning_rate=3e-4")
        return None
    # ``key=@file``: a whole section, too long to be typed.
    if value_text.startswith("@"):
        file = value_text.removeprefix("@")
        value = read_named(FilePath(file), place, f"the value of '{key}'", problems)
    else:
        value = parse_value(value_text, place, problems)
    if value is None:
        return None
    path = tuple(int(step) if step.isdecimal() else step for step in steps)
    return Override(text, path, value.under(place))


def _rejoined(texts: list[str], problems: ProblemList) -> Iterator[str]:
    """Yield the overrides but those that a shell cut at a space within brackets: one mistake."""
    while texts:
        parts = [texts.pop(0)]
        while "=" in parts[0] and _open_brackets(" ".join(parts)) and texts:
            parts.append(texts.pop(0))
        whole = " ".join(parts)
        if len(parts) > 1 and not _open_brackets(whole):
            message = f"the shell cut it at its spaces; quote it: {shlex.quote(whole)}"
            problems.add(override_place(whole), message)
        else:  # never closed: each part is its own mistake
            yield parts[0]
            texts[:0] = parts[1:]


def _open_brackets(text: str) -> int:
    return sum(map(text.count, "{[")) - sum(map(text.count, "}]"))


class Overrides:
    """The overrides of one command, sorted by what they reach."""

    def __init__(
        self, texts: Collection[str], stages: Collection[str], problems: ProblemList
    ) -> None:
        self.problems = problems
        self.stages = stages
        self.skip: set[str] = set()
        self.of_recipe: list[Override] = []
        self.of_all: list[Override] = []
        self.of_stage: dict[str, list[Override]] = {}
        for text in _rejoined(list(texts), problems):
            problems.add_file(override_place(text).file)  # shown in the order typed
            override = parse_override(text, problems)
            if override is not None:
                self._sort_in(override)

    def _sort_in(self, override: Override) -> None:
        first, *rest = override.path
        if first == "stages" and rest:
            self._sort_in_stage(override, tuple(rest))
        elif first in self.stages:
            self._sort_in_stage(override, override.path)
        elif first in RecipeHead.model_fields:
            self.of_recipe.append(override)
        elif first in SECTIONS:
            self._check_key(override)
            self.of_all.append(override)
        else:
            self.problems.add(override.place, self._unknown(str(first)))

    def _sort_in_stage(self, override: Override, path: Path) -> None:
        name = str(path[0])
        if name not in self.stages:
            near = nearest(name, self.stages)
            hint = f"did you mean '{near}'?" if near else f"stages: {', '.join(self.stages)}"
            self.problems.add(override.place, f"no stage is called '{name}'; {hint}")
        # The kind decides which keys there are: all others were checked against it.
        elif path[1:] == ("kind",):
            message = "a stage's kind cannot be overridden; change it in the recipe"
            self.problems.add(override.place, message)
        elif len(path) > 1:
            self.of_stage.setdefault(name, []).append(replace(override, path=path[1:]))
        elif override.value.value == SKIP:
            self.skip.add(name)
        else:
            message = f"expected {name}.section.key=value, or stages.{name}=skip to leave it out"
            self.problems.add(override.place, message)

    def _check_key(self, override: Override) -> None:
        section = str(override.path[0])
        if len(override.path) == 1:
            return
        key = str(override.path[1])
        if key not in keys_of(section):
            message = unknown_key(key, section, keys_of(section), places_of(key))
            self.problems.add(override.place, message)

    def _unknown(self, first: str) -> str:
        if first in ("defaults", "stages", "extends"):
            return (
                f"'{first}' cannot be set here; write section.key=value or stage.section.key=value"
            )
        if first in FOREIGN_NAMES or first in EXPLANATIONS or places_of(first):
            return unknown_key(first, "the recipe", (), places_of(first))
        if any(first in model.model_fields for model in STAGE_KINDS.values()):
            return f"'{first}' belongs to one stage; write stage.{first}=value"
        return unknown_key(first, "the recipe", (*SECTIONS, *RecipeHead.model_fields, *self.stages))


def apply_to_stages(
    overrides: Overrides, stages: Mapping[str, Tree], models: Mapping[str, type[Section]]
) -> dict[str, Tree]:
    """Set the overrides without a stage, then those with one."""
    result = dict(stages)
    # First, so that those with a stage win, in whatever order they were typed.
    for override in overrides.of_all:
        reached = [name for name in result if _has(models[name], override)]
        for name in reached:
            result[name] = _set(result[name], models[name], override, overrides.problems)
        if not reached and _is_known(override):
            section = dotted_head(override)
            message = f"no stage of this recipe has '{section}'; remove the override"
            overrides.problems.add(override.place, message)
    for name, own in overrides.of_stage.items():
        for override in own:
            if name in result:
                result[name] = _set(result[name], models[name], override, overrides.problems)
    return result


def apply_to_recipe(overrides: Overrides, tree: Tree) -> Tree:
    """Set ``name``, ``seed`` and ``launch``."""
    for override in overrides.of_recipe:
        tree = _set(tree, RecipeHead, override, overrides.problems)
    return tree


def replaced_values(
    overrides: Overrides, own: Mapping[str, Tree], models: Mapping[str, type[Section]]
) -> list[str]:
    """Return a note on each override without a stage that replaces stages' own values."""
    notes = []
    for override in overrides.of_all:
        reached = [name for name in own if _has(models[name], override)]
        hidden = {}
        for name in reached:
            tree, depth = find(own[name], override.path)
            differs = tree.value != override.value.value and not isinstance(tree.value, dict)
            # Only what the stage states itself, and otherwise: a default is meant to be replaced.
            if depth == len(override.path) and differs:
                hidden[name] = tree.raw or str(tree.value)
        free = [name for name in reached if name not in hidden]
        # With one stage there is nothing else that could have been meant.
        if not hidden or len(reached) < 2:
            continue
        values = " and ".join(f"{name}'s {raw}" for name, raw in hidden.items())
        key = ".".join(map(str, override.path))
        limit = free[0] if free else reached[0]
        also = "also replaces" if free else "replaces"
        notes.append(f"{override.text} {also} {values}; use {limit}.{key} to limit it")
    return notes


def dotted_head(override: Override) -> str:
    """Return section and key of an override."""
    return ".".join(map(str, override.path[:2]))


def _is_known(override: Override) -> bool:
    return len(override.path) == 1 or override.path[1] in keys_of(str(override.path[0]))


def _has(model: type[Section], override: Override) -> bool:
    """Return whether a stage kind has the section, in the form that knows the key."""
    section = sections_of(model).get(str(override.path[0]))
    if section is None:
        return False
    return len(override.path) == 1 or any(
        override.path[1] in form.model_fields for form in forms_of(section)
    )


def _set(tree: Tree, model: type[Section], override: Override, problems: ProblemList) -> Tree:
    value = _typed(override.value, types_at(model, override.path))
    if len(override.path) == 1 and isinstance(value.value, dict):
        value = _fitting(value, model, str(override.path[0]))
    if len(override.path) > 1:
        form = _form_chosen(model, override.path, value.value)
        if form is not None:
            tree = _without_other_forms(tree, model, str(override.path[0]), form)

    def default(path: Path) -> Any:  # noqa: ANN401
        return default_at(model, path)

    try:
        return _put(tree, override.path, value, (), default)
    # An exception, as it is met deep inside nested lists, and only here the place is known.
    except _BadIndexError as error:
        problems.add(override.place, str(error))
        return tree


def _fitting(value: Tree, model: type[Section], name: str) -> Tree:
    """Leave out keys that only another form of the section knows (``data`` of another kind)."""
    section = sections_of(model).get(name)
    if section is None:
        return value
    own = {key for form in forms_of(section) for key in form.model_fields}
    others = set(keys_of(name)) - own if name in SECTIONS else set()
    kept = {key: item for key, item in value.mapping.items() if key not in others}
    return replace(value, value=kept)


def _form_chosen(model: type[Section], path: Path, value: object) -> object:
    """Return the name of the form that setting a key of a section chooses, if it does."""
    section = sections_of(model).get(str(path[0]))
    return None if section is None else named_form(section, {str(path[1]): value})


def _without_other_forms(tree: Tree, model: type[Section], name: str, chosen: object) -> Tree:
    """Leave out what is written for other forms of a section than the one chosen over them."""
    section, below = sections_of(model).get(name), tree.mapping.get(name)
    if section is None or below is None or not isinstance(below.value, dict):
        return tree
    known = {key for form in forms_of(section) for key in form.model_fields}
    others = known - form_of(section, chosen).model_fields.keys()
    kept = {key: item for key, item in below.mapping.items() if key not in others}
    return replace(tree, value={**tree.mapping, name: replace(below, value=kept)})


class _BadIndexError(ValueError):
    """An override names an entry that a list does not have."""


def _put(tree: Tree, path: Path, value: Tree, above: Path, default: Callable[[Path], Any]) -> Tree:
    """Return ``tree`` with the value at ``path``, making mappings on the way."""
    if not path:
        return value
    step, rest = path[0], path[1:]
    if isinstance(step, int):
        return _put_entry(tree, path, value, above, default)
    below = dict(tree.mapping)
    key = str(step)
    inner = below.get(key)
    # A list or section that is nowhere written has its default made explicit, so that one entry of
    # it can be set.
    if inner is None or (rest and inner.value is None):
        inner = _tree_of(default((*above, key)) if rest else None, value.place)
    new = _put(inner, rest, value, (*above, key), default)
    if not rest:
        # ``max_steps`` typed takes the place of a written ``max_tokens``, as one layer does over
        # another.
        below = without_alternatives(below, {key: new})
    below[key] = new
    return replace(tree, value=below)


def _put_entry(
    tree: Tree, path: Path, value: Tree, above: Path, default: Callable[[Path], Any]
) -> Tree:
    index, name = path[0], ".".join(map(str, above))
    assert isinstance(index, int)
    if not isinstance(tree.value, list):
        raise _BadIndexError(f"'{name}' is not a list, so it has no entry {index}")
    # Nothing is appended: an index one too far is a typing error more often than it is meant.
    if index >= len(tree.value):
        count = len(tree.value)
        raise _BadIndexError(
            f"'{name}' has {count} entries; expected an index from 0 to {count - 1}"
        )
    items = list(tree.value)
    items[index] = _put(items[index], path[1:], value, (*above, index), default)
    return replace(tree, value=items)


def _tree_of(value: Any, place: Place) -> Tree:  # noqa: ANN401
    """Return a default of the schema as a tree; a section starts empty, its defaults follow."""
    if isinstance(value, tuple | list):
        return Tree([_tree_of(item, place) for item in value], place, place)
    if value is None or isinstance(value, Section):
        return Tree({}, place, place)
    return Tree(value, place, place, str(value))


def _typed(tree: Tree, allowed: list[Any]) -> Tree:
    """Keep as text what the schema wants as text: ``name=2024`` is a name, not a number."""
    if isinstance(tree.value, dict):
        entries = {key: _typed(item, types_below(allowed, key)) for key, item in tree.value.items()}
        return replace(tree, value=entries)
    if isinstance(tree.value, list):
        items = [
            _typed(item, types_below(allowed, number)) for number, item in enumerate(tree.value)
        ]
        return replace(tree, value=items)
    is_number = isinstance(tree.value, bool | int | float)
    # Only where no number would do as well.
    wants_text = str in allowed and not {int, float, bool} & set(allowed)
    return replace(tree, value=tree.raw) if is_number and wants_text else tree
