"""Safetensors files written one tensor at a time, as ``save_pretrained`` of transformers lays out.

The form of a file: ``distrain.config.pretrained.safetensors_header``.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from distrain.config.huggingface import INDEX_FILE, WEIGHTS_FILE
from distrain.models.weights.folder import DTYPES
from distrain.models.weights.freed_memory import LARGE_BYTES, release_freed_memory
from distrain.models.weights.source import TensorForm, TensorWeights, WeightSource
from distrain.runs.records import write_json

FILE_BYTES = 5 * 10**9
"""Of one file, at most: what hubs and file systems bear, and what transformers chose for years."""
NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class PlannedFile:
    """A file of weights: its name, and what it holds in the order of its data."""

    name: str
    tensors: Mapping[str, TensorForm]

    @property
    def num_bytes(self) -> int:
        """Size of the data, without the header."""
        return sum(map(_size, self.tensors.values()))


def write_weights(
    folder: Path, source: WeightSource, *, max_file_bytes: int = FILE_BYTES
) -> list[PlannedFile]:
    """Write every tensor of a source, holding one at a time.

    One that is larger than ``max_file_bytes`` has a file of its own. Several files come with their
    index.

    Returns:
        The files, in order.
    """
    files = plan_files(source.forms, max_file_bytes)
    for file in files:
        _write(folder / file.name, source, file.tensors)
    if len(files) > 1:
        weight_map = {name: file.name for file in files for name in file.tensors}
        metadata = {
            "total_size": sum(file.num_bytes for file in files),
            "total_parameters": sum(math.prod(form.shape) for form in source.forms.values()),
        }
        ordered = dict(sorted(weight_map.items()))
        write_json(folder / INDEX_FILE, {"metadata": metadata, "weight_map": ordered})
    return files


def plan_files(forms: Mapping[str, TensorForm], max_file_bytes: int) -> list[PlannedFile]:
    """Cut tensors into files, in their order."""
    parts: list[dict[str, TensorForm]] = [{}]
    filled = 0
    for name, form in forms.items():
        if parts[-1] and filled + _size(form) > max_file_bytes:
            parts.append({})
            filled = 0
        parts[-1][name] = form
        filled += _size(form)
    return [
        PlannedFile(_file_name(number, len(parts)), _aligned(part))
        for number, part in enumerate(parts, start=1)
    ]


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write one file of tensors that are in memory."""
    source = TensorWeights(tensors)
    _write(path, source, _aligned(source.forms))


def _write(path: Path, source: WeightSource, forms: Mapping[str, TensorForm]) -> None:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, form in forms.items():
        end = offset + _size(form)
        entries[name] = {
            "dtype": NAMES[form.dtype],
            "shape": list(form.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    content = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    content += b" " * (-len(content) % 8)
    path.unlink(missing_ok=True)
    with path.open("xb") as stream:
        stream.write(len(content).to_bytes(8, "little") + content)
        for name, form in forms.items():
            tensor = source.read(name)
            assert (tuple(tensor.shape), tensor.dtype) == (form.shape, form.dtype), name
            stream.write(_bytes(tensor))
            is_large = tensor.nbytes >= LARGE_BYTES
            del tensor  # before the next is read
            if is_large:
                release_freed_memory()


def _bytes(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def _aligned(forms: Mapping[str, TensorForm]) -> dict[str, TensorForm]:
    # The larger types first, so that no tensor begins between its elements; else as they come.
    return dict(sorted(forms.items(), key=lambda item: -item[1].dtype.itemsize))


def _file_name(number: int, count: int) -> str:
    if count == 1:
        return WEIGHTS_FILE
    stem, _, ending = WEIGHTS_FILE.rpartition(".")
    return f"{stem}-{number:05}-of-{count:05}.{ending}"


def _size(form: TensorForm) -> int:
    return math.prod(form.shape) * form.dtype.itemsize
