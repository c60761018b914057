"""A recipe file and its overrides -> the checked, resolved recipe, or all its mistakes at once.

Layers, each over the one before: the schema's defaults, ``extends``, ``defaults``, the stage,
overrides without a stage, overrides with a stage.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from distrain.config.best import FromCheckpoint
from distrain.config.launch import LaunchConfig, SiteConfig
from distrain.config.reading.adapter_rates import with_adapter_rates
from distrain.config.reading.checks import check_recipe
from distrain.config.reading.extends import read_file, with_parents
from distrain.config.reading.json_schema import json_schema
from distrain.config.reading.layers import read_layers
from distrain.config.reading.messages import validate
from distrain.config.reading.overrides import (
    Overrides,
    apply_to_recipe,
    apply_to_stages,
    replaced_values,
)
from distrain.config.reading.problems import Place, ProblemList, RecipeErrors
from distrain.config.reading.resolved import (
    dump_resolved,
    keep_older_values,
    recipe_fingerprint,
    with_older_values,
    with_whole_models,
)
from distrain.config.reading.sections import STAGE_KINDS, sections_of
from distrain.config.reading.short_runs import fit_schedules
from distrain.config.reading.stage_parts import Finding, StageParts
from distrain.config.reading.yaml_source import Tree, find, plain
from distrain.config.recipe import Recipe, RecipeHead
from distrain.config.section import Section

__all__ = [
    "LoadedRecipe",
    "RecipeErrors",
    "dump_resolved",
    "json_schema",
    "keep_older_values",
    "load_recipe",
    "load_site",
    "read_resolved",
    "recipe_fingerprint",
]


@dataclass(frozen=True)
class LoadedRecipe:
    """A valid recipe and how it came about."""

    recipe: Recipe
    text: str
    """The file as written."""
    path: Path
    notes: tuple[str, ...]
    """What is legal but may surprise, one sentence each."""
    origins: dict[str, str]
    """Dotted path of each value -> ``file:line``, ``default`` or ``override``."""
    head: Tree
    """``name``, ``seed`` and ``launch`` as written, with their places."""
    stages: Mapping[str, Tree]
    """As ``head``, of each stage."""

    def refuse(self, findings: Iterable[Finding]) -> None:
        """End with what was found against the recipe, each at the place of its value.

        Raises:
            RecipeErrors: There is a finding.
        """
        problems = ProblemList()
        problems.add_file(str(self.path))
        for finding in findings:
            place = _place(finding, self.stages, self.head)
            problems.add(place, finding.message, beside_others=True)
        problems.raise_if_any()


def load_recipe(
    path: Path, overrides: Sequence[str] = (), *, skip: Collection[str] = ()
) -> LoadedRecipe:
    """Read a recipe, lay its layers over each other and check the result.

    Args:
        path: The recipe.
        overrides: ``key=value``, as on the command line.
        skip: Stages to leave out.

    Raises:
        NotFoundError: There is no such file.
        RecipeErrors: All mistakes, each with its place.
    """
    problems = ProblemList()
    text, tree = read_file(path, problems)
    written = with_parents(tree, path, problems) if tree is not None else None
    if written is None or problems.is_incomplete:
        problems.raise_if_any()
        raise AssertionError("a file without a tree has a problem")
    layers = read_layers(written, problems)
    changes = Overrides(
        [*overrides, *(f"stages.{name}=skip" for name in skip)], layers.own.keys(), problems
    )
    layers = layers.without(changes.skip)
    stages = apply_to_stages(changes, layers.merged(), layers.models)
    stages = layers.with_own_forms(stages)
    stages, shortened = fit_schedules(layers.with_inherited_sizes(stages))
    head_tree = apply_to_recipe(changes, layers.head)
    head, _ = validate(RecipeHead, head_tree, "", problems, whole="the recipe")
    parts = [
        _stage_parts(name, layers.kinds[name], stage, problems) for name, stage in stages.items()
    ]
    launch = head.launch if isinstance(head, RecipeHead) else _launch(head_tree)
    findings = check_recipe(parts, launch, left_out=changes.skip)
    notes = [*replaced_values(changes, layers.own, layers.models), *shortened]
    for finding in findings:
        if finding.is_note:
            notes.append(finding.sentence)
        else:
            place = _place(finding, stages, head_tree)
            problems.add(place, finding.message, beside_others=finding.at_key)
    problems.raise_if_any()
    resolved = _whole(head_tree, stages)
    recipe = with_whole_models(Recipe.model_validate(plain(resolved), strict=True))
    origins = _origins(recipe, resolved)
    recipe = with_adapter_rates(recipe, origins)
    return LoadedRecipe(recipe, text, path, tuple(notes), origins, head_tree, stages)


def read_resolved(path: Path) -> Recipe:
    """Read ``resolved.yaml`` of a run folder: nothing to merge, checked before it was written.

    Raises:
        NotFoundError: There is no such file.
        RecipeErrors: It was changed into something invalid.
    """
    problems = ProblemList()
    _, tree = read_file(path, problems)
    problems.raise_if_any()
    assert tree is not None
    try:
        return Recipe.model_validate(with_older_values(plain(tree)), strict=True)
    except (AttributeError, KeyError, TypeError, ValidationError):
        return load_recipe(path).recipe  # the same mistakes, with their places


def load_site(path: Path) -> SiteConfig:
    """Read a site file.

    Raises:
        NotFoundError: There is no such file.
        RecipeErrors: All mistakes, each with its place.
    """
    problems = ProblemList()
    _, tree = read_file(path, problems)
    problems.raise_if_any()
    assert tree is not None
    site, _ = validate(SiteConfig, tree, "", problems, whole="the site file")
    problems.raise_if_any()
    assert isinstance(site, SiteConfig)
    return site


def _stage_parts(name: str, kind: str, tree: Tree, problems: ProblemList) -> StageParts:
    model = STAGE_KINDS[kind]
    stage, broken = validate(model, tree, "", problems)
    sections: dict[str, Section | None] = {}
    for section in sections_of(model):
        if section not in broken:
            _check_said(tree.mapping.get(section), section, problems)
        if stage is not None:
            sections[section] = getattr(stage, section)
        elif section not in tree.mapping and model.model_fields[section].default is None:
            sections[section] = None  # one that is off unless it is written
        elif section not in broken:
            sections[section] = _whole_section(tree.mapping.get(section), section, model)
    choice: FromCheckpoint = "last"
    if "from_checkpoint" in tree.mapping and "from_checkpoint" not in broken:
        choice = plain(tree.mapping["from_checkpoint"])
    return StageParts(name, kind, _needs(tree, stage, broken), sections, choice)


def _whole_section(tree: Tree | None, name: str, stage: type[Section]) -> Section | None:
    """Return a section without mistakes, of a stage that has some elsewhere; None without one."""
    if tree is not None:
        value = plain(tree)
        model = sections_of(stage)[name]
        return None if value is None else model.model_validate(value, strict=True)
    # The stage's default, not the section's: what may be left out, as ``harness``, may need keys.
    field = stage.model_fields[name]
    default = field.get_default(call_default_factory=True)
    return default if isinstance(default, Section) else None


def _check_said(section: Tree | None, name: str, problems: ProblemList) -> None:
    """Refuse a section that is switched off by saying nothing: its keys may be indented wrongly."""
    if section is not None and section.value is None and not section.raw:
        message = (
            f"{name}: found nothing; expected a mapping; indent its keys below it, remove it for "
            "its defaults, or write null to switch it off"
        )
        problems.add(section.key, message)


def _needs(tree: Tree, stage: Section | None, broken: set[str]) -> tuple[str, ...] | None:
    if stage is not None:
        needs: tuple[str, ...] = getattr(stage, "needs", ())
        return needs
    if "needs" in broken:
        return None
    value = plain(tree.mapping["needs"]) if "needs" in tree.mapping else ()
    return (value,) if isinstance(value, str) else tuple(value)


def _launch(head: Tree) -> LaunchConfig | None:
    """Read ``launch`` although something else at the top is wrong."""
    tree = head.mapping.get("launch")
    try:
        return LaunchConfig.model_validate(plain(tree) if tree else {}, strict=True)
    except ValidationError:
        return None


def _place(finding: Finding, stages: Mapping[str, Tree], head: Tree) -> Place:
    """Return where a finding points: the value, or the nearest mapping around it."""
    tree = head if finding.stage is None else stages[finding.stage]
    at, depth = find(tree, finding.path)
    is_value = depth > 0 and not isinstance(at.value, dict)
    return at.place if is_value and not finding.at_key else at.key


def _whole(head: Tree, stages: Mapping[str, Tree]) -> Tree:
    return Tree(
        {**head.mapping, "stages": Tree(dict(stages), head.place, head.key)}, head.place, head.key
    )


def _origins(recipe: Recipe, tree: Tree) -> dict[str, str]:
    origins: dict[str, str] = {}

    def walk(value: object, path: tuple[str, ...]) -> None:
        if isinstance(value, dict) and value:
            for key, item in value.items():
                walk(item, (*path, key))
            return
        at, depth = find(tree, path)
        origins[".".join(path)] = at.key.origin if depth == len(path) else "default"

    walk(recipe.model_dump(), ())
    return origins
