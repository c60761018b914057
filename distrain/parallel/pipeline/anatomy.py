"""What of a model runs before its layers, what after them, and how layers are called.

Found out and not listed: one forward pass on the meta device, which costs no memory, shows the
order in which a family's own code calls its modules. What could not be cut at a layer without
changing what is computed shows there as well, and is refused.

Shape legend: B = sequences in a microbatch, T = tokens in a sequence, D = width of the layers.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from distrain.errors import RecipeError
from distrain.models.attention import undivided
from distrain.models.causal_lm import CausalLM

OBSERVED_SHAPE = (2, 3)
"""B and T of the pass: two numbers that tell axes apart."""


@dataclass(frozen=True)
class Unit:
    """A module beside the layers that has parameters.

    Args:
        name: In the model.
        width: Of what it gives, the size of its last axis.
        ndim: Axes of what it gives.
    """

    name: str
    width: int = 0
    ndim: int = 0


@dataclass(frozen=True)
class Anatomy:
    """A model as a row of layers with something before and after it.

    Args:
        layers: Names of the layers, in the order in which they run.
        before: Modules that run before the first of them, such as embeddings.
        after: Those that run after the last one, such as the final norm; not the output layer.
        width: Of the hidden states between layers, D.
        tuple_size: Of the tuple that a layer returns, hidden states first; 0: it returns them bare.
        tied: Name of the output layer's weight, if that is the embedding's, and the first name.
    """

    layers: tuple[str, ...]
    before: tuple[Unit, ...]
    after: tuple[Unit, ...]
    width: int
    tuple_size: int
    tied: tuple[str, str] | None = None


@dataclass
class _Calls:
    """What hooks noted, in the order of calls."""

    order: list[str] = field(default_factory=list)
    units: dict[str, Unit] = field(default_factory=dict)
    widths: set[int] = field(default_factory=set)
    tuple_sizes: set[int] = field(default_factory=set)
    carried: bool = False
    """Whether a layer was given anything else that gradients flow through."""


def observe(model: CausalLM) -> Anatomy:
    """Let a few tokens without values through a model whose parameters lie on the meta device.

    Its buffers lie there too: no device has both. The model is spoiled for training.

    Raises:
        RecipeError: Its layers are no row that could be cut.
    """
    layers = [name for name, child in model.named_modules() if is_layer(model, child)]
    output = model.output_layer_name
    units = [name for name in _units(model, layers) if name != output]
    calls = _Calls()
    model.to(torch.bfloat16)  # on meta, products of stacked experts know no other type
    for parameter in model.parameters():
        parameter.requires_grad_(True)  # so that what depends on any of them shows it
    with ExitStack() as hooks, torch.enable_grad():
        for name in layers:
            child = model.get_submodule(name)
            hooks.enter_context(_hooked(child, partial(_note_layer, calls, name)))
        for name in units:
            child = model.get_submodule(name)
            hooks.enter_context(_hooked(child, partial(_note_unit, calls, name)))
        _pass(model)
    problem = _problem(calls, layers, units)
    if problem is not None:
        raise uncut(model, problem)
    first, last = calls.order.index(layers[0]), calls.order.index(layers[-1])
    called = {name: calls.order.index(name) for name in calls.units}
    # What never runs, such as a module that adapters stand for, stays with the embedding.
    before = [calls.units.get(name, Unit(name)) for name in units if called.get(name, -1) < first]
    after = [calls.units[name] for name in units if called.get(name, -1) > last]
    return Anatomy(
        layers=tuple(layers),
        before=tuple(before),
        after=tuple(after),
        width=calls.widths.pop(),
        tuple_size=calls.tuple_sizes.pop(),
        tied=_tied(model),
    )


def is_layer(model: CausalLM, module: nn.Module) -> bool:
    """Return whether a module is one of the repeated units."""
    return isinstance(module, model.block_classes)


def uncut(model: CausalLM, found: str) -> RecipeError:
    """Make the error for a model that cannot be cut into stages."""
    return RecipeError(
        "parallelism.pipeline_parallel",
        f"a {model.model_config.family_name}, which has {found}",
        "layers that run one after the other, each of nothing but the hidden states before it",
        "Set parallelism.pipeline_parallel to 1; data_parallel_shard cuts every model.",
    )


def _units(model: CausalLM, layers: list[str]) -> Iterator[str]:
    """Yield the largest modules that have parameters and are, and hold, no layers."""
    pending: list[tuple[str, nn.Module]] = [("", model)]
    while pending:
        name, module = pending.pop()
        if any(True for _ in module.named_parameters(recurse=False)):
            raise uncut(model, f"parameters of its own in {name or 'the model'}, beside its layers")
        children = [
            (f"{name}.{part}" if name else part, child) for part, child in module.named_children()
        ]
        for path, child in children:
            if any(layer.startswith(f"{path}.") for layer in layers):
                pending.append((path, child))
            elif path not in layers and any(True for _ in child.parameters()):
                yield path


def _pass(model: CausalLM) -> None:
    ids = torch.zeros(OBSERVED_SHAPE, dtype=torch.long, device="meta")
    model.train()  # as it will run; dropout is refused, and draws nothing here
    try:
        with model.without_values():
            model.hidden_states(ids, undivided(ids))
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise uncut(model, f"code that cannot run without values ({error})") from error


def _hooked(module: nn.Module, note: "partial[None]") -> "_Hook":
    return _Hook(module, note)


class _Hook:
    """A forward hook that is removed at the end of a ``with``."""

    def __init__(self, module: nn.Module, note: "partial[None]") -> None:
        self._handle = module.register_forward_hook(note, with_kwargs=True)

    def __enter__(self) -> None:
        """It is there already."""

    def __exit__(self, *error: object) -> None:
        self._handle.remove()


def _note_layer(
    calls: _Calls,
    name: str,
    module: nn.Module,
    args: tuple[object, ...],
    keywords: dict[str, object],
    output: object,
) -> None:
    del module
    calls.order.append(name)
    hidden = given_hidden(args, keywords)
    others = _tensors([args, keywords])
    calls.carried |= any(tensor.requires_grad for tensor in others if tensor is not hidden)
    first = output[0] if isinstance(output, tuple) else output
    assert isinstance(first, Tensor), f"{name} returns a {type(first).__name__}"
    calls.widths.add(first.shape[-1])
    calls.tuple_sizes.add(len(output) if isinstance(output, tuple) else 0)


def _note_unit(
    calls: _Calls,
    name: str,
    module: nn.Module,
    args: tuple[object, ...],
    keywords: dict[str, object],
    output: object,
) -> None:
    del module, args, keywords
    calls.order.append(name)
    if isinstance(output, Tensor):
        calls.units[name] = Unit(name, output.shape[-1], output.ndim)


def given_hidden(args: tuple[object, ...], keywords: dict[str, object]) -> Tensor:
    """Return the hidden states that a layer is called with."""
    hidden = args[0] if args else keywords.get("hidden_states")
    assert isinstance(hidden, Tensor), "a layer is given hidden states first"
    return hidden


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _tensors(part)


def _problem(calls: _Calls, layers: list[str], units: list[str]) -> str | None:
    """Say why a cut at a layer would change what is computed; ``None`` if it would not."""
    if [name for name in calls.order if name in set(layers)] != layers:
        return "layers that do not run once each, in order"
    first, last = calls.order.index(layers[0]), calls.order.index(layers[-1])
    for name in units:
        places = [place for place, called in enumerate(calls.order) if called == name]
        if len(places) > 1 or any(first < place < last for place in places):
            return f"a module {name} that runs between its layers, or more than once"
        if places and name not in calls.units:
            return f"a module {name} that returns no tensor"
    if len(calls.widths) > 1 or len(calls.tuple_sizes) > 1:
        return "layers that return different forms"
    if calls.carried:
        return "layers that are given more of other modules than hidden states"
    return None


def _tied(model: CausalLM) -> tuple[str, str] | None:
    """Return the output weight's name and the first name of the same parameter, if it has two."""
    own = f"{model.output_layer_name}.weight"
    weight = model.output_layer.weight
    first = next(name for name, p in model.named_parameters() if p is weight)
    return None if first == own else (own, first)
