"""Layer 2: text <-> token ids, by ``tokenizers``; whole corpora go through ``encoders``.

Control tokens are ids that no text can produce: a document that contains the characters
``<|endoftext|>`` is encoded as ordinary text.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

from distrain.config.added_tokens import is_grown_from
from distrain.config.huggingface import (
    ASSISTANT,
    END_OF_TEXT,
    NAMING_FILES,
    OWN_CONTROL_TOKENS,
    PAD,
    TOKENIZER_FILE,
    USER,
)
from distrain.data.tokenizer.canonical_unigram import canonical_unigram
from distrain.data.tokenizer.closing import close_tokenizer
from distrain.data.tokenizer.encoders.words import GPT4_WORDS
from distrain.errors import DataError

SPLITS: dict[str, pre_tokenizers.PreTokenizer] = {
    "gpt2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "gpt4": pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(GPT4_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    ),
}
"""Ways to cut text into words of bytes. Both cut the names of control tokens at ``|``."""


class Tokenizer:
    """A ``tokenizer.json``, with the ids that training needs to know.

    Args:
        raw: The tokenizer itself; its settings are changed.
        eos_id: Id that ends a document or an answer.
        pad_id: Fills up rows; never a target.
        content: The ``tokenizer.json`` that an engine loads (``distrain.data.tokenizer.encoders``).
        fingerprint: Equal for tokenizers that encode alike.
    """

    def __init__(
        self,
        raw: tokenizers.Tokenizer,
        *,
        eos_id: int,
        pad_id: int,
        content: str,
        fingerprint: str,
    ) -> None:
        raw.encode_special_tokens = True  # control tokens in raw text stay ordinary text
        raw.no_truncation()
        raw.no_padding()
        self._raw = raw
        self.eos_id = eos_id
        self.pad_id = pad_id
        self.content = content
        self.fingerprint = fingerprint
        self.user_id: int | None = raw.token_to_id(USER)
        self.assistant_id: int | None = raw.token_to_id(ASSISTANT)

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        """Read a ``tokenizer.json``, or a Hugging Face folder that holds one.

        The end-of-text token is ``<|endoftext|>`` if the vocabulary has it as a control token,
        else what a Hugging Face file beside ``tokenizer.json`` names.

        Raises:
            DataError: There is no such file, it is no tokenizer, it has no end-of-text token, or
                text could give control tokens or other ids each time.
        """
        file = path / TOKENIZER_FILE if path.is_dir() else path
        original, raw = _read(file)
        # Dropout of merges is random: neither shards nor restarts could be the same twice.
        if getattr(raw.model, "dropout", None):
            raise DataError(
                str(file),
                f"a tokenizer with a dropout of {raw.model.dropout:.3g}",
                "one that gives equal ids for equal text",
                "Set model.dropout to null in it.",
            )
        text = close_tokenizer(original, raw, str(file))
        if text != original:
            raw = tokenizers.Tokenizer.from_str(text)
        eos_id = _find_id(raw, END_OF_TEXT, file.parent, "eos_token")
        if eos_id is None:
            raise DataError(
                str(file),
                "a tokenizer without an end-of-text token",
                f"the control token {END_OF_TEXT}, or a tokenizer_config.json that names one",
                'Put a tokenizer_config.json with {"eos_token": "..."} beside it.',
            )
        pad_id = _find_id(raw, PAD, file.parent, "pad_token")
        return cls(
            raw,
            eos_id=eos_id,
            # Padding is never a target, so any id will do.
            pad_id=eos_id if pad_id is None else pad_id,
            content=text,
            # Of the file as it is: what is changed in it above changes no ids of ordinary text.
            fingerprint=fingerprint(original, eos_id),
        )

    def is_grown_from(self, base: "Tokenizer") -> bool:
        """Whether it is another one, or that with further control tokens: texts have equal ids."""
        if self.fingerprint == base.fingerprint:
            return True
        here, there = json.loads(self.content), json.loads(base.content)
        return self.eos_id == base.eos_id and is_grown_from(here, there)

    @property
    def vocab_size(self) -> int:
        """Ids are below it, those of control tokens included."""
        return int(max(self._raw.get_vocab(with_added_tokens=True).values())) + 1

    def name_of(self, token_id: int) -> str:
        """Return the vocabulary's own name of an id, such as ``<|endoftext|>``."""
        return str(self._raw.id_to_token(token_id))

    @property
    def has_chat_tokens(self) -> bool:
        """Whether ``<|user|>`` and ``<|assistant|>`` are there to mark turns."""
        return self.user_id is not None and self.assistant_id is not None

    @cached_property
    def prefix_ids(self) -> tuple[int, ...]:
        """Ids that the tokenizer's template puts before a text, such as a BOS; empty for ours."""
        ids = self._raw.encode("", add_special_tokens=True).ids
        # A template may also end a text: an end before the prompt would cut it off from its answer.
        return tuple(token for token in ids if token != self.eos_id)

    def encode(self, text: str) -> list[int]:
        """Encode text as it stands: nothing is added, and nothing in it is a control token."""
        ids: list[int] = self._raw.encode(text, add_special_tokens=False).ids
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode many texts as ``encode`` does, on all cores."""
        encodings = self._raw.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Sequence[int], *, skip_control: bool = False) -> str:
        """Return the text of ``ids``; control tokens are shown by name unless skipped."""
        text: str = self._raw.decode(list(ids), skip_special_tokens=skip_control)
        return text

    def token_bytes(self) -> NDArray[np.int64]:
        """Count the UTF-8 bytes of text behind each id, shape (vocab_size,); 0 for control tokens.

        Exact for byte-level vocabularies. In those like SentencePiece's, a space that the tokenizer
        adds before a text counts as one byte of it.
        """
        content = json.loads(self._raw.to_str())
        is_byte_level = "ByteLevel" in json.dumps([content["pre_tokenizer"], content["decoder"]])
        sizes = np.zeros(self.vocab_size, np.int64)
        for token, token_id in self._raw.get_vocab(with_added_tokens=False).items():
            # In a byte-level vocabulary each character of a piece stands for one byte.
            sizes[token_id] = len(token) if is_byte_level else _piece_bytes(token)
        for token_id, added in self._raw.get_added_tokens_decoder().items():
            sizes[token_id] = 0 if added.special else len(added.content.encode())
        return sizes


def train_tokenizer(
    texts: Iterable[str],
    *,
    vocab_size: int,
    min_frequency: int,
    model: Literal["bpe", "unigram"] = "bpe",
    split: Literal["gpt2", "gpt4"] = "gpt2",
) -> str:
    """Train a byte-level tokenizer; equal texts in equal order give equal results.

    Both models know all 256 bytes, so any text comes back from its ids.

    Args:
        texts: Read once.
        vocab_size: At most; smaller if the texts hold too few pairs or pieces.
        min_frequency: Of a pair that ``bpe`` merges; of no effect for ``unigram``.
        model: ``bpe`` (arXiv 1909.03341, section 2.2) or ``unigram`` (arXiv 1804.10959).
        split: Key of ``SPLITS``.

    Returns:
        The content of a ``tokenizer.json``.
    """
    raw = tokenizers.Tokenizer(models.BPE() if model == "bpe" else models.Unigram())
    raw.pre_tokenizer = SPLITS[split]
    raw.decoder = decoders.ByteLevel()
    common: dict[str, Any] = {
        "vocab_size": vocab_size,
        "special_tokens": list(OWN_CONTROL_TOKENS),
        # Sorted, as the library lists it in an order of chance. All 256, seen or not: any text has
        # ids.
        "initial_alphabet": sorted(pre_tokenizers.ByteLevel.alphabet()),
        "show_progress": False,
    }
    trainer: trainers.Trainer = (
        trainers.BpeTrainer(min_frequency=min_frequency, **common)
        if model == "bpe"
        else trainers.UnigramTrainer(**common)
    )
    raw.train_from_iterator(iter(texts), trainer)
    content: str = raw.to_str(pretty=True)
    return content if model == "bpe" else canonical_unigram(content, len(OWN_CONTROL_TOKENS))


def fingerprint(tokenizer_json: str, eos_id: int) -> str:
    """Hash a tokenizer's content, whatever its white space."""
    canonical = json.dumps([json.loads(tokenizer_json), eos_id], sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _read(file: Path) -> tuple[str, tokenizers.Tokenizer]:
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(
            str(file),
            "no such file",
            "a tokenizer.json of the tokenizers library",
            "Correct the path; a model that has a SentencePiece file only needs converting first.",
        ) from None
    try:
        return text, tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing narrower
        raise DataError(
            str(file),
            f"a file that is no tokenizer ({error})",
            "a tokenizer.json of the tokenizers library",
            "Save it again with `tokenizer.save` or `save_pretrained`.",
        ) from error


def _find_id(raw: tokenizers.Tokenizer, control: str, folder: Path, key: str) -> int | None:
    """Return the id of our control token, else of what a file of ``folder`` names under ``key``."""
    added = {token.content: number for number, token in raw.get_added_tokens_decoder().items()}
    if control in added:
        return added[control]
    for name in NAMING_FILES:
        content = _read_config(folder / name)
        token = content.get(key)
        if isinstance(token, dict):
            token = token.get("content")
        token_id: Any = content.get(f"{key}_id")
        if isinstance(token, str) and token:
            token_id = raw.token_to_id(token)
        # ``config.json`` may list several that end generation; documents are ended by the first.
        if isinstance(token_id, list):
            token_id = next(iter(token_id), None)
        if isinstance(token_id, int):
            return token_id
    return None


def _read_config(file: Path) -> dict[str, Any]:
    """Read one of ``NAMING_FILES``; empty where there is none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        content, reason = None, str(error)
    else:
        reason = f"a {type(content).__name__} in it"
    if isinstance(content, dict):
        return content
    raise DataError(
        str(file),
        f"a file that cannot be read ({reason})",
        "a JSON object, as save_pretrained writes it",
        "Restore the file, or remove it if another one beside it names the end-of-text token.",
    )


def _piece_bytes(token: str) -> int:
    is_byte = len(token) == len("<0x00>") and token.startswith("<0x") and token.endswith(">")
    return 1 if is_byte else len(token.replace("▁", " ").encode())
