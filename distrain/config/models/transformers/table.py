"""What a release of transformers says of its causal families; ``families.json`` holds it.

transformers itself is not asked: it imports torch, and takes any misspelt key for a new one.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

TABLE_FILE = Path(__file__).with_name("families.json")
"""Written by ``distrain.tools.family_table``."""


@dataclass(frozen=True)
class FamilyKey:
    """A setting of a family's ``config.json``.

    Args:
        types: Words for what it may be: int, float, bool, str, list, dict, null.
        default: Of a configuration that leaves it out; null also where it follows from others.
    """

    types: tuple[str, ...]
    default: Any


@dataclass(frozen=True)
class FamilyKeys:
    """A family whose keys are known here.

    Args:
        architecture: Its class in transformers.
        keys: By name.
        synonyms: Another family's word -> this one's, which transformers understands too.
        linear_layers: Last parts of the names of linear layers that may be in its blocks.
        tensor_plan: How it says that its layers are cut; see ``config.models.tensor_plan``.
    """

    architecture: str
    keys: Mapping[str, FamilyKey]
    synonyms: Mapping[str, str]
    linear_layers: tuple[str, ...]
    tensor_plan: Mapping[str, str]

    def own_name(self, key: str) -> str:
        """Return what the family calls a setting."""
        return self.synonyms.get(key, key)


@dataclass(frozen=True)
class FamilyTable:
    """All causal families of one release.

    Args:
        release: Of transformers.
        activations: Words for an activation.
        families: Those that the tests compare.
        others: That go through the attention interface as well.
        stacked_experts: Of both, those that keep the weights of a layer's experts in one tensor.
        refused: That do not, each with the reason.
        other_plans: The ``tensor_plan`` of each of ``others`` that has one.
    """

    release: str
    activations: tuple[str, ...]
    families: Mapping[str, FamilyKeys]
    others: tuple[str, ...]
    stacked_experts: tuple[str, ...]
    refused: Mapping[str, str]
    other_plans: Mapping[str, Mapping[str, str]]

    def tensor_plan(self, model_type: str) -> Mapping[str, str]:
        """Return how a family says that its layers are cut; nothing where it does not."""
        family = self.families.get(model_type)
        return self.other_plans.get(model_type, {}) if family is None else family.tensor_plan

    @property
    def known(self) -> tuple[str, ...]:
        """Every family that may be trained."""
        return (*self.families, *self.others)


@cache
def family_table() -> FamilyTable:
    """Read the table."""
    read = json.loads(TABLE_FILE.read_text(encoding="utf-8"))
    return FamilyTable(
        release=read["transformers"],
        activations=tuple(read["activations"]),
        families={name: _family(fields) for name, fields in read["families"].items()},
        others=tuple(read["others"]),
        stacked_experts=tuple(read["stacked_experts"]),
        refused=read["refused"],
        other_plans=read["tensor_plans"],
    )


def _family(fields: Mapping[str, Any]) -> FamilyKeys:
    return FamilyKeys(
        architecture=fields["architecture"],
        keys={
            name: FamilyKey(tuple(key["types"]), key["default"])
            for name, key in fields["keys"].items()
        },
        synonyms=fields["synonyms"],
        linear_layers=tuple(fields["linear_layers"]),
        tensor_plan=fields["tensor_plan"],
    )
