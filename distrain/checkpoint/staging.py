"""Host copies of a state, in memory that is allocated once: all that the loop waits for."""

import torch
from torch import Tensor

from distrain.parallel.global_tensor import GlobalTensor, State

BoxForm = tuple[tuple[int, ...], tuple[int, ...], torch.dtype, torch.device]
Shapes = tuple[tuple[str, tuple[BoxForm, ...]], ...]


class Staging:
    """Copies what this rank writes into host buffers, which stay warm between saves.

    A fresh buffer would cost a page fault for each 4 KiB, three times the copy itself. Each box
    has a buffer of its own, because DCP would clone a view of a larger one before writing it.
    """

    def __init__(self) -> None:
        self._layout: Shapes | None = None
        self._buffers: dict[str, list[Tensor]] = {}

    def prepare(self, state: State) -> None:
        """Allocate and touch the buffers, so that the first save is as short as the others."""
        layout = _layout(state)
        if layout == self._layout:
            return
        self._layout = None  # until all are there: an allocation may fail
        self._buffers = {}  # before the new ones: both together may not fit
        self._buffers = {
            name: [_buffer(box.tensor) for box in entry.boxes]
            for name, entry in state.items()
            if _is_copied(entry)
        }
        self._layout = layout

    def copy(self, state: State) -> State:
        """Copy this rank's boxes that a save reads to the host; the copy is complete on return.

        The result is overwritten by the next call.
        """
        self.prepare(state)
        staged: State = {}
        devices: set[torch.device] = set()
        for name, entry in state.items():
            if not _is_copied(entry):
                staged[name] = GlobalTensor(entry.shape, entry.dtype, (), writes=False)
                continue
            buffers = self._buffers[name]
            for box, buffer in zip(entry.boxes, buffers, strict=True):
                buffer.copy_(box.tensor, non_blocking=True)
                devices.add(box.tensor.device)
            staged[name] = entry.like(buffers)
        for device in devices:
            if device.type == "cuda":  # pinned copies are only queued until here
                torch.cuda.current_stream(device).synchronize()
        return staged


def _layout(state: State) -> Shapes:
    return tuple(
        (
            name,
            tuple((b.offsets, b.sizes, b.tensor.dtype, b.tensor.device) for b in entry.boxes),
        )
        for name, entry in state.items()
        if _is_copied(entry)
    )


def _is_copied(entry: GlobalTensor) -> bool:
    """Return whether a save reads this rank's boxes: to write them, or to compare them."""
    return entry.writes or entry.is_claimed_equal


def _buffer(tensor: Tensor) -> Tensor:
    pinned = tensor.device.type == "cuda"
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=pinned).zero_()
