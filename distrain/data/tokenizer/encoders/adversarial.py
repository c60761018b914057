"""Strings on which tokenizers have been seen, or can be expected, to disagree."""
# ruff: noqa: RUF001  (characters that look like others are the point)

import json
import random
import string
from collections.abc import Iterator
from typing import Any

SEED = 20240917
RUN_LENGTHS = (1, 2, 3, 4, 7, 8, 15, 16, 17, 63, 64, 65, 255, 256, 257, 1000, 4000)
RUN_CHARACTERS = " \n\t\r0aA.-=_#\u00a0\u3000\u0301\u200b漢é🙂"
UNUSUAL = (
    "",
    "\x00",
    "a\x00b\x00\x00c",
    "\ufeffbyte order mark\ufeff",
    "\ufffd\ufffd replaced \ufffd",
    "\ufffe\uffff\U0010ffff\ue000\U000f0000",
    "line\u2028separator\u2029paragraph\x85next\x0bvertical\x0cfeed",
    "\r\n\r\n \r \n\n\t\n  \n   x",
    "don't DON'T I'll we'Ve it'S 'tis ''s 'ſ",
    "e\u0301 é \u212b Å å \ufb01 fi ﬀ ½ ² ª ß ẞ İ ı ǅ",
    "z\u0300\u0301\u0302\u0303\u0304\u0327\u0328 Z̷a̶l̴g̵o̸",
    "\u0301\u0302starts with marks",
    "नमस्ते क्षत्रिय தமிழ் ภาษาไทย ລາວ မြန်မာ ខ្មែរ",
    "اَلْعَرَبِيَّةُ עִבְרִית \u200f\u202eoverride\u202c \u200e",
    "漢字かなカナ한국어 각\u1100\u1161\u11a8 ㍿㌀ ｱｲｳ ＡＢＣ１２３",
    "👩‍👩‍👧‍👦 👍🏽 🏳️‍🌈 🇩🇪🇫🇷🇩 1️⃣ ❤️ ❤ \U0001f3fb",
    "mixed латиница and кириллица, ελληνικά—“quotes” ‘single’ … №",
    "1 12 123 1234 12345678901234567890 1,234.56 1e-9 0x1F ٣٤٥ ४५६ Ⅷ ①",
    "snake_case camelCase SCREAMING_CASE kebab-case HTTPServer v2.0rc1 a1b2",
    "   leading, trailing   ",
    "▁ ▁▁a▁b Ġ Ċ ĠĠx <0x0A> <0xE2><0x96><0x81>",
    "https://a.b/c?d=e&f=%20#g\tuser@example.com C:\\Temp\\x",
    "def f(x):\n    return {\n        'a': [x, -1.5],\n    }\n\n\n# ----------\n",
    "<|endoftext|><|im_start|>system<|im_end|></s><s>[INST][/INST]<pad><unk>[CLS]",
)
FUZZ_ALPHABETS = (
    string.printable,
    " \n\t\r\x0b\x0c\u00a0\u2003\u3000\u200b a1'.",
    "'sStTmMdDrReEvVlL \u2019\u017f\u212a",
    "aé\u0301\u0300\u0327ﬁ漢字한ไท\u0e31\u0e49नि\u094d🙂\u200d\ufe0f🏽🇩🇪",
    "0123456789٣४½²,. ",
    "<|>/[]_sendoftx \u2581\u0120",
)


def adversarial_texts(tokenizer_json: str, *, fuzz: int = 1000) -> list[str]:
    """Return the strings to compare engines on; equal for equal arguments.

    Args:
        tokenizer_json: Its control tokens and the pieces of its vocabulary are woven in.
        fuzz: How many random strings of each of three kinds.
    """
    content: dict[str, Any] = json.loads(tokenizer_json)
    vocab = content["model"]["vocab"]
    # Sorted: the order of a vocabulary in the file must not change which strings are drawn.
    pieces = sorted(entry[0] for entry in vocab) if isinstance(vocab, list) else sorted(vocab)
    added = [token["content"] for token in content.get("added_tokens") or ()]
    # Its own generator: the strings are the same in every process, whatever else draws numbers.
    chooser = random.Random(SEED)
    return [
        *UNUSUAL,
        *_runs(),
        *_every_block(),
        *(text for token in added for text in _around(token)),
        *(_from_alphabet(chooser) for _ in range(fuzz)),
        *(_from_pieces(chooser, [*pieces, *added]) for _ in range(fuzz)),
        *(_from_all_of_unicode(chooser) for _ in range(fuzz)),
    ]


def _runs() -> Iterator[str]:
    """Yield long runs of one character, alone and between words."""
    for character in RUN_CHARACTERS:
        for length in RUN_LENGTHS:
            yield character * length
            yield f"x{character * length}y 1"
    yield string.ascii_letters * 200
    yield "".join(chr(ord("a") + number * number % 26) for number in range(20_000))


def _every_block() -> Iterator[str]:
    """Yield all characters below U+3100, in order and with spaces between: all lead bytes."""
    for start in range(0, 0x3100, 64):
        characters = [chr(code) for code in range(start, start + 64)]
        yield "".join(characters)
        yield " ".join(characters)


def _around(token: str) -> Iterator[str]:
    """Yield texts that hold the name of an added token."""
    yield token
    yield f"a{token}b"
    yield f" {token} {token}{token}\n{token}"
    yield token[:-1]
    yield token.upper()


def _from_alphabet(chooser: random.Random) -> str:
    alphabet = chooser.choice(FUZZ_ALPHABETS)
    return "".join(chooser.choices(alphabet, k=chooser.randrange(60)))


def _from_pieces(chooser: random.Random, pieces: list[str]) -> str:
    """Join pieces of the vocabulary, with the spaces that they stand for."""
    joined = "".join(chooser.choices(pieces, k=chooser.randrange(1, 12))) if pieces else ""
    return joined.replace("Ġ", " ").replace("Ċ", "\n").replace("▁", " ")


def _from_all_of_unicode(chooser: random.Random) -> str:
    codes = (chooser.randrange(0x110000) for _ in range(chooser.randrange(1, 20)))
    return "".join(chr(code) for code in codes if not 0xD800 <= code < 0xE000)
