"""Parameter groups: the parameters that are trained, by weight decay and share of the rate."""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any, TypedDict, cast

from torch import Tensor, nn

from distrain.config.optimizers import ParameterRule
from distrain.errors import RecipeError


class ParameterGroup(TypedDict):
    """One parameter group, as torch's optimizers take it."""

    params: list[nn.Parameter]
    names: list[str]
    """Plain ones, in the same order."""
    weight_decay: float
    lr_ratio: float
    """The group's learning rate over that of the schedule."""
    inputs_first: list[str]
    """Names of those that are stored as (inputs, outputs); where the optimizer asks for it."""


def parameter_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    weight_decay: float,
    rules: Sequence[ParameterRule] = (),
) -> list[ParameterGroup]:
    """Put matrices into a group that decays and the rest (norms, biases) into one that does not.

    Parameters that a rule matches are in groups with its settings. Frozen ones are in none: some
    engines would let them decay. Within a group the parameters keep their order.

    Args:
        named_parameters: Under plain names.
        weight_decay: Of matrices.
        rules: Of the recipe; the first that matches a name counts.

    Raises:
        ValueError: Nothing is trainable.
        RecipeError: A rule matches nothing, or counts nowhere.
    """
    trainable = [(name, p) for name, p in named_parameters if p.requires_grad]
    if not trainable:
        raise ValueError("found no parameter with requires_grad=True; expected at least one")
    # An FSDP2 shard counts the axes of the whole parameter, so all engines group alike.
    matrices = [item for item in trainable if is_weight_matrix(*item)]
    others = [item for item in trainable if not is_weight_matrix(*item)]
    groups: dict[tuple[bool, float, float], ParameterGroup] = {}
    used = set[int]()
    for is_matrix, named in ((True, matrices), (False, others)):
        for name, parameter in named:
            number = _first_match(name, rules)
            rule = None if number is None else rules[number]
            used |= set() if number is None else {number}
            decay, ratio = weight_decay if is_matrix else 0.0, 1.0
            if rule is not None:
                ratio = rule.lr_ratio
                decay = decay if rule.weight_decay is None else rule.weight_decay
            group = groups.setdefault(
                (is_matrix, decay, ratio),
                ParameterGroup(
                    params=[], names=[], weight_decay=decay, lr_ratio=ratio, inputs_first=[]
                ),
            )
            group["params"].append(parameter)
            group["names"].append(name)
    _require_used(rules, used, [name for name, _ in trainable])
    return list(groups.values())


def is_weight_matrix(name: str, parameter: Tensor) -> bool:
    """Return whether a parameter multiplies: the stacked biases of experts only look like it."""
    return parameter.ndim >= 2 and not name.endswith("bias")


def as_torch(groups: list[ParameterGroup]) -> list[dict[str, Any]]:
    """Return them in the type that torch's optimizers are annotated with."""
    return cast(list[dict[str, Any]], groups)


def _first_match(name: str, rules: Sequence[ParameterRule]) -> int | None:
    matching = (number for number, rule in enumerate(rules) if fnmatchcase(name, rule.match))
    return next(matching, None)


def _require_used(rules: Sequence[ParameterRule], used: set[int], names: list[str]) -> None:
    for number, rule in enumerate(rules):
        if number in used:
            continue
        hidden = [name for name in names if fnmatchcase(name, rule.match)]
        raise RecipeError(
            f"optimizer.groups[{number}].match",
            f"'{rule.match}', which no trained parameter is left for"
            if hidden
            else f"'{rule.match}', which no trained parameter's name matches",
            f"a pattern of names such as {names[0]} and {names[-1]}",
            f"Move it above the rule that matches {hidden[0]} first, or remove it."
            if hidden
            else "Write * for what differs, as in *.bias, or remove the rule.",
        )
