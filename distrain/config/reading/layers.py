"""The layers of a recipe as written: the head, the defaults, each stage's own values."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from distrain.config.forms import NamedSection, form_of, forms_of, named_form
from distrain.config.lineage import MODEL_KINDS
from distrain.config.models import ModelConfig
from distrain.config.reading.hints import section_hint, unknown_key_in
from distrain.config.reading.merge import merge
from distrain.config.reading.messages import validate
from distrain.config.reading.problems import Place, ProblemList
from distrain.config.reading.sections import (
    RESERVED,
    SECTIONS,
    STAGE_KINDS,
    TOP_LEVEL,
    keys_of,
    places_of,
    sections_of,
)
from distrain.config.reading.suggest import nearest, unknown_key, unknown_word
from distrain.config.reading.yaml_source import Tree
from distrain.config.recipe import RecipeHead
from distrain.config.section import Section

STAGE_NAME = r"[A-Za-z][A-Za-z0-9_-]*"


@dataclass(frozen=True)
class Layers:
    """A recipe cut into its layers; parents are merged already.

    Args:
        head: ``version``, ``name``, ``seed``, ``launch``.
        defaults: Section name -> its values for every stage.
        own: Stage name -> its own values.
        kinds: Stage name -> kind; a guess where a mistake was made.
    """

    head: Tree
    defaults: Mapping[str, Tree]
    own: Mapping[str, Tree]
    kinds: Mapping[str, str]

    @property
    def models(self) -> dict[str, type[Section]]:
        """The schema of each stage."""
        return {name: STAGE_KINDS[kind] for name, kind in self.kinds.items()}

    def without(self, names: Collection[str]) -> "Layers":
        """Leave stages out."""
        own = {name: tree for name, tree in self.own.items() if name not in names}
        return replace(self, own=own, kinds={name: self.kinds[name] for name in own})

    def merged(self) -> dict[str, Tree]:
        """Lay each stage over those defaults that its kind has."""
        stages = {}
        for name, own in self.own.items():
            below = {}
            for section, model in sections_of(self.models[name]).items():
                default = self.defaults.get(section)
                if default is None:
                    continue
                # Defaults may hold keys of several kinds: each stage takes those that it knows.
                fitting = _fitting(default, forms_of(model), self._of_others(section, model))
                if fitting is not None:
                    below[section] = fitting
            stages[name] = merge(Tree(below, own.place, own.key), own)
        return stages

    def _of_others(self, section: str, model: type[Section]) -> set[str]:
        """Return the keys of a section that other kinds of stages take from the defaults alone."""
        found = {sections_of(stage).get(section) for stage in self.models.values()} - {model, None}
        known = {
            key for other in found if other for form in forms_of(other) for key in form.model_fields
        }
        return {key for form in forms_of(model) for key in form.yields} & known

    def with_own_forms(self, stages: Mapping[str, Tree]) -> dict[str, Tree]:
        """Leave out what was written for another form than the one that was chosen elsewhere.

        A recipe may be extended, or overridden, by the name of another form: it need not take back
        each key of the first one. Keys typed beside the name must fit it.
        """
        result = {}
        for name, tree in stages.items():
            sections = {
                section: _of_one_form(tree.mapping[section], model, self.defaults.get(section))
                for section, model in sections_of(self.models[name]).items()
                if section in tree.mapping and len(forms_of(model)) > 1
            }
            result[name] = replace(tree, value={**tree.mapping, **sections})
        return result

    def with_inherited_sizes(self, stages: Mapping[str, Tree]) -> dict[str, Tree]:
        """Give a stage the sizes of the model that it starts from, where it states none."""
        result: dict[str, Tree] = {}

        def sized(name: str) -> Tree:
            if name not in result:
                result[name] = tree = stages[name]  # for stages that need each other in a circle
                # A model that is read from a file brings its sizes with it.
                if "from_pretrained" not in _model(tree).mapping:
                    for parent in self._models_needed(name, tree):
                        result[name] = _with_sizes(tree, _model(sized(parent)))
            return result[name]

        return {name: sized(name) for name in stages}

    def _models_needed(self, name: str, tree: Tree) -> list[str]:
        if self.kinds[name] not in MODEL_KINDS:
            return []
        return [parent for parent in _needed(tree) if self.kinds.get(parent) in MODEL_KINDS]


def _name(section: Tree, model: type[Section]) -> object:
    return named_form(model, {key: item.value for key, item in section.mapping.items()})


def _of_one_form(section: Tree, model: type[Section], default: Tree | None) -> Tree:
    name = _name(section, model)
    chosen = next((item for key, item in section.mapping.items() if _says(key, model)), None)
    if name is None or chosen is None:
        return section
    own = form_of(model, name).model_fields.keys()
    others = {key for form in forms_of(model) for key in form.model_fields} - own
    below = {} if default is None else {key: item.key for key, item in default.mapping.items()}

    def is_beside(key: str, place: Place) -> bool:
        return place.is_override or (place.file == chosen.key.file and place != below.get(key))

    kept = {
        key: item
        for key, item in section.mapping.items()
        if key not in others or is_beside(key, item.key)
    }
    return replace(section, value=kept)


def _says(key: str, model: type[Section]) -> bool:
    """Whether a key chooses the form of a section."""
    return key == "name" or (issubclass(model, NamedSection) and key in model.IMPLIED)


def _model(stage: Tree) -> Tree:
    return stage.mapping.get("model", Tree({}, stage.place, stage.key))


def _needed(stage: Tree) -> list[str]:
    needs = stage.mapping.get("needs")
    if needs is None:
        return []
    items = needs.value if isinstance(needs.value, list) else [needs]
    return [item.value for item in items if isinstance(item.value, str)]


def _with_sizes(stage: Tree, parent_model: Tree) -> Tree:
    family = form_of(ModelConfig, _name(parent_model, ModelConfig))
    assert issubclass(family, ModelConfig), "a form of it"
    fields = family.size_fields()
    sizes = {key: item for key, item in parent_model.mapping.items() if key in fields}
    own = _model(stage)
    if not sizes or not isinstance(own.value, dict):
        return stage
    # What is wrong with inherited sizes is shown where they were written, once.
    shown = own if own.mapping.keys() & fields else parent_model
    model = merge(replace(shown, value=sizes), replace(shown, value=own.value))
    return replace(stage, value={**stage.mapping, "model": model})


def _fitting(
    section: Tree, models: Sequence[type[Section]], left: Collection[str] = ()
) -> Tree | None:
    """Return what these forms of a section know of the defaults; ``None`` when that is nothing.

    Args:
        section: The defaults.
        models: The forms.
        left: Keys that are left to others.
    """
    if not isinstance(section.value, dict):
        return None
    known = {key for model in models for key in model.model_fields if key not in left}
    kept = {key: item for key, item in section.value.items() if key in known}
    return replace(section, value=kept) if kept else None


def read_layers(tree: Tree, problems: ProblemList) -> Layers:
    """Cut a merged file into layers; what has no place in any is a mistake."""
    for key, item in tree.mapping.items():
        # Reported, for a section at the top would just be without effect.
        if key not in TOP_LEVEL:
            problems.add(item.key, _unknown_at_top(tree, key))
    head = {key: item for key, item in tree.mapping.items() if key in RecipeHead.model_fields}
    defaults = _read_defaults(tree, problems)
    own, kinds = _read_stages(tree, problems)
    return Layers(replace(tree, value=head), defaults, own, kinds)


def _unknown_at_top(tree: Tree, key: str) -> str:
    if key in SECTIONS:
        return (
            f"'{key}' is a section of a stage; put it under defaults (for every stage) "
            "or under one stage"
        )
    return unknown_key_in(tree, key, "the recipe", TOP_LEVEL, places_of(key))


def _read_defaults(tree: Tree, problems: ProblemList) -> dict[str, Tree]:
    defaults = tree.mapping.get("defaults")
    if defaults is None:
        return {}
    if not isinstance(defaults.value, dict):
        problems.add(defaults.key, "defaults: expected a mapping of sections; indent them below it")
        return {}
    known = {}
    for name, section in defaults.mapping.items():
        # Another place may know it: users put keys of a section, or of the recipe, here by mistake.
        if name not in SECTIONS:
            elsewhere = places_of(name)
            problems.add(section.key, unknown_key(name, "defaults", tuple(SECTIONS), elsewhere))
        elif not isinstance(section.value, dict):
            place = section.place if isinstance(section.value, str) else section.key
            problems.add(place, f"{name}: expected a mapping{section_hint(section)}")
        else:
            check_section(name, section, problems)
            known[name] = section
    return known


def check_section(name: str, section: Tree, problems: ProblemList) -> None:
    """Check one layer of a section against all its forms, although no stage may use it."""
    for key, item in section.mapping.items():
        if key not in keys_of(name):
            message = unknown_key_in(section, key, name, keys_of(name), places_of(key))
            problems.add(item.key, message)
    for model in SECTIONS[name]:
        form = form_of(model, _name(section, model))
        # What may be meant for another kind is checked once it is known which stage takes it.
        fitting = _fitting(section, [form], form.yields)
        if fitting is not None:
            validate(model, fitting, name, problems, partial=True)


def _read_stages(tree: Tree, problems: ProblemList) -> tuple[dict[str, Tree], dict[str, str]]:
    stages = tree.mapping.get("stages")
    if stages is None or not stages.mapping:
        problems.add(tree.place if stages is None else stages.key, _no_stages(stages))
        return {}, {}
    own, kinds = {}, {}
    for name, stage in stages.mapping.items():
        _check_name(name, stage, problems)
        if not isinstance(stage.value, dict):
            problems.add(stage.key, f"stage '{name}': expected a mapping with a kind")
            continue
        kind = _read_kind(name, stage, problems)
        if kind is not None:
            written = stage.mapping.get("kind", stage)
            # After a mistake the guess stands for what was written, so that the rest of the stage
            # is checked in the same run.
            stands = replace(written, value=kind, raw=kind)
            own[name] = replace(stage, value={**stage.mapping, "kind": stands})
            kinds[name] = kind
    return own, kinds


def _no_stages(stages: Tree | None) -> str:
    kinds = ", ".join(STAGE_KINDS)
    if stages is None or not stages.value:
        return f"missing key 'stages' in the recipe; add named stages, each with a kind: {kinds}"
    found = "a list" if isinstance(stages.value, list) else f"the text '{stages.raw}'"
    return (
        f"stages: found {found}; expected a mapping of names, such as `pretrain: {{kind: "
        f"pretrain, ...}}`, each with a kind: {kinds}"
    )


def _check_name(name: str, stage: Tree, problems: ProblemList) -> None:
    if name in SECTIONS and "kind" not in stage.mapping:
        message = (
            f"'{name}' is a section, not a stage; indent it further, below the stage that it is "
            "for, or put it under defaults"
        )
        problems.add(stage.key, message)
    elif name in RESERVED:
        what = "the name of a section" if name in SECTIONS else "a reserved word"
        message = (
            f"'{name}' is {what}, from which an override could not tell it; give the stage another "
            f"name, such as {name}2"
        )
        problems.add(stage.key, message)
    elif re.fullmatch(STAGE_NAME, name) is None:
        message = (
            f"'{name}' cannot be a stage's name; expected a letter, "
            "then letters, digits, '_' or '-'"
        )
        problems.add(stage.key, message)


def _read_kind(name: str, stage: Tree, problems: ProblemList) -> str | None:
    """Return the kind, or after a mistake the one that was probably meant."""
    kind = stage.mapping.get("kind")
    if kind is None:
        choices = ", ".join(STAGE_KINDS)
        problems.add(stage.key, f"missing key 'kind' in stage '{name}'; add one of: {choices}")
        return name if name in STAGE_KINDS else None
    if isinstance(kind.value, str) and kind.value in STAGE_KINDS:
        return kind.value
    problems.add(kind.place, unknown_word(str(kind.raw), "kind", tuple(STAGE_KINDS)))
    return nearest(str(kind.raw), tuple(STAGE_KINDS))
