"""The engine ``gigatoken``: byte-level BPE, and SentencePiece's BPE with byte fallback."""

import json
from collections.abc import Sequence
from importlib.metadata import version

import numpy as np

from distrain.data.tokenizer.encoders.encoder import (
    EngineEncoder,
    RawIds,
    plain_content,
    raise_if_of_engine,
)


class GigatokenEncoder(EngineEncoder):
    """See ``Encoder``.

    Raises:
        ImportError: The package is not installed.
        DataError: It cannot load this tokenizer.
    """

    name = "gigatoken"

    def __init__(self, tokenizer_json: str, *, threads: int = 1) -> None:
        import gigatoken

        content = plain_content(tokenizer_json)
        super().__init__(content, version=version("gigatoken"), threads=threads)
        # It has no switch for control tokens in text: it must not know them.
        added = content.get("added_tokens") or []
        content["added_tokens"] = [token for token in added if not token["special"]]
        try:
            self._raw = gigatoken.Tokenizer.from_json(json.dumps(content))
        except BaseException as error:
            raise_if_of_engine(error, f"gigatoken {self.version}", "a tokenizer that it can load")
            raise

    def encode_slice(self, texts: Sequence[str]) -> RawIds:
        """See ``EngineEncoder``."""
        if not texts:
            return np.empty(0, np.uint32), np.empty(0, np.int64)
        # Its array is an Awkward Array; the two buffers under it are used as they are.
        layout = self._raw.encode_batch(list(texts), parallel=False).layout
        return np.asarray(layout.content.data), np.diff(np.asarray(layout.offsets.data))
