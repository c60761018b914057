"""The record of an engine's choice and of its checks."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Refusal:
    """An engine that was tried and not taken, and why."""

    engine: str
    reason: str


@dataclass(frozen=True)
class EngineReport:
    """The engine that encodes, and what it was checked on.

    Args:
        engine: Key in ``ENCODERS``.
        version: Of the engine's package.
        reference_version: Of ``tokenizers``, whose ids were the measure.
        sample_texts: Texts of the corpus with equal ids; 0 if the reference itself encodes.
        sample_tokens: Ids of these texts.
        adversarial_texts: Made strings with equal ids.
        refused: Engines that were tried before.
    """

    engine: str
    version: str
    reference_version: str
    sample_texts: int = 0
    sample_tokens: int = 0
    adversarial_texts: int = 0
    refused: tuple[Refusal, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return what ``from_json`` takes."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "EngineReport":
        """Read what ``to_json`` gave, from memory or from a file."""
        refused = tuple(Refusal(**refusal) for refusal in content["refused"])
        return cls(**{**content, "refused": refused})
