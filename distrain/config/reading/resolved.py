"""The resolved recipe as text: every value stated, and the same run when it is read again."""

import hashlib
import io
import json
import re

from distrain.config.recipe import Recipe

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


def recipe_fingerprint(recipe: Recipe) -> str:
    """Return a hash of everything but ``launch``: what makes a run folder this recipe's."""
    content = recipe.model_dump(mode="json", exclude={"launch"})
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
