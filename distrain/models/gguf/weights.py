"""The tensors of a GGUF file under the names that they have in Hugging Face folders."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distrain.config.pretrained.gguf_file import GgufFile, gguf_error
from distrain.config.pretrained.gguf_llama import tensor_names
from distrain.models.weights.source import EVERYTHING, Place, TensorForm

STORED_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Types that are kept as they are stored; the others become float32."""


class GgufWeights:
    """A source of weights: dequantized when they are read, one tensor at a time.

    Args:
        file: The beginning of the file.
        fields: Its ``config_fields``.
    """

    def __init__(self, file: GgufFile, fields: Mapping[str, Any]) -> None:
        self._file = file
        self._heads = {
            "attn_q": fields["num_attention_heads"],
            "attn_k": fields["num_key_value_heads"],
        }
        names = tensor_names(fields["num_hidden_layers"], biased=fields["attention_bias"])
        self._names = {here: there for there, here in names.items() if there in file.tensors}
        self.forms: Mapping[str, TensorForm] = {
            here: TensorForm(file.tensors[there].shape, _dtype(file, there))
            for here, there in self._names.items()
        }

    def read(self, name: str, place: Place = EVERYTHING) -> Tensor:
        """Read a tensor; all of it is dequantized whatever the place.

        Raises:
            PreflightError: It holds values that are no numbers.
        """
        there = self._names[name]
        tensor = _read(self._file, there)
        # Both pass on what is no number, and cost a tenth of ``isfinite``.
        if not all(end.isfinite() for end in tensor.aminmax()):
            raise gguf_error(
                self._file.path, f"values in {there} that are no numbers", "finite weights"
            )
        heads = self._heads.get(there.split(".")[-2])
        return (tensor if heads is None else unpermuted(tensor, heads))[place]


def unpermuted(tensor: Tensor, heads: int) -> Tensor:
    """Undo llama.cpp's order of the rows of queries and keys.

    There, the two numbers that the rotary embedding turns together are neighbours; here they are
    half a head apart. The inverse of ``LlamaModel.permute`` in llama.cpp's ``convert_hf_to_gguf``.

    Args:
        tensor: Shape (heads * H, ...).
        heads: Of what it makes.
    """
    pairs = tensor.view(heads, -1, 2, *tensor.shape[1:])
    return pairs.transpose(1, 2).reshape(tensor.shape)


def _dtype(file: GgufFile, name: str) -> torch.dtype:
    return STORED_DTYPES.get(file.tensors[name].type.name, torch.float32)


def _read(file: GgufFile, name: str) -> Tensor:
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    line = file.tensors[name]
    raw = np.memmap(file.path, np.uint8, "r", line.start, (line.size,))
    if line.type.name in STORED_DTYPES:
        # A copy: torch would warn of memory that it must not write to.
        return torch.from_numpy(np.array(raw)).view(STORED_DTYPES[line.type.name]).view(line.shape)
    rows = raw.reshape(*line.shape[:-1], -1)
    return torch.from_numpy(dequantize(rows, GGMLQuantizationType[line.type.name]))
