"""Text in which some pieces may hold control tokens, and others are a user's."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray

from distrain.data.tokenizer.encoders import REFERENCE
from distrain.data.tokenizer.encoders.choose import choose_encoder
from distrain.data.tokenizer.encoders.encoder import Encoder
from distrain.data.tokenizer.encoders.words import words_encoder
from distrain.data.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class TextPieces:
    """A text in pieces, one after the other.

    Args:
        texts: Of each.
        is_content: Whether a piece is a user's, in which names of control tokens are plain text.
    """

    texts: list[str]
    is_content: list[bool]


@dataclass(frozen=True, slots=True)
class EncodedPieces:
    """Ids of a whole text.

    Args:
        ids: Of the tokens.
        ends: Where each token ends in the text; characters, or bytes.
        lengths: Of the pieces; likewise.
    """

    ids: Sequence[int] | NDArray[np.int64]
    ends: Sequence[int] | NDArray[np.int64]
    lengths: list[int]

    def numbers(self) -> NDArray[np.int64]:
        """Return the number of the piece in which each token ends, shape (tokens,)."""
        bounds = np.cumsum(self.lengths)
        return np.maximum.accumulate(np.searchsorted(bounds, self.ends, side="left"))


class ControlText:
    """Encodes whole texts with their control tokens, as transformers does.

    Args:
        tokenizer: What it is made of; it keeps taking control tokens for text.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        content = _untrimmed(json.loads(tokenizer.content))
        self._content = tokenizer.content
        self._raw = tokenizers.Tokenizer.from_str(json.dumps(content))
        self._raw.no_truncation()
        self._raw.no_padding()
        # Some files do not mark the tokens by which a model's configuration ends texts.
        named = {tokenizer.eos_id, tokenizer.pad_id, *tokenizer.prefix_ids}
        self._raw.add_special_tokens([tokenizer.name_of(token) for token in named])
        control = {
            token.content: number
            for number, token in self._raw.get_added_tokens_decoder().items()
            if token.special
        }
        self.control_ids = frozenset(control.values())
        longest_first = sorted(control, key=len, reverse=True)
        self._names = re.compile("|".join(map(re.escape, longest_first)))
        self._control = control
        self._closed = tokenizers.Tokenizer.from_str(json.dumps(content))
        self._closed.encode_special_tokens = True
        self._closed.no_truncation()
        self._closed.no_padding()
        self._sizes = token_sizes(content, self._raw)
        # Engines tell ids, and no places: those follow where the bytes of each token are known.
        self._engine: Encoder | None = (
            words_encoder(self._closed, content) if self._sizes is not None else None
        )

    def take_engine(self, texts: Sequence[TextPieces]) -> str:
        """Take a faster engine from now on, if one gives the ids of these texts; returns which.

        Only for byte-level vocabularies; see ``token_sizes``.
        """
        if self._sizes is None:
            return REFERENCE
        sample = (plain for text in texts for plain, _ in self._stretches(text) if plain)
        engine, report = choose_encoder(self._content, "auto", sample)
        if report.engine != REFERENCE:
            self._engine = engine
        return report.engine

    def control_names(self, text: str) -> list[tuple[str, int]]:
        """Return the control tokens that a text names, each with where its name ends."""
        return [(found[0], found.end()) for found in self._names.finditer(text)]

    def id_of(self, name: str) -> int:
        """Return the id of a control token."""
        return self._control[name]

    def encode(self, texts: Sequence[TextPieces]) -> list[EncodedPieces]:
        """Encode texts; each token spans the text as a whole, whatever its pieces."""
        if not texts:
            return []
        if self._sizes is not None and self._engine is not None:
            return self._by_engine(self._sizes, self._engine, texts)
        whole = ["".join(text.texts) for text in texts]
        if self._sizes is not None:
            return self._by_size(self._sizes, texts, whole)
        found = self._raw.encode_batch(whole, add_special_tokens=False)
        return [self._checked(text, found) for text, found in zip(texts, found, strict=True)]

    def _by_engine(
        self, sizes: NDArray[np.int64], engine: Encoder, texts: Sequence[TextPieces]
    ) -> list[EncodedPieces]:
        """Encode what lies between control tokens, of all texts at once."""
        stretches = [list(self._stretches(text)) for text in texts]
        encoded = engine.encode([plain for group in stretches for plain, _ in group])
        names = [self._control.get(name, -1) for group in stretches for _, name in group]
        control = np.array(names, np.int64)
        is_named = control >= 0
        named_before: NDArray[np.int64] = np.cumsum(is_named) - is_named
        counts = np.diff(encoded.ends, prepend=0)
        ids = np.empty(len(encoded.ids) + int(is_named.sum()), np.int64)
        ids[np.arange(len(encoded.ids)) + np.repeat(named_before, counts)] = encoded.ids
        ids[(encoded.ends + named_before)[is_named]] = control[is_named]
        last = np.cumsum([len(group) for group in stretches]) - 1
        stops = (encoded.ends + named_before + is_named)[last]
        found = []
        for text, part in zip(texts, np.split(ids, stops[:-1]), strict=True):
            ends, lengths = np.cumsum(sizes[part]), _byte_lengths(text.texts)
            is_whole = ends[-1:].sum() == sum(lengths)  # as in _by_size
            found.append(EncodedPieces(part, ends, lengths) if is_whole else self._apart(text))
        return found

    def _by_size(
        self, sizes: NDArray[np.int64], texts: Sequence[TextPieces], whole: Sequence[str]
    ) -> list[EncodedPieces]:
        """Encode by a byte-level vocabulary: where a token ends follows from those before it."""
        found = []
        for text, encoding in zip(
            texts, self._raw.encode_batch_fast(whole, add_special_tokens=False), strict=True
        ):
            if self._names_in_content(text):
                found.append(self._apart(text))
                continue
            ids = encoding.ids
            lengths = _byte_lengths(text.texts)
            ends = np.cumsum(sizes[ids])
            if ends[-1:].sum() != sum(lengths):  # a byte that the vocabulary does not know is lost
                slow = self._raw.encode("".join(text.texts), add_special_tokens=False)
                found.append(self._checked(text, slow))
                continue
            found.append(EncodedPieces(ids, ends, lengths))
        return found

    def _checked(self, text: TextPieces, found: tokenizers.Encoding) -> EncodedPieces:
        if self._names_in_content(text):
            return self._apart(text)
        if not _is_seamless(found, sum(map(len, text.texts))):
            return self._by_piece(text)
        return EncodedPieces(found.ids, _ends(found), list(map(len, text.texts)))

    def _names_in_content(self, text: TextPieces) -> bool:
        return any(
            is_content and self._names.search(piece) is not None
            for piece, is_content in zip(text.texts, text.is_content, strict=True)
        )

    def _apart(self, text: TextPieces) -> EncodedPieces:
        """Encode what lies between control tokens that are no content, each by itself."""
        ids: list[int] = []
        ends: list[int] = []
        done = 0
        for plain, name in self._stretches(text):
            found = self._closed.encode(plain, add_special_tokens=False)
            ids += found.ids
            ends += [done + end for end in _ends(found)]
            done += len(plain) + len(name)
            if name:
                ids.append(self._control[name])
                ends.append(done)
        return EncodedPieces(ids, ends, list(map(len, text.texts)))

    def _by_piece(self, text: TextPieces) -> EncodedPieces:
        """Encode each piece by itself: where a tokenizer drops characters, no place is certain."""
        ids: list[int] = []
        ends: list[int] = []
        done = 0
        for piece, is_content in zip(text.texts, text.is_content, strict=True):
            raw = self._closed if is_content else self._raw
            found = raw.encode(piece, add_special_tokens=False).ids
            done += len(piece)
            ids += found
            ends += [done] * len(found)
        return EncodedPieces(ids, ends, list(map(len, text.texts)))

    def _stretches(self, text: TextPieces) -> Iterator[tuple[str, str]]:
        """Yield plain text and the control token that follows it, in turn."""
        plain = ""
        for piece, is_content in zip(text.texts, text.is_content, strict=True):
            if is_content:
                plain += piece
                continue
            done = 0
            for match in self._names.finditer(piece):
                yield plain + piece[done : match.start()], match[0]
                plain, done = "", match.end()
            plain += piece[done:]
        yield plain, ""


def _byte_lengths(texts: Sequence[str]) -> list[int]:
    return [len(piece) if piece.isascii() else len(piece.encode()) for piece in texts]


def token_sizes(content: Any, raw: tokenizers.Tokenizer) -> NDArray[np.int64] | None:  # noqa: ANN401
    """Return the bytes of text behind each id, or ``None`` where they depend on the place.

    Known of byte-level vocabularies that neither change a text before they cut it nor swallow
    white space around control tokens. Offsets take the library a quarter of its time.

    Args:
        content: Of the ``tokenizer.json``.
        raw: The tokenizer made of it, with every control token.
    """
    steps = content["pre_tokenizer"] or {}
    kinds = [step for step in steps.get("pretokenizers", [steps]) if step]
    bytes_only = [step for step in kinds if step.get("type") == "ByteLevel"]
    added = raw.get_added_tokens_decoder()
    if (
        content["normalizer"] is not None
        or content["model"].get("type") != "BPE"
        or len(bytes_only) != 1
        or bytes_only[0].get("add_prefix_space")
        or any(step.get("type") not in ("ByteLevel", "Split", "Digits") for step in kinds)
        or any(step.get("behavior", "Isolated") == "Removed" for step in kinds)
        or any(token.lstrip or token.rstrip for token in added.values())
    ):
        return None
    vocab = raw.get_vocab(with_added_tokens=True)
    sizes = np.zeros(max(vocab.values()) + 1, np.int64)
    for name, number in vocab.items():
        # Each character of a piece stands for one byte; an added token for its own text.
        sizes[number] = len(name)
    for number, token in added.items():
        sizes[number] = len(token.content.encode())
    return sizes


def _is_seamless(found: tokenizers.Encoding, length: int) -> bool:
    """Whether tokens follow each other without a gap, from the beginning of a text to its end."""
    done = 0
    for start, end in found.offsets:
        if start > done:
            return False
        done = end
    return done == length


def _ends(found: tokenizers.Encoding) -> list[int]:
    return [end for _, end in found.offsets]


def _untrimmed(content: Any) -> Any:  # noqa: ANN401  (JSON)
    """Let offsets of tokens hold the space before a word too."""
    if isinstance(content, dict):
        return {
            key: False if key == "trim_offsets" else _untrimmed(value)
            for key, value in content.items()
        }
    return [_untrimmed(item) for item in content] if isinstance(content, list) else content
