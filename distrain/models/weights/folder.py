"""The safetensors files of a folder as a source: headers at once, values from mapped files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distrain.config.huggingface import damaged_file, missing_file, weight_files
from distrain.config.pretrained.safetensors_header import (
    DamagedHeaderError,
    StoredTensor,
    read_header,
)
from distrain.models.weights.source import EVERYTHING, Place, TensorForm

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""As safetensors names them. Floating types below 16 bits stand for quantized weights, whose scales
are further tensors: they are refused."""


class SafetensorsFolder:
    """Every tensor of a Hugging Face folder, under the names and in the dtypes of its files.

    Args:
        folder: With one file, or several and their index.

    Raises:
        PreflightError: A file is missing, damaged or quantized, or holds what another holds too.
    """

    def __init__(self, folder: Path) -> None:
        self._file_of: dict[str, Path] = {}
        self._open: dict[Path, Any] = {}
        forms: dict[str, TensorForm] = {}
        for path in weight_files(folder):
            for name, stored in _entries(path).items():
                if name in self._file_of:
                    raise damaged_file(path, f"{name!r}, which {self._file_of[name].name} has too")
                self._file_of[name] = path
                forms[name] = TensorForm(stored.shape, _dtype(path, name, stored))
        self.forms: Mapping[str, TensorForm] = forms

    def read(self, name: str, place: Place = EVERYTHING) -> Tensor:
        """Show a part of the mapped file: its pages are the system's, not this process's own."""
        file = self._opened(self._file_of[name])
        if place == EVERYTHING or not self.forms[name].shape:
            return file.get_tensor(name)[place]  # type: ignore[no-any-return]
        return file.get_slice(name)[place]  # type: ignore[no-any-return]

    def _opened(self, path: Path) -> Any:  # noqa: ANN401
        from safetensors import SafetensorError, safe_open

        if path not in self._open:
            try:
                self._open[path] = safe_open(path, framework="pt")
            except SafetensorError as error:
                raise damaged_file(path, str(error)) from error
        return self._open[path]


def _entries(path: Path) -> dict[str, StoredTensor]:
    try:
        return read_header(path)
    except FileNotFoundError:
        raise missing_file(path) from None
    except (DamagedHeaderError, OSError) as error:
        raise damaged_file(path, str(error)) from error


def _dtype(path: Path, name: str, stored: StoredTensor) -> torch.dtype:
    if stored.dtype not in DTYPES:
        raise damaged_file(
            path,
            f"{name!r} of dtype {stored.dtype} at byte {stored.start}: weights of less than 16 "
            "bits are quantized, and cannot be trained",
        )
    return DTYPES[stored.dtype]
