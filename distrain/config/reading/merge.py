"""Layers of a recipe laid over each other: parents, defaults, a stage's own values."""

from distrain.config.reading.sections import ALTERNATIVES
from distrain.config.reading.yaml_source import Tree


def merge(base: Tree, over: Tree) -> Tree:
    """Lay ``over`` on ``base``: mappings are merged key by key, all else is replaced.

    A mapping of another ``kind`` replaces the whole mapping, for its other keys would not fit;
    a choice among ``ALTERNATIVES`` replaces the one made below.
    """
    if not isinstance(base.value, dict) or not isinstance(over.value, dict):
        return over
    if _kind(base) is not None and _kind(over) not in (None, _kind(base)):
        return over
    merged = without_alternatives(base.value, over.value)
    for key, value in over.value.items():
        merged[key] = merge(merged[key], value) if key in merged else value
    # Messages point to the upper layer, which is what the user is most likely editing.
    return Tree(merged, over.place, over.key)


def without_alternatives(below: dict[str, Tree], chosen: dict[str, Tree]) -> dict[str, Tree]:
    """Return a copy of ``below`` without the keys that a choice in ``chosen`` excludes."""
    kept = dict(below)
    for group in ALTERNATIVES:
        if any(key in group and item.value is not None for key, item in chosen.items()):
            kept = {key: item for key, item in kept.items() if key not in group}
    return kept


def _kind(tree: Tree) -> object:
    kind = tree.mapping.get("kind")
    return None if kind is None else kind.value
