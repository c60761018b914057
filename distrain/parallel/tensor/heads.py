"""Numbers of heads that the code of an attention module reads, for a part of its heads."""

from typing import Any

from torch import nn

from distrain.errors import RecipeError

QUERY_HEADS = ("num_heads", "num_attention_heads")
KEY_HEADS = ("num_kv_heads", "num_key_value_heads")
COUNTS = (*QUERY_HEADS, *KEY_HEADS, "split_size")
"""What modules of some families cut their projections by; the others take what is there."""
OF_ATTENTION = ("head_dim", "head_size", *COUNTS)
"""Some of which every attention module has, and no other."""
WHERE = "parallelism.tensor_parallel"


class DividedConfig:
    """A family's configuration as one attention module sees it: with this rank's heads."""

    def __init__(self, whole: Any, **own: int) -> None:  # noqa: ANN401
        self._whole = whole
        self.__dict__.update(own)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._whole, name)  # the very object, which other code may change


def qkv_blocks(attention: nn.Module, outputs: int) -> tuple[int, int, int]:
    """Return the rows of queries, keys and values in one packed matrix of so many rows."""
    queries = _count(attention, QUERY_HEADS)
    keys = _count(attention, KEY_HEADS) or queries
    if not queries or not keys:
        raise ValueError(f"{type(attention).__name__} does not say how many heads it has")
    head = outputs // (queries + 2 * keys)
    return queries * head, keys * head, keys * head


def divide_heads(name: str, attention: nn.Module, size: int) -> None:
    """Let a module's code find the numbers of one rank's heads, if it is one of attention.

    Raises:
        RecipeError: They do not divide.
    """
    if not any(hasattr(attention, key) for key in OF_ATTENTION):
        return
    config = getattr(attention, "config", None)
    for holder in (attention, config):
        for key in COUNTS:
            number = getattr(holder, key, None)
            if isinstance(number, int) and number % size:
                raise RecipeError(
                    WHERE,
                    f"{size}, for {name} of {number} ({key})",
                    f"a divisor of {number}",
                    f"Set {WHERE} to 1.",
                )
    for key in COUNTS:
        if isinstance(number := getattr(attention, key, None), int):
            setattr(attention, key, number // size)
    own = {
        key: number // size
        for key in COUNTS
        if isinstance(number := getattr(config, key, None), int)
    }
    if own:
        attention.config = DividedConfig(config, **own)  # type: ignore[assignment]


def _count(attention: nn.Module, names: tuple[str, ...]) -> int | None:
    holders = (attention, getattr(attention, "config", None))
    found = (getattr(holder, name, None) for holder in holders for name in names)
    return next((number for number in found if isinstance(number, int)), None)
