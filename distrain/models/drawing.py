"""Construction without the values that torch's modules draw: others are written over them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.overrides import TorchFunctionMode


class NoDraws(TorchFunctionMode):
    """Within it, functions of ``torch.nn.init`` leave their tensor as it is.

    On the meta device there is nothing to draw, yet torch goes through its Python references for
    it, and they import torch's compiler.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Return the tensor of a function that would draw; call all others."""
        named = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return named["tensor"] if "tensor" in named else args[0]
        return func(*args, **named)
