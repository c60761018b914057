"""Model families without torch: the section of a recipe, sizes, the form on the Hugging Face side.

``distrain.models`` holds the other half of each, under the same name.
"""

from collections.abc import Mapping

from distrain.config.models.family import DecoderConfig, ModelConfig, SizeDifference
from distrain.config.models.llama import LlamaConfig
from distrain.config.models.transformers import TransformersConfig

__all__ = [
    "FAMILIES",
    "DecoderConfig",
    "LlamaConfig",
    "ModelConfig",
    "SizeDifference",
    "TransformersConfig",
    "family_of",
]

FAMILIES: dict[str, type[ModelConfig]] = {"llama": LlamaConfig, "transformers": TransformersConfig}
"""``model.name`` -> the section of that family; the first is the default."""


def family_of(fields: Mapping[str, object]) -> type[ModelConfig] | None:
    """Return the family that reads a ``config.json``, or has to refuse it; ``None``: no one.

    Model code of our own comes first; what it would compute otherwise, transformers' modules run.
    """
    able = [family for family in FAMILIES.values() if family.may_read(fields)]
    willing = (family for family in able if family.refusal(fields) is None)
    return next(willing, able[-1] if able else None)
