"""The interface of encoding engines: text in, one flat array of token ids out, never lists.

An engine adds nothing (no BOS, no end of text), cuts nothing, and encodes the name of a control
token in the text as ordinary text.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from distrain.errors import DataError

SETTING = "tokenizer.engine"
USE_REFERENCE = "Set tokenizer.engine to tokenizers."
UINT16_IDS = 1 << 16

Ids = NDArray[np.uint16] | NDArray[np.uint32]

RawIds = tuple[NDArray[np.uint32], NDArray[np.int64]]
"""Ids of many texts in a row, and how many of them are each text's."""


@dataclass(frozen=True)
class Encoded:
    """The ids of a batch of texts, in order.

    Args:
        ids: Shape (tokens,), of ``id_dtype``.
        ends: Shape (texts,): text i has the ids ``ids[ends[i - 1]:ends[i]]``.
    """

    ids: Ids
    ends: NDArray[np.int64]


class Encoder(Protocol):
    """An engine with a tokenizer loaded."""

    @property
    def name(self) -> str:
        """The engine's key in ``ENCODERS``."""
        ...

    @property
    def version(self) -> str:
        """Version of the package that encodes."""
        ...

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Encode each text.

        Raises:
            DataError: A text has a lone surrogate, or the engine failed or gave an impossible id.
        """
        ...


class EngineEncoder(ABC):
    """Base of the engines: threads, and checks of the ids that come back.

    Args:
        content: A parsed ``tokenizer.json``.
        version: See ``Encoder``.
        threads: Texts are encoded by as many threads; 1 is the caller's own.
    """

    name: str

    def __init__(self, content: Mapping[str, Any], *, version: str, threads: int) -> None:
        self.version = version
        self.threads = threads
        self.vocab_size = vocab_size_of(content)

    @abstractmethod
    def encode_slice(self, texts: Sequence[str]) -> RawIds:
        """Encode ``texts`` on the calling thread alone."""

    def encode(self, texts: Sequence[str]) -> Encoded:
        """See ``Encoder``."""
        # By characters: with as many texts each, one long document would leave the others waiting.
        slices = cut(texts, self.threads)
        if len(slices) == 1:
            parts = [self._encode_guarded(slices[0])]
        else:
            with ThreadPoolExecutor(len(slices)) as pool:
                parts = list(pool.map(self._encode_guarded, slices))
        ids = np.concatenate([part[0] for part in parts])
        ends = np.cumsum(np.concatenate([part[1] for part in parts]))
        if len(ids) and (highest := int(ids.max())) >= self.vocab_size:
            raise DataError(
                SETTING,
                f"the id {highest} from {self.name} {self.version}",
                f"ids below {self.vocab_size}, the size of the vocabulary",
                USE_REFERENCE,
            )
        narrow = id_dtype(self.vocab_size) == np.uint16
        return Encoded(ids.astype(np.uint16) if narrow else ids, ends)

    def _encode_guarded(self, texts: Sequence[str]) -> RawIds:
        try:
            return self.encode_slice(texts)
        except BaseException as error:
            # Only now: to look through every text beforehand would cost each batch a pass.
            refuse_surrogates(texts)
            raise_if_of_engine(error, f"{self.name} {self.version}", "text that it encodes")
            raise


def id_dtype(vocab_size: int) -> np.dtype[np.uint16] | np.dtype[np.uint32]:
    """Return the type of ids: two bytes wherever they are enough."""
    return np.dtype(np.uint16) if vocab_size <= UINT16_IDS else np.dtype(np.uint32)


def vocab_size_of(content: Mapping[str, Any]) -> int:
    """Return the number that all ids of a parsed ``tokenizer.json`` are below."""
    vocab = content["model"]["vocab"]
    highest = len(vocab) - 1 if isinstance(vocab, list) else max(vocab.values(), default=-1)
    # Added tokens may lie above the model's own vocabulary.
    added = (token["id"] for token in content.get("added_tokens") or ())
    return int(max(highest, *added, -1)) + 1


def plain_content(tokenizer_json: str) -> dict[str, Any]:
    """Parse a ``tokenizer.json`` without what cuts, fills up or frames a text."""
    content: dict[str, Any] = json.loads(tokenizer_json)
    # What a file says of these is for models of its maker: documents must come through whole.
    return {**content, "truncation": None, "padding": None, "post_processor": None}


def cut(texts: Sequence[str], parts: int) -> list[Sequence[str]]:
    """Cut into at most ``parts`` runs of about equally many characters."""
    if parts <= 1 or len(texts) <= 1:
        return [texts]
    until = np.array(list(accumulate(len(text) for text in texts)))
    wanted = until[-1] * np.arange(1, parts) / parts
    # A set, because one long text may take several cuts to itself.
    cuts = sorted({0, *(np.searchsorted(until, wanted) + 1).tolist(), len(texts)})
    return [texts[start:end] for start, end in pairwise(cuts)]


def refuse_surrogates(texts: Sequence[str]) -> None:
    """Raise a DataError if a text has no UTF-8 form."""
    for number, text in enumerate(texts):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"text {number} of a batch ({text[:40]!a}...)",
                f"a lone surrogate, {text[error.start]!a}, at character {error.start}",
                "text that has a UTF-8 form",
                "Drop or repair such documents before they are encoded.",
            ) from None


def raise_if_of_engine(error: BaseException, engine: str, expected: str) -> None:
    """Raise a DataError for what an engine raised; an interrupt, or too little memory, is not its.

    A Rust panic is no ``Exception``: pyo3 derives it from ``BaseException``.
    """
    if isinstance(error, MemoryError):
        return
    if isinstance(error, Exception) or type(error).__name__ == "PanicException":
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            SETTING, f"{engine} failing ({first_line[:200]})", expected, USE_REFERENCE
        ) from error
