"""Which word was meant: near matches, and what other tools call the same thing."""

import difflib
import re
from collections.abc import Collection, Sequence

from distrain.config.reading.foreign_names import (
    EXPLANATIONS,
    FOREIGN_NAMES,
    FOREIGN_WORDS,
    OTHER_MEANINGS,
)


def unknown_key(
    key: str, where: str, allowed: Collection[str], elsewhere: Sequence[str] = ()
) -> str:
    """Return the message for a key that a mapping does not have.

    Args:
        key: What was written.
        where: The mapping, such as ``lr_scheduler``.
        allowed: Its keys.
        elsewhere: Dotted settings of other sections that end in ``key``.
    """
    message = f"unknown key '{key}' in {where}; "
    spelling = _same_letters(key, allowed)
    if spelling:
        return f"{message}did you mean '{spelling}'?"
    if key in FOREIGN_NAMES:
        owner, here = FOREIGN_NAMES[key]
        return f"{message}'{key}' is {owner} name; here it is {here}"
    if elsewhere and key not in OTHER_MEANINGS:
        return f"{message}it belongs elsewhere: {' or '.join(elsewhere)}"
    if key in OTHER_MEANINGS or key in EXPLANATIONS:
        return message + (OTHER_MEANINGS | EXPLANATIONS)[key]
    near = nearest(key, allowed)
    if near:
        return f"{message}did you mean '{near}'?"
    return f"{message}known keys: {', '.join(allowed)}"


def unknown_word(word: str, what: str, allowed: Collection[str]) -> str:
    """Return the message for a value that is not among the choices."""
    choices = ", ".join(allowed) or "none"
    meant = FOREIGN_WORDS.get(what, {}).get(word.lower())
    if meant is not None:
        return f"unknown {what} '{word}'; expected one of: {choices}; {meant}"
    near = _same_letters(word, allowed) or nearest(word, allowed)
    hint = f"; did you mean '{near}'?" if near else ""
    return f"unknown {what} '{word}'; expected one of: {choices}{hint}"


def nearest(word: str, allowed: Collection[str]) -> str | None:
    """Return the allowed word most like ``word``, if any is alike."""
    match = difflib.get_close_matches(word.lower(), allowed, n=1, cutoff=0.6)
    return match[0] if match else None


def glued_key(text: str) -> str | None:
    """Return ``key: value`` if the text is that without its space; None for a URL or a time."""
    match = re.fullmatch(r"([A-Za-z_][A-Za-z0-9_]*):(?!//)([^\s:].*)", text)
    return f"{match[1]}: {match[2]}" if match is not None else None


def _same_letters(word: str, allowed: Collection[str]) -> str | None:
    letters = _letters(word)
    return next((name for name in allowed if _letters(name) == letters), None)


def _letters(word: str) -> str:
    return word.lower().replace("_", "").replace("-", "").replace(" ", "")
