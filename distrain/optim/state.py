"""What an optimizer keeps between steps, read and written without knowing which optimizer it is.

Each section of ``distrain.config.optimizers`` declares the entries: tensors shaped like their
parameter, tensors of another shape, and scalars. Tensors are shown to checkpoints by the engine,
scalars are JSON values beside them.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from distrain.config.optimizers import Kept
from distrain.errors import CheckpointError

Scalar = float | int | bool

CreateState = Callable[[Optimizer, Tensor], dict[str, Tensor | Scalar]]
"""(optimizer, parameter) -> what the first step would make for a parameter that has no state."""


@dataclass(frozen=True)
class ScalarState:
    """What an optimizer keeps besides tensors, as a checkpoint holds it.

    Args:
        optimizer: Its name in recipes.
        scalars: Entry -> plain name of each trained parameter -> value.
        shards: How many the tensors were made for; ``None`` where that does not matter.
    """

    optimizer: str
    scalars: Mapping[str, Mapping[str, Scalar]]
    shards: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what ``from_extra`` reads."""
        scalars = {entry: dict(values) for entry, values in self.scalars.items()}
        shards = {} if self.shards is None else {"shards": self.shards}
        return {"name": self.optimizer, "scalars": scalars, **shards}

    @classmethod
    def from_extra(cls, extra: Mapping[str, Any]) -> "ScalarState":
        """Read it from what was saved beside the tensors.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: It is not what was saved.
        """
        if "optimizer" not in extra:  # older versions knew nothing but AdamW
            return cls("adamw", {"step": _numbers(extra["optimizer_steps"])})
        saved = extra["optimizer"]
        scalars = {entry: _numbers(values) for entry, values in saved["scalars"].items()}
        return cls(str(saved["name"]), scalars, saved.get("shards"))

    def common(self, entry: str, names: Sequence[str]) -> Scalar:
        """Return the value that all of some parameters have, of an engine that keeps one.

        Raises:
            CheckpointError: There are several, or none.
        """
        values = self.scalars.get(entry, {})
        first = names[0]
        for name in names:
            if name not in values:
                raise _missing(entry, name)
            if values[name] != values[first]:
                raise CheckpointError(
                    f"optimizer's {entry} in the checkpoint",
                    f"{values[first]} for {first} and {values[name]} for {name}",
                    "one value for all parameters of a group, which is all that DeepSpeed keeps",
                    "Set parallelism.strategy to fsdp to continue from this checkpoint.",
                )
        return values[first]


def _numbers(values: Mapping[str, Any]) -> dict[str, Scalar]:
    for name, value in values.items():
        if not isinstance(value, int | float):
            raise TypeError(f"{name}: {value!r} is not a number")
    return dict(values)


def _missing(entry: str, name: str) -> CheckpointError:
    return CheckpointError(
        f"optimizer's {entry} in the checkpoint",
        f"none for {name}",
        "one for each trained parameter",
        "Use the recipe that made this checkpoint, or start a new run.",
    )


class OptimizerState:
    """A torch optimizer, and access to the state that its section declares.

    A "parameter" is whatever tensor the optimizer steps: a parameter, its shard, or a flat piece of
    several.

    Args:
        name: In recipes.
        torch: The optimizer; a group may have a ``lr_ratio``.
        kept: The entries of its state.
        create: Makes the state of one parameter, where loading needs it before the first step.
    """

    def __init__(self, name: str, torch: Optimizer, kept: Kept, create: CreateState) -> None:
        self.name = name
        self.torch = torch
        self.kept = kept
        self._create = create

    def set_learning_rate(self, lr: float) -> None:
        """Give each group its share of the schedule's learning rate."""
        for group in self.torch.param_groups:
            group["lr"] = lr * group.get("lr_ratio", 1.0)

    def of(self, parameter: Tensor) -> dict[str, Any]:
        """Return the state of a parameter, made if it was not yet.

        Raises:
            ValueError: It holds what is not declared, which no checkpoint would keep.
        """
        state: dict[str, Any] = self.torch.state[parameter]
        if not state:
            state.update(self._create(self.torch, parameter))
        unknown = state.keys() - self.kept.entries
        if unknown:
            raise ValueError(f"optimizer {self.name} keeps {sorted(unknown)} without declaring it")
        return state

    def tensors(self, parameter: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the tensors shaped like the parameter, and those of another shape."""
        state, kept = self.of(parameter), self.kept
        alike = {entry: state[entry] for entry in kept.like_parameter if entry in state}
        other = {entry: state[entry] for entry in kept.other_tensors if entry in state}
        return alike, other

    def scalars(self, parameters: Iterable[Tensor]) -> dict[str, list[Scalar]]:
        """Read the scalars: entry -> value of each parameter.

        Raises:
            ValueError: One is not finite: JSON has no word for it, so a checkpoint would not keep
                it, and be no checkpoint.
        """
        states = [self.of(parameter) for parameter in parameters]
        read = {entry: _read([state[entry] for state in states]) for entry in self.kept.scalars}
        for entry, values in read.items():
            endless = [value for value in values if not math.isfinite(value)]
            if endless:
                raise ValueError(f"optimizer {self.name} keeps {entry} {endless[0]}, not finite")
        return read

    def write_scalar(self, parameter: Tensor, entry: str, value: Scalar) -> None:
        """Write a scalar of one parameter, in the form that the optimizer keeps it in."""
        state = self.of(parameter)
        if isinstance(state[entry], Tensor):
            state[entry].fill_(value)
        else:
            state[entry] = type(state[entry])(value)

    def write_scalars(self, named: Mapping[str, Tensor], saved: ScalarState) -> None:
        """Write the scalars of parameters, given by plain name.

        Raises:
            CheckpointError: One is missing.
        """
        for entry in self.kept.scalars:
            for name, parameter in named.items():
                self.write_scalar(parameter, entry, saved.common(entry, [name]))


def zeros_like(parameter: Tensor) -> Tensor:
    """Make a tensor of zeros with the layout of a parameter, and a DTensor where it is one."""
    return torch.zeros_like(parameter, memory_format=torch.preserve_format).detach()


def _read(values: list[Any]) -> list[Scalar]:
    if values and all(isinstance(value, Tensor) for value in values):
        # At once: on a GPU the host waits for each tensor that it reads.
        read: list[Scalar] = torch.stack(values).tolist()
        return read
    return list(values)
