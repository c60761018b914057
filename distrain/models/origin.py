"""What an exported model takes over from the Hugging Face folder that its base came from.

Training needs sizes and values only. The rest of what the folder says, down to the dtype of each
parameter, belongs to its user, and is the same in what comes out.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from distrain.config.huggingface import CONFIG_FILE, GENERATION_FILE


@dataclass(frozen=True)
class SpecialTokens:
    """Ids that generation needs; ``None`` where the tokenizer has no such token."""

    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    """One id, or all that end a text."""
    pad_token_id: int | None = None


@dataclass(frozen=True)
class Origin:
    """A folder's own words.

    Args:
        dtypes: Of each parameter, under the model's own names, as it is stored.
        config: All of ``config.json``.
        generation: All of ``generation_config.json``; empty without one.
    """

    dtypes: Mapping[str, torch.dtype]
    config: Mapping[str, Any]
    generation: Mapping[str, Any] = field(default_factory=dict)

    def dtype_of(self, name: str, dtype: torch.dtype) -> torch.dtype:
        """Return the dtype in which a parameter came; for ``CastWeights``."""
        return self.dtypes.get(name, dtype)

    def untied(self, embedding: str, output: str) -> "Origin":
        """Return it for a model whose output layer has a parameter of its own by now.

        Args:
            embedding: Name of the parameter that was both.
            output: Name of the new one, which is stored alike.
        """
        dtypes = {**self.dtypes, output: self.dtypes[embedding]}
        return replace(self, dtypes=dtypes, config={**self.config, "tie_word_embeddings": False})

    def grown(self, vocab_size: int) -> "Origin":
        """Return it for a model whose vocabulary has so many rows by now."""
        return replace(self, config={**self.config, "vocab_size": vocab_size})

    def files(self, special: SpecialTokens) -> dict[str, dict[str, Any]]:
        """Make the content of the two files; only ids that the folder lacks are set."""
        config = _with_ids(self.config, special)
        ids = SpecialTokens(**{name: config.get(name) for name in asdict(special)})
        return {CONFIG_FILE: config, GENERATION_FILE: _with_ids(self.generation, ids)}


def _with_ids(fields: Mapping[str, Any], special: SpecialTokens) -> dict[str, Any]:
    ours = {name: value for name, value in asdict(special).items() if value is not None}
    ids = ours | {name: fields[name] for name in asdict(special) if fields.get(name) is not None}
    ends = _listed(ids.get("eos_token_id"))
    # What training put after answers must end a generated one, beside what ended texts before.
    missing = [end for end in _listed(special.eos_token_id) if end not in ends]
    if missing:
        ids["eos_token_id"] = [*ends, *missing]
    return {**fields, **ids}


def _listed(ids: int | list[int] | None) -> list[int]:
    if ids is None:
        return []
    return ids if isinstance(ids, list) else [ids]
