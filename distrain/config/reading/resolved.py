"""The resolved recipe as text: every value stated, and the same run when it is read again."""

import hashlib
import io
import json
import re
from collections.abc import Mapping
from typing import Any

from distrain.config.lineage import lineage_of
from distrain.config.models import TransformersConfig
from distrain.config.reading.adapter_rates import keep_older_rates
from distrain.config.recipe import EvaluateStage, ExportStage, GivenModelConfig, Recipe, TrainStage

OLDER_VALUES = {("sft", "data", "truncation"): "cut"}
"""Kind of stage, section and setting -> what a run folder goes by that does not state it: there
was no such setting when it was made, and this is what was done."""
FIRST_KEYS = ("version", "name", "seed", "kind", "needs")
SIMPLE_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*|([0-9]+[smhd])+")


def dump_resolved(recipe: Recipe) -> str:
    """Write a recipe with every value as YAML that ``load_recipe`` reads back unchanged."""
    # Only who writes a run folder needs it.
    from ruamel.yaml import YAML, ScalarNode
    from ruamel.yaml.representer import SafeRepresenter

    class Representer(SafeRepresenter):
        """Quotes all but simple words: ruamel itself cannot read a plain ``[?0]`` that it wrote."""

    def quoted(representer: SafeRepresenter, text: str) -> ScalarNode:
        style = None if SIMPLE_WORD.fullmatch(text) else '"'
        return representer.represent_scalar("tag:yaml.org,2002:str", text, style=style)

    Representer.add_representer(str, quoted)
    yaml = YAML(typ="safe", pure=True)
    yaml.Representer = Representer
    yaml.default_flow_style = None  # lists of plain values in one line
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.width = 4096
    yaml.allow_unicode = True
    content = recipe.model_dump(mode="json")
    content["stages"] = {name: _ordered(stage) for name, stage in content["stages"].items()}
    text = io.StringIO()
    yaml.dump(_ordered(content), text)
    return text.getvalue()


def _ordered(mapping: dict[str, object]) -> dict[str, object]:
    first = {key: mapping[key] for key in FIRST_KEYS if key in mapping}
    return first | mapping


def with_whole_models(recipe: Recipe) -> Recipe:
    """State every setting of the models that begin with random weights, and each model once."""
    stages = dict(recipe.stages)
    for name, stage in recipe.stages.items():
        if isinstance(stage, TrainStage) and lineage_of(stages, name).root == name:
            model = stage.model
            if isinstance(model, TransformersConfig) and model.from_pretrained is None:
                stages[name] = stage.model_copy(update={"model": model.completed()})
        elif isinstance(stage, EvaluateStage | ExportStage) and lineage_of(stages, name).root:
            # What defaults say of all stages is that of the first one of the line.
            stages[name] = stage.model_copy(update={"model": GivenModelConfig()})
    return recipe.model_copy(update={"stages": stages})


def with_older_values(content: Mapping[str, Any]) -> dict[str, Any]:
    """Complete the content of a ``resolved.yaml`` that an older version wrote."""
    stages = dict(content["stages"])
    for name, stage in stages.items():
        for (kind, section, key), value in OLDER_VALUES.items():
            if stage.get("kind") == kind:
                stages[name] = stage | {section: {key: value} | stage.get(section, {})}
    return {**content, "stages": stages}


def keep_older_values(old: Recipe, new: Recipe, origins: Mapping[str, str]) -> Recipe:
    """Let a run folder go on by its own values of settings that the new recipe does not state.

    Args:
        old: The recipe of the folder.
        new: The one that it is to have.
        origins: See ``LoadedRecipe``; of ``new``.
    """
    stages = dict(new.stages)
    for name, stage in old.stages.items():
        for kind, section, key in OLDER_VALUES:
            is_same = name in stages and stage.kind == stages[name].kind == kind
            if is_same and origins[f"stages.{name}.{section}.{key}"] == "default":
                value = getattr(getattr(stage, section), key)
                now = getattr(stages[name], section).model_copy(update={key: value})
                stages[name] = stages[name].model_copy(update={section: now})
    return keep_older_rates(old, new.model_copy(update={"stages": stages}), origins)


def recipe_fingerprint(recipe: Recipe) -> str:
    """Return a hash of everything but ``launch``: what makes a run folder this recipe's."""
    content = recipe.model_dump(mode="json", exclude={"launch"})
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
