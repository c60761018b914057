"""A tokenizer with further control tokens, as a folder of its own: made of its base and the names.

A pure function of the two, so that equal ones have equal bytes. What else the base's files say
stays as it is, chat templates too: they may write the new names.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distrain.config.added_tokens import (
    ADD_TOKENS,
    AddedTokens,
    TokenNameError,
    plan_tokens,
    with_tokens,
)
from distrain.config.huggingface import CONFIG_FILE, GENERATION_FILE, TOKENIZER_FILE
from distrain.data.tokenizer.control_text import ControlText, TextPieces
from distrain.data.tokenizer.huggingface import SPECIAL_TOKENS_MAP, TOKENIZER_CONFIG, copy_files
from distrain.data.tokenizer.tokenizer import Tokenizer
from distrain.errors import DataError
from distrain.runs.durable import whole_folder, write_text
from distrain.runs.records import read_json, write_json
from distrain.runs.sums import write_sums

LISTS = ("extra_special_tokens", "additional_special_tokens")
"""Under which files name further control tokens: of transformers 5, and before."""
ADDED_FILE = "added_tokens.json"


def grow_tokenizer(base: Path, names: Sequence[str], folder: Path) -> AddedTokens:
    """Write the base's tokenizer with further control tokens.

    Args:
        base: A ``tokenizer.json``, or a folder that holds one.
        names: Those that are tokens already stay what they are.
        folder: Appears when it is complete, with digests of its files; what is there is replaced.

    Raises:
        DataError: A name cannot become a token, or no text could be cut at it.
    """
    file = base / TOKENIZER_FILE if base.is_dir() else base
    Tokenizer.load(file)  # which says what is wrong with it
    content = json.loads(file.read_text(encoding="utf-8"))
    try:
        planned = plan_tokens(content, names)
    except TokenNameError as error:
        raise _refused(error.found, error.expected) from error
    with whole_folder(folder) as partial:
        copy_files(file.parent, partial)
        grown = with_tokens(content, planned.new)
        write_text(partial / TOKENIZER_FILE, json.dumps(grown, ensure_ascii=False, indent=2) + "\n")
        _name_in_files(partial, planned.new)
        for name in (CONFIG_FILE, GENERATION_FILE):
            # Only what ends and pads a text: all else there is of a model, and would soon be wrong.
            ids = _token_ids(read_json(file.parent / name) or {})
            if ids:
                write_json(partial / name, ids)
        _check(file, partial, planned)
        write_sums(partial)
    return planned


def _name_in_files(folder: Path, new: Mapping[str, int]) -> None:
    """Name new tokens wherever the base's files list such, for tools that do not ask the first."""
    for name in (TOKENIZER_CONFIG, SPECIAL_TOKENS_MAP):
        found = read_json(folder / name)
        if found is None:
            continue
        key = next((key for key in LISTS if isinstance(found.get(key), list)), None)
        if key is not None or name == TOKENIZER_CONFIG:
            key = key or LISTS[-1]
            found[key] = [*found.get(key, []), *new]
        if isinstance(found.get("added_tokens_decoder"), dict):
            entries = with_tokens({}, new)["added_tokens"]
            found["added_tokens_decoder"] |= {
                str(entry["id"]): {key: value for key, value in entry.items() if key != "id"}
                for entry in entries
            }
        write_json(folder / name, found)
    added = read_json(folder / ADDED_FILE)
    if added is not None:
        write_json(folder / ADDED_FILE, {**added, **new})


def _token_ids(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if key.endswith("_token_id")}


def _check(file: Path, folder: Path, planned: AddedTokens) -> None:
    """Ask the library itself: each name is one token between texts, with the id that was planned.

    A vocabulary with gaps in its ids gives others, as does a step that changes a text before it is
    cut.
    """
    tokenizer = Tokenizer.load(folder)
    text = ControlText(tokenizer)
    for name, number in planned.new.items():
        pieces = TextPieces(["a", name, "b"], [True, False, True])
        ids = [int(token) for token in text.encode([pieces])[0].ids]
        if ids.count(number) != 1 or number in tokenizer.encode(f"a{name}b {name}"):
            raise _refused(
                f"{name!r}, which {file} does not read as the one token {number} ({ids})",
                "a tokenizer whose ids have no gaps, and a name that it leaves as it is",
            )


def _refused(found: str, expected: str) -> DataError:
    return DataError(
        ADD_TOKENS, found, expected, f"Choose another name, or remove it from {ADD_TOKENS}."
    )
