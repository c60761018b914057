"""Layer 2: keep text from producing control tokens, in tokenizers where it still could.

``tokenizers`` leaves the names of control tokens alone (``encode_special_tokens``), but a model may
have them as pieces of its vocabulary: the Viterbi path of Unigram then takes the name as one piece,
of score 0. Such a tokenizer gets one more step before its model, which cuts these names after their
first character; all other text is encoded as before.
"""

import json
import re
from typing import Any

import tokenizers

from distrain.errors import DataError


def close_tokenizer(tokenizer_json: str, raw: tokenizers.Tokenizer, where: str) -> str:
    """Return a ``tokenizer.json`` with which no text gives a control token; mostly the same one.

    Args:
        tokenizer_json: What ``raw`` was loaded from.
        raw: Changed to leave the names of control tokens alone.
        where: Its path, for the message.

    Raises:
        DataError: No cut keeps this tokenizer from it.
    """
    leaking = leaking_tokens(raw)
    if not leaking:
        return tokenizer_json
    # A copy: the user's own file stays as it is, and so does what it is known by.
    content = json.loads(tokenizer_json)
    steps = [step for step in (content["pre_tokenizer"], _cut_in(leaking)) if step]
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
    closed = json.dumps(content, ensure_ascii=False)
    # Any unknown character gives the unknown token; it is no way to end a document or a turn.
    still_leaking = set(leaking_tokens(tokenizers.Tokenizer.from_str(closed))) - {_unknown(content)}
    if still_leaking:
        raise DataError(
            where,
            f"a tokenizer that takes the text {min(still_leaking)!r} for a control token",
            "control tokens that no text can produce",
            "Give these tokens names that its model does not hold as pieces.",
        )
    return closed


def leaking_tokens(raw: tokenizers.Tokenizer) -> list[str]:
    """Return the control tokens whose names, as text, give their ids; ``raw`` is changed."""
    raw.encode_special_tokens = True
    raw.no_truncation()
    control = {
        number: token.content
        for number, token in raw.get_added_tokens_decoder().items()
        if token.special
    }
    return [
        name
        for number, name in control.items()
        # At the beginning and the end, inside a word and twice in a row: a piece may match in one
        # of these places only.
        if number in raw.encode(f"{name} a{name}{name}b {name}", add_special_tokens=False).ids
    ]


def _unknown(content: dict[str, Any]) -> str | None:
    model = content["model"]
    if model.get("unk_id") is not None:
        return str(model["vocab"][model["unk_id"]][0])
    unknown: str | None = model.get("unk_token")
    return unknown


def _cut_in(names: list[str]) -> dict[str, Any]:
    """Return a pre-tokenizer that cuts each name after its first character, and nothing else."""
    places = (f"(?<={re.escape(name[0])})(?={re.escape(name[1:])})" for name in names if name[1:])
    return {
        "type": "Split",
        "pattern": {"Regex": "|".join(places)},
        "behavior": "Isolated",
        "invert": False,
    }
