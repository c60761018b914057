"""A base model's weights with adapters merged into them as they are read."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from distrain.config.models import ModelConfig
from distrain.config.training import LoraConfig
from distrain.finetune.lora import A_SUFFIX, B_SUFFIX, adapted_layers, merge_into
from distrain.models import build_model
from distrain.models.weights.source import EVERYTHING, Place, TensorForm, WeightSource
from distrain.parallel.global_tensor import Box, GlobalTensor


def transposed_layers(config: ModelConfig, vocab_size: int) -> frozenset[str]:
    """Ask a model of these sizes which of its layers have their inputs first."""
    with torch.device("meta"):
        return build_model(config, vocab_size).transposed_layers


class MergedWeights:
    """The bits are those of ``merge``, whatever part is read.

    Args:
        base: The weights before.
        adapter_state: Whole adapters, under the names of ``plain_name``.
        config: With which they were made.
        transposed: Layers whose weight has its inputs first.

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
        self._pair_of = {
            f"{layer}.weight": {
                layer + suffix: adapter_state[layer + suffix] for suffix in (A_SUFFIX, B_SUFFIX)
            }
            for layer in adapted_layers(adapter_state)
        }
        self.forms: Mapping[str, TensorForm] = base.forms
        for name, pair in self._pair_of.items():
            # Without a value: whether the shapes belong together.
            form = base.forms.get(name)
            parts = {} if form is None else _part(name, form, (), (0,) * len(form.shape))
            merge_into(parts, pair, config, transposed)

    def read(self, name: str, place: Place = EVERYTHING) -> Tensor:
        """Read the base model's part, and merge the adapter's into it."""
        values = self._base.read(name, place)
        pair = self._pair_of.get(name)
        if pair is None:
            return values
        form = self.forms[name]
        offsets = [part.indices(size)[0] for part, size in zip(place, form.shape, strict=False)]
        offsets += [0] * (len(form.shape) - len(offsets))
        values = values.clone()  # the base's memory is not to be written to
        part = _part(name, form, (values,), tuple(offsets))
        merge_into(part, pair, self._config, self._transposed)
        return values


def _part(
    name: str, form: TensorForm, values: tuple[Tensor, ...], offsets: tuple[int, ...]
) -> dict[str, GlobalTensor]:
    boxes = tuple(Box(offsets, tensor) for tensor in values)
    return {f"model/{name}": GlobalTensor(form.shape, form.dtype, boxes)}
