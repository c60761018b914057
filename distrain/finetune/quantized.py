"""Frozen weights in 4 bits (QLoRA, arXiv 2305.14314), by bitsandbytes.

A weight is quantized whole and on the CPU, wherever it will be used: its codes are a pure function
of its values, so whoever needs them makes them again, and no checkpoint holds them.
"""

import logging
from collections.abc import Collection, Mapping
from types import ModuleType
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from distrain.config.lora import LoraConfig, QuantizationConfig
from distrain.config.models import ModelConfig
from distrain.errors import RecipeError
from distrain.models import model_on_meta
from distrain.models.causal_lm import CausalLM
from distrain.models.weights.conversion import ConvertedWeights, Rename
from distrain.models.weights.filling import fill_module
from distrain.models.weights.freed_memory import LARGE_BYTES, release_freed_memory
from distrain.models.weights.source import EVERYTHING, Place, TensorForm, WeightSource

if TYPE_CHECKING:
    from bitsandbytes.functional import QuantState

BLOCK = 64
"""Neighbours that share a scale, as in QLoRA."""
SCALES_BLOCK = 256
"""Scales that share one of their own, where they are quantized too."""


def quantized_weights(config: ModelConfig, vocab_size: int, lora: LoraConfig) -> frozenset[str]:
    """Name the weights that are quantized: of every linear layer but the head, if not trained.

    A layer whose inputs are no multiple of ``BLOCK`` stays as it is: bitsandbytes 0.50 takes wrong
    scales for it on a CPU, and the error of its values is twice to four times what it should be.

    Raises:
        RecipeError: A family whose layers are no ``nn.Linear``, or none of them has such a size.
    """
    model = model_on_meta(config, vocab_size)
    if model.transposed_layers:
        raise RecipeError(
            "lora.quantization",
            f"a model of {config.family_name}, whose layers have their inputs first",
            "a family of linear layers",
            "Set lora.quantization to null.",
        )
    allowed = model.adaptable_layers
    names = frozenset(
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and module.in_features % BLOCK == 0
        and name.rpartition(".")[2] in allowed
        and not lora.is_saved(name)
    )
    if not names:
        raise RecipeError(
            "lora.quantization",
            f"no frozen linear layer with a multiple of {BLOCK} inputs",
            "layers that can be quantized",
            "Set lora.quantization to null.",
        )
    return names


def build_quantized(
    model: CausalLM,
    source: WeightSource,
    names: Collection[str],
    config: QuantizationConfig,
    compute_dtype: torch.dtype,
) -> CausalLM:
    """Give a model from ``build_empty`` its values, of which some are quantized. On the CPU.

    Args:
        model: It stays the same object; nothing of it is trained.
        source: Of all its values; one is in memory at a time.
        names: Of the weights that are quantized.
        config: How.
        compute_dtype: In which those layers multiply.
    """
    replace_by_quantized(model, names, source, config, compute_dtype)
    kept = [Rename(name, name) for name in source.forms if name not in names]
    fill_module(model, ConvertedWeights(source, kept), torch.device("cpu"))
    return model


class DequantizedWeights:
    """What a model of quantized weights computes with: their values after the loss of bits.

    Args:
        source: The values before.
        names: Of what is quantized.
        config: How.
    """

    def __init__(
        self, source: WeightSource, names: Collection[str], config: QuantizationConfig
    ) -> None:
        self._source = source
        self._names = names
        self._config = config
        self._last: tuple[str, Tensor] | None = None
        self.forms: Mapping[str, TensorForm] = source.forms

    def read(self, name: str, place: Place = EVERYTHING) -> Tensor:
        """Read, and if it is one of those quantize the whole tensor and back."""
        if name not in self._names:
            return self._source.read(name, place)
        # Scales reach over the tensor, while it is often read part by part.
        if self._last is None or self._last[0] != name:
            self._last = None
            values = self._source.read(name)
            codes, state = quantize(values, self._config)
            self._last = name, dequantize(codes, state).to(values.dtype)
        return self._last[1][place]


def quantize(weight: Tensor, config: QuantizationConfig) -> tuple[Tensor, "QuantState"]:
    """Return the codes of a weight, two a byte, and how to read them.

    As ``bitsandbytes.functional.quantize_4bit``, but for the mean that is taken off the scales
    before they are quantized: it is summed in a fixed order, so that ranks of different processors
    agree.
    """
    functional = _bitsandbytes().functional
    values = weight.detach().cpu().float().contiguous()
    codes, state = functional.quantize_4bit(
        values, blocksize=BLOCK, quant_type=config.quant_type, compress_statistics=False
    )
    if config.use_double_quant:
        offset = _mean(state.absmax)
        scales, scales_state = functional.quantize_blockwise(
            state.absmax - offset, blocksize=SCALES_BLOCK
        )
        state.absmax, state.offset, state.state2, state.nested = scales, offset, scales_state, True
    return codes, state


def dequantize(codes: Tensor, state: "QuantState") -> Tensor:
    """Return the values, float32, in the shape of the weight."""
    values: Tensor = _bitsandbytes().functional.dequantize_4bit(codes, state)
    return values


def replace_by_quantized(
    model: CausalLM,
    names: Collection[str],
    source: WeightSource,
    config: QuantizationConfig,
    compute_dtype: torch.dtype,
) -> None:
    """Put quantized layers in the place of linear ones, one at a time, on the CPU.

    Args:
        model: Those layers need no memory yet.
        names: Of the weights.
        source: Of their values.
        config: How.
        compute_dtype: In which the layers multiply.
    """
    library = _bitsandbytes()
    for name in names:
        path = name.removesuffix(".weight")
        old = model.get_submodule(path)
        assert isinstance(old, nn.Linear), "only linear layers are quantized"
        layer = library.nn.Linear4bit(
            old.in_features,
            old.out_features,
            bias=old.bias is not None,
            compute_dtype=compute_dtype,
            quant_type=config.quant_type,
            device="meta",
        )
        layer.compute_type_is_set = True
        # Otherwise a processor with bf16 products would lay the codes out anew when it measures.
        layer.support_avx512bf16_for_cpu = False
        layer.bias = old.bias
        codes, state = quantize(source.read(name), config)
        layer.weight = _as_parameter(library, codes, state, layer)
        parent, _, attribute = path.rpartition(".")
        setattr(model.get_submodule(parent), attribute, layer)
        if codes.nbytes >= LARGE_BYTES:
            release_freed_memory()  # through which the values went
    # peft chooses its own layer by it.
    model.is_loaded_in_4bit = True  # type: ignore[assignment]


def _as_parameter(
    library: ModuleType, codes: Tensor, state: "QuantState", layer: nn.Module
) -> nn.Parameter:
    made: nn.Parameter = library.nn.Params4bit.from_prequantized(
        codes, state.as_dict(packed=True), requires_grad=False, device="cpu", module=layer
    )
    return made


def _mean(values: Tensor) -> Tensor:
    """Return the mean, float32; halves are added to each other, whatever the processor."""
    sums, count = values.double(), values.numel()
    while len(sums) > 1:
        half = len(sums) // 2
        sums = torch.cat([sums[:half] + sums[half : 2 * half], sums[2 * half :]])
    return (sums[0] / count).float()


def _bitsandbytes() -> ModuleType:
    # It warns of a kernel from a hub that it looks for, and does without.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        import bitsandbytes
    except ImportError as error:
        raise RecipeError(
            "lora.quantization",
            f"no bitsandbytes here ({error})",
            "the packages of the extra 'bitsandbytes'",
            'Install them: pip install "distrain[bitsandbytes]".',
        ) from error
    module: ModuleType = bitsandbytes
    return module
