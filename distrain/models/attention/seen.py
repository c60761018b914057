"""Which keys each query sees, as a range of columns: causality, documents and windows in one.

Shape legend: B = sequences in a microbatch, T = queries of a row that are here, S = columns of a
whole row, Q = queries of a block, C = keys of a block.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from distrain.models.attention.layout import DocumentLayout, document_starts


@dataclass(frozen=True)
class SeenBlock:
    """Some queries, and the keys that at least one of them sees.

    Args:
        queries: Of a row that are here.
        keys: Columns of the row, from the first seen to the last.
        whole: What each query sees.
    """

    queries: slice
    keys: slice
    whole: "SeenKeys"

    def mask(self) -> Tensor:
        """Say which query sees which of the keys; shape (B, 1, Q, C), bool. Made anew each time.

        Of all blocks of a pass together they would be larger than what else is kept of it.
        """
        last_T = self.whole.last_on_device
        numbers = torch.arange(self.keys.start, self.keys.stop, device=last_T.device)
        is_begun_BQC = numbers >= self.whole.first_on_device[:, self.queries].unsqueeze(-1)
        is_past_QC = numbers <= last_T[self.queries].unsqueeze(-1)
        return (is_begun_BQC & is_past_QC).unsqueeze(1)


class SeenKeys:
    """The first and the last key that each query sees; both ascend along a row.

    Args:
        documents: Of the rows, of which a part of the columns may be here.
        window: See ``AttentionRule``.
    """

    def __init__(self, documents: DocumentLayout, window: int | None) -> None:
        first_BS = document_starts(documents)
        last_S = torch.arange(first_BS.shape[1])
        if window is not None:
            first_BS = first_BS.maximum(last_S - window + 1)
        columns = documents.columns
        self.row_length = len(last_S)
        # On the host: which blocks of keys are needed at all is known without a device.
        self.first_BT = first_BS if columns is None else first_BS[:, columns.numbers]
        self.last_T = last_S if columns is None else columns.numbers
        device = documents.position_ids.device
        self.first_on_device = _to_device(self.first_BT, device)
        self.last_on_device = _to_device(self.last_T, device)

    def blocks(self, size: int) -> Iterator[SeenBlock]:
        """Yield blocks of at most ``size`` queries."""
        for start in range(0, len(self.last_T), size):
            stop = min(start + size, len(self.last_T))
            first, last = self.first_BT[:, start].min(), self.last_T[stop - 1]
            yield SeenBlock(slice(start, stop), slice(int(first), int(last) + 1), self)


def _to_device(numbers: Tensor, device: torch.device) -> Tensor:
    # From pinned memory the copy does not wait for what the device is doing.
    if device.type == "cuda":
        return numbers.pin_memory().to(device, non_blocking=True)
    return numbers.to(device)
