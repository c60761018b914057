"""The section of a family of transformers."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from distrain.config.models.family import ModelConfig


class TransformersConfig(ModelConfig):
    """Layer 4: a causal language model of transformers, by the keys of its ``config.json``."""

    name: Literal["transformers"] = "transformers"
    """Architecture."""
    model_type: str
    """Family, as ``config.json`` calls it."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Keys of the family's ``config.json``."""

    MODEL_TYPES: ClassVar[tuple[str, ...]] = ()
    READS: ClassVar[str] = "a causal language model of transformers"
    JSON_FIELDS: ClassVar[tuple[str, ...]] = ()
    NUM_REQUIRED: ClassVar[int] = 0

    @classmethod
    def differences(cls, fields: Mapping[str, Any]) -> dict[str, tuple[object, object]]:
        """Nothing yet."""
        del fields
        return {}

    def to_json(self) -> dict[str, Any]:
        """Return the ``config.json``."""
        return {**self.config, "model_type": self.model_type}
