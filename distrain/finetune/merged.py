"""A base model's weights with adapters merged into them as they are read."""

from collections.abc import Collection, Iterable, Mapping

import torch
from torch import Tensor

from distrain.config.lora import LoraConfig
from distrain.config.models import ModelConfig
from distrain.finetune.lora import A_SUFFIX, B_SUFFIX, MAGNITUDE_SUFFIX, is_adapter
from distrain.models import build_model
from distrain.models.weights.source import (
    EVERYTHING,
    Place,
    TensorForm,
    TensorWeights,
    WeightSource,
    read_all,
)

CACHED_ELEMENTS = 1 << 15
"""Of a weight, merged at a time: 128 KiB in float32, too little to be given to several threads."""


def transposed_layers(config: ModelConfig, vocab_size: int) -> frozenset[str]:
    """Ask a model of these sizes which of its layers have their inputs first."""
    with torch.device("meta"):
        return build_model(config, vocab_size).transposed_layers


def merge(
    base_state: Mapping[str, Tensor],
    adapter_state: Mapping[str, Tensor],
    config: LoraConfig,
    transposed: Collection[str] = (),
) -> dict[str, Tensor]:
    """Return all weights of a small model, merged; see ``MergedWeights``."""
    return read_all(MergedWeights(TensorWeights(base_state), adapter_state, config, transposed))


class MergedWeights:
    """``W + scaling * B @ A`` for each adapted weight ``W``; with DoRA, its rows at their length.

    Taken in float32 at least, then rounded to the dtype of the weight. The bits are the same
    whatever part is read, and on whatever machine.

    Args:
        base: The weights before; what it returns stays as it is.
        adapter_state: Whole adapters, and what was trained whole in the place of the base's, under
            the names of ``lora.plain_name``.
        config: With which they were made.
        transposed: Layers whose weight has its inputs first: ``CausalLM.transposed_layers``.

    Raises:
        ValueError: The adapters are not of this base model.
    """

    def __init__(
        self,
        base: WeightSource,
        adapter_state: Mapping[str, Tensor],
        config: LoraConfig,
        transposed: Collection[str] = (),
    ) -> None:
        self._base = base
        self._config = config
        self._transposed = transposed
        self._adapter = adapter_state
        self._layer_of = {
            f"{layer}.weight": layer for layer in adapted_layers(adapter_state, config)
        }
        self._whole = {name: t for name, t in adapter_state.items() if not is_adapter(name)}
        self.forms: Mapping[str, TensorForm] = base.forms
        for name, layer in self._layer_of.items():
            outputs = adapter_state[layer + B_SUFFIX].shape[0]
            shape = (outputs, adapter_state[layer + A_SUFFIX].shape[1])
            self._require(name, shape[::-1] if layer in transposed else shape)
        for name, tensor in self._whole.items():
            self._require(name, tuple(tensor.shape))

    @property
    def touched(self) -> Collection[str]:
        """Names of the weights that are not the base's."""
        return {*self._layer_of, *self._whole}

    def read(self, name: str, place: Place = EVERYTHING) -> Tensor:
        """Read the base model's part, and merge the adapter's into it."""
        if name in self._whole:
            return self._whole[name].to(self.forms[name].dtype)[place]
        layer = self._layer_of.get(name)
        if layer is None:
            return self._base.read(name, place)
        outputs, inputs = (1, 0) if layer in self._transposed else (0, 1)  # axes of the weight
        place = (*place, *[slice(None)] * (2 - len(place)))
        rows, columns = place[outputs], place[inputs]
        if self._config.use_dora:
            # The length of a row is that of all its columns.
            wide = (rows, slice(None)) if outputs == 0 else (slice(None), rows)
            merged = self._merged(layer, self._base.read(name, wide).permute(outputs, inputs), rows)
            return merged[:, columns].permute(outputs, inputs)
        part = self._base.read(name, place).permute(outputs, inputs)
        return self._merged(layer, part, rows, columns).permute(outputs, inputs)

    def _merged(
        self, layer: str, weight: Tensor, rows: slice, columns: slice = slice(None)
    ) -> Tensor:
        """Return a part of a weight, outputs first, with its adapter."""
        matrix_a = self._adapter[layer + A_SUFFIX][:, columns]
        matrix_b = self._adapter[layer + B_SUFFIX][rows]
        magnitude = self._adapter.get(layer + MAGNITUDE_SUFFIX)
        lengths = None if magnitude is None else magnitude[rows]
        return _merged(weight, (matrix_a, matrix_b), self._config.scaling_of(layer), lengths)

    def _require(self, name: str, shape: tuple[int, ...]) -> None:
        found = None if name not in self.forms else self.forms[name].shape
        if found != shape:
            what = "missing" if found is None else f"of shape {found}"
            raise ValueError(f"{name} is {what} in the base model; the adapter expects {shape}")


class Magnitudes:
    """What DoRA starts from: the length of each row of the base's weights.

    Args:
        base: The weights.
        names: Of magnitudes, as ``lora.plain_name`` gives them.
        transposed: Layers whose weight has its inputs first.
    """

    def __init__(
        self, base: WeightSource, names: Iterable[str], transposed: Collection[str] = ()
    ) -> None:
        self._base = base
        self._transposed = transposed
        self.forms: Mapping[str, TensorForm] = {name: self._form(name) for name in names}

    def read(self, name: str, place: Place = EVERYTHING) -> Tensor:
        """Read the rows, and measure them."""
        rows = place[0] if place else slice(None)
        layer = name.removesuffix(MAGNITUDE_SUFFIX)
        is_transposed = layer in self._transposed
        wide = (slice(None), rows) if is_transposed else (rows,)
        weight = self._base.read(f"{layer}.weight", wide)
        return row_lengths(weight.T if is_transposed else weight)

    def _form(self, name: str) -> TensorForm:
        layer = name.removesuffix(MAGNITUDE_SUFFIX)
        form = self._base.forms[f"{layer}.weight"]
        return TensorForm((form.shape[1 if layer in self._transposed else 0],), form.dtype)


@torch.no_grad()
def row_lengths(weight: Tensor) -> Tensor:
    """Return the Euclidean length of each row, shape (rows,), rounded to the weight's dtype.

    Halves are added to each other, element by element: how a library sums up a row depends on the
    machine's vectors, and what a stage starts from must have the same bits everywhere.
    """
    squares = weight.double().square()
    while squares.shape[1] > 1:
        half = squares.shape[1] // 2
        odd = squares[:, 2 * half :]
        squares = torch.cat([squares[:, :half] + squares[:, half : 2 * half], odd], dim=1)
    return squares[:, 0].sqrt().to(weight.dtype)


@torch.no_grad()
def _merged(
    weight: Tensor, matrices: tuple[Tensor, Tensor], scaling: float, lengths: Tensor | None
) -> Tensor:
    """Return a weight, or a part of it, with its adapter.

    Not by a matrix product, whose order of sums depends on shape, threads and machine: what a stage
    starts from must have the same bits wherever and in whichever parts it is made.
    """
    exact = torch.promote_types(weight.dtype, torch.float32)
    matrix_a, matrix_b = (matrix.to(weight.device, exact) for matrix in matrices)
    merged = torch.empty_like(weight)
    # On a CPU a few rows at a time, which stay in its cache while the terms are added up.
    elements = CACHED_ELEMENTS if weight.device.type == "cpu" else weight.numel()
    rows = max(1, elements // max(1, weight.shape[1]))
    for number, (part, part_b, target) in enumerate(
        zip(weight.split(rows), matrix_b.split(rows), merged.split(rows), strict=True)
    ):
        update = torch.zeros_like(part, dtype=exact)
        for column, row in zip(part_b.unbind(1), matrix_a, strict=True):
            update += column[:, None] * row
        total = part.to(exact) + scaling * update
        if lengths is not None:
            wanted = lengths[number * rows : number * rows + len(part)].to(total)
            total *= (wanted / row_lengths(total))[:, None]
        target.copy_(total)
    return merged


def adapted_layers(adapter_state: Mapping[str, Tensor], config: LoraConfig) -> list[str]:
    """List the layers that have an adapter, in the order of the state.

    Raises:
        ValueError: There is none, one of its tensors is missing, or a name is of nothing trained.
    """
    names = [name for name in adapter_state if not config.saves(name)]
    layers = list(dict.fromkeys(name.rpartition(".lora_")[0] for name in names))
    suffixes = (A_SUFFIX, B_SUFFIX, *([MAGNITUDE_SUFFIX] if config.use_dora else []))
    expected = {layer + suffix for layer in layers for suffix in suffixes}
    different = sorted(expected ^ set(names))
    if different or not layers:
        kinds = ", ".join(suffix[1:].removesuffix(".weight") for suffix in suffixes)
        raise ValueError(f"found {different[:4] or 'no adapter'}; expected of each layer {kinds}")
    return layers
