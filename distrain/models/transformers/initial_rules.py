"""A family's own rule of initial values, as data: the calls are recorded that it would make.

transformers initializes by walking over all modules, inner ones first, and calling
``_init_weights`` on each; that calls functions of ``transformers.initialization``. Here these
functions note what they are asked for and touch nothing, so the rule of a parameter is known while
it has no memory yet; ``distrain.models.init`` then draws any part of it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from distrain.models.initial_values import (
    Constant,
    Given,
    Normal,
    Overwritten,
    TruncatedNormal,
    Uniform,
    ValueRule,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WRITERS: dict[str, Callable[..., ValueRule]] = {
    "normal_": lambda mean=0.0, std=1.0: Normal(std, mean),
    "trunc_normal_": lambda mean=0.0, std=1.0, a=-2.0, b=2.0: TruncatedNormal(std, a, b, mean),
    "uniform_": lambda a=0.0, b=1.0: Uniform(a, b),
    "constant_": lambda val: Constant(float(val)),
    "zeros_": lambda: Constant(0.0),
    "ones_": lambda: Constant(1.0),
    "copy_": lambda other: Given(other.detach().clone()),
}
"""Functions of ``transformers.initialization`` -> the rule that a call of it states."""


def recorded_rules(family: "PreTrainedModel") -> dict[str, ValueRule]:
    """Find the rule of each parameter, by its name in the causal module.

    Returns:
        No entry for a parameter of which the family says nothing that can be expressed.
    """
    rules: dict[int, ValueRule] = {}

    def note(tensor: Tensor, rule: ValueRule) -> None:
        # What is written may be a view, such as the row of a padding token.
        whole = tensor if tensor._base is None else tensor._base
        if tensor.numel() == whole.numel():
            rules[id(whole)] = rule
        elif id(whole) in rules and tensor.is_contiguous():
            start = int(tensor.storage_offset())
            stop = start + tensor.numel()
            rules[id(whole)] = Overwritten(rules[id(whole)], rule, start, stop)

    with _recording(note), torch.no_grad():
        family.apply(family._init_weights)
    named = family.named_parameters(remove_duplicate=False)
    return {name: rules[id(value)] for name, value in named if id(value) in rules}


@contextmanager
def _recording(note: Callable[[Tensor, ValueRule], None]) -> Iterator[None]:
    from transformers import initialization

    def noting(rule_of: Callable[..., ValueRule]) -> Callable[..., Tensor]:
        def write(tensor: Tensor, *settings: object, **named: object) -> Tensor:
            named.pop("generator", None)
            note(tensor, rule_of(*settings, **named))
            return tensor

        return write

    kept = {name: getattr(initialization, name) for name in WRITERS}
    try:
        for name, rule_of in WRITERS.items():
            setattr(initialization, name, noting(rule_of))
        yield
    finally:
        for name, function in kept.items():
            setattr(initialization, name, function)
