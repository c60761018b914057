"""A checkpoint's parameters as a source: read one at a time, whole or in parts."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

from distrain.checkpoint.dcp import fill_boxes, find_mismatches, read_metadata
from distrain.checkpoint.index import IndexReader
from distrain.errors import CheckpointError
from distrain.models.weights.source import EVERYTHING, Place, TensorForm
from distrain.parallel.global_tensor import Box, GlobalTensor

PREFIXES = ("model/", "buffer/")


class CheckpointWeights:
    """Parameters and persistent buffers, in this process alone.

    Args:
        folder: A verified checkpoint.
        chosen: Which of them, by name; the others are as if they were not there.

    Raises:
        CheckpointError: It holds none, holds one in part, or cannot be read.
    """

    def __init__(self, folder: Path, chosen: Callable[[str], bool] = lambda _: True) -> None:
        self._folder = folder
        metadata = read_metadata(folder)
        self._reader = _KnownIndex(folder, metadata)
        self._entry_of: dict[str, str] = {}
        forms: dict[str, TensorForm] = {}
        for entry, saved in metadata.state_dict_metadata.items():
            prefix = entry[: entry.find("/") + 1]
            name = entry.removeprefix(prefix)
            if prefix in PREFIXES and isinstance(saved, TensorStorageMetadata) and chosen(name):
                self._entry_of[name] = entry
                forms[name] = TensorForm(tuple(saved.size), saved.properties.dtype)
        self.forms: Mapping[str, TensorForm] = forms
        state = {self._entry_of[name]: _part(form, form.on_meta()) for name, form in forms.items()}
        problems = find_mismatches(metadata, state, partial=True)
        if problems or not forms:
            raise CheckpointError(
                str(folder),
                "; ".join(problems) or f"no entry named {' or '.join(PREFIXES)}...",
                "whole parameters",
                "Choose a checkpoint that holds what is asked for.",
            )

    def read(self, name: str, place: Place = EVERYTHING) -> Tensor:
        """Read into memory of its own. Whole chunks go through memory, one after the other."""
        form = self.forms[name]
        bounds = [
            part.indices(size)[:2]
            for part, size in zip(
                (*place, *[slice(None)] * (len(form.shape) - len(place))), form.shape, strict=True
            )
        ]
        values = torch.empty([stop - start for start, stop in bounds], dtype=form.dtype)
        part = _part(form, values, tuple(start for start, _ in bounds))
        fill_boxes(self._folder, {self._entry_of[name]: part}, self._reader, None)
        return values


class _KnownIndex(IndexReader):
    """Does not read the index again for each parameter."""

    def __init__(self, folder: Path, metadata: Metadata) -> None:
        super().__init__(folder)
        self._metadata = metadata

    def read_metadata(self) -> Metadata:
        """Return what was read."""
        return self._metadata


def _part(form: TensorForm, values: Tensor, offsets: tuple[int, ...] | None = None) -> GlobalTensor:
    box = Box(offsets or (0,) * len(form.shape), values)
    return GlobalTensor(form.shape, form.dtype, (box,))
