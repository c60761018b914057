"""Instruction pairs from Python sources: signature and body of a function -> its docstring."""

from collections.abc import Iterator

from distrain.config.data import PairsConfig
from distrain.data.chats.pairs_file import Pair
from distrain.data.sources.docstrings import documented_functions


def docstring_pairs(text: str, path: str, config: PairsConfig) -> Iterator[Pair]:
    """Yield a pair for each documented function of a module; other texts have none."""
    if path.endswith(".py"):
        for found in documented_functions(text, config):
            yield Pair(found.source, found.docstring, f"{path}:{found.line}")
