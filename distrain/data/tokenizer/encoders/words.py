"""``tokenizers`` asked about each word once: texts are cut into words here, as it would cut them.

A byte-level tokenizer cuts a text by regular expressions and encodes each word by itself. The
library does both anew for every text, and keeps places that nobody reads. The expressions below
are those of the files that are in use, word for word, so the cuts are the same, wherever classes
of characters mean the same to Python and to the library; other texts go to the library whole.
"""

import re
import unicodedata
from array import array
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from itertools import chain
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers.pre_tokenizers import ByteLevel

from distrain.data.tokenizer.encoders.encoder import EngineEncoder, RawIds

MAX_WORDS = 2**19
"""Words that are kept, about 100 MB; then they are forgotten, and others kept."""
TEXTS_AT_ONCE = 256
"""Texts whose words are looked up together."""

SAFE = [
    *range(0x80),
    # Without the C1 controls and U+00A0, which engines do not agree on as white space, and without
    # U+017F, which is an s to a search that ignores case.
    *(code for code in range(0xA1, 0x250) if code != 0x17F),
    *range(0x400, 0x482),  # Cyrillic
    *range(0x2010, 0x2028),  # dashes, quotation marks, the ellipsis
    0x20AC,  # the sign of the euro
    *range(0x3041, 0x3097),  # Hiragana
    *range(0x30A1, 0x30FB),  # Katakana
    *range(0x4E00, 0x9FA6),  # Han
]
"""Code points whose class is the same in every version of Unicode that is in use."""

GPT2 = (
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"  # ByteLevel's own
)
GPT4_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""The expression of tiktoken's ``cl100k_base``, in the form that Llama 3's tokenizer has it."""
EXPRESSIONS = frozenset({GPT2, GPT4_WORDS, GPT4_WORDS.replace("{1,3}", "")})
"""The last is Qwen 2's. Each matches every character, so that its matches are all of a text."""

Split = Callable[[str], list[str]]


class WordsEncoder(EngineEncoder):
    """See ``Encoder``; made by ``words_encoder``.

    Args:
        raw: A tokenizer that takes names of control tokens for text.
        content: The ``tokenizer.json`` that it was made of, parsed.
        split: Cuts texts into words, for the model to take each as it is.
    """

    name = "tokenizers"

    def __init__(self, raw: tokenizers.Tokenizer, content: dict[str, Any], split: Split) -> None:
        super().__init__(content, version=version("tokenizers"), threads=1)
        self._raw = raw
        self._split = split
        added = [token.content for token in raw.get_added_tokens_decoder().values()]
        # Some of them are looked for in any text, before it is cut: none of ours to find.
        self._foreign = re.compile(
            "|".join([f"[^{_members(SAFE)}]", *(re.escape(name) for name in added if name)])
        )
        # The same model, not a copy of it: a large vocabulary takes a quarter of a second to load.
        self._of_words = tokenizers.Tokenizer(raw.model)
        self._of_words.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
        self._known: dict[str, bytes] = {}  # ids as uint32

    def encode_slice(self, texts: Sequence[str]) -> RawIds:
        """See ``EngineEncoder``."""
        parts: list[NDArray[np.uint32]] = []
        # A few at a time, whose words stay in the processor's cache.
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            block = texts[start : start + TEXTS_AT_ONCE]
            words_of = [None if self._foreign.search(text) else self._split(text) for text in block]
            self._learn(set(chain.from_iterable(words for words in words_of if words)))
            for text, words in zip(block, words_of, strict=True):
                parts.append(self._whole(text) if words is None else self._looked_up(words))
        lengths = np.array([len(part) for part in parts], np.int64)
        return np.concatenate([np.empty(0, np.uint32), *parts]), lengths

    def _whole(self, text: str) -> NDArray[np.uint32]:
        (found,) = self._raw.encode_batch_fast([text], add_special_tokens=False)
        return np.array(found.ids, np.uint32)

    def _looked_up(self, words: Sequence[str]) -> NDArray[np.uint32]:
        return np.frombuffer(b"".join(map(self._known.__getitem__, words)), np.uint32)

    def _learn(self, words: set[str]) -> None:
        if len(self._known) > MAX_WORDS:
            self._known.clear()
        new = list(words - self._known.keys())
        found = self._of_words.encode_batch_fast(new, add_special_tokens=False)
        for word, item in zip(new, found, strict=True):
            self._known[word] = array("I", item.ids).tobytes()


def words_encoder(raw: tokenizers.Tokenizer, content: dict[str, Any]) -> WordsEncoder | None:
    """Return the encoder for a tokenizer; ``None`` if nothing is known of how it cuts texts."""
    split = _split_of(content)
    return None if split is None else WordsEncoder(raw, content, split)


def _split_of(content: dict[str, Any]) -> Split | None:
    """Return what cuts as the steps before the model do, one after the other."""
    whole = content["pre_tokenizer"] or {}
    steps = whole.get("pretokenizers", [whole])
    expressions = [_expression_of(step) for step in steps]
    # Only the last one changes a text, to its bytes; what is cut afterwards is cut by others.
    kinds = [step.get("type") for step in steps]
    in_order = "ByteLevel" not in kinds[:-1] and kinds[-1] == "ByteLevel"
    if content["normalizer"] is not None or not in_order or None in expressions:
        return None
    finders = [_finder(expression) for expression in expressions if expression]

    def split(text: str) -> list[str]:
        pieces = [text]
        for find in finders:
            pieces = (
                find(text) if len(pieces) == 1 else list(chain.from_iterable(map(find, pieces)))
            )
        return pieces

    return split


def _expression_of(step: dict[str, Any]) -> str | None:
    """Return whose matches a step cuts out: empty if it cuts nothing, ``None`` if not known."""
    if step.get("type") == "Digits":
        return r"\p{N}|[^\p{N}]+" if step["individual_digits"] else r"\p{N}+|[^\p{N}]+"
    if step.get("type") == "ByteLevel" and not step["add_prefix_space"]:
        return GPT2 if step.get("use_regex", True) else ""
    if step.get("type") == "Split" and step["behavior"] == "Isolated" and not step["invert"]:
        expression = step["pattern"].get("Regex")
        return expression if expression in EXPRESSIONS else None
    return None


def _finder(expression: str) -> Split:
    """Compile an expression of Oniguruma's syntax, where it means the same to Python."""
    for name, members in (
        (r"\p{L}", _members(_of_category("L"))),
        (r"\p{N}", _members(_of_category("N"))),
        (r"\s", r"\t-\r "),
    ):
        # Within the brackets of a class there are no others.
        parts = re.split(r"(\[[^]]*\])", expression)
        expression = "".join(
            part.replace(name, members if part.startswith("[") else f"[{members}]")
            for part in parts
        )
    return re.compile(expression.replace(r"\S", r"[^\t-\r ]")).findall


def _of_category(kind: str) -> list[int]:
    return [code for code in SAFE if unicodedata.category(chr(code))[0] == kind]


def _members(codes: Iterable[int]) -> str:
    """Write code points for a class of characters, as few ranges."""
    ranges: list[list[int]] = []
    for code in codes:
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "".join(f"\\U{low:08x}-\\U{high:08x}" for low, high in ranges)
