"""What becomes of each parameter of a model under a plan."""

from collections.abc import Iterator, Mapping
from typing import cast

from torch import Tensor, nn

from distrain.config.models.tensor_plan import style_of
from distrain.dtensor import is_dtensor
from distrain.errors import RecipeError
from distrain.models.causal_lm import CausalLM
from distrain.models.output_layer import OutputLayer
from distrain.parallel.tensor.heads import WHERE, divide_heads, qkv_blocks
from distrain.parallel.tensor.parameters import ParameterCut
from distrain.parallel.tensor.peers import bounds
from distrain.parallel.tensor.styles import STYLES, Style, parameter_cut, parameter_cuts

Cuts = Mapping[tuple[nn.Module, str], ParameterCut]
"""(Module, name of a parameter of its own) -> what becomes of it; whole if it is not there."""


class PlannedModel:
    """A model's modules with their styles.

    Args:
        model: Before it is cut.
        plan: Pattern -> style, of styles that are known.
        size: Among how many ranks it is to be cut.
    """

    def __init__(self, model: CausalLM, plan: Mapping[str, str], size: int) -> None:
        self._plan, self._size = plan, size
        # Experts that lie on other ranks as whole ones are not cut once more.
        self.modules = {
            name: module
            for name, module in model.named_modules()
            if not any(is_dtensor(parameter) for parameter in module.parameters(recurse=False))
        }
        self.vocabulary = list(_of_tokens(model))
        """Names of embedding and output layer, as far as they are there."""
        self.layers = {
            name: style
            for name in self.modules
            if name not in self.vocabulary and (style := self.style_of(name)) is not None
        }

    def style_of(self, name: str) -> Style | None:
        """Return what the plan says of a module or parameter."""
        word = style_of(self._plan, name)
        return None if word is None else STYLES[word]

    def outputs_of(self, name: str) -> int:
        """Return how many outputs a linear layer has, on all ranks."""
        layer = _within_adapter(self.modules[name])
        weight = cast(Tensor, layer.weight)
        return weight.shape[(parameter_cut(layer, weight, "outputs").dim or 0)]

    def cuts(self) -> Cuts:
        """Return what becomes of the parameters.

        Raises:
            RecipeError: Something does not divide, or adapters are of a form that cannot be cut.
        """
        found = dict(self._cuts())
        for (module, key), cut in found.items():
            self._require_parts(f"{type(module).__name__}.{key}", module._parameters[key], cut)
        return found

    def divide_counts(self, place: int) -> None:
        """Let modules find the numbers of one rank's heads (``heads``) and outputs."""
        for name, style in self.layers.items():
            layer = _within_adapter(self.modules[name])
            if style.cuts == "outputs" and isinstance(outputs := getattr(layer, "nf", None), int):
                start, stop = bounds(outputs, self._size, place)
                layer.nf = stop - start  # type: ignore[assignment]  # of Conv1D
        for name in {
            name.rpartition(".")[0]
            for name, style in self.layers.items()
            if style.cuts == "outputs" and not style.gathers
        }:
            divide_heads(name, self.modules[name], self._size)

    def _cuts(self) -> Iterator[tuple[tuple[nn.Module, str], ParameterCut]]:
        for name, style in self.layers.items():
            layer = self.modules[name]
            _require_plain_adapter(name, layer)
            for module, key, cut in parameter_cuts(layer, style, self._blocks(name, style)):
                yield (module, key), cut
        for name in self.vocabulary:
            layer = self.modules[name]
            for key, parameter in layer._parameters.items():
                if parameter is not None:
                    yield (layer, key), ParameterCut(0)
        for name, module in self.modules.items():  # stacked experts have a style a parameter
            for key, parameter in module._parameters.items():
                style_ = self.style_of(f"{name}.{key}")
                if parameter is not None and style_ is not None:
                    outputs = parameter_cut(module, parameter, "outputs").dim or 0
                    pair = _halves(parameter.shape[outputs]) if style_.packing else None
                    yield (module, key), parameter_cut(module, parameter, style_.cuts, pair)

    def _blocks(self, name: str, style: Style) -> tuple[int, ...] | None:
        if style.packing is None:
            return None
        if style.packing == "pair":
            return _halves(self.outputs_of(name))
        return qkv_blocks(self.modules[name.rpartition(".")[0]], self.outputs_of(name))

    def _require_parts(self, name: str, parameter: Tensor | None, cut: ParameterCut) -> None:
        if parameter is None or cut.dim is None:
            return
        number = parameter.shape[cut.dim]
        # The last part would be empty, or a packed matrix would be no neat ``Shard``.
        is_short = -(-number // self._size) * (self._size - 1) >= number
        uneven = [block for block in cut.blocks or () if block % self._size]
        if is_short or uneven:
            raise RecipeError(
                WHERE,
                f"{self._size}, for {name} of {uneven[0] if uneven else number}",
                "a number by which the sizes of the model divide",
                f"Set {WHERE} to 1.",
            )


def _of_tokens(model: CausalLM) -> Iterator[str]:
    """Yield the names of the token embedding and of the output layer, if this rank has them."""
    for name, module in model.named_modules():
        if isinstance(module, OutputLayer) or (
            isinstance(module, nn.Embedding) and module.num_embeddings == model.vocab_size
        ):
            yield name


def _halves(outputs: int) -> tuple[int, int]:
    return outputs // 2, outputs // 2


def _within_adapter(layer: nn.Module) -> nn.Module:
    return cast(nn.Module, getattr(layer, "base_layer", layer))


def _require_plain_adapter(name: str, layer: nn.Module) -> None:
    if any(dict(getattr(layer, "use_dora", {})).values()):
        raise RecipeError(
            "lora.use_dora",
            f"true, with {name} cut by {WHERE}",
            "false: the lengths of its rows are those of the whole matrix",
            f"Set it to false, or {WHERE} to 1.",
        )
