"""Model families without torch: the section of a recipe, sizes, the form on the Hugging Face side.

``distrain.models`` holds the other half of each, under the same name.
"""

from collections.abc import Mapping

from distrain.config.models.family import ModelConfig
from distrain.config.models.llama import LlamaConfig

__all__ = ["FAMILIES", "LlamaConfig", "ModelConfig", "family_of"]

FAMILIES: dict[str, type[ModelConfig]] = {"llama": LlamaConfig}
"""``model.name`` -> the section of that family; the first is the default."""


def family_of(fields: Mapping[str, object]) -> type[ModelConfig] | None:
    """Return the family that may read a ``config.json``; ``None`` if there is none."""
    word = fields.get("model_type")
    return next((family for family in FAMILIES.values() if word in family.MODEL_TYPES), None)
