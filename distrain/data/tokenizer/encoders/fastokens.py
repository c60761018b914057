"""The engine ``fastokens``: many kinds of ``tokenizer.json``, with no dependencies."""

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


class FastokensEncoder(EngineEncoder):
    """See ``Encoder``.

    Raises:
        ImportError: The package is not installed.
        DataError: It cannot load this tokenizer.
    """

    name = "fastokens"

    def __init__(self, tokenizer_json: str, *, threads: int = 1) -> None:
        import fastokens

        content = plain_content(tokenizer_json)
        super().__init__(content, version=version("fastokens"), threads=threads)
        try:
            self._raw = fastokens.Tokenizer.from_json_str(json.dumps(content))
        except BaseException as error:
            raise_if_of_engine(error, f"fastokens {self.version}", "a tokenizer that it can load")
            raise

    def encode_slice(self, texts: Sequence[str]) -> RawIds:
        """See ``EngineEncoder``."""
        # One text a call keeps its own threads out. Special tokens are split, others stay whole.
        buffers = [
            self._raw.encode_batch_flat([text], split_special_tokens=True)[0] for text in texts
        ]
        lengths = np.array([len(buffer) // 4 for buffer in buffers], np.int64)
        return np.frombuffer(b"".join(buffers), np.dtype("<u4")), lengths
