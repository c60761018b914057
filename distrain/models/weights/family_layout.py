"""How a family of ``transformers`` lies on disk where that is not as its modules name it.

Experts are stored one by one and computed stacked, projections fused or apart, names were changed
between releases. ``transformers`` keeps these rules as data (``conversion_mapping``); here they are
applied as its ``from_pretrained`` and ``save_pretrained`` apply them, one parameter at a time.
"""

import re
from collections.abc import Iterable
from copy import deepcopy
from typing import TYPE_CHECKING

from torch import Tensor

from distrain.models.weights.conversion import Conversion, Fusion, Rename

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.core_model_loading import WeightConverter, WeightRenaming

    Members = list[tuple[str, str]]
    """(name, the converter's pattern that it matched) of what one converter takes together."""


def conversions_from_folder(family: "PreTrainedModel", names: Iterable[str]) -> list[Conversion]:
    """Say how the tensors of a folder become a family's parameters.

    Args:
        family: The causal module, on the meta device or not.
        names: Of all tensors of the folder. Those that the family knows it does not need are left
            out; others that it does not know keep their names.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import (
        WeightConverter,
        WeightRenaming,
        dot_natural_key,
        rename_source_key,
    )

    rules = get_model_conversion_mapping(family)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    expected = family.state_dict()
    layout = _Layout(family, converters, [])
    for name in sorted(names, key=dot_natural_key):
        prefix = family.base_model_prefix
        target, pattern = rename_source_key(name, renamings, converters, prefix, expected)
        if target not in expected and name in expected:
            target, pattern = name, None  # it is as the modules name it, and only looks older
        if target in expected:
            layout.add(name, target, pattern)
        elif not _is_needless(family, target):
            layout.add(name, target, None)
    return layout.conversions()


def conversions_to_folder(family: "PreTrainedModel", names: Iterable[str]) -> list[Conversion]:
    """Say how parameters become the tensors that ``save_pretrained`` writes of a new model."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import (
        PrefixChange,
        WeightConverter,
        WeightRenaming,
        apply_converters,
        apply_renamings,
    )

    rules = get_model_conversion_mapping(family, add_legacy=False)
    # A changed prefix is undone only for who has seen it in a folder.
    reverse = [r.reverse_transform() for r in rules[::-1] if not isinstance(r, PrefixChange)]
    renamings = [rule for rule in reverse if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in reverse if isinstance(rule, WeightConverter)]
    layout = _Layout(family, converters, renamings)
    for name in names:
        target, pattern = apply_converters(name, converters)
        # Of what is converted, the names are changed when the conversion has made them.
        target = apply_renamings(name, renamings) if pattern is None else target
        layout.add(name, target, pattern)
    return layout.conversions()


def expert_layers(family: "PreTrainedModel") -> frozenset[str]:
    """Return what the layers of one expert are called on disk, where they are computed stacked.

    peft takes an adapter beside any layer of these names to be meant for the experts.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter

    rules = get_model_conversion_mapping(family)
    patterns = [
        p for rule in rules if isinstance(rule, WeightConverter) for p in rule.source_patterns
    ]
    names = [p.removesuffix("$").removesuffix(".weight") for p in patterns if ".experts" in p]
    return frozenset(name.rpartition(".")[2] for name in names)


class _Layout:
    """Collects what belongs together, in the order in which it comes.

    Args:
        family: Some operations look into its configuration and at its shapes.
        converters: The rules that change values.
        renamings: Applied to what they make.
    """

    def __init__(
        self,
        family: "PreTrainedModel",
        converters: "list[WeightConverter]",
        renamings: "list[WeightRenaming]",
    ) -> None:
        self._family = family
        self._converter_of = {pattern: c for c in converters for pattern in c.source_patterns}
        self._renamings = renamings
        self._groups: dict[str, Rename | Members] = {}

    def add(self, name: str, target: str, pattern: str | None) -> None:
        """Note one tensor; with a pattern, for the converter that has it."""
        group = self._groups.get(target)
        if pattern is None:
            # Two under one name are two entries, and refused when they are put together.
            self._groups[target if group is None else f"{target} {name}"] = Rename(name, target)
        elif isinstance(group, list):
            group.append((name, pattern))
        else:
            self._groups[target if group is None else f"{target} {name}"] = [(name, pattern)]

    def conversions(self) -> list[Conversion]:
        """Return what was collected."""
        return [
            group if isinstance(group, Rename) else self._fusion(target, group)
            for target, group in self._groups.items()
        ]

    def _fusion(self, target: str, members: "Members") -> Fusion:
        from transformers.core_model_loading import apply_renamings

        def convert(parts: dict[str, Tensor]) -> dict[str, Tensor]:
            converter = deepcopy(self._converter_of[members[0][1]])
            for name, pattern in members:
                converter.add_tensor(target, name, pattern, parts.pop(name))
            made = converter.convert(target, model=self._family, config=self._family.config)
            return {
                apply_renamings(name, self._renamings): value[0]
                if isinstance(value, list)
                else value
                for name, value in made.items()
            }

        return Fusion(tuple(name for name, _ in members), convert)


def _is_needless(family: "PreTrainedModel", name: str) -> bool:
    patterns = family._keys_to_ignore_on_load_unexpected or ()
    return any(re.search(pattern, name) for pattern in patterns)
