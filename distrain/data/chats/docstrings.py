"""Instruction pairs from Python sources: signature and body of a function -> its docstring."""

import ast
import textwrap
import warnings
from collections.abc import Iterator

from distrain.config.data import PairsConfig
from distrain.data.chats.pairs_file import Pair

Function = ast.FunctionDef | ast.AsyncFunctionDef


def docstring_pairs(text: str, path: str, config: PairsConfig) -> Iterator[Pair]:
    """Yield a pair for each documented function, in the order of ``ast.walk``.

    A docstring shorter or longer than ``config`` allows makes no pair; of a longer function, the
    whole lines at its beginning are kept. A text that is no Python of this version has no pairs.
    """
    if not path.endswith(".py"):
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old escapes in other people's sources
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    # Not ``splitlines``: it cuts at form feeds too, which Python's line numbers do not count.
    lines = text.split("\n")
    for node in ast.walk(tree):
        if not isinstance(node, Function):
            continue
        answer = ast.get_docstring(node, clean=True)
        if answer is None:
            continue
        answer = answer.strip()
        if not config.min_answer_characters <= len(answer) <= config.max_answer_characters:
            continue
        prompt = _without_docstring(node, lines)
        if prompt is not None:
            kept = _first_lines(prompt, config.max_prompt_characters)
            if kept:
                yield Pair(kept, answer, f"{path}:{node.lineno}")


def _without_docstring(node: Function, lines: list[str]) -> str | None:
    """Return the function's source without its docstring; ``None`` if they share a line."""
    docstring = node.body[0]
    first, last = docstring.lineno, docstring.end_lineno
    assert last is not None
    assert node.end_lineno is not None, "ast.parse sets it"
    # In bytes, as the offsets of ``ast`` are in UTF-8.
    before = lines[first - 1].encode()[: docstring.col_offset]
    after = lines[last - 1].encode()[docstring.end_col_offset :]
    if before.strip() or after.strip():
        return None
    kept = lines[node.lineno - 1 : first - 1] + lines[last : node.end_lineno]
    return textwrap.dedent("\n".join(kept)).strip("\n")


def _first_lines(text: str, max_characters: int) -> str:
    if len(text) <= max_characters:
        return text
    return text[: text.rfind("\n", 0, max_characters + 1)] if "\n" in text[:max_characters] else ""
