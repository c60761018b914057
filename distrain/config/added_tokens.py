"""Control tokens that a stage of fine-tuning adds to its base's tokenizer. Pure: JSON in and out.

The launcher judges names by it before a run is queued, and the stage makes its tokenizer by it.
"""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator

ADD_TOKENS = "data.add_tokens"
"""The setting, below a stage of fine-tuning."""
Content = Mapping[str, Any]
"""Of a ``tokenizer.json``."""


def _usable(name: str) -> str:
    """Refuse what a template could not write, or could write in two ways."""
    if not name:
        raise ValueError("a token needs a name, such as <|tool|>")
    # Tokenizers strip or join white space around and in added tokens, each in its own way.
    if any(char.isspace() or not char.isprintable() for char in name):
        raise ValueError(
            f"{name!r} holds white space or a control character; write a name without, such as "
            "<|tool|>"
        )
    if unicodedata.normalize("NFC", name) != name:
        raise ValueError(
            f"{name!r} is another text once it is normalised (NFC); write it in its composed form"
        )
    return name


def _different(names: tuple[str, ...]) -> tuple[str, ...]:
    twice = [name for number, name in enumerate(names) if name in names[:number]]
    if twice:
        raise ValueError(f"{twice[0]!r} is there twice; name each token once")
    return names


TokenNames = Annotated[
    tuple[Annotated[str, AfterValidator(_usable)], ...], AfterValidator(_different)
]
"""Of control tokens, in the order of their ids."""


class TokenNameError(ValueError):
    """A name that cannot become a control token of a tokenizer.

    Args:
        found: The name, and what is wrong with it.
        expected: What would do.
    """

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(found, expected)
        self.found = found
        self.expected = expected

    def __str__(self) -> str:
        return f"found {self.found}; expected {self.expected}"


@dataclass(frozen=True, slots=True)
class AddedTokens:
    """What becomes of the names that a recipe asks for.

    Args:
        new: Name -> id; ids follow the tokenizer's last one.
        known: Name -> id of those that are tokens already, and stay as they are.
    """

    new: Mapping[str, int]
    known: Mapping[str, int]


def plan_tokens(content: Content, names: Sequence[str]) -> AddedTokens:
    """Say which ids the names get.

    Raises:
        TokenNameError: A name is a piece of ordinary text, or overlaps a control token; or ids
            have gaps.
        ValueError: This is no ``tokenizer.json``.
    """
    first, pieces, there = first_free_id(content), _pieces(content), added_ids(content)
    library = _next_id(content)
    new: dict[str, int] = {}
    for name in names:
        if name in there:
            continue
        # Text would give its id: nobody could tell a control token from what a user wrote.
        if name in pieces:
            raise TokenNameError(
                f"{name!r}, a piece of the tokenizer's vocabulary, which ordinary text gives",
                f"a name that no text is cut into, such as <|{name.strip('<|>/') or 'tool'}|>",
            )
        other = next((t for t in (*there, *new) if t and (t in name or name in t)), None)
        if other is not None:
            raise TokenNameError(
                f"{name!r}, which overlaps the token {other!r}: one could be read for the other",
                "a name that is no part of another token's, and holds none",
            )
        # Ids would be given to several tokens, or to none: no table of rows can be made for that.
        if library != first:
            raise TokenNameError(
                f"{name!r}, which the library would number {library} in a tokenizer with ids up to "
                f"{first - 1}",
                "a tokenizer whose ids have no gaps",
            )
        new[name] = first + len(new)
    return AddedTokens(new, {name: there[name] for name in names if name in there})


def with_tokens(content: Content, new: Mapping[str, int]) -> dict[str, Any]:
    """Return a ``tokenizer.json`` with further control tokens, in the form that the library has."""
    entries = [
        {
            "id": number,
            "content": name,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for name, number in new.items()
    ]
    return {**content, "added_tokens": [*(content.get("added_tokens") or []), *entries]}


def is_grown_from(content: Content, base: Content) -> bool:
    """Whether a ``tokenizer.json`` is another one, or that with further control tokens.

    Text then has the same ids by both.
    """
    here, there = content.get("added_tokens") or [], base.get("added_tokens") or []
    further = here[len(there) :]
    return {**content, "added_tokens": here[: len(there)]} == {
        **base,
        "added_tokens": there,
    } and all(isinstance(token, Mapping) and bool(token.get("special")) for token in further)


def first_free_id(content: Content) -> int:
    """Return the first id that is above all of a tokenizer's.

    Raises:
        ValueError: This is no ``tokenizer.json``.
    """
    return max((*_piece_ids(content), *added_ids(content).values()), default=-1) + 1


def added_ids(content: Content) -> dict[str, int]:
    """Return the tokens that stand beside the vocabulary, with their ids."""
    added = content.get("added_tokens")
    return {
        str(token.get("content")): token["id"]
        for token in (added if isinstance(added, list) else [])
        if isinstance(token, dict) and isinstance(token.get("id"), int)
    }


def _next_id(content: Content) -> int:
    """Return the id that ``tokenizers`` gives to the next token: it counts pieces, gaps or none."""
    number = len(_vocabulary(content))
    return max(number, 1 + max(added_ids(content).values(), default=-1))


def _vocabulary(content: Content) -> Mapping[str, Any] | list[Any]:
    model = content.get("model") if isinstance(content, Mapping) else None
    vocabulary = model.get("vocab") if isinstance(model, Mapping) else None
    if not isinstance(vocabulary, Mapping | list):
        raise ValueError("there is no model with a vocab")  # noqa: TRY004  (a file, no argument)
    return vocabulary


def _pieces(content: Content) -> frozenset[str]:
    vocabulary = _vocabulary(content)
    if isinstance(vocabulary, Mapping):
        return frozenset(vocabulary)
    return frozenset(str(piece[0]) for piece in vocabulary if isinstance(piece, list) and piece)


def _piece_ids(content: Content) -> Iterable[int]:
    vocabulary = _vocabulary(content)
    if isinstance(vocabulary, list):  # Unigram: pieces with their scores, in the order of the ids
        return (len(vocabulary) - 1,)
    return (number for number in vocabulary.values() if isinstance(number, int))
