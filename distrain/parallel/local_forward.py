"""A module's own code on plain tensors, while its parameters are stored as DTensors."""

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

from torch import Tensor, nn

Read = Callable[[Tensor], Tensor]
"""A DTensor -> what the code of the module finds in its place; a part of the graph."""
Enter = Callable[[tuple[Any, ...], dict[str, Any]], tuple[tuple[Any, ...], dict[str, Any]]]
"""Changes the arguments of a forward pass."""
Leave = Callable[[Any], Any]
"""Changes its result."""


def run_local(
    module: nn.Module,
    reads: Mapping[str, Read],
    run: Callable[..., Any],
    *args: Any,  # noqa: ANN401
    **keywords: Any,  # noqa: ANN401
) -> Any:  # noqa: ANN401
    """Call ``run`` while plain tensors stand under the names of a module's own parameters."""
    kept = {key: module._parameters[key] for key in reads}
    read = {key: reads[key](own) for key, own in kept.items() if own is not None}
    try:
        module._parameters.update(read)  # type: ignore[arg-type]  # of a graph, for this call
        return run(*args, **keywords)
    finally:
        module._parameters.update(kept)


def wrap_forward(
    module: nn.Module,
    *,
    reads: Mapping[str, Read] | None = None,
    enter: Enter | None = None,
    leave: Leave | None = None,
) -> None:
    """Put changes around a module's ``forward``: the method, so that names stay.

    What was wrapped before lies within. Engines' hooks stay around it.
    """
    inner = module.forward

    @wraps(inner)
    def forward(*args: Any, **keywords: Any) -> Any:  # noqa: ANN401
        if enter is not None:
            args, keywords = enter(args, keywords)
        result = run_local(module, reads or {}, inner, *args, **keywords)
        return result if leave is None else leave(result)

    module.forward = forward


def on_first_input(change: Callable[[Tensor], Tensor], name: str = "hidden_states") -> Enter:
    """Change the first argument, which may be given by name."""

    def enter(
        args: tuple[Any, ...], keywords: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (change(args[0]), *args[1:]), keywords
        return args, {**keywords, name: change(keywords[name])}

    return enter


def on_first_output(change: Callable[[Tensor], Tensor]) -> Leave:
    """Change a result, or the first one of several."""

    def leave(result: Any) -> Any:  # noqa: ANN401
        return (change(result[0]), *result[1:]) if isinstance(result, tuple) else change(result)

    return leave
