"""The reference engine: ``tokenizers``, whose ids the others have to give."""

from collections.abc import Sequence
from importlib.metadata import version

import numpy as np
import tokenizers

from distrain.data.tokenizer.encoders.encoder import (
    EngineEncoder,
    RawIds,
    plain_content,
    raise_if_of_engine,
)


class HuggingFaceEncoder(EngineEncoder):
    """See ``Encoder``; any ``tokenizer.json`` is one of its own."""

    name = "tokenizers"

    def __init__(self, tokenizer_json: str, *, threads: int = 1) -> None:
        super().__init__(
            plain_content(tokenizer_json), version=version("tokenizers"), threads=threads
        )
        try:
            self._raw = tokenizers.Tokenizer.from_str(tokenizer_json)
        except BaseException as error:
            raise_if_of_engine(error, f"tokenizers {self.version}", "a tokenizer.json")
            raise
        self._raw.encode_special_tokens = True
        self._raw.no_truncation()
        self._raw.no_padding()

    def encode_slice(self, texts: Sequence[str]) -> RawIds:
        """See ``EngineEncoder``."""
        # A batch of one text keeps the library's own threads out; encode() would hold the GIL and
        # work out offsets that nobody reads.
        ids = [
            np.array(
                self._raw.encode_batch_fast([text], add_special_tokens=False)[0].ids, np.uint32
            )
            for text in texts
        ]
        lengths = np.array([len(of_text) for of_text in ids], np.int64)
        return np.concatenate(ids) if ids else np.empty(0, np.uint32), lengths
